"""Ranks of entries over blocks: Friedman's test, Nemenyi's pairs and the critical difference.

Shapes: N blocks, k entries. Rank 1 is best; ties share their mean rank.

A block is a class, or else a group: parts of the data that share no sample. A condition is never a
block, because the same samples stand in all conditions: ranks over conditions would count one piece
of evidence many times.

Sources: Friedman 1937; Iman and Davenport 1980; Nemenyi 1963; Demsar 2006, Statistical comparisons
of classifiers over multiple data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import tally_by_group
from regatta.analysis.cells import class_accuracy, class_counts
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.tables import csv_text

FEWEST_ENTRIES = 3
FEWEST_BLOCKS = 10
"""Below this the chi-squared distribution of Friedman's statistic is too rough."""
FEWEST_GROUP_SAMPLES = 5
"""Samples of a group on average; with fewer most entries tie in most groups."""


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Mean rank of each column of [N, k] over the blocks; the largest value has rank 1."""
    from scipy.stats import rankdata

    return rankdata(-values, axis=1).mean(axis=0)


def friedman(values: np.ndarray) -> dict[str, Any]:
    """Friedman's statistic of [N, k] corrected for ties, and Iman and Davenport's F.

    None with a `reason` where all entries tie in every block, and no F where all blocks agree.
    """
    from scipy.stats import f as f_distribution
    from scipy.stats import friedmanchisquare

    blocks, entries = values.shape
    freedom = (entries - 1, (entries - 1) * (blocks - 1))
    result: dict[str, Any] = {
        "statistic": None,
        "df": entries - 1,
        "p_value": None,
        "iman_davenport_f": None,
        "df1": freedom[0],
        "df2": freedom[1],
        "iman_davenport_p": None,
        "reason": "",
    }
    if (values == values[:, :1]).all():
        return {**result, "reason": "all entries tie in every block"}
    tested = friedmanchisquare(*values.T)
    statistic = float(tested.statistic)
    result |= {"statistic": statistic, "p_value": float(tested.pvalue)}
    left = blocks * (entries - 1) - statistic
    if left <= 1e-9 * statistic:
        return {**result, "reason": "all blocks rank the entries alike, so there is no F"}
    f = (blocks - 1) * statistic / left
    p_value = float(f_distribution.sf(f, *freedom))
    return {**result, "iman_davenport_f": f, "iman_davenport_p": p_value}


def critical_value(entries: int, alpha: float) -> float:
    """Demsar's q: quantile of the studentized range with infinite freedom over sqrt(2)."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - alpha, entries, np.inf) / np.sqrt(2))


def critical_difference(entries: int, blocks: int, alpha: float) -> float:
    """Mean ranks that are further apart differ at level alpha over all pairs (Nemenyi)."""
    return critical_value(entries, alpha) * _rank_error(entries, blocks)


def nemenyi_p(difference: np.ndarray, entries: int, blocks: int) -> np.ndarray:
    """p-values of differences of mean ranks, over all pairs of entries."""
    from scipy.stats import studentized_range

    statistic = np.sqrt(2) * np.abs(difference) / _rank_error(entries, blocks)
    return np.clip(studentized_range.sf(statistic, entries, np.inf), 0.0, 1.0)


def _rank_error(entries: int, blocks: int) -> float:
    return float(np.sqrt(entries * (entries + 1) / (6 * blocks)))


def undivided(ranks: Sequence[float], difference: float) -> list[list[int]]:
    """Largest sets of neighbours no further apart than `difference`; none lies within another.

    Args:
        ranks: in ascending order.
    Returns:
        Positions in `ranks`; sets of one are left out.
    """
    found: list[list[int]] = []
    for start in range(len(ranks)):
        stop = start
        while stop + 1 < len(ranks) and ranks[stop + 1] - ranks[start] <= difference:
            stop += 1
        if stop > start and not (found and stop <= found[-1][-1]):
            found.append(list(range(start, stop + 1)))
    return found


