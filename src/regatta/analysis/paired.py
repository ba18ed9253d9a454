"""Differences between entries, paired by sample: interval, sign-flip permutation, exact companions.

Shapes: S seeds of an entry, E entries, C conditions, N samples, G groups, M tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from regatta.analysis.bootstrap import (
    EXACT_FLOAT32,
    Bootstrap,
    Interval,
    Statistic,
    tally_by_group,
)
from regatta.core.seeds import stream

EXACT_GROUPS = 14
"""Up to here all 2 ** (G - 1) sign patterns are counted; above, patterns are drawn."""

BLOCK_ROWS = 2048

NO_SPREAD = 1e-12
"""A standard error up to here is rounding: every replicate gave the same value."""

Verdict = Literal["ahead", "behind", "equivalent", "few-seeds", "undecided", "identical"]


@dataclass(frozen=True)
class PermutationTest:
    """p_value [M] of mean difference zero; `method` says exact or how many patterns were drawn."""

    p_value: np.ndarray
    method: str


def sign_flip_test(differences: np.ndarray, *, replicates: int, seed: int) -> PermutationTest:
    """Two-sided permutation test that flips the sign of whole groups.

    If two entries are equally good, a group's summed difference is as likely to come out with the
    other sign. Whole numbers keep ties exact: the observed pattern always counts itself.

    Args:
        differences: int [G, M], difference of right answers summed over each group.
    """
    observed = np.abs(differences.sum(axis=0))
    groups = len(differences)
    exact = groups <= EXACT_GROUPS
    count = 1 << (groups - 1) if exact else replicates
    largest = int(np.abs(differences).sum(axis=0).max(initial=0))
    dtype = np.float32 if largest < EXACT_FLOAT32 else np.float64
    table = differences.astype(dtype)
    at_least = np.zeros(differences.shape[1], dtype=np.int64)
    for signs in _sign_blocks(groups, count, exact, stream(seed, "sign-flip")):
        at_least += (np.abs(signs.astype(dtype) @ table) >= observed).sum(axis=0)
    if exact:
        return PermutationTest(at_least / count, f"exact over {2 * count} sign patterns")
    p_value = (at_least + 1) / (count + 1)
    return PermutationTest(p_value, f"Monte Carlo over {count} sign patterns")


def _sign_blocks(
    groups: int, count: int, exact: bool, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Signs +1 / -1 as int8 [r, G]. Exact: the last group keeps its sign, which halves the work."""
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        if exact:
            bits = np.arange(start, stop)[:, None] >> np.arange(groups)[None, :] & 1
        else:
            bits = rng.integers(0, 2, size=(stop - start, groups), dtype=np.int8)
        yield (1 - 2 * bits).astype(np.int8)


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Exact McNemar test on two bool [N] of right answers; groups play no part in it."""
    from scipy.stats import binomtest

    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return {"only_first": only_first, "only_second": only_second, "p_value": p_value}


def cochran_q(correct: np.ndarray) -> dict[str, Any]:
    """Cochran's Q over bool [N, E]: do all entries have the same share of right answers?

    `statistic` and `p_value` are None, with a reason, when no sample tells any two entries apart.
    """
    from scipy.stats import chi2

    entries = correct.shape[1]
    columns, rows = correct.sum(axis=0), correct.sum(axis=1)
    scale = entries * rows.sum() - (rows**2).sum()
    if scale == 0:
        reason = "no sample tells the entries apart"
        return {"statistic": None, "df": entries - 1, "p_value": None, "reason": reason}
    between = entries * (columns**2).sum() - columns.sum() ** 2
    statistic = float((entries - 1) * between / scale)
    p_value = float(chi2.sf(statistic, entries - 1))
    return {"statistic": statistic, "df": entries - 1, "p_value": p_value, "reason": ""}


def adjust(p_values: Sequence[float], correction: str) -> list[float]:
    """p-values corrected over their family; see `family_correction` for `tukey`.

    Args:
        correction: holm, bonferroni, bh (Benjamini and Hochberg 1995), tukey or none.
    """
    if correction == "none" or len(p_values) == 0:
        return [float(p) for p in p_values]
    used = family_correction(correction)
    if used == "holm":
        return _holm(p_values)
    from statsmodels.stats.multitest import multipletests

    method = {"bh": "fdr_bh"}.get(used, used)
    return np.asarray(multipletests(list(p_values), method=method)[1]).tolist()


def _holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979).

    That of statsmodels is equal, but collects garbage in every call, which took half of a compare.
    """
    found = np.asarray(p_values, dtype=float)
    order = np.argsort(found, kind="stable")
    steps = np.arange(len(found), 0, -1)
    corrected = np.empty_like(found)
    corrected[order] = np.minimum(np.maximum.accumulate(steps * found[order]), 1.0)
    return corrected.tolist()


