"""The published sampler, held to a plain rewrite of it on real lists of frames."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.core.errors import ConfigError, DataError
from regatta.data.legacy_plan import LegacyBase, plan_legacy_cell

totals = st.integers(1, 700)
percents = st.integers(1, 100)
strides = st.integers(1, 40)
model_frame_counts = st.integers(1, 64)
bases = st.sampled_from(["all", "4T"])


def naive_clip(frames: list[str], percent: int, stride: int, T: int, base: str) -> list[str]:
    """The sampler on the frames themselves, step by step as it is described."""
    if base == "4T":
        spaced = np.linspace(0, len(frames) - 1, min(len(frames), 4 * T))
        frames = [frames[math.floor(place)] for place in spaced]
    kept = max(1, math.floor(Fraction(len(frames) * percent, 100)))
    left = [frame for place, frame in enumerate(frames[:kept]) if place % stride == 0]
    if len(left) < T:
        times = math.floor(T / len(left)) + 1
        left = [frame for frame in left for _ in range(times)]
        return left[:T]
    return [left[math.floor(place)] for place in np.linspace(0, len(left) - 1, T)]


def legacy(total: int, T: int, percent: int, stride: int, base: LegacyBase = "all"):
    return plan_legacy_cell(
        total, 25.0, T, coverage_percent=percent, stride_frames=stride, base=base
    )


@given(totals, percents, strides, model_frame_counts, bases)
def test_it_shows_exactly_the_frames_of_the_naive_loop(total, percent, stride, frames, base):
    clip = [f"frame {number}" for number in range(total)]
    shown = [clip[index] for index in legacy(total, frames, percent, stride, base).indices]
    assert shown == naive_clip(clip, percent, stride, frames, base)


def test_it_equals_the_naive_loop_wherever_a_published_study_can_fall():
    """Clip lengths up to 300 at the published settings of the three models."""
    wrong = [
        (total, T, percent, stride)
        for total in range(1, 301, 7)
        for T in (8, 16, 32)
        for percent in (10, 25, 50, 75, 100)
        for stride in (1, 2, 4, 8, 16)
        if list(legacy(total, T, percent, stride, "4T").indices)
        != [int(f) for f in naive_clip([*map(str, range(total))], percent, stride, T, "4T")]
    ]
    assert wrong == []


def test_spacing_keeps_the_rounding_of_the_published_arithmetic():
    """Base place 21 of 154 frames is frame 51, but in binary 21 * (153 / 63) is just below it."""
    assert 21 * 153 / 63 == 51
    assert math.floor(21 * (153 / 63)) == 50
    base_places = set(range(0, 64, 7))
    shown = set(legacy(154, 16, 100, 7, "4T").indices)
    assert shown < {math.floor(place * (153 / 63)) for place in base_places}
    assert 50 in shown
    assert 51 not in shown


@given(totals, percents, strides, model_frame_counts, bases)
def test_every_plan_has_the_right_length_stays_inside_and_never_goes_back(
    total, percent, stride, frames, base
):
    plan = legacy(total, frames, percent, stride, base)
    assert len(plan.indices) == frames
    assert list(plan.indices) == sorted(plan.indices)
    assert plan.indices[0] >= 0
    assert plan.indices[-1] < total


@given(totals, percents, strides, model_frame_counts)
def test_the_window_is_a_prefix_of_the_coverage(total, percent, stride, frames):
    kept = max(1, math.floor(Fraction(total * percent, 100)))
    plan = legacy(total, frames, percent, stride)
    assert plan.indices[0] == 0
    assert plan.indices[-1] <= kept - 1


def test_published_faults_by_hand():
    """50 frames; distinct frames and last frame as worked out for the published clips."""

    def seen(T: int, percent: int, stride: int) -> tuple[int, int]:
        plan = legacy(50, T, percent, stride)
        return plan.distinct_frames, plan.indices[-1]

    assert seen(16, 100, 1) == (16, 49)
    assert seen(32, 100, 2) == (16, 30)
    assert seen(16, 100, 4) == (8, 28)
    assert seen(16, 50, 2) == (8, 14)
    assert seen(16, 25, 2) == (6, 10)
    assert seen(32, 100, 8) == (7, 48)
    assert seen(16, 10, 8) == seen(32, 25, 16) == (1, 0)


@pytest.mark.parametrize("base", ["all", "4T"])
def test_a_coverage_that_would_leave_no_frame_leaves_the_first(base):
    assert legacy(3, 8, 10, 1, base).indices == (0,) * 8
    assert legacy(1, 8, 1, 16, base).indices == (0,) * 8


def test_percent_coverage_needs_no_rounding_guard():
    """0.29 * 100 is 28.999999999999996, but 29 * 100 / 100 is 29: the frames kept are 29."""
    assert legacy(100, 29, 29, 1).indices == tuple(range(29))


def test_the_base_of_four_times_the_model_spreads_the_stride_over_the_clip():
    """200 frames, T = 8: a base of 32 frames, so stride 16 leaves base frames 0 and 16."""
    plan = legacy(200, 8, 100, 16, "4T")
    assert set(plan.indices) == {0, math.floor(16 * 199 / 31)}
    assert set(legacy(200, 8, 100, 16).indices) == {
        16 * math.floor(place) for place in np.linspace(0, 12, 8)
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"coverage_percent": 0},
        {"coverage_percent": 101},
        {"stride_frames": 0},
        {"model_frames": 0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]):
    wanted = {"model_frames": 8, "coverage_percent": 50, "stride_frames": 1, **settings}
    with pytest.raises(ConfigError, match="1 to 100 percent"):
        plan_legacy_cell(50, 25.0, **wanted)


def test_a_clip_without_frames_is_refused():
    with pytest.raises(DataError, match="0 frames"):
        legacy(0, 8, 100, 1)
