"""The verdict on filtering: every rule on its own, the share, and how often its interval covers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from regatta.analysis.antialias import (
    HARMED,
    NOT_RECOVERED,
    NOTHING,
    RECOVERED,
    UNDECIDED,
    Ceilings,
    Loss,
    antialias_reading,
    recovered_share,
    sampling_loss,
)
from regatta.analysis.bootstrap import Bootstrap, Interval, bootstrap_accuracy
from regatta.analysis.within import Answered, Contrast

UNKNOWN = Ceilings(None, None, None)
MARGIN = 0.01
CLEAR_LOSS = Loss(Interval(0.3, 0.2, 0.4), False)
VAGUE_LOSS = Loss(Interval(0.02, -0.01, 0.05), False)
NO_LOSS = Loss(Interval(0.0, -0.005, 0.005), True)


def difference(verdict: Any, low: float, high: float) -> Answered:
    interval = Interval((low + high) / 2, low, high)
    return Answered(Contrast(0, 1, 0, "x"), interval, interval, 0.5, 0.5, verdict, False, "")


@pytest.mark.parametrize(
    ("verdict", "ends", "loss", "ceilings", "reading"),
    [
        ("ahead", (0.1, 0.3), CLEAR_LOSS, UNKNOWN, RECOVERED),
        ("ahead", (0.1, 0.3), VAGUE_LOSS, UNKNOWN, RECOVERED),
        ("ahead", (0.1, 0.3), NO_LOSS, UNKNOWN, NOTHING),
        ("behind", (-0.3, -0.1), CLEAR_LOSS, UNKNOWN, HARMED),
        ("behind", (-0.3, -0.1), NO_LOSS, UNKNOWN, HARMED),
        ("undecided", (-0.05, 0.005), CLEAR_LOSS, UNKNOWN, NOT_RECOVERED),
        ("equivalent", (-0.005, 0.005), CLEAR_LOSS, UNKNOWN, NOT_RECOVERED),
        ("undecided", (-0.05, 0.05), CLEAR_LOSS, UNKNOWN, UNDECIDED),
        ("undecided", (-0.05, 0.05), CLEAR_LOSS, Ceilings(1.0, 0.5, 0.5), NOT_RECOVERED),
        ("undecided", (-0.05, 0.05), CLEAR_LOSS, Ceilings(1.0, 0.5, 0.9), UNDECIDED),
        ("undecided", (-0.05, 0.05), CLEAR_LOSS, Ceilings(1.0, 1.0, 1.0), UNDECIDED),
        ("equivalent", (-0.005, 0.005), VAGUE_LOSS, Ceilings(1.0, 0.5, 0.5), UNDECIDED),
        ("undecided", (-0.05, 0.05), NO_LOSS, Ceilings(1.0, 0.5, 0.5), NOTHING),
    ],
)
def test_reading_follows_its_rule(
    verdict: str, ends: tuple[float, float], loss: Loss, ceilings: Ceilings, reading: str
) -> None:
    found = antialias_reading(difference(verdict, *ends), loss, ceilings, margin=MARGIN)
    assert found == reading


def test_theory_is_the_gap_between_the_ceilings() -> None:
    assert Ceilings(1.0, 0.25, 0.75).must_recover == 0.5
    assert UNKNOWN.must_recover is None


def accuracies(observed: list[float], replicates: list[list[float]]) -> Bootstrap:
    """One entry with conditions reference, point, box."""
    return Bootstrap(
        np.array([observed]), np.array(replicates)[:, None, :], None, 100, 30, (1,), 0.95
    )


def test_the_reference_itself_loses_nothing_by_definition() -> None:
    loss = sampling_loss(accuracies([0.9, 0.5, 0.7], [[0.9, 0.5, 0.7]]), 0, 0, 0, margin=MARGIN)
    assert (loss.interval.estimate, loss.below_margin, loss.is_clear) == (0, True, False)


def test_share_is_the_part_of_the_loss_that_came_back() -> None:
    rows = [[0.9, 0.5, 0.5 + 0.4 * share] for share in np.linspace(0.2, 0.8, 101)]
    found = recovered_share(accuracies([0.9, 0.5, 0.7], rows), 0, reference=0, point=1, box=2)
    assert found.estimate == pytest.approx(0.5)
    assert found.low == pytest.approx(0.215, abs=0.01)
    assert found.high == pytest.approx(0.785, abs=0.01)


def test_replicates_without_a_loss_widen_the_share_and_never_break_it() -> None:
    rows = [[0.9, 0.6, 0.7]] * 980 + [[0.6, 0.6, 0.7]] * 20
    found = recovered_share(accuracies([0.9, 0.6, 0.7], rows), 0, reference=0, point=1, box=2)
    assert found.low == pytest.approx(1 / 3)
    assert found.high is not None
    assert np.isfinite(found.high)


def test_interval_of_the_share_covers_the_planted_share() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(50), 6)
    levels = np.array([1.2, -0.6, 0.6])
    # Right where hardness < level; hardness has variance 1 + 1 + 0.25 in the population.
    many = rng.normal(0, 1.5, size=2_000_000)
    reference, point, box = ((many < level).mean() for level in levels)
    true = (box - point) / (reference - point)
    studies, covered = 300, 0
    for _ in range(studies):
        hard = rng.normal(size=50)[groups] + rng.normal(size=300)
        correct = hard + 0.5 * rng.normal(size=(3, 300)) < levels[:, None]
        bootstrap = bootstrap_accuracy(
            correct[None], groups, entry_of_run=[0], replicates=400, confidence=0.95, seed=1
        )
        found = recovered_share(bootstrap, 0, reference=0, point=1, box=2)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= true <= found.high
    assert 0.91 < covered / studies < 0.99