def family_correction(correction: str) -> str:
    """What corrects a family other than all pairs of entries: Tukey's method is for those only."""
    return "holm" if correction == "tukey" else correction


def tukey_p(statistic: np.ndarray, *, entries: int, freedom: np.ndarray) -> np.ndarray:
    """p-values of Student statistics [M] of pairs among `entries` means, over all their pairs.

    The studentized range (Tukey 1953) with the standard error of each pair by itself (Games and
    Howell 1976). Two entries: the two-sided t test.
    """
    from scipy.stats import studentized_range

    found = studentized_range.sf(np.sqrt(2) * np.abs(statistic), entries, freedom)
    return np.clip(found, 0.0, 1.0)


@dataclass(frozen=True)
class Pair:
    """One entry against another at one condition or on average, in fractions, not points."""

    first: str
    second: str
    difference: Interval
    tost: Interval
    """Interval at confidence 1 - 2 alpha: inside the margin = equivalent (two one-sided tests)."""
    p_value: float | None
    p_adjusted: float | None
    method: str
    same_predictions: bool
    verdict: Verdict
    equivalent: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            "difference_points": self.difference.scaled(100).as_dict(),
            "equivalence_interval_points": self.tost.scaled(100).as_dict(),
            "p_value": self.p_value,
            "p_adjusted": self.p_adjusted,
            "method": self.method,
            "same_predictions": self.same_predictions,
            "verdict": self.verdict,
            "equivalent": self.equivalent,
        }


@dataclass(frozen=True)
class PairedData:
    """Right answers of all runs, ready for pairing."""

    entries: list[str]
    correct: list[np.ndarray]
    """Per entry: bool [S, C, N]."""
    groups: np.ndarray
    """[N]."""
    knows_samples: bool = True
    """False where only the counts of each group are known, not which samples were right."""


@dataclass(frozen=True)
class PairSettings:
    correction: str
    margin: float
    """Equivalence margin as a fraction."""
    replicates: int
    seed: int


def compare_pairs(
    data: PairedData, bootstrap: Bootstrap, columns: list[np.ndarray], settings: PairSettings
) -> list[list[Pair]]:
    """All pairs of entries on each column; the p-values of all of them are one family.

    With the correction `tukey` each column is a family, and p_adjusted comes from the clustered
    standard errors; p_value stays that of the sign flips.

    Args:
        columns: weights [C] over conditions, each all 0 and 1: one condition, or several whose
            mean is compared.
    Returns:
        Per column the pairs in the order of `itertools.combinations(entries, 2)`.
    """
    pairs = list(combinations(range(len(data.entries)), 2))
    if not pairs:
        return [[] for _ in columns]
    weights_CM = np.stack(columns, axis=1).astype(np.int64)
    sums = [_group_differences(data, i, j, weights_CM) for i, j in pairs]
    flipped = np.concatenate(sums, axis=1)
    test = None
    if bootstrap.groups > 1:
        test = sign_flip_test(flipped, replicates=settings.replicates, seed=settings.seed)
    raw = test.p_value.tolist() if test else [None] * flipped.shape[1]
    adjusted = raw
    if test and settings.correction == "tukey":
        adjusted = _tukey_adjusted(bootstrap, pairs, weights_CM, test.p_value)
    elif test:
        adjusted = adjust(raw, settings.correction)
    method = test.method if test else "not available: a single group"
    found = []
    for number, (i, j) in enumerate(pairs):
        place = slice(number * len(columns), (number + 1) * len(columns))
        found.append(
            _pairs_of(
                data, bootstrap, i, j, weights_CM, raw[place], adjusted[place], method, settings
            )
        )
    return [list(column) for column in zip(*found, strict=True)]


def difference_of(i: int, j: int, weights_CM: np.ndarray) -> Statistic:
    """Accuracy of entry `i` minus that of `j`, the weighted mean of each column [..., M]."""
    share = weights_CM / weights_CM.sum(axis=0)
    return lambda accuracy: (accuracy[..., i, :] - accuracy[..., j, :]) @ share


