"""Promises of temporal augmentation: drawn as often as asked, planned as judged, reproducible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from regatta.core.seeds import stream
from regatta.data.clip_recipe import ClipRecipe
from regatta.data.decode import read_frames
from regatta.data.frame_plan import PlanCondition, plan_frames
from regatta.data.manifest import Sample
from regatta.data.temporal_augment import TemporalAugment, TemporalDraw, draw_temporal
from regatta.data.transforms import resize_frames
from tests.data.small_clips import assert_same, by_id, loader, make_sample

COVERAGES, STRIDES = (10, 25, 50, 75, 100), (1, 2, 4, 8, 16)
ALWAYS = TemporalAugment(1.0, COVERAGES, STRIDES)
DRAWS = 2000


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("clips")
    return [make_sample(folder, number) for number in range(8)]


def drawn(augment: TemporalAugment) -> list[TemporalDraw | None]:
    return [draw_temporal(augment, stream(3, "temporal", 0, f"c{n}")) for n in range(DRAWS)]


def likely(share: float) -> range:
    """Counts of DRAWS that a share of this size gives, but for one time in a million."""
    low, high = binom.interval(1 - 1e-6, DRAWS, share)
    return range(int(low), int(high) + 1)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_as_many_clips_are_drawn_as_asked(probability: float):
    augment = replace(ALWAYS, probability=probability, box_probability=0.25)
    cells = [draw for draw in drawn(augment) if draw]
    assert len(cells) in likely(probability)
    assert sum(draw.box for draw in cells) in likely(probability * 0.25)


def test_every_cell_of_the_grid_is_equally_likely():
    cells = [(draw.coverage_percent, draw.stride_frames) for draw in drawn(ALWAYS) if draw]
    for coverage in COVERAGES:
        for stride in STRIDES:
            assert cells.count((coverage, stride)) in likely(1 / 25)


def test_what_is_drawn_does_not_depend_on_the_probability():
    for rare, sure in zip(drawn(replace(ALWAYS, probability=0.3)), drawn(ALWAYS), strict=True):
        assert rare is None or rare == sure


@pytest.mark.parametrize(("total", "percent", "room"), [(20, 50, 10), (7, 25, 6), (9, 100, 0)])
def test_the_window_begins_anywhere_it_fits_equally_often(total: int, percent: int, room: int):
    # One draw in the middle of each of room + 1 equal parts of [0, 1).
    places = [(start + 0.5) / (room + 1) for start in range(room + 1)]
    draws = [TemporalDraw(percent, 1, place, box=False) for place in places]
    assert [d.plan(total, 4).indices[0] for d in draws] == list(range(room + 1))


TOTALS, MODEL_FRAMES = st.integers(1, 90), st.integers(1, 16)
DRAWN = st.builds(
    TemporalDraw,
    st.sampled_from(COVERAGES),
    st.sampled_from(STRIDES),
    st.floats(0, 1, exclude_max=True),
    box=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(total=TOTALS, model_frames=MODEL_FRAMES, draw=DRAWN)
def test_a_drawn_clip_is_the_prefix_clip_of_its_cell_moved_into_the_clip(
    total: int, model_frames: int, draw: TemporalDraw
):
    length = max(1, total * draw.coverage_percent // 100)
    shown = draw.plan(total, model_frames).shown
    start = shown[0][0]
    assert len(shown) == model_frames
    assert start >= 0
    assert max(map(max, shown)) < total
    moved = [[index - start for index in blend] for blend in shown]
    if draw.box:
        stride = min(draw.stride_frames, length)
        assert all(blend[0] % stride == 0 for blend in moved)
        assert all(blend == list(range(blend[0], blend[0] + stride)) for blend in moved)
        assert max(map(max, moved)) < length
        wanted = min(model_frames, length // stride)
        assert len({blend[0] for blend in moved}) == wanted
    else:
        cell = PlanCondition(draw.coverage_percent / 100, stride_frames=draw.stride_frames)
        prefix = plan_frames(total, 1.0, cell, model_frames).indices
        assert [blend[0] for blend in moved] == [index - prefix[0] for index in prefix]


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_with_probability_zero_and_for_clips_that_are_not_drawn_nothing_changes(samples, augment):
    plain = by_id(list(loader(samples, augment=augment).batches(1)))
    never = replace(ALWAYS, probability=0.0)
    assert_same(
        list(loader(samples, augment=augment, temporal=never).batches(1)),
        list(loader(samples, augment=augment).batches(1)),
    )
    some = replace(ALWAYS, probability=0.5)
    clips = by_id(list(loader(samples, augment=augment, temporal=some).batches(1)))
    left = [i for i in clips if not draw_temporal(some, stream(5, "temporal", 1, i))]
    assert 0 < len(left) < len(samples)
    assert all(torch.equal(clips[sample_id], plain[sample_id]) for sample_id in left)


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_clips_do_not_depend_on_threads_cache_ranks_or_resume(samples, augment):
    mixed = TemporalAugment(0.6, COVERAGES, (1, 2, 4), box_probability=0.5)
    settings = {"augment": augment, "temporal": mixed, "batch_size": 2}
    wanted = list(loader(samples, threads=0, **settings).batches(4))
    cached = loader(samples, threads=2, cache_bytes=10**8, **settings)
    list(cached.batches(3))
    assert_same(list(cached.batches(4)), wanted)
    assert_same(list(loader(samples, **settings).batches(4, start=2)), wanted[2:])
    clips = by_id(wanted)
    for rank in range(3):
        part = loader(samples, rank=rank, world=3, **settings)
        for sample_id, clip in by_id(list(part.batches(4))).items():
            assert torch.equal(clip, clips[sample_id])


def test_a_box_clip_shows_exact_means_of_its_frames_halves_up(samples):
    sample = samples[0]
    box = TemporalAugment(1.0, (100,), (3,), box_probability=1.0)
    recipe = {"augment": "none", "temporal": box, "frames": 2}
    clip = by_id(list(loader(samples, **recipe).batches(0)))[sample.sample_id]
    images = torch.from_numpy(read_frames(sample.path, range(9)).images)
    small = resize_frames(images, size=16, resize="crop").numpy().astype(np.float64)
    # 9 frames are three segments of 3; two are chosen: the first and the last.
    wanted = [np.floor(small[first : first + 3].mean(axis=0) + 0.5) for first in (0, 6)]
    assert np.array_equal(clip.numpy(), np.stack(wanted).astype(np.uint8))


def test_a_recipe_survives_being_told_to_others():
    recipe = ClipRecipe(8, 32, "squash", temporal=replace(ALWAYS, box_probability=0.5))
    assert ClipRecipe.from_json(recipe.as_json()) == recipe
    assert {recipe, ClipRecipe.from_json(recipe.as_json())} == {recipe}


def test_a_clip_is_planned_without_its_file(tmp_path: Path):
    gone = replace(make_sample(tmp_path, 1), path=str(tmp_path / "gone.avi"))
    clip = ClipRecipe(4, 16, "crop", temporal=ALWAYS).begin(gone, seed=0, epoch=0)
    assert len(clip.shown) == 4
