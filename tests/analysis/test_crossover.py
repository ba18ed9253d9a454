"""Where two entries change places: closed forms, laws, planted crossings and their coverage."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from regatta.analysis.bootstrap import Bootstrap, bootstrap_accuracy
from regatta.analysis.compare import compare_study
from regatta.analysis.crossover import (
    AxisLine,
    axis_lines,
    crossover,
    crossover_files,
    crossover_section,
    find_bracket,
    length_ahead,
    sign_changes,
)
from regatta.analysis.judged import read_judged_study
from regatta.records.conditions import Condition
from tests.analysis.build import build_judged_study
from tests.analysis.planted import planted
from tests.analysis.protocol_conditions import COVERAGES, STRIDES, conditions_of, grid_conditions

NAMES = ("a", "b")


def along(values: Sequence[float], axis: str = "coverage") -> AxisLine:
    """The line of a protocol with this one axis."""
    conditions = [Condition(f"x{v:g}", {axis: v}) for v in values]
    (line,), gaps = axis_lines(conditions, len(values) - 1)
    assert not gaps
    return line


def shifted(differences: Sequence[float], sd: float, groups: int = 100_000) -> Bootstrap:
    """Replicates in which the whole curve moves up and down by exact normal quantiles."""
    observed = np.array([0.5 + np.array(differences) / 2, 0.5 - np.array(differences) / 2])
    count = 4001
    moves = sd * norm.ppf((np.arange(count) + 0.5) / count)
    sides = np.array([0.5, -0.5])[None, :, None]
    replicates = observed[None] + moves[:, None, None] * sides
    return Bootstrap(observed, replicates, None, groups, groups, (1, 1), 0.95)


def judge(
    differences: Sequence[float], sd: float, values: Sequence[float], axis: str = "coverage"
) -> dict[str, Any]:
    return crossover(shifted(differences, sd), 0, 1, along(values, axis), names=NAMES)


def test_crossing_and_interval_of_a_straight_curve_have_their_closed_form() -> None:
    # d(x) = 0.3 - 0.006 x crosses at 50; moving it by z moves the crossing by z / 0.006.
    values = np.array([10, 25, 50, 75, 100])
    found = judge((0.3 - 0.006 * values).tolist(), 0.03, values.tolist())
    reach = 1.959964 * 0.03 / 0.006
    assert found["verdict"] == "crossover"
    assert found["crossing"]["estimate"] == pytest.approx(50)
    assert found["crossing"]["low"] == pytest.approx(50 - reach, abs=0.05)
    assert found["crossing"]["high"] == pytest.approx(50 + reach, abs=0.05)
    assert found["sentence"] == "a is ahead of b below 50 % coverage [40, 60], behind above"
    assert found["first_leads_low"] == 1
    assert found["first_leads_high"] == 0


def test_the_entry_that_is_ahead_at_the_low_end_is_named_first() -> None:
    found = judge([-0.3, 0.3], 0.03, [10, 100])
    assert found["sentence"].startswith("b is ahead of a below 55 % coverage")


def test_doublings_of_a_stride_are_equal_steps() -> None:
    # Half of the way from 1 to 4 is 2 in doublings, 2.5 in frames.
    found = judge([0.2, -0.2], 0.01, [1, 4], "stride")
    assert found["scale"] == "log2"
    assert found["crossing"]["estimate"] == pytest.approx(2)
    assert judge([0.2, -0.2], 0.01, [1, 4], "span")["crossing"]["estimate"] == pytest.approx(2.5)


def test_parallel_curves_have_no_crossover() -> None:
    found = judge([0.2, 0.2, 0.2], 0.02, [10, 50, 100])
    assert (found["verdict"], found["crossing"], found["sign_changes"]) == ("none shown", None, 0)
    assert found["crossing_share"] == 0
    assert found["sentence"] == (
        "no crossover of a and b is shown along coverage: a is ahead at both ends"
    )


def test_a_change_of_sign_within_the_noise_is_not_claimed() -> None:
    found = judge([0.02, 0.0, -0.02], 0.05, [10, 50, 100])
    assert found["verdict"] == "none shown"
    assert "cannot tell them apart at either end" in found["sentence"]
    # Open to both sides: the interval is the whole axis, not the replicates that happen to cross.
    assert found["crossing"]["low"] == pytest.approx(10)
    assert found["crossing"]["high"] == pytest.approx(100)
    assert found["crossing_share"] < 0.5


def test_one_decided_end_is_not_enough() -> None:
    found = judge([0.2, 0.0, -0.02], 0.03, [10, 50, 100])
    assert found["verdict"] == "none shown"
    assert (
        "a is ahead at 10 % coverage, the data cannot tell them apart at 100 % coverage"
        in (found["sentence"])
    )


def test_a_flat_tie_has_no_crossing_at_all() -> None:
    found = judge([0.0, 0.0, 0.0], 0.0, [10, 50, 100])
    assert (found["verdict"], found["crossing"], found["sign_changes"]) == ("none shown", None, 0)
    assert (found["first_leads_low"], found["first_leads_high"]) == (0.5, 0.5)


def test_crossing_twice_is_said_and_no_single_crossing_given() -> None:
    found = judge([0.3, -0.3, 0.3], 0.02, [10, 50, 100])
    assert (found["verdict"], found["sign_changes"], found["crossing"]) == ("none shown", 2, None)
    assert "a is ahead at both ends, b at 50 % coverage" in found["sentence"]


def test_three_decided_changes_are_not_unique() -> None:
    found = judge([0.3, -0.3, 0.3, -0.3], 0.02, [10, 40, 70, 100])
    assert (found["verdict"], found["crossing"]) == ("not unique", None)
    assert "changes 3 times between" in found["sentence"]


def test_a_wiggle_that_is_not_decided_does_not_hide_the_one_crossing() -> None:
    # Decided + 0 + -: the change that counts lies between the last two.
    assert find_bracket(np.array([0.3, -0.01, 0.2, -0.2]), [1, 0, 1, -1]) == ("crossover", (2, 3))
    found = judge([0.3, -0.01, 0.3, -0.3], 0.05, [10, 40, 70, 100])
    assert (found["verdict"], found["sign_changes"]) == ("crossover", 3)
    assert found["crossing"]["estimate"] == pytest.approx(85)
    # 0 +, 0 -: three changes between the decided ends, none of them decided.
    assert find_bracket(np.array([0.3, -0.01, 0.01, -0.3]), [1, 0, 0, -1]) == ("not unique", None)


@pytest.mark.parametrize(
    ("curve", "changes"),
    [
        ([1, 2, 3], 0),
        ([1, 0, 1], 0),
        ([1, 0, 0, -1], 1),
        ([0, 1, -1], 1),
        ([1, -1, 1], 2),
        ([0, 0, 0], 0),
        ([-1, 0], 0),
    ],
)
def test_touching_zero_is_no_change_of_sign(curve: list[float], changes: int) -> None:
    assert sign_changes(np.array([curve, curve], dtype=float)).tolist() == [changes, changes]


curves = st.lists(st.integers(-5, 5), min_size=2, max_size=7)


@settings(max_examples=60, deadline=None)
@given(curves, st.integers(0, 2**32 - 1))
def test_length_ahead_is_the_measure_of_where_the_line_is_above_zero(
    curve: list[int], seed: int
) -> None:
    places = np.cumsum(np.random.default_rng(seed).uniform(0.5, 3, len(curve)))
    found = float(length_ahead(np.array(curve, dtype=float), places))
    x = np.linspace(places[0], places[-1], 40_001)
    y = np.interp(x, places, curve)
    measured = ((y > 0) + 0.5 * (y == 0)).mean() * (places[-1] - places[0])
    assert found == pytest.approx(measured, abs=0.01)
    opposite = float(length_ahead(-np.array(curve, dtype=float), places))
    assert found + opposite == pytest.approx(places[-1] - places[0])


def simulate(
    rng: np.random.Generator, accuracy_EC: np.ndarray, *, groups: int, per_group: int = 3
) -> Bootstrap:
    """Clustered answers of two entries that share part of their difficulty."""
    entries, cells = accuracy_EC.shape
    group = np.repeat(np.arange(groups), per_group)

    def hardness() -> np.ndarray:
        shared, own = rng.normal(size=groups)[group], rng.normal(size=len(group))
        return np.sqrt(0.4) * shared + np.sqrt(0.6) * own

    common = hardness()
    correct = np.stack(
        [
            np.stack([norm.cdf((common + hardness()) / np.sqrt(2)) < p for p in row])
            for row in accuracy_EC
        ]
    )
    assert correct.shape == (entries, cells, len(group))
    return bootstrap_accuracy(
        correct, group, entry_of_run=[0, 1], replicates=400, confidence=0.95, seed=1
    )


def test_interval_covers_a_planted_crossing_in_about_95_percent_of_studies() -> None:
    differences = np.array([0.25, 0.15, 0.05, -0.1, -0.25])
    accuracy = np.stack([0.6 + differences / 2, 0.6 - differences / 2])
    line, truth, studies = along(COVERAGES), 50 + 25 / 3, 200
    covered = claimed = 0
    for study in range(studies):
        bootstrap = simulate(np.random.default_rng(study), accuracy, groups=60)
        found = crossover(bootstrap, 0, 1, line, names=NAMES)
        claimed += found["verdict"] == "crossover"
        place = found["crossing"]
        covered += place is not None and place["low"] <= truth <= place["high"]
    assert claimed >= 0.95 * studies
    assert 0.90 * studies <= covered <= 0.99 * studies


def test_equal_entries_are_almost_never_said_to_cross() -> None:
    line = along(COVERAGES)
    verdicts = [
        crossover(
            simulate(np.random.default_rng(1000 + s), np.full((2, 5), 0.6), groups=40),
            0, 1, line, names=NAMES,
        )["verdict"]
        for s in range(100)
    ]  # fmt: skip
    # Two independent ends at 2.5 % each would give 0.1 %.
    assert verdicts.count("crossover") <= 1


def test_a_single_group_gives_a_reason_and_no_number() -> None:
    observed = np.array([[0.7, 0.4], [0.4, 0.7]])
    one = Bootstrap(observed, np.empty((0, 2, 2)), None, 10, 1, (1, 1), 0.95)
    found = crossover(one, 0, 1, along([10, 100]), names=NAMES)
    assert found["verdict"] == "none shown"
    assert found["crossing"]["estimate"] == pytest.approx(55)
    assert found["crossing"]["low"] is None
    assert found["crossing_share"] is None
    assert "one group" in found["sentence"]


def test_a_grid_has_two_lines_per_axis() -> None:
    lines, gaps = axis_lines(grid_conditions(), 20)
    assert [(line.axis, line.at) for line in lines] == [
        ("coverage", "average"), ("coverage", "headline"),
        ("stride", "average"), ("stride", "headline"),
    ]  # fmt: skip
    assert not gaps
    accuracy = np.arange(25.0)
    assert accuracy @ lines[0].weights_CV == pytest.approx([2, 7, 12, 17, 22])
    assert accuracy @ lines[1].weights_CV == pytest.approx([0, 5, 10, 15, 20])
    assert lines[2].places.tolist() == [0, 1, 2, 3, 4]
    assert lines[3].other == {"coverage": 100}


def test_a_setting_that_is_not_judged_everywhere_is_left_out_of_the_average() -> None:
    conditions = [c for c in grid_conditions() if c.id != "c10s16"]
    line = axis_lines(conditions, len(conditions) - 5)[0][0]
    assert line.other == {"stride": [1, 2, 4, 8]}
    assert (line.weights_CV > 0).sum(axis=0).tolist() == [4] * 5


@pytest.mark.parametrize(
    ("protocol", "axes", "gaps"),
    [
        ("plain", [], 0),
        ("controls", [], 0),
        ("multi-view", [], 2),
        ("matched", ["frames"], 0),
        ("sliding", ["position"], 0),
        ("antialias", ["stride", "stride"], 0),
    ],
)
def test_axes_of_every_protocol(protocol: str, axes: list[str], gaps: int) -> None:
    lines, reasons = axis_lines(conditions_of(protocol), 0)
    assert [line.axis for line in lines] == axes
    assert len(reasons) == gaps


def test_a_planted_crossover_reaches_comparison_and_csv(tmp_path: Path) -> None:
    coverage = np.repeat(COVERAGES, len(STRIDES))
    accuracy = {"timesformer": np.full(25, 0.75), "videomae": 0.4 + 0.007 * coverage}
    folder = build_judged_study(
        tmp_path,
        entries=["timesformer", "videomae", "vivit"],
        samples=240,
        alter=planted({**accuracy, "vivit": np.full(25, 0.5)}),  # pyright: ignore[reportArgumentType]
        compare={"replicates": 500},
    )
    section = compare_study(folder)["crossover"]
    assert len(section["curves"]) == 3 * 4
    mine = section["curves"][0]
    assert (mine["first"], mine["second"], mine["at"]) == ("timesformer", "videomae", "average")
    assert mine["verdict"] == "crossover"
    assert mine["crossing"]["estimate"] == pytest.approx(50, abs=1)
    assert mine["crossing"]["low"] < 50 < mine["crossing"]["high"]
    with (folder.results / "crossover.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(section["curves"])
    assert float(rows[0]["crossing"]) == mine["crossing"]["estimate"]
    assert rows[0]["sentence"] == mine["sentence"]
    assert "NaN" not in json.dumps(section)


def test_one_entry_has_no_section_and_no_file(tmp_path: Path) -> None:
    folder = build_judged_study(tmp_path, entries=1, samples=40, compare={"replicates": 100})
    judged = read_judged_study(folder)
    section = crossover_section(judged, shifted([0.1] * 25, 0.1), 0)
    assert section is None
    assert crossover_files(section) == {}
