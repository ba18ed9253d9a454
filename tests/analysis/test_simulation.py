"""Intervals, tests and verdicts against simulated studies whose truth is known.

Small, seeded versions of benchmarks/interval_coverage.py and type_one_error.py. Bounds are the
promised ones (93-97 % cover, 4-6 % false alarms) widened by two standard errors of the number of
studies; each has a control that shows what the same studies do to a method that ignores groups.

Shapes: B studies, E entries, S seeds, N samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import ttest_rel

from regatta.analysis.bootstrap import Interval, bootstrap_accuracy
from regatta.analysis.paired import Pair, PairedData, PairSettings, compare_pairs
from regatta.core.seeds import stream

MEAN, CORRELATION, MARGIN = 0.8, 0.2, 0.02
BATCH = 50


def draw_groups(rng: np.random.Generator, count: int, size: float = 9.0) -> np.ndarray:
    """[N]; sizes from 1, unequal, independent of how hard the group is."""
    return np.repeat(np.arange(count), 1 + rng.poisson(rng.gamma(2.0, size / 2, size=count)))


def draw_answers(
    rng: np.random.Generator,
    groups: np.ndarray,
    *,
    studies: int,
    leads: Sequence[float] = (0.0, 0.0),
    seeds: int = 1,
    seed_noise: float = 0.0,
) -> np.ndarray:
    """Right answers bool [B, E, S, N]; the true accuracy of entry e is MEAN + leads[e].

    Beta-binomial groups. In 70 % of the groups all entries have one rate, and on 60 % of the
    samples all runs the same luck. A lead moves a rate x by lead * x (1 - x) over its mean, so that
    rates stay between 0 and 1.
    """
    count, entries = int(groups.max()) + 1, len(leads)
    scale = (1 - CORRELATION) / CORRELATION
    parameters = MEAN * scale, (1 - MEAN) * scale
    rates = rng.beta(*parameters, size=(studies, entries, 1, count))
    common = rng.beta(*parameters, size=(studies, 1, 1, count))
    rates = np.where(rng.random(common.shape) < 0.7, common, rates)
    noise = seed_noise * rng.uniform(-1, 1, size=(studies, entries, seeds, 1)) * np.sqrt(3)
    lead = np.reshape(leads, (1, entries, 1, 1)) + noise
    rates = rates + lead * rates * (1 - rates) / (MEAN * (1 - MEAN) * (1 - CORRELATION))
    luck = rng.random((studies, 1, 1, len(groups)))
    shape = (studies, entries, seeds, len(groups))
    luck = np.where(rng.random(luck.shape) < 0.6, luck, rng.random(shape))
    return luck < rates[..., groups]


def intervals_of_entries(
    answers: np.ndarray, groups: np.ndarray, *, seed: int
) -> tuple[list[Interval], list[Interval]]:
    """Of the first entry's accuracy, and of its lead over the second, for every study.

    Every entry of every study is an entry of one call, so that each keeps seeds of its own.
    """
    studies, entries, seeds, samples = answers.shape
    found = bootstrap_accuracy(
        answers.reshape(-1, 1, samples),
        groups,
        entry_of_run=np.repeat(np.arange(studies * entries), seeds).tolist(),
        replicates=1000,
        confidence=0.95,
        seed=seed,
    )
    return (
        found.intervals(lambda a: a[..., ::2, 0], entries=[0], collapse="share"),
        found.intervals(
            lambda a: a[..., ::2, 0] - a[..., 1::2, 0], entries=[0, 1], collapse="difference"
        ),
    )


def cover(intervals: list[Interval], truth: float) -> float:
    """Share of intervals around the truth; one that is not given counts as a miss."""
    return float(
        np.mean(
            [
                i.low is not None and i.high is not None and i.low <= truth <= i.high
                for i in intervals
            ]
        )
    )


def pairs_of_studies(answers: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> list[list[Pair]]:
    """Pairs of entries of every study of one seed; a study is a condition, judged by itself."""
    correct = answers[:, :, 0].transpose(1, 0, 2)
    found = bootstrap_accuracy(
        correct,
        groups,
        entry_of_run=list(range(len(correct))),
        replicates=1000,
        confidence=0.95,
        seed=seed,
    )
    names = ["a", "b", "c"][: len(correct)]
    data = PairedData(names, [answers_BN[None] for answers_BN in correct], groups)
    settings = PairSettings("none", MARGIN, 1000, seed)
    return compare_pairs(data, found, list(np.eye(len(answers))), settings)


def verdicts(leads: Sequence[float], *, groups: int, size: float, studies: int) -> Counter[str]:
    """Verdicts on the first of two entries."""
    rng = stream(5, "verdict", groups)
    codes = draw_groups(rng, groups, size)
    answers = draw_answers(rng, codes, studies=studies, leads=leads)
    return Counter(pairs[0].verdict for pairs in pairs_of_studies(answers, codes))


@pytest.mark.parametrize(
    ("count", "seeds", "seed_noise"), [(30, 1, 0.0), (120, 1, 0.0), (60, 3, 0.01)]
)
def test_intervals_hold_the_truth_in_93_to_97_percent_of_studies(
    count: int, seeds: int, seed_noise: float
) -> None:
    rng = stream(1, "cover", count)
    accuracies: list[Interval] = []
    leads: list[Interval] = []
    for batch in range(14):
        groups = draw_groups(rng, count)
        answers = draw_answers(
            rng, groups, studies=BATCH, leads=(0.0, -0.02), seeds=seeds, seed_noise=seed_noise
        )
        first, difference = intervals_of_entries(answers, groups, seed=batch)
        accuracies += first
        leads += difference
    # 700 studies: a standard error of 0.8 points.
    assert 0.914 <= cover(accuracies, MEAN) <= 0.986
    assert 0.914 <= cover(leads, 0.02) <= 0.986


def test_intervals_that_ignore_groups_miss_the_truth_too_often() -> None:
    """The control: the same studies, every sample its own group."""
    rng = stream(2, "control")
    groups = draw_groups(rng, 60)
    answers = draw_answers(rng, groups, studies=200, leads=(0.0, -0.02))
    first, difference = intervals_of_entries(answers, np.arange(len(groups)), seed=0)
    assert cover(first, MEAN) < 0.85
    assert cover(difference, 0.02) < 0.88


@pytest.mark.parametrize(("count", "least"), [(12, 0.0), (40, 0.027), (150, 0.027)])
def test_equally_good_entries_are_told_apart_in_4_to_6_percent_of_studies(
    count: int, least: float
) -> None:
    """The permutation test alone; Holm's correction keeps the whole family of three below that.

    A dozen groups have few sums to tell apart, so the exact test stays below its level.
    """
    rng = stream(3, "null", count)
    alone: list[bool] = []
    family: list[bool] = []
    ruled: list[bool] = []
    careless: list[bool] = []
    for batch in range(12):
        groups = draw_groups(rng, count)
        answers = draw_answers(rng, groups, studies=100, leads=(0.0, 0.0, 0.0))
        first, second = answers[:, :2, 0].astype(float).transpose(1, 0, 2)
        careless += (ttest_rel(first, second, axis=1).pvalue < 0.05).tolist()
        for pairs in pairs_of_studies(answers, groups, seed=batch):
            p_values = [float(pair.p_value) for pair in pairs if pair.p_value is not None]
            alone.append(p_values[0] < 0.05)
            ruled.append(pairs[0].verdict in ("ahead", "behind"))
            # Holm rejects something exactly when the least p-value passes Bonferroni's level.
            family.append(min(p_values) < 0.05 / 3)
    # 1,200 studies: a standard error of 0.63 points.
    assert least <= np.mean(alone) <= 0.073
    assert np.mean(family) <= 0.063
    assert np.mean(ruled) <= np.mean(alone)
    assert np.mean(careless) > 0.10


def test_a_clear_lead_is_found_and_never_reversed() -> None:
    found = verdicts((0.05, 0.0), groups=200, size=9, studies=150)
    assert found["ahead"] >= 0.95 * 150
    assert found["behind"] == 0


def test_a_tie_on_plenty_of_data_is_called_equivalent() -> None:
    found = verdicts((0.0, 0.0), groups=1500, size=9, studies=100)
    assert found["equivalent"] >= 0.8 * 100


def test_entries_apart_by_the_margin_are_called_equivalent_in_at_most_5_percent() -> None:
    """Two one-sided tests at 5 % each (Schuirmann 1987); 100 studies, two standard errors more."""
    found = verdicts((MARGIN, 0.0), groups=1000, size=9, studies=100)
    assert found["equivalent"] <= 0.095 * 100


def test_too_little_data_leave_the_verdict_open() -> None:
    found = verdicts((0.02, 0.0), groups=15, size=9, studies=150)
    assert found["undecided"] >= 0.8 * 150
    assert found["equivalent"] == 0
