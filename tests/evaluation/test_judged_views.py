"""Promises of judging several views and blended frames: bit-equal to each view alone, no work done
twice, and the truth over all views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from regatta.data.frame_plan import plan_from_indices
from regatta.data.manifest import Sample
from regatta.evaluation.grid import EntryInput, plan_clips
from regatta.evaluation.protocols import Protocol, View
from regatta.evaluation.view_scores import average_views
from regatta.records.conditions import Condition
from tests.evaluation.tiny_judging import (
    TEMPLATE,
    TinyConv,
    assert_bit_equal,
    entry,
    hashes,
    judge,
    make_sample,
    protocol,
    rows_of,
    table_of,
)

VIEWS = protocol("multi-view", views=["1x1", "3x2", "2x3"], stride=2)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """A wide, a tall and a square video."""
    folder = tmp_path_factory.mktemp("shapes")
    return [
        make_sample(folder, 1, height=20, width=46),
        make_sample(folder, 2, height=38, width=16),
        make_sample(folder, 3, height=24, width=24),
    ]


@pytest.mark.parametrize("average", ["probability", "logit"])
def test_views_and_crops_are_bit_equal_to_each_view_alone(shapes, tmp_path, average):
    design = protocol("multi-view", views=["1x1", "3x2", "2x3"], stride=2, average=average)
    entries = [entry(tmp_path, "a"), entry(tmp_path, "bb", frames=8, image_size=16)]
    judge(entries, shapes, design, decode_threads=2)
    for judged in entries:
        assert_bit_equal(judged, shapes, design)


@pytest.mark.parametrize("name", ["antialias", "controls", "matched", "span", "sliding"])
def test_every_design_is_bit_equal_to_the_naive_loop(samples, tmp_path, name):
    design = protocol(name)
    judged = entry(tmp_path, "a", frames=8)
    judge([judged], samples[:4], design)
    assert_bit_equal(judged, samples[:4], design)


def test_blends_are_bit_equal_for_entries_judged_together(samples, tmp_path):
    design = protocol("antialias")
    entries = [entry(tmp_path, "a"), entry(tmp_path, "bb", frames=8, image_size=16)]
    judge(entries, samples[:3], design)
    for judged in entries:
        assert_bit_equal(judged, samples[:3], design)


def test_one_view_keeps_its_logits_and_its_plan_key(shapes, tmp_path):
    """The single centre view is the plain clip of `stride` 1 where the window is the whole clip."""
    single = protocol("multi-view", views=["1x1"], stride=50)
    plain = protocol("temporal-grid", coverage=[100], stride=[50])
    found, wanted = entry(tmp_path, "a"), entry(tmp_path / "grid", "a")
    judge([found], shapes, single)
    judge([wanted], shapes, plain)
    (table, scores), (others, expected) = table_of(found.folder), table_of(wanted.folder)
    assert np.array_equal(scores, expected)
    assert table["clip_key"].tolist() == others["clip_key"].tolist()


def test_crops_of_square_pictures_and_of_squashed_ones_run_once(shapes, tmp_path):
    design = protocol("multi-view", views=["1x1", "1x3"], stride=2)
    wide, square = shapes[0], shapes[2]
    clips = {}
    for name, sample, changes in (
        ("wide", wide, {}),
        ("square", square, {}),
        ("squashed", wide, {"resize": "squash"}),
    ):
        module = TinyConv()
        cost = judge([entry(tmp_path, name, module=module)], [sample], design, **changes)
        clips[name] = cost.distinct_clips
    # The centre serves both conditions; only the wide picture has a left and a right.
    assert clips == {"wide": 3, "square": 1, "squashed": 1}


def test_truth_of_several_views_is_that_of_their_union(shapes, tmp_path):
    judged = entry(tmp_path, "a")
    judge([judged], shapes, VIEWS)
    known = {sample.sample_id: sample for sample in shapes}
    table, _ = table_of(judged.folder)
    for row in rows_of(table):
        sample = known[row["sample_id"]]
        condition = next(c for c in VIEWS.conditions if c.id == row["condition"])
        plans = [view.plan for view in VIEWS.plan_views(sample.frames, sample.fps, condition, 4)]
        shown = {index for plan in plans for index in plan.indices}
        assert row["distinct_frames"] == len(shown)
        assert row["span_seconds"] == pytest.approx((max(shown) - min(shown)) / sample.fps)
        assert row["rate_hz"] == pytest.approx((len(shown) - 1) / row["span_seconds"])
        assert row["pad_share"] == pytest.approx(np.mean([plan.pad_share for plan in plans]))


def one_condition(*views: View) -> Protocol:
    return Protocol("made", [Condition("only", {}, True)], lambda *_, **__: views)


def key_of(sample: Sample, *views: View) -> str:
    return plan_clips(sample, one_condition(*views), EntryInput(4, 12, "crop")).truths[0].clip_key


FIRST, SECOND = plan_from_indices([0, 1, 2, 3], 20.0), plan_from_indices([4, 5, 6, 7], 20.0)


def test_the_clip_key_covers_all_views_and_crops():
    wide = TEMPLATE
    keys = [
        key_of(wide, View(FIRST)),
        key_of(wide, View(SECOND)),
        key_of(wide, View(FIRST, 0.0)),
        key_of(wide, View(FIRST, 1.0)),
        key_of(wide, View(FIRST), View(SECOND)),
        key_of(wide, View(FIRST, 0.0), View(SECOND)),
        key_of(wide, View(FIRST), View(SECOND, 0.0)),
        key_of(wide, View(FIRST), View(FIRST)),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == FIRST.unique_key


def test_a_crop_without_effect_does_not_change_the_clip_key():
    square = make_square()
    assert key_of(square, View(FIRST, 0.0)) == key_of(square, View(FIRST)) == FIRST.unique_key
    several = key_of(square, View(FIRST, 0.0), View(SECOND, 1.0))
    assert several == key_of(square, View(FIRST), View(SECOND))


def make_square() -> Sample:
    return Sample(**{**TEMPLATE.__dict__, "width": 24, "height": 24, "frames": 20})


def test_views_judged_in_any_number_of_threads_give_the_same_parts(shapes, tmp_path: Path):
    for threads in (0, 1, 3):
        judge([entry(tmp_path / str(threads), "a")], shapes, VIEWS, decode_threads=threads)
    assert hashes(tmp_path / "0" / "a") == hashes(tmp_path / "1" / "a")
    assert hashes(tmp_path / "0" / "a") == hashes(tmp_path / "3" / "a")


LOGITS = st.lists(
    st.lists(st.floats(-60, 60, width=32), min_size=3, max_size=3), min_size=2, max_size=9
)


@settings(deadline=None)
@given(rows=LOGITS)
def test_mean_probability_is_what_the_softmax_of_the_stored_scores_gives(rows):
    logits = np.array(rows, dtype=np.float32)
    wanted = softmax(logits.astype(np.float64), axis=1).mean(axis=0)
    stored = average_views(logits, "probability")
    assert stored.dtype == np.float32
    assert np.allclose(np.exp(stored.astype(np.float64)), wanted, rtol=1e-5, atol=0)
    assert np.allclose(softmax(stored.astype(np.float64)), wanted, rtol=1e-5, atol=1e-12)


@given(rows=LOGITS)
def test_mean_logit_is_the_mean(rows):
    logits = np.array(rows, dtype=np.float32)
    assert np.allclose(average_views(logits, "logit"), logits.mean(axis=0), atol=1e-5)


def test_views_far_apart_neither_overflow_nor_vanish():
    logits = np.array([[9000.0, 0.0], [-9000.0, 0.0]], dtype=np.float32)
    assert np.allclose(average_views(logits, "probability"), np.log([0.5, 0.5]))
    alone = np.array([[9000.0, 0.0]], dtype=np.float32)
    assert average_views(alone, "probability").tolist() == [9000.0, 0.0]
