"""Robustness measures on accuracies whose answers are known by arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from regatta.analysis.bootstrap import Bootstrap, bootstrap_accuracy
from regatta.analysis.robustness import (
    class_critical_rates,
    class_sensitivity,
    coverage_drops,
    critical_frames,
    frame_curve,
    identical_conditions,
    representative_classes,
    robustness_class,
)
from regatta.records.conditions import Condition
from tests.analysis.protocol_conditions import grid_conditions

SAMPLES = 200


def judged_at(
    rate: Callable[[Condition], float], conditions: list[Condition], *, nested: bool = True
) -> Bootstrap:
    """One entry that is right on the first `rate` of every 20 samples; groups of 20."""
    place = np.arange(SAMPLES) % 20
    if not nested:
        place = np.random.default_rng(0).permutation(SAMPLES) % 20
    correct = np.stack([place < round(20 * rate(c)) for c in conditions])
    return bootstrap_accuracy(
        correct[None],
        np.arange(SAMPLES) // 20 if nested else np.arange(SAMPLES) // 5,
        entry_of_run=[0],
        replicates=500,
        confidence=0.95,
        seed=0,
    )


def fixed(accuracy: list[float], replicates: list[list[float]]) -> Bootstrap:
    """One entry with given accuracies and replicates [R, C]."""
    return Bootstrap(
        np.array([accuracy]), np.array(replicates)[:, None, :], None, 100, 30, (1,), 0.95
    )


@pytest.mark.parametrize(
    ("percent", "name"),
    [
        (-3, "very high"),
        (4.99, "very high"),
        (5, "high"),
        (10, "moderate"),
        (15, "low"),
        (24.9, "low"),
        (25, "very low"),
        (80, "very low"),
    ],
)
def test_robustness_classes_have_the_published_limits(percent: float, name: str) -> None:
    assert robustness_class(percent) == name


def test_published_models_get_their_published_classes() -> None:
    """Relative drops at stride 8 on UCF-101: TimeSformer 6.3, ViViT 18.2, VideoMAE 21.3 %."""
    assert [robustness_class(x) for x in (6.3, 18.2, 21.3)] == ["high", "low", "low"]


def test_drop_at_stride_8_and_marginal_by_arithmetic() -> None:
    """Accuracy 0.8 at 100 % and 0.5 at 25 %, but 0.6 there at stride 8."""

    def rate(condition: Condition) -> float:
        if condition.axes["coverage"] == 25:
            return 0.6 if condition.axes["stride"] == 8 else 0.5
        return 0.8

    conditions = grid_conditions()
    found = coverage_drops(judged_at(rate, conditions), conditions, 0)
    assert found["at_stride"]["points"]["estimate"] == pytest.approx(20)
    assert found["at_stride"]["percent"]["estimate"] == pytest.approx(25)
    assert found["at_stride"]["robustness"] == "very low"
    # Marginal lower accuracy: (4 * 0.5 + 0.6) / 5 = 0.52.
    assert found["marginal"]["points"]["estimate"] == pytest.approx(28)
    assert found["marginal"]["percent"]["estimate"] == pytest.approx(35)


def test_drop_interval_holds_the_drop_when_groups_differ() -> None:
    conditions = grid_conditions()
    found = coverage_drops(
        judged_at(lambda c: 0.4 + 0.5 * c.axes["coverage"] / 100, conditions, nested=False),
        conditions,
        0,
    )
    points = found["at_stride"]["points"]
    assert points["low"] < points["estimate"] < points["high"]
    assert points["method"] == "percentile"


def test_no_relative_drop_from_zero_accuracy() -> None:
    conditions = grid_conditions()
    found = coverage_drops(judged_at(lambda _: 0.0, conditions), conditions, 0)
    assert found["at_stride"]["percent"]["estimate"] is None
    assert found["at_stride"]["robustness"] is None
    assert found["at_stride"]["points"]["estimate"] == 0


def test_other_grids_use_the_nearest_cells_and_say_so() -> None:
    conditions = [
        Condition(f"c{c}s{s}", {"coverage": c, "stride": s}) for c in (30, 90) for s in (1, 4)
    ]
    found = coverage_drops(judged_at(lambda _: 0.5, conditions), conditions, 0)
    assert (found["high"], found["low"], found["stride"]) == (90, 30, 4)
    assert len(found["notes"]) == 3


def test_single_coverage_and_plain_protocol_have_no_drop() -> None:
    single = [Condition(f"c100s{s}", {"coverage": 100, "stride": s}) for s in (1, 8)]
    plain = [Condition("plain")]
    for conditions in (single, plain):
        found = coverage_drops(judged_at(lambda _: 0.5, conditions), conditions, 0)
        assert found["at_stride"] is None
        assert found["notes"]


def test_grid_with_a_missing_cell_has_a_marginal_drop_only() -> None:
    conditions = [c for c in grid_conditions() if c.id != "c25s8"]
    found = coverage_drops(judged_at(lambda _: 0.5, conditions), conditions, 0)
    assert found["at_stride"] is None
    assert found["marginal"]["points"]["estimate"] == pytest.approx(0)
    assert "lacks coverage" in found["notes"][0]


def test_area_of_a_straight_line_is_its_middle() -> None:
    """Accuracy 0.2 + 0.1 x over 1..6 frames: the mean is at 3.5 frames."""
    frames = np.array([1.0, 2.0, 4.0, 6.0])
    accuracy = (0.2 + 0.1 * frames).tolist()
    found = frame_curve(fixed(accuracy, [accuracy, accuracy]), frames, 0)
    assert found["area"]["estimate"] == pytest.approx(0.55)
    assert [p["distinct_frames"] for p in found["points"]] == [1, 2, 4, 6]


def test_area_averages_conditions_of_equal_budget() -> None:
    frames = np.array([1.0, 3.0, 3.0])
    accuracy = [0.0, 0.4, 0.8]
    found = frame_curve(fixed(accuracy, [accuracy] * 2), frames, 0)
    # Trapezoid from (1, 0) to (3, 0.6).
    assert found["area"]["estimate"] == pytest.approx(0.3)
    assert found["points"][1]["accuracy"] == pytest.approx(0.6)


def test_curve_over_a_single_budget_has_no_area() -> None:
    found = frame_curve(fixed([0.5, 0.6], [[0.5, 0.6]] * 2), np.array([8.0, 8.0]), 0)
    assert found["area"] is None
    assert found["note"]


def test_critical_budget_is_the_smallest_that_reaches_95_percent_of_the_best() -> None:
    """Best 0.80, so 0.76 is enough: reached at 4 frames, not at 2 (0.75)."""
    frames = np.array([8.0, 2.0, 4.0, 1.0])
    replicates = [[0.80, 0.75, 0.77, 0.5]] * 50 + [[0.80, 0.79, 0.77, 0.5]] * 50
    found = critical_frames(fixed([0.80, 0.75, 0.77, 0.5], replicates), frames, 0)
    assert (found["estimate"], found["low"], found["high"]) == (4, 2, 4)


def test_class_sensitivity_is_drop_and_variance_at_the_stride() -> None:
    conditions = grid_conditions()
    drops = coverage_drops(judged_at(lambda _: 0.5, conditions), conditions, 0)
    coverage = np.array([c.axes["coverage"] for c in conditions])
    per_class = np.stack([coverage / 100, np.full(25, 0.7), np.full(25, np.nan)], axis=1)
    rows = class_sensitivity(per_class, conditions, ["falls", "flat", "absent"], drops)
    assert [row["class"] for row in rows] == ["falls", "flat"]
    assert rows[0]["drop_points"] == pytest.approx(75)
    assert rows[0]["variance"] == pytest.approx(np.var([0.1, 0.25, 0.5, 0.75, 1.0]))
    assert rows[1]["variance"] == pytest.approx(0)


def test_representative_classes_follow_the_rule() -> None:
    def row(name: str, drop: float, variance: float) -> dict[str, object]:
        return {"class": name, "drop_points": drop, "variance": variance}

    first = [row(n, d, v) for n, d, v in zip("abcdefg", range(7), range(7), strict=True)]
    second = [row("a", 30, 50), *first[1:]]
    found = representative_classes([first, second])
    # Mean drops: a 15, then g 6, f 5; variances of the rest b..e are 1..4.
    assert found["sensitive"] == ["a", "g", "f"]
    assert found["robust"] == ["b", "c", "d"]


def test_representative_classes_of_few_classes_do_not_overlap() -> None:
    rows = [{"class": n, "drop_points": 1.0, "variance": 0.0} for n in "abc"]
    found = representative_classes([rows])
    assert (found["sensitive"], found["robust"]) == (["a"], ["b"])
    assert representative_classes([])["sensitive"] == []


def test_conditions_are_identical_only_if_every_sample_gives_the_same_clip() -> None:
    keys = np.array([["a", "b"], ["a", "b"], ["a", "c"], ["d", "b"], ["a", "b"]], dtype=object)
    assert identical_conditions(keys) == [[1, 4], [0, 4], [], [], [0, 1]]


def critical_rates(accuracy: list[float], *, count: int = 5, rates: list[float]) -> float | None:
    """Of one class over coverage 100 % at strides 1, 2, 4; coverage 50 % must not matter."""
    conditions = [
        Condition(f"c{c}s{s}", {"coverage": c, "stride": s}) for c in (50, 100) for s in (1, 2, 4)
    ]
    per_class = np.array([[1.0]] * 3 + [[value] for value in accuracy])
    rate_hz = np.array([1.0, 1.0, 1.0, *rates])
    return class_critical_rates(per_class, conditions, np.array([count]), rate_hz)[0]


@pytest.mark.parametrize(
    ("accuracy", "rates", "critical"),
    [
        ([0.8, 0.76, 0.5], [16, 8, 4], 8),
        ([0.8, 0.75, 0.5], [16, 8, 4], 16),
        ([0.8, 0.8, 0.8], [16, 8, 4], 4),
        ([0.8, 0.8, 0.8], [16, 8, np.nan], 8),
        ([0.5, 0.8, 0.5], [16, 8, 4], 8),
        ([0.0, 0.0, 0.0], [16, 8, 4], None),
        ([np.nan, np.nan, np.nan], [16, 8, 4], None),
    ],
)
def test_critical_rate_is_the_smallest_with_95_percent_of_the_best(
    accuracy: list[float], rates: list[float], critical: float | None
) -> None:
    count = 0 if np.isnan(accuracy[0]) else 5
    assert critical_rates(accuracy, count=count, rates=rates) == critical


def test_a_class_of_few_samples_has_no_critical_rate() -> None:
    assert critical_rates([0.8, 0.8, 0.8], count=4, rates=[16, 8, 4]) is None
