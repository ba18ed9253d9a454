"""Promises of the judging protocols: their cells, what each shows, and which are the same clip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regatta.core.errors import ConfigError, UnknownNameError
from regatta.core.registry import PROTOCOLS
from regatta.evaluation.protocols import (
    Protocol,
    degenerate_groups,
    identical_to,
    plan_all,
    still_conditions,
)
from regatta.records.conditions import Condition
from tests.evaluation.designs import resolve

DESIGNS = {
    "plain": "plain",
    "temporal-grid": "c100s1",
    "temporal-grid-legacy": "c100s1",
    "matched": "k16",
    "span": "w100",
    "antialias": "s1-point",
    "controls": "full",
    "multi-view": "v1x1",
    "sliding": "at50",
}
"""Name -> its reference condition."""


DOCS = Path(__file__).resolve().parents[2] / "docs" / "protocols"


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
    with pytest.raises(ConfigError, match="no sample id"):
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


def test_protocols_are_listed_with_options_without_importing_them():
    script = (
        "import sys\n"
        "from regatta.core.registry import PROTOCOLS\n"
        "for name, entry in sorted(PROTOCOLS.listed.items()):\n"
        "    assert entry.summary.endswith('.'), name\n"
        "    print(name, *(entry.options or {}))\n"
        "assert not [name for name in sys.modules if name.startswith('regatta.evaluation')]\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert child.stdout.splitlines() == [
        "antialias stride pad",
        "controls shuffle_seed",
        "image-robustness noise corruptions severities ood corruption_seed",
        "matched frames pad",
        "multi-view views stride pad average",
        "plain",
        "sensor-robustness noise rotation_degrees gain missing missing_channels missing_sensors "
        "block_percent rates_hz offset_samples perturbation_seed",
        "sliding windows coverage stride",
        "span coverage frames pad",
        "temporal-grid coverage stride placement placement_seed pad",
        "temporal-grid-legacy coverage stride base",
        "trajectories conditions frames stride noise blur dropped camera distractors occluder "
        "views_missing crf controls ood disturbance_seed attention attention_samples explain "
        "explain_endpoint explain_model explain_timeout_seconds",
    ]


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_has_a_page_with_its_options_reference_and_command(name):
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for option in PROTOCOLS.listed[name].options or {}:
        assert f"`{option}`" in page
    assert f"`{DESIGNS[name]}`" in page
    assert f"--set protocol.name={name}" in page
    assert f"({name}.md)" in (DOCS / "README.md").read_text(encoding="utf-8")


def test_every_design_resolves_in_a_process_that_loaded_only_this_one_file():
    script = (
        "import sys\n"
        "from regatta.config.schema import ProtocolSection\n"
        "from regatta.evaluation.protocols import resolve_protocol\n"
        "for name in sys.argv[1:]:\n"
        "    assert resolve_protocol(ProtocolSection(name=name)).name == name\n"
    )
    subprocess.run([sys.executable, "-c", script, *DESIGNS], check=True)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_default_reference_is_the_one_that_reports_rely_on(name):
    assert resolve(name).reference.id == DESIGNS[name]


@pytest.mark.parametrize("name", DESIGNS)
def test_axes_name_what_every_condition_carries_and_survive_json(name):
    protocol = resolve(name)
    for condition in protocol.conditions:
        assert tuple(condition.axes) == protocol.axes
        assert json.loads(json.dumps(condition.axes)) == condition.axes
    assert protocol.without_ceiling <= {condition.id for condition in protocol.conditions}


@pytest.mark.parametrize("name", DESIGNS)
@given(total=st.integers(1, 300), model_frames=st.integers(1, 40))
@settings(max_examples=25)
def test_every_view_of_every_design_fits_the_model_and_the_clip(name, total, model_frames):
    protocol = resolve(name)
    for condition in protocol.conditions:
        views = protocol.plan_views(total, 30.0, condition, model_frames, sample_id="a")
        again = protocol.plan_views(total, 30.0, condition, model_frames, sample_id="a")
        assert views == again
        for view in views:
            assert 0 <= view.crop <= 1
            assert len(view.plan.indices) == len(view.plan.shown) == model_frames
            assert all(0 <= f < total for blend in view.plan.shown for f in blend)
            assert 0 <= view.plan.pad_share < 1
            assert view.plan.span_seconds <= (total - 1) / 30.0 + 1e-9


def test_a_protocol_needs_distinct_ids_and_one_reference():
    plan = resolve("plain").plan_views
    with pytest.raises(ConfigError, match="one reference"):
        Protocol("twice", [Condition("a", {}, True), Condition("a")], plan)
    with pytest.raises(ConfigError, match="one reference"):
        Protocol("headless", [Condition("a")], plan)