def friedman_section(judged: JudgedStudy, headline: int) -> dict[str, Any]:
    """Ranks at the headline over classes or groups; otherwise only a `reason`."""
    alpha = 1 - judged.study.compare.confidence
    kind, values, reason = _blocks(judged, headline)
    section: dict[str, Any] = {
        "reason": reason,
        "headline": judged.conditions[headline].id,
        "n": len(judged.labels),
        "groups": len(np.unique(judged.groups)),
        "seeds": {entry: len(judged.runs_of(entry)) for entry in judged.entries},
        "method": "Friedman, Iman and Davenport, Nemenyi; ties share their mean rank",
        "correction": "Nemenyi, over all pairs",
        "sentence": "",
        "methods": "",
        "notes": [],
    }
    if reason:
        return section
    ranks = mean_ranks(values)
    order = np.argsort(ranks, kind="stable")
    test = friedman(values)
    limit = critical_difference(len(ranks), len(values), alpha)
    section |= {
        "block": kind,
        "blocks": len(values),
        "alpha": alpha,
        "test": test,
        "critical_difference": limit,
        "entries": [
            {"entry": judged.entries[e], "mean_rank": float(ranks[e])} for e in order.tolist()
        ],
        "undivided": [
            [judged.entries[order[place]] for place in places]
            for places in undivided(ranks[order].tolist(), limit)
        ],
        "pairs": _pairs(judged.entries, ranks, order.tolist(), len(values), alpha),
        "notes": _notes(judged, kind, values),
    }
    section["sentence"] = _sentence(section)
    section["methods"] = _methods(kind)
    return section


def _blocks(judged: JudgedStudy, headline: int) -> tuple[str, np.ndarray, str]:
    """(class or group, accuracies [N, k], why there are none)."""
    nothing, entries = np.empty((0, 0)), len(judged.entries)
    if entries < FEWEST_ENTRIES:
        found = "there is one" if entries == 1 else f"there are {entries}"
        return "", nothing, f"ranks over blocks need {FEWEST_ENTRIES} entries, {found}"
    present = class_counts(judged) > 0
    if present.sum() >= FEWEST_BLOCKS:
        columns = [class_accuracy(judged, entry)[headline, present] for entry in judged.entries]
        return "class", np.stack(columns, axis=1), ""
    codes = np.unique(judged.groups, return_inverse=True)[1]
    groups = int(codes.max()) + 1
    of_each = len(codes) / groups
    if groups < FEWEST_BLOCKS or of_each < FEWEST_GROUP_SAMPLES:
        reason = (
            f"ranks over blocks need {FEWEST_BLOCKS} classes, or {FEWEST_BLOCKS} groups of "
            f"{FEWEST_GROUP_SAMPLES} samples on average; judged classes: {present.sum()}, groups: "
            f"{groups}, of {of_each:.1f} samples on average"
        )
        return "", nothing, reason
    columns = []
    for entry in judged.entries:
        runs = judged.runs_of(entry)
        right_N = np.sum([run.correct[headline] for run in runs], axis=0)
        sums, sizes = tally_by_group(right_N[None, None], codes)
        columns.append(sums[0, :, 0] / (len(runs) * sizes))
    return "group", np.stack(columns, axis=1), ""


def _pairs(
    entries: list[str], ranks: np.ndarray, order: list[int], blocks: int, alpha: float
) -> list[dict[str, Any]]:
    """All pairs, the better entry first, in the order of the ranks."""
    pairs = list(combinations(order, 2))
    differences = np.array([ranks[j] - ranks[i] for i, j in pairs])
    p_values = nemenyi_p(differences, len(ranks), blocks)
    return [
        {
            "first": entries[i],
            "second": entries[j],
            "mean_rank_first": float(ranks[i]),
            "mean_rank_second": float(ranks[j]),
            "rank_difference": float(difference),
            "p_value": float(p_value),
            "is_apart": bool(p_value < alpha),
        }
        for (i, j), difference, p_value in zip(pairs, differences, p_values, strict=True)
    ]


