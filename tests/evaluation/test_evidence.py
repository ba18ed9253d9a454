"""Equal evidence: how many frames `matched` and `span` show, which, and how far apart."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.core.errors import ConfigError
from regatta.evaluation.protocols import identical_to, plan_all
from tests.evaluation.designs import resolve

totals = st.integers(1, 400)
model_frame_counts = st.integers(1, 64)
budgets = st.lists(st.integers(1, 70), min_size=1, max_size=5, unique=True)
percents = st.lists(st.integers(1, 100), min_size=1, max_size=5, unique=True)


@given(totals, model_frame_counts, budgets)
def test_matched_shows_exactly_k_distinct_frames_where_clip_and_model_have_them(
    total, frames, wanted
):
    plans = plan_all(resolve("matched", frames=wanted), total, 30.0, frames)
    assert list(plans) == [f"k{k}" for k in wanted]
    for k in wanted:
        assert plans[f"k{k}"].distinct_frames == min(k, total, frames)
        assert list(plans[f"k{k}"].indices) == sorted(plans[f"k{k}"].indices)


@given(totals, model_frame_counts, model_frame_counts, budgets)
def test_matched_shows_the_same_frames_to_every_model_that_can_hold_them(total, one, other, wanted):
    protocol = resolve("matched", frames=wanted)
    first, second = (plan_all(protocol, total, 30.0, frames) for frames in (one, other))
    for k in wanted:
        if k <= min(one, other):
            assert set(first[f"k{k}"].indices) == set(second[f"k{k}"].indices)
            assert first[f"k{k}"].span_seconds == second[f"k{k}"].span_seconds


def test_matched_by_hand():
    plans = plan_all(resolve("matched"), 50, 25.0, 8)
    assert plans["k1"].indices == (24,) * 8
    assert plans["k2"].indices == (0,) * 4 + (49,) * 4
    assert plans["k4"].indices == (0, 0, 16, 16, 33, 33, 49, 49)
    assert plans["k8"].indices == (0, 7, 14, 21, 28, 35, 42, 49)
    assert identical_to(plans) == {"k16": "k8"}


def test_matched_reads_its_pad():
    plans = plan_all(resolve("matched", frames=[2], pad="loop"), 50, 25.0, 4)
    assert plans["k2"].indices == (0, 49, 0, 49)


@given(totals, model_frame_counts, percents, st.integers(1, 20))
def test_span_windows_are_centred_and_hold_k_frames_with_both_ends(total, frames, shares, k):
    plans = plan_all(resolve("span", coverage=shares, frames=k), total, 30.0, frames)
    for share in shares:
        window = max(1, math.floor(Fraction(share * total, 100)))
        start = (total - window) // 2
        plan = plans[f"w{share}"]
        seen = min(k, frames, window)
        assert plan.distinct_frames == seen
        assert start <= plan.indices[0] <= plan.indices[-1] < start + window
        if seen > 1:
            assert (plan.indices[0], plan.indices[-1]) == (start, start + window - 1)


@given(totals, model_frame_counts, st.integers(1, 20))
def test_a_wider_span_never_shows_less_nor_reaches_less_far(total, frames, k):
    plans = list(
        plan_all(
            resolve("span", coverage=[10, 25, 50, 75, 100], frames=k), total, 30.0, frames
        ).values()
    )
    for narrow, wide in pairwise(plans):
        assert narrow.distinct_frames <= wide.distinct_frames
        assert narrow.span_seconds <= wide.span_seconds


@given(totals, st.integers(2, 64), st.integers(2, 20))
def test_span_slows_the_rate_as_it_reaches_further_at_equal_frames(total, frames, k):
    plans = list(plan_all(resolve("span", frames=k), total, 30.0, frames).values())
    full = [p for p in plans if p.distinct_frames == min(k, frames) and p.rate_hz]
    rates = [plan.rate_hz or 0.0 for plan in full]
    assert rates == sorted(rates, reverse=True)


def test_span_of_the_whole_clip_is_matched_at_the_same_k():
    for frames in (8, 16, 32):
        span = plan_all(resolve("span"), 186, 25.0, frames)["w100"]
        assert span == plan_all(resolve("matched"), 186, 25.0, frames)["k8"]


def test_references_are_the_most_evidence():
    assert resolve("matched", frames=[8, 2]).reference.id == "k8"
    assert resolve("span", coverage=[50, 20]).reference.id == "w50"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("matched", {"frames": [0]}, "frames is 1 or more, got 0"),
        ("matched", {"frames": []}, "empty"),
        ("matched", {"frames": [4, 4]}, "lists 4 twice"),
        ("matched", {"frames": 4}, "Sequence"),
        ("matched", {"k": [4]}, "unknown option 'k'"),
        ("matched", {"pad": "zeros"}, "hold-last"),
        ("span", {"frames": 0}, "frames is 1 or more, got 0"),
        ("span", {"frames": [8]}, "valid integer"),
        ("span", {"coverage": [0]}, "coverage is 1 to 100"),
        ("span", {"coverge": [10]}, "did you mean 'coverage'"),
    ],
)
def test_bad_options_say_what_and_where(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(name, **options)
    assert str(caught.value.where).startswith("protocol.options")
