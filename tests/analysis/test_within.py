"""Contrasts of conditions within an entry: pairing, the family, identical clips, the null."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from regatta.analysis.bootstrap import bootstrap_accuracy
from regatta.analysis.paired import PairedData, PairSettings
from regatta.analysis.within import Answered, Contrast, compare_conditions


def answered(
    correct: np.ndarray,
    groups: np.ndarray,
    contrasts: list[Contrast],
    *,
    correction: str = "holm",
    margin: float = 0.05,
    replicates: int = 2000,
) -> list[Answered]:
    """`correct` is bool [E, S, C, N]."""
    entries, seeds = correct.shape[:2]
    bootstrap = bootstrap_accuracy(
        correct.reshape(entries * seeds, *correct.shape[2:]),
        groups,
        entry_of_run=np.repeat(np.arange(entries), seeds).tolist(),
        replicates=replicates,
        confidence=0.95,
        seed=0,
    )
    data = PairedData([str(e) for e in range(entries)], list(correct), groups)
    return compare_conditions(
        data, bootstrap, contrasts, PairSettings(correction, margin, replicates, 0)
    )


def random_study(groups: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.random((1, 1, 3, 4 * groups)) < np.array([0.9, 0.6, 0.3])[
        None, None, :, None
    ], np.repeat(np.arange(groups), 4)


def test_p_value_counts_sign_patterns_of_groups() -> None:
    correct, groups = random_study()
    (found,) = answered(correct, groups, [Contrast(0, 0, 1, "x")])
    sums = (correct[0, 0, 0].astype(int) - correct[0, 0, 1]).reshape(8, 4).sum(axis=1)
    patterns = np.array(list(product([1, -1], repeat=8))) @ sums
    assert found.p_value == pytest.approx((abs(patterns) >= abs(sums.sum())).mean())
    assert found.difference.estimate == pytest.approx(sums.sum() / 32)


def test_all_contrasts_are_one_family_and_identical_clips_are_not_in_it() -> None:
    correct, groups = random_study()
    asked = [Contrast(0, 0, 1, "a"), Contrast(0, 0, 2, "b"), Contrast(0, 1, 1, "c", True)]
    found = answered(correct, groups, asked, correction="bonferroni")
    for each in found[:2]:
        assert each.p_value is not None
        assert each.p_adjusted == pytest.approx(min(1, 2 * each.p_value))
    assert found[2].p_value is None
    assert found[2].verdict == "identical"
    assert found[2].difference.high == 0
    assert found[2].less_than(0.01)


def test_seeds_of_an_entry_are_averaged() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((1, 3, 2, 80)) < 0.5
    (found,) = answered(correct, np.arange(80) // 4, [Contrast(0, 1, 0, "x")])
    shares = correct[0].mean(axis=2)
    assert found.difference.estimate == pytest.approx((shares[:, 1] - shares[:, 0]).mean())


def test_a_single_group_can_tell_nothing() -> None:
    correct, _ = random_study()
    (found,) = answered(correct, np.zeros(32), [Contrast(0, 0, 2, "x")])
    assert found.p_value is None
    assert found.verdict == "undecided"
    assert not found.less_than(1)


def test_without_an_effect_it_is_rarely_found_and_the_interval_covers() -> None:
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(40), 5)
    studies, wrong, covered = 300, 0, 0
    for _ in range(studies):
        hard = rng.normal(size=40)[groups] + rng.normal(size=200)
        first, second = (hard + 0.7 * rng.normal(size=200) < level for level in (0.5, 0.5))
        correct = np.stack([first, second])[None, None]
        (found,) = answered(
            correct, groups, [Contrast(0, 0, 1, "x")], correction="none", replicates=300
        )
        wrong += found.is_above or found.is_below
        low, high = found.difference.low, found.difference.high
        assert low is not None
        assert high is not None
        covered += low <= 0 <= high
    # Binomial with 300 trials: 3 standard errors around 5 and 95 %.
    assert wrong / studies < 0.09
    assert 0.91 < covered / studies < 0.99