def _notes(judged: JudgedStudy, kind: str, values: np.ndarray) -> list[str]:
    notes = ["ranks do not see by how much an entry is better, only in how many blocks"]
    tied = float(np.mean([len(set(row)) < len(row) for row in values.tolist()]))
    if tied > 0.5:
        notes.append(
            f"in {100 * tied:.0f} % of the blocks some entries tie, which makes Nemenyi's test "
            "cautious"
        )
    if kind == "class" and judged.unit == "sample" and _groups_cross_classes(judged):
        notes.append(
            "some groups have samples in several classes, so the blocks are not quite independent"
        )
    return notes


def _groups_cross_classes(judged: JudgedStudy) -> bool:
    codes = np.unique(judged.groups, return_inverse=True)[1]
    pairs = np.unique(np.stack([codes, judged.labels]), axis=1)
    return pairs.shape[1] > len(np.unique(codes))


def _sentence(section: dict[str, Any]) -> str:
    test, ranked = section["test"], section["entries"]
    plural = "classes" if section["block"] == "class" else "groups"
    over = f"over {section['blocks']} {plural} as blocks"
    if test["p_value"] is None:
        return f"{over}, the entries cannot be ranked: {test['reason']}"
    # The chi-squared of Friedman stands in where all blocks agree and F is infinite.
    p_value = test["iman_davenport_p"]
    numbers = f"Friedman chi-squared {test['statistic']:.2f} ({test['df']} df)"
    if p_value is None:
        p_value = test["p_value"]
    else:
        numbers += f", F({test['df1']}, {test['df2']}) = {test['iman_davenport_f']:.2f}"
    shown = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    first = ranked[0]
    if p_value >= section["alpha"]:
        return f"{over}, the data do not show that the entries differ in rank ({numbers}, {shown})"
    if not any(pair["is_apart"] for pair in section["pairs"]):
        apart = "the entries differ in rank, but no pair can be told apart"
        return f"{over}, {apart} ({numbers}, {shown})"
    level = _beside(section, first["entry"])
    limit = f"critical difference {section['critical_difference']:.2f}"
    beside = f"; {' and '.join(level)} cannot be told from it" if level else ""
    return (
        f"{over}, the entries differ in rank ({numbers}, {shown}): {first['entry']} has the best "
        f"mean rank, {first['mean_rank']:.2f} ({limit}){beside}"
    )


def _methods(kind: str) -> str:
    plural = "classes" if kind == "class" else "groups"
    return (
        f"Models were ranked over {plural} as blocks by their accuracy at the headline and tested "
        "by Friedman's (1937) statistic with the F of Iman and Davenport (1980); pairs were "
        "compared by Nemenyi's (1963) test, as a critical difference of mean ranks (Demsar 2006)."
    )


def _beside(section: dict[str, Any], entry: str) -> list[str]:
    """Entries that Nemenyi's test does not tell from `entry`."""
    found = []
    for pair in section["pairs"]:
        both = (pair["first"], pair["second"])
        if entry in both and not pair["is_apart"]:
            found.append(both[both[0] == entry])
    return found


PAIR_COLUMNS = ("first", "second", "mean_rank_first", "mean_rank_second", "rank_difference")
TEST_COLUMNS = ("statistic", "df", "p_value", "iman_davenport_f", "df1", "df2", "iman_davenport_p")


def friedman_files(section: dict[str, Any]) -> dict[str, str]:
    """`friedman.csv`: one row per pair of entries, the test over all of them in every row."""
    if section["reason"]:
        return {}
    header = [*PAIR_COLUMNS, "p_nemenyi", "critical_difference", "is_apart", "block", "blocks"]
    header += [f"friedman_{name}" if "davenport" not in name else name for name in TEST_COLUMNS]
    rows = [
        [
            *(pair[key] for key in PAIR_COLUMNS),
            pair["p_value"],
            section["critical_difference"],
            "yes" if pair["is_apart"] else "no",
            section["block"],
            section["blocks"],
            *(section["test"][key] for key in TEST_COLUMNS),
        ]
        for pair in section["pairs"]
    ]
    return {"friedman.csv": csv_text(header, rows)}
