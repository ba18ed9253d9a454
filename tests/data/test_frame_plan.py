"""Promises of the frame planner, held by closed forms and property laws."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from regatta.core.errors import ConfigError, DataError
from regatta.core.seeds import stream
from regatta.data.frame_plan import (
    Pad,
    Placement,
    PlanCondition,
    PlanPolicy,
    plan_frames,
    plan_from_blends,
    plan_from_indices,
    plan_segments,
    plan_training_clip,
    plan_windows,
    spread_evenly,
)

totals = st.integers(1, 400)
model_frame_counts = st.integers(1, 64)
percents = st.integers(1, 100)
strides = st.integers(1, 32)
pads = st.sampled_from(["hold-last", "repeat-each", "loop", "mask"])
rates = st.sampled_from([12.0, 24.0, 25.0, 30000 / 1001, 30.0, 32.0, 60.0])


@st.composite
def conditions(draw: st.DrawFn) -> PlanCondition:
    density = draw(
        st.one_of(
            st.fixed_dictionaries({"stride_frames": strides}),
            st.fixed_dictionaries({"stride_seconds": st.floats(0.001, 3)}),
            st.fixed_dictionaries({"rate_hz": st.floats(0.3, 120)}),
        )
    )
    settings: dict[str, Any] = {
        "placement": draw(st.sampled_from(["prefix", "centre", "random", "sliding"])),
        **density,
    }
    if settings["placement"] in ("random", "sliding"):
        settings["offset_fraction"] = draw(st.floats(0, 1))
    return PlanCondition(draw(percents) / 100, **settings)


def whole_window(percent: int) -> PlanCondition:
    return PlanCondition(percent / 100, stride_frames=1)


def exact_window(total: int, percent: int) -> int:
    return max(1, math.floor(Fraction(percent, 100) * total))


@given(totals, rates, conditions(), model_frame_counts, pads)
def test_every_plan_has_the_right_length_and_stays_in_the_clip(total, fps, condition, frames, pad):
    plan = plan_frames(total, fps, condition, frames, PlanPolicy(pad))
    assert len(plan.indices) == frames
    assert all(0 <= index < total for index in plan.indices)


@given(
    totals,
    rates,
    conditions(),
    model_frame_counts,
    st.sampled_from(["hold-last", "mask", "repeat-each"]),
)
def test_frames_never_go_back_in_time_unless_they_loop(total, fps, condition, frames, pad):
    plan = plan_frames(total, fps, condition, frames, PlanPolicy(pad))
    assert list(plan.indices) == sorted(plan.indices)


@given(totals, percents, strides, model_frame_counts)
def test_span_stays_inside_the_coverage_window(total, percent, stride, frames):
    placements: list[tuple[Placement, float | None]] = [
        ("prefix", None),
        ("centre", None),
        ("random", 0.37),
        ("sliding", 1.0),
    ]
    for placement, offset in placements:
        condition = PlanCondition(
            percent / 100, stride_frames=stride, placement=placement, offset_fraction=offset
        )
        plan = plan_frames(total, 30.0, condition, frames)
        assert max(plan.indices) - min(plan.indices) <= exact_window(total, percent) - 1


@given(totals, percents, percents, strides, st.integers(2, 64))
def test_more_coverage_never_shows_fewer_frames_or_a_shorter_span(
    total, one, other, stride, frames
):
    small, large = (
        plan_frames(total, 25.0, PlanCondition(percent / 100, stride_frames=stride), frames)
        for percent in sorted((one, other))
    )
    assert small.distinct_frames <= large.distinct_frames
    assert small.span_seconds <= large.span_seconds


@given(totals, percents, strides, model_frame_counts, pads)
def test_distinct_frames_and_pad_share_follow_their_closed_form(
    total, percent, stride, frames, pad
):
    candidates = math.ceil(exact_window(total, percent) / stride)
    plan = plan_frames(
        total, 30.0, PlanCondition(percent / 100, stride_frames=stride), frames, PlanPolicy(pad)
    )
    assert plan.distinct_frames == min(frames, candidates) == len(set(plan.indices))
    assert plan.pad_share == pytest.approx(max(0, frames - candidates) / frames)


@given(totals, percents, strides, model_frame_counts)
def test_grid_frames_lie_on_the_stride_and_keep_both_ends(total, percent, stride, frames):
    assume(frames > 1)
    plan = plan_frames(total, 30.0, PlanCondition(percent / 100, stride_frames=stride), frames)
    assert all(index % stride == 0 for index in plan.indices)
    assert plan.indices[0] == 0
    assert plan.indices[-1] == (math.ceil(exact_window(total, percent) / stride) - 1) * stride


clips = st.lists(st.integers(0, 12), min_size=1, max_size=4)


@given(clips, clips)
def test_keys_are_equal_exactly_when_the_clips_are(one, other):
    first, second = plan_from_indices(one, 25.0), plan_from_indices(other, 30.0)
    assert (first.unique_key == second.unique_key) == (one == other)


def test_keys_see_order_and_repeats():
    keys = {
        plan_from_indices(i, 25.0).unique_key for i in ([0, 1, 1], [0, 0, 1], [1, 0, 0], [1, 1])
    }
    assert len(keys) == 4


@given(totals, percents, strides, model_frame_counts, st.integers(1, 70))
def test_frame_budget_caps_the_evidence_and_nothing_else(total, percent, stride, frames, budget):
    condition = PlanCondition(percent / 100, stride_frames=stride)
    candidates = math.ceil(exact_window(total, percent) / stride)
    plan = plan_frames(total, 30.0, condition, frames, PlanPolicy(frame_budget=budget))
    assert plan.distinct_frames == min(budget, frames, candidates)
    assert len(plan.indices) == frames


@given(st.integers(2, 500), st.integers(2, 500))
def test_even_choice_equals_the_rounded_linspace(available, wanted):
    places = spread_evenly(available, wanted)
    assert len(set(places)) == len(places) == min(available, wanted)
    if wanted < available:
        exact = [Fraction(place * (available - 1), wanted - 1) for place in range(wanted)]
        assert all(
            abs(place - value) <= Fraction(1, 2) for place, value in zip(places, exact, strict=True)
        )
        assert np.abs(np.linspace(0, available - 1, wanted) - places).max() <= 0.5 + 1e-9
    assert (places[0], places[-1]) == (0, available - 1)


def test_published_cells_by_hand():
    """50 frames, 8 to the model: windows 5, 12, 25, 37, 50."""

    def indices(percent: int, stride: int) -> tuple[int, ...]:
        return plan_frames(50, 25.0, PlanCondition(percent / 100, stride_frames=stride), 8).indices

    assert indices(10, 1) == (0, 1, 2, 3, 4, 4, 4, 4)
    assert indices(25, 16) == (0,) * 8
    assert indices(25, 4) == (0, 4, 8, 8, 8, 8, 8, 8)
    assert indices(75, 8) == (0, 8, 16, 24, 32, 32, 32, 32)
    assert indices(100, 8) == (0, 8, 16, 24, 32, 40, 48, 48)
    assert indices(100, 1) == (0, 7, 14, 21, 28, 35, 42, 49)


def test_each_pad_policy_fills_as_named():
    def indices(pad: Pad) -> tuple[int, ...]:
        return plan_frames(3, 25.0, PlanCondition(stride_frames=1), 8, PlanPolicy(pad)).indices

    assert indices("hold-last") == indices("mask") == (0, 1, 2, 2, 2, 2, 2, 2)
    assert indices("repeat-each") == (0, 0, 0, 1, 1, 1, 2, 2)
    assert indices("loop") == (0, 1, 2, 0, 1, 2, 0, 1)


def test_placements_put_the_window_where_they_say():
    def indices(placement: Placement, offset: float | None = None) -> tuple[int, ...]:
        condition = PlanCondition(
            0.5,
            stride_frames=1,
            placement=placement,
            offset_fraction=offset,
        )
        return plan_frames(20, 25.0, condition, 10).indices

    assert indices("prefix") == tuple(range(10))
    assert indices("centre") == tuple(range(5, 15))
    assert indices("sliding", 1.0) == tuple(range(10, 20))
    assert indices("random", 0.3) == tuple(range(3, 13))


def test_coverage_survives_binary_fractions():
    """0.29 * 100 is 28.999999999999996 in binary; the window is 29 frames all the same."""
    wrong = [
        (percent, total)
        for percent in range(1, 101)
        for total in (7, 10, 50, 100, 186, 200, 1000)
        if plan_frames(total, 25.0, whole_window(percent), total).distinct_frames
        != exact_window(total, percent)
    ]
    assert wrong == []


@given(totals, percents, strides, model_frame_counts)
def test_stride_in_frames_seconds_and_hertz_are_one_thing(total, percent, stride, frames):
    fps = 32.0
    plans = {
        plan_frames(total, fps, PlanCondition(percent / 100, **density), frames).indices
        for density in (
            {"stride_frames": stride},
            {"stride_seconds": stride / fps},
            {"rate_hz": fps / stride},
        )
    }
    assert len(plans) == 1


def test_seconds_round_to_the_nearest_frame_and_rates_above_the_file_give_every_frame():
    quarter = plan_frames(40, 30.0, PlanCondition(stride_seconds=0.25), 6)
    assert quarter.indices == (0, 8, 15, 23, 30, 38)
    every = plan_frames(6, 25.0, PlanCondition(rate_hz=100.0), 8)
    assert every.indices == (0, 1, 2, 3, 4, 5, 5, 5)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=40), rates)
def test_truth_fields_do_not_depend_on_order_or_repeats(indices, fps):
    plan = plan_from_indices(indices, fps)
    shuffled = plan_from_indices(sorted(indices, key=lambda index: (index * 7919) % 31), fps)
    once = plan_from_indices(sorted(set(indices)), fps)
    for other in (shuffled, once):
        assert plan.distinct_frames == other.distinct_frames
        assert plan.span_seconds == other.span_seconds
        assert plan.rate_hz == other.rate_hz
        assert plan.mean_gap_frames == other.mean_gap_frames


def test_truth_of_a_known_clip_and_of_one_frame():
    plan = plan_from_indices([0, 8, 16, 16], 32.0)
    assert (plan.distinct_frames, plan.span_seconds, plan.rate_hz) == (3, 0.5, 4.0)
    assert (plan.mean_gap_frames, plan.pad_share) == (8.0, 0.25)
    still = plan_from_indices([5, 5], 32.0)
    assert (still.distinct_frames, still.span_seconds, still.rate_hz) == (1, 0.0, None)
    assert (still.mean_gap_frames, still.pad_share) == (0.0, 0.5)


def test_numpy_numbers_give_plain_plans():
    plan = plan_frames(np.int64(50), np.float32(25), PlanCondition(stride_frames=1), 4)  # type: ignore[arg-type]
    assert all(type(index) is int for index in plan.indices)


@given(totals, model_frame_counts)
def test_training_clip_is_what_full_sampling_shows(total, frames):
    full = plan_frames(total, 25.0, PlanCondition(stride_frames=1), frames)
    assert plan_training_clip(total, frames, None) == full.indices


@given(totals, model_frame_counts, st.integers(0, 2**32))
def test_training_jitter_moves_all_frames_together_by_at_most_half_a_gap(total, frames, seed):
    still = plan_training_clip(total, frames, None)
    moved = plan_training_clip(total, frames, stream(seed, "clip"))
    assert len(moved) == frames
    assert all(0 <= index < total for index in moved)
    shifts = {b - a for a, b in zip(still[1:-1], moved[1:-1], strict=True)}
    assert len(shifts) <= 1
    gap = (total - 1) / max(1, frames - 1)
    assert all(2 * abs(b - a) <= gap for a, b in zip(still, moved, strict=True))


def test_training_jitter_repeats_by_seed_and_reaches_both_sides():
    rng = stream(3, "clip")
    seen = {plan_training_clip(25, 4, rng)[1] for _ in range(300)}
    assert seen == set(range(8 - 4, 8 + 4 + 1))
    assert plan_training_clip(24, 4, stream(3, "x")) == plan_training_clip(24, 4, stream(3, "x"))


@pytest.mark.parametrize(
    "settings",
    [
        {"coverage_fraction": 0.0, "stride_frames": 1},
        {"coverage_fraction": 1.01, "stride_frames": 1},
        {"coverage_fraction": math.nan, "stride_frames": 1},
        {},
        {"stride_frames": 1, "rate_hz": 8.0},
        {"stride_frames": 0},
        {"stride_frames": 1.5},
        {"stride_seconds": -0.1},
        {"rate_hz": math.inf},
        {"stride_frames": 1, "placement": "random"},
        {"stride_frames": 1, "placement": "random", "offset_fraction": 1.2},
        {"stride_frames": 1, "placement": "prefix", "offset_fraction": 0.5},
        {"stride_frames": 1, "placement": "middle"},
    ],
)
def test_impossible_conditions_are_refused(settings):
    with pytest.raises(ConfigError):
        PlanCondition(**settings)


def test_unusable_clips_and_models_are_named():
    condition = PlanCondition(stride_frames=1)
    with pytest.raises(DataError, match="0 frames"):
        plan_frames(0, 25.0, condition, 8)
    with pytest.raises(DataError, match="frame rate"):
        plan_frames(10, 0.0, condition, 8)
    with pytest.raises(ConfigError, match="at least 1 frame"):
        plan_frames(10, 25.0, condition, 0)
    with pytest.raises(ConfigError, match="pad"):
        PlanPolicy("hold")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="frame_budget"):
        PlanPolicy(frame_budget=0)
    with pytest.raises(ConfigError, match="at least one frame"):
        plan_from_indices([], 25.0)
    with pytest.raises(DataError, match="0 frames"):
        plan_training_clip(0, 4, None)


@given(totals, strides, model_frame_counts, pads)
def test_points_and_boxes_use_the_same_segments(total, stride, frames, pad):
    point, box = (
        plan_segments(total, 25.0, stride, frames, PlanPolicy(pad), blend=blend)
        for blend in (False, True)
    )
    assert box.indices == point.indices
    assert all(
        first == segment[0] for (first,), segment in zip(point.shown, box.shown, strict=True)
    )
    for name in ("distinct_frames", "span_seconds", "rate_hz", "mean_gap_frames", "pad_share"):
        assert getattr(point, name) == getattr(box, name)
    assert (point.unique_key == box.unique_key) == (min(stride, total) == 1)


@given(totals, strides, model_frame_counts)
def test_boxes_are_disjoint_of_equal_size_whole_and_inside(total, stride, frames):
    box = plan_segments(total, 25.0, stride, frames, blend=True)
    segments = sorted(set(box.shown))
    length = min(stride, total)
    assert all(list(s) == list(range(s[0], s[0] + length)) for s in segments)
    assert all(segment[0] % length == 0 for segment in segments)
    seen = [frame for segment in segments for frame in segment]
    assert len(seen) == len(set(seen))
    assert 0 <= min(seen) <= max(seen) < total
    assert len(segments) == min(frames, total // length)
    assert len(box.shown) == frames


@given(st.integers(1, 40), strides, model_frame_counts)
def test_points_are_the_grid_cell_where_the_stride_divides_the_clip(count, stride, frames):
    total = count * stride
    point = plan_segments(total, 25.0, stride, frames, blend=False)
    assert point == plan_frames(total, 25.0, PlanCondition(stride_frames=stride), frames)


def test_segments_by_hand():
    box = plan_segments(11, 25.0, 4, 3, blend=True)
    assert box.shown == ((0, 1, 2, 3), (4, 5, 6, 7), (4, 5, 6, 7))
    assert (box.distinct_frames, box.span_seconds) == (2, 4 / 25)
    assert plan_segments(3, 25.0, 8, 2, blend=True).shown == ((0, 1, 2), (0, 1, 2))
    assert plan_segments(64, 25.0, 8, 3, blend=False).indices == (0, 32, 56)


@given(totals, strides, model_frame_counts, st.integers(1, 12))
def test_windows_stay_in_the_clip_in_order_with_both_ends(total, stride, frames, count):
    plans = plan_windows(total, 25.0, stride, frames, windows=count)
    assert len(plans) == count
    length = min(total, frames * stride)
    for plan in plans:
        assert len(plan.indices) == frames
        assert 0 <= plan.indices[0] <= plan.indices[-1] < total
        assert plan.indices[-1] - plan.indices[0] < length
    starts = [plan.indices[0] for plan in plans]
    assert starts == sorted(starts)
    if count > 1:
        assert (starts[0], starts[-1]) == (0, total - length)
        ideal = np.linspace(0, total - length, count)
        assert all(0 <= want - start < 1 + 1e-9 for start, want in zip(starts, ideal, strict=True))


@given(totals, strides, model_frame_counts, st.integers(0, 6))
def test_the_middle_of_an_odd_number_of_windows_is_the_only_one_of_one(
    total, stride, frames, pairs
):
    (middle,) = plan_windows(total, 25.0, stride, frames, windows=1)
    assert plan_windows(total, 25.0, stride, frames, windows=2 * pairs + 1)[pairs] == middle


def test_windows_by_hand():
    """100 frames, clips of 4 x 5 = 20: 80 frames of room."""
    plans = plan_windows(100, 25.0, 5, 4, windows=3)
    assert [plan.indices for plan in plans] == [
        (0, 5, 10, 15),
        (40, 45, 50, 55),
        (80, 85, 90, 95),
    ]
    short = plan_windows(9, 25.0, 4, 4, windows=5)
    assert {plan.indices for plan in short} == {(0, 4, 8, 8)}


@given(totals, st.integers(1, 80), model_frame_counts)
def test_a_budget_names_the_same_frames_for_every_model_that_can_show_them(total, budget, frames):
    policy = PlanPolicy("repeat-each", frame_budget=budget)
    whole = PlanCondition(stride_frames=1)
    small = plan_frames(total, 25.0, whole, budget, policy)
    large = plan_frames(total, 25.0, whole, budget + frames, policy)
    assert set(small.indices) == set(large.indices)
    assert len(set(small.indices)) == min(budget, total)


def test_impossible_segments_and_windows_are_refused():
    with pytest.raises(ConfigError, match="at least 1 frame"):
        plan_segments(10, 25.0, 0, 4, blend=True)
    with pytest.raises(DataError, match="0 frames"):
        plan_segments(0, 25.0, 1, 4, blend=True)
    with pytest.raises(DataError, match="0 frames"):
        plan_windows(0, 25.0, 1, 4, windows=1)
    for stride, windows in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="at least 1"):
            plan_windows(10, 25.0, stride, 4, windows=windows)
    with pytest.raises(ConfigError, match="at least one source frame"):
        plan_from_blends([(0,), ()], 25.0)


def test_blends_of_one_frame_are_that_frame_and_others_have_a_key_of_their_own():
    plain = plan_from_indices([0, 2], 25.0)
    assert plan_from_blends([(0,), (2,)], 25.0) == plain
    assert plain.shown == ((0,), (2,))
    keys = {
        plan_from_blends(blends, 25.0).unique_key
        for blends in ([(0, 1), (2, 3)], [(0, 1, 2), (2, 3)], [(0, 1), (2,)], [(0,), (2,)])
    }
    assert len(keys) == 4