def _tukey_adjusted(
    bootstrap: Bootstrap, pairs: list[tuple[int, int]], weights_CM: np.ndarray, raw: np.ndarray
) -> list[float]:
    """Tukey's p-values, pairs outermost as in `raw` [pairs * M].

    Where no replicate differs there is no standard error: Bonferroni over the column's sign flips.
    """
    found = np.minimum(1.0, len(pairs) * raw).reshape(len(pairs), -1)
    for number, (i, j) in enumerate(pairs):
        statistic = difference_of(i, j, weights_CM)
        spread = bootstrap.spread(statistic, entries=(i, j))
        assert spread is not None, "raw p-values need two groups"
        error = spread.standard_error
        known = error > NO_SPREAD
        student = statistic(bootstrap.observed)[known] / error[known]
        found[number, known] = tukey_p(
            student, entries=len(bootstrap.seeds), freedom=spread.freedom[known]
        )
    return found.ravel().tolist()


def _pairs_of(
    data: PairedData,
    bootstrap: Bootstrap,
    i: int,
    j: int,
    weights_CM: np.ndarray,
    raw: list[Any],
    adjusted: list[Any],
    method: str,
    settings: PairSettings,
) -> list[Pair]:
    """The pair (i, j) on every column."""
    difference = difference_of(i, j, weights_CM)
    alpha = 1 - bootstrap.confidence
    wide = bootstrap.intervals(difference, entries=(i, j), collapse="difference")
    narrow = bootstrap.intervals(
        difference, entries=(i, j), collapse="difference", confidence=1 - 2 * alpha
    )
    held = bootstrap.with_seeds_fixed().intervals(difference, entries=(i, j), collapse="difference")
    deciding = wide
    if (tests := _seed_tests(bootstrap, settings)) > 1:
        deciding = bootstrap.intervals(
            difference, entries=(i, j), collapse="difference", confidence=1 - alpha / tests
        )
    same = _same_answers(data.correct[i], data.correct[j], weights_CM) & data.knows_samples
    pairs = []
    for m, interval in enumerate(wide):
        equivalent = inside(narrow[m], settings.margin)
        pairs.append(
            Pair(
                data.entries[i],
                data.entries[j],
                interval,
                narrow[m],
                raw[m],
                adjusted[m],
                method,
                bool(same[m]),
                decide(
                    deciding[m],
                    adjusted[m],
                    alpha,
                    equivalent,
                    bool(same[m]),
                    seeds_fixed=held[m],
                ),
                equivalent,
            )
        )
    return pairs


def _seed_tests(bootstrap: Bootstrap, settings: PairSettings) -> int:
    """By how much the deciding interval is corrected: the number of pairs of entries.

    Only it knows of training noise, so with several seeds the corrected sign flips alone do not
    hold the error rate of the family (in simulations 7 to 12 % with three entries). Tukey's
    p-values have the seeds in them; bh and none do not promise that rate.
    """
    entries = len(bootstrap.seeds)
    corrects = settings.correction in ("holm", "bonferroni") and max(bootstrap.seeds) > 1
    return entries * (entries - 1) // 2 if corrects else 1


def _group_differences(data: PairedData, i: int, j: int, weights_CM: np.ndarray) -> np.ndarray:
    """Summed differences per group, int [G, M], scaled by seed counts so that they stay whole."""
    first, second = data.correct[i], data.correct[j]
    scaled = len(second) * first.sum(axis=0) - len(first) * second.sum(axis=0)
    codes = np.unique(data.groups, return_inverse=True)[1]
    return tally_by_group(scaled[None], codes)[0][0] @ weights_CM


def _same_answers(first: np.ndarray, second: np.ndarray, weights_CM: np.ndarray) -> np.ndarray:
    """bool [M]: every sample is equally often right in both at every condition of the column."""
    differs = (len(second) * first.sum(axis=0) != len(first) * second.sum(axis=0)).any(axis=1)
    return ~(differs[:, None] & (weights_CM > 0)).any(axis=0)


def inside(interval: Interval, margin: float) -> bool:
    """Whether an interval lies wholly within plus or minus `margin`."""
    if interval.low is None or interval.high is None:
        return False
    return -margin < interval.low and interval.high < margin


def decide(
    interval: Interval,
    p_adjusted: float | None,
    alpha: float,
    equivalent: bool,
    same: bool,
    *,
    seeds_fixed: Interval | None = None,
) -> Verdict:
    """Ahead needs both: the corrected test, and an interval (with the seeds in it) without 0.

    few-seeds: on these very seeds one is ahead, by the test and by `seeds_fixed`, the interval that
    takes them for all there are; only their spread keeps the answer open.
    """
    estimate = interval.estimate or 0.0
    significant = p_adjusted is not None and p_adjusted < alpha
    if significant and interval.excludes_zero:
        return "ahead" if estimate > 0 else "behind"
    if same:
        return "identical"
    if equivalent:
        return "equivalent"
    held = seeds_fixed is not None and seeds_fixed.excludes_zero and not interval.excludes_zero
    return "few-seeds" if significant and held else "undecided"
