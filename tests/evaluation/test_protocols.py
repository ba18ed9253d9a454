"""Promises of the judging protocols: their cells, what each shows, and which are the same clip."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.config.schema import ProtocolSection
from regatta.core.errors import ConfigError, UnknownNameError
from regatta.core.registry import PROTOCOLS
from regatta.evaluation.protocols import (
    Protocol,
    degenerate_groups,
    identical_to,
    plan_all,
    resolve_protocol,
    still_conditions,
)
from regatta.records.predictions import Condition


def resolve(name: str, **options: Any) -> Protocol:
    return resolve_protocol(ProtocolSection.model_validate({"name": name, "options": options}))


def grid(**options: Any) -> Protocol:
    return resolve("temporal-grid", **options)


def test_grid_is_the_published_25_cells_in_order_with_one_reference():
    protocol = grid()
    assert len(protocol.conditions) == 25
    first = ["c10s1", "c10s2", "c10s4", "c10s8", "c10s16", "c25s1"]
    assert [c.id for c in protocol.conditions[:6]] == first
    assert protocol.reference == Condition("c100s1", {"coverage": 100, "stride": 1}, True)
    assert protocol.axes == ("coverage", "stride")


def test_grid_cells_show_what_their_axes_say():
    protocol = grid(coverage=[50, 100], stride=[4])
    plans = plan_all(protocol, 64, 32.0, 8)
    assert plans["c50s4"].indices == (0, 4, 8, 12, 16, 20, 24, 28)
    assert plans["c50s4"].rate_hz == 8.0
    assert set(plans["c100s4"].indices) <= set(range(0, 64, 4))
    assert protocol.reference.id == "c100s4"


def test_plain_is_one_even_clip_with_both_ends():
    protocol = resolve("plain")
    assert [c.id for c in protocol.conditions] == ["plain"]
    assert plan_all(protocol, 64, 32.0, 8)["plain"].indices == (0, 9, 18, 27, 36, 45, 54, 63)


@pytest.mark.parametrize("model_frames", [8, 16, 32])
def test_identical_cells_of_50_frame_clips(model_frames):
    """Windows of 5, 12, 25, 37 and 50 frames leave one frame at c10s8, c10s16 and c25s16."""
    plans = plan_all(grid(), 50, 25.0, model_frames)
    assert degenerate_groups(plans) == [["c10s8", "c10s16", "c25s16"]]
    assert identical_to(plans) == {"c10s16": "c10s8", "c25s16": "c10s8"}
    assert still_conditions(plans) == ["c10s8", "c10s16", "c25s16"]


def test_every_cell_of_a_one_frame_clip_is_the_same():
    plans = plan_all(grid(), 1, 25.0, 8)
    assert [len(group) for group in degenerate_groups(plans)] == [25]
    assert set(identical_to(plans).values()) == {"c10s1"}
    assert len(still_conditions(plans)) == 25


@given(st.integers(1, 300), st.integers(1, 40), st.sampled_from(["prefix", "centre", "random"]))
def test_identical_cells_are_exactly_the_equal_index_tuples(total, model_frames, placement):
    plans = plan_all(grid(placement=placement), total, 30.0, model_frames, sample_id="a")
    same = identical_to(plans)
    ids = list(plans)
    for place, later in enumerate(ids):
        equal_before = [i for i in ids[:place] if plans[i].indices == plans[later].indices]
        assert same.get(later) == (equal_before[0] if equal_before else None)


def test_random_windows_differ_between_samples_and_repeat_by_seed():
    def start(sample_id: str, seed: int = 0) -> int:
        protocol = grid(coverage=[10], stride=[1], placement="random", placement_seed=seed)
        return plan_all(protocol, 1000, 25.0, 4, sample_id=sample_id)["c10s1"].indices[0]

    starts = {start(f"clip-{number}") for number in range(20)}
    assert len(starts) > 15
    assert all(0 <= value <= 900 for value in starts)
    assert start("clip-1") == start("clip-1") != start("clip-1", seed=1)


def test_random_windows_without_a_sample_id_are_refused():
    """All clips of one length would silently share one window."""
    with pytest.raises(ConfigError, match="without a sample id"):
        plan_all(grid(placement="random"), 100, 25.0, 8)


@pytest.mark.parametrize("pad", ["hold-last", "repeat-each", "loop", "mask"])
def test_pad_policy_reaches_the_plan(pad):
    expected = {
        "hold-last": (0, 1, 1, 1),
        "mask": (0, 1, 1, 1),
        "repeat-each": (0, 0, 1, 1),
        "loop": (0, 1, 0, 1),
    }
    protocol = grid(coverage=[100], stride=[1], pad=pad)
    assert plan_all(protocol, 2, 25.0, 4)["c100s1"].indices == expected[pad]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coverages": [10]}, "did you mean 'coverage'"),
        ({"strid": [1]}, "did you mean 'stride'"),
        ({"coverage": [0, 10]}, "coverage is 1 to 100, got 0"),
        ({"coverage": [101]}, "coverage is 1 to 100, got 101"),
        ({"coverage": []}, "empty"),
        ({"coverage": [10, 10]}, "lists 10 twice"),
        ({"coverage": [12.5]}, "valid integer"),
        ({"coverage": [True]}, "valid integer"),
        ({"coverage": 50}, "Sequence"),
        ({"coverage": "50"}, "Sequence|sequence"),
        ({"stride": [0]}, "stride is 1 or more, got 0"),
        ({"stride": ["4"]}, "valid integer"),
        ({"placement": "middle"}, "prefix"),
        ({"placement": "sliding"}, "one window"),
        ({"pad": "zeros"}, "hold-last"),
    ],
)
def test_bad_grid_options_say_what_and_where(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        grid(**options)
    assert str(caught.value.where).startswith("protocol.options")


def test_plain_takes_no_options():
    with pytest.raises(ConfigError, match="unknown option 'coverage'"):
        resolve("plain", coverage=[10])


def test_unknown_protocol_names_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        resolve("temporal-gird")
    assert "temporal-grid" in str(caught.value)


def test_protocols_are_found_by_name_without_importing_them():
    assert {"plain", "temporal-grid"} <= set(PROTOCOLS.names())


def test_a_protocol_needs_distinct_ids_and_one_reference():
    plan = resolve("plain").plan
    with pytest.raises(ConfigError, match="one reference"):
        Protocol("twice", [Condition("a", {}, True), Condition("a")], plan)
    with pytest.raises(ConfigError, match="one reference"):
        Protocol("headless", [Condition("a")], plan)
