"""Promises of planning a sample for all entries at once, and of choosing samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regatta.config.schema import ProtocolSection
from regatta.data.manifest import Sample
from regatta.data.transforms import resample, resize_frames
from regatta.evaluation.grid import (
    EntryInput,
    SampleFrames,
    SampleTask,
    choose_samples,
    plan_clips,
    plan_task,
    prepare_frames,
    read_task,
)
from regatta.evaluation.protocols import resolve_protocol

GRID = resolve_protocol(ProtocolSection.model_validate({"name": "temporal-grid"}))
CPU = torch.device("cpu")


def sample(number: int = 0, *, frames: int = 60, label: int = 0) -> Sample:
    return Sample(
        sample_id=f"s{number:04d}",
        path="/nowhere",
        label=label,
        label_name=f"class{label}",
        group="g",
        split="test",
        start_frame=0,
        frames=frames,
        fps=25.0,
        width=12,
        height=8,
        duration_seconds=frames / 25,
        content_hash="",
    )


SMALL, LARGE = EntryInput(8, 4, "crop"), EntryInput(16, 8, "squash")


@settings(deadline=None, max_examples=30)
@given(frames=st.integers(1, 300), model_frames=st.sampled_from([8, 16, 32]))
def test_each_condition_points_at_its_own_clip_and_clips_never_repeat(frames, model_frames):
    clips = plan_clips(sample(frames=frames), GRID, EntryInput(model_frames, 4, "crop"))
    shown = [clip.plan.indices for clip in clips.distinct]
    assert len(set(shown)) == len(shown)
    for condition, (place,) in zip(GRID.conditions, clips.places, strict=True):
        plan = GRID.plan(frames, 25.0, condition, model_frames)
        assert shown[place] == plan.indices


def test_task_of_one_frame_has_one_clip_however_many_conditions():
    task = plan_task(sample(frames=1), GRID, [SMALL])
    assert [clip.plan.indices for clip in task.clips[SMALL].distinct] == [(0,) * 8]
    assert task.union == (0,)


@settings(deadline=None, max_examples=20)
@given(frames=st.integers(1, 300))
def test_union_holds_what_the_entries_need_and_nothing_else(frames):
    inputs = [SMALL, EntryInput(16, 4, "crop"), EntryInput(8, 6, "crop")]
    task = plan_task(sample(frames=frames), GRID, inputs)
    needed = {
        index
        for model_frames in (8, 16)
        for condition in GRID.conditions
        for index in GRID.plan(frames, 25.0, condition, model_frames).indices
    }
    assert set(task.union) == needed
    assert list(task.union) == sorted(needed)
    assert not task.blends
    # One cut per input size: entries that agree share the prepared frames.
    assert [cut.size for cut in task.cuts] == [4, 6]
    assert task.source_bytes == len(needed) * 12 * 8 * 3
    assert task.prepared_bytes == len(needed) * 3 * (4 * 4 + 6 * 6)


def video_of(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 8, 12, 3), dtype=np.uint8)


def decode(task: SampleTask, video: np.ndarray, pieces: int) -> SampleFrames:
    """Read a task in pieces of so many frames."""

    def read(_: Sample, indices: Sequence[int], most_bytes: int) -> Iterator[np.ndarray]:
        assert most_bytes > 0
        assert list(indices) == sorted(set(indices))
        for first in range(0, len(indices), pieces):
            yield video[list(indices[first : first + pieces])]

    return read_task(task, read, device=CPU)


@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_rows_pick_the_planned_frames_out_of_the_resized_union(pieces):
    video = video_of(60)
    task = plan_task(sample(), GRID, [SMALL, LARGE])
    frames = decode(task, video, pieces)
    for entry in (SMALL, LARGE):
        whole = resize_frames(torch.from_numpy(video), size=entry.image_size, resize=entry.resize)
        ((cut, rows),) = task.rows(entry)
        picked = frames.prepared[cut][rows]
        for clip, (plan, _) in zip(picked, task.clips[entry].distinct, strict=True):
            assert torch.equal(clip, whole[list(plan.indices)])


def test_a_blend_is_the_rounded_mean_of_the_prepared_frames():
    video = video_of(60)
    design = resolve_protocol(ProtocolSection.model_validate({"name": "antialias"}))
    task = plan_task(sample(), design, [SMALL])
    frames = decode(task, video, 7)
    whole = resize_frames(torch.from_numpy(video), size=4, resize="crop").double()
    ((cut, rows),) = task.rows(SMALL)
    seen = 0
    for clip, (plan, _) in zip(frames.prepared[cut][rows], task.clips[SMALL].distinct, strict=True):
        for picture, blend in zip(clip, plan.shown, strict=True):
            assert torch.equal(picture.double(), (whole[list(blend)].mean(dim=0) + 0.5).floor())
            seen += len(blend) > 1
    assert seen > 8
    # Every distinct mean is computed once, however many conditions and places show it.
    assert len(set(task.blends)) == len(task.blends) == len(frames.prepared[cut]) - len(task.union)


def test_whole_frames_are_resized_once_for_all_crops(monkeypatch):
    resized: list[tuple[int, int, int]] = []

    def count(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
        resized.append((len(images), height, width))
        return resample(images, height, width)

    monkeypatch.setattr("regatta.evaluation.grid.resample", count)
    design = resolve_protocol(ProtocolSection.model_validate({"name": "multi-view"}))
    task = plan_task(sample(), design, [SMALL, EntryInput(4, 4, "crop")])
    assert [cut.offset for cut in task.cuts] == [0, 1, 2]
    decode(task, video_of(60), 100)
    assert resized == [(len(task.union), 4, 6)]


def test_frames_are_prepared_only_once():
    task = plan_task(sample(), GRID, [SMALL])
    frames = decode(task, video_of(60), 100)
    before = dict(frames.prepared)
    prepare_frames(frames, CPU)
    assert all(frames.prepared[cut] is before[cut] for cut in task.cuts)


def test_pictures_that_wait_for_a_device_become_what_is_prepared_at_once():
    video = video_of(60)
    design = resolve_protocol(ProtocolSection.model_validate({"name": "antialias"}))
    task = plan_task(sample(), design, [SMALL, LARGE])
    at_once = decode(task, video, 7)
    source = torch.from_numpy(video[list(task.union)])
    waiting = SampleFrames(task, [source[:20], source[20:]])
    prepare_frames(waiting, CPU)
    assert not waiting.source
    assert at_once.prepared.keys() == waiting.prepared.keys()
    for cut, pictures in at_once.prepared.items():
        assert torch.equal(pictures, waiting.prepared[cut])


CLASS_SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def many(class_sizes: list[int]) -> list[Sample]:
    labels = [label for label, size in enumerate(class_sizes) for _ in range(size)]
    return [sample(number, label=label) for number, label in enumerate(labels)]


@settings(deadline=None)
@given(class_sizes=CLASS_SIZES, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_choice_has_the_asked_number_in_id_order_with_every_class_if_possible(
    class_sizes, share, seed
):
    samples = many(class_sizes)
    count = max(1, round(share * len(samples)))
    chosen = [s.sample_id for s in choose_samples(samples, count, seed)]
    assert len(chosen) == count
    assert chosen == sorted(set(chosen))
    if count >= len(class_sizes):
        labels = {s.label for s in samples if s.sample_id in chosen}
        assert labels == set(range(len(class_sizes)))


def test_choice_of_equal_classes_is_equal():
    chosen = choose_samples(many([30, 30, 30]), 12, 0)
    assert Counter(s.label for s in chosen) == {0: 4, 1: 4, 2: 4}


def test_choice_depends_on_the_seed_and_not_on_the_order_of_the_list():
    samples = many([20, 20])
    chosen = choose_samples(samples, 10, 0)
    assert choose_samples(samples[::-1], 10, 0) == chosen
    assert choose_samples(samples, 10, 1) != chosen


@pytest.mark.parametrize("count", [None, 5, 99])
def test_asking_for_all_gives_all_in_id_order(count):
    samples = many([3, 2])
    assert choose_samples(samples[::-1], count, 0) == samples
