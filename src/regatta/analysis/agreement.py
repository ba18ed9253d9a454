"""Where entries agree at the headline: right and wrong together, and what they know between them.

Two entries are set against each other seed by seed, for the seeds that both have, and the numbers
of the seeds are averaged. Measures of a pair are those of Kuncheva and Whitaker (2003, Measures of
diversity in classifier ensembles); kappa is Cohen's (1960) over the answered classes. The oracle is
right where any of its entries is: an upper limit, not a rule that anyone could follow.

Shapes: S seeds, N samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Bootstrap, Interval, bootstrap_accuracy
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.analysis.many_entries import MOST_IN_PAIRS
from regatta.analysis.tables import csv_text
from regatta.analysis.wording import count, points, span

MEASURES = (
    "both_right",
    "only_first",
    "only_second",
    "both_wrong",
    "q_statistic",
    "kappa",
    "same_wrong",
)
UNDEFINED = {
    "q_statistic": "right and wrong answers vary too little for a ratio",
    "kappa": "both give one and the same class for every sample",
    "same_wrong": "no sample is wrong in both",
}
"""Why a measure has no value."""

NO_SHARED_SEED = "no seed is judged for all of them"
COLUMNS = ("first", "second", "seeds", *MEASURES)
INTERVALS = ("disagreement", "oracle")


def agreement_section(
    judged: JudgedStudy, bootstrap: Bootstrap, headline: int
) -> dict[str, Any] | None:
    """Section `agreement` of comparison.json.

    None with a single entry, and where only counts per class are known: then nobody can say which
    samples were right.
    """
    if judged.unit == "class" or len(judged.entries) < 2:
        return None
    first = judged.entries[:MOST_IN_PAIRS]
    everyone, pairs = tuple(judged.entries), list(combinations(first, 2))
    # Two entries are all entries and a pair: resampled once, so that both say the same.
    shared = {names: shared_runs(judged, names) for names in (everyone, *pairs)}
    found = dict(zip(shared, _intervals(judged, list(shared.values()), headline), strict=True))
    return {
        "condition": judged.conditions[headline].id,
        "n": bootstrap.samples,
        "groups": bootstrap.groups,
        "replicates": len(bootstrap.replicates),
        "confidence": bootstrap.confidence,
        "method": "clustered bootstrap of groups, the study's own draws; same seeds set against "
        "each other",
        "entries": [_own(judged, name) for name in first],
        "pairs": [_pair(judged, names, shared[names], found[names]) for names in pairs],
        "oracle": _oracle(judged, shared[everyone], found[everyone].get("oracle"), headline),
        "notes": _notes(judged),
    }


def agreement_files(section: dict[str, Any] | None) -> dict[str, str]:
    """File name -> text: one row per pair."""
    if section is None:
        return {}
    ends = [f"{name}{end}" for name in INTERVALS for end in ("", "_low", "_high")]
    return {
        "agreement.csv": csv_text(
            [*COLUMNS, *ends, "reasons"], (_file_row(pair) for pair in section["pairs"])
        )
    }


def _file_row(pair: dict[str, Any]) -> list[Any]:
    cells = [pair[key] for key in COLUMNS]
    for name in INTERVALS:
        cells += interval_values(pair[name])
    return [*cells, "; ".join(f"{key}: {why}" for key, why in pair["reasons"].items())]


def interval_values(interval: Mapping[str, Any] | None) -> list[Any]:
    """Estimate, low and high of an interval as it stands in comparison.json."""
    return [(interval or {}).get(end) for end in ("estimate", "low", "high")]


def oracles(section: dict[str, Any]) -> dict[tuple[str, ...], dict[str, Any] | None]:
    """The interval of the oracle over all entries, and over each pair of them."""
    of_pairs = {(pair["first"], pair["second"]): pair["oracle"] for pair in section["pairs"]}
    return {**of_pairs, tuple(section["oracle"]["entries"]): section["oracle"]["accuracy"]}


def shared_runs(judged: JudgedStudy, names: Sequence[str]) -> dict[int, list[JudgedRun]]:
    """Seed -> the runs of `names` in that order, for the seeds that all of them have."""
    by_place = {(run.entry, run.seed): run for run in judged.runs}
    seeds = dict.fromkeys(run.seed for run in judged.runs_of(names[0]))
    return {
        seed: [by_place[(name, seed)] for name in names]
        for seed in seeds
        if all((name, seed) in by_place for name in names)
    }


def resample(judged: JudgedStudy, values: Sequence[np.ndarray]) -> Bootstrap:
    """The study's own draws of groups over derived values, one [S, N] of whole numbers each.

    The seeds of a derived value are drawn together, so a difference of two entries within a seed
    stays one.
    """
    settings = judged.study.compare
    return bootstrap_accuracy(
        np.concatenate(values)[:, None, :],
        judged.groups,
        entry_of_run=[place for place, each in enumerate(values) for _ in each],
        replicates=settings.replicates,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def share_interval(resampled: Bootstrap, place: int) -> Interval:
    return resampled.interval(lambda a: a[..., place, 0], entries=[place], collapse="share")


def right_answers(runs: Sequence[JudgedRun], headline: int) -> np.ndarray:
    """bool [E, N] of runs on the same samples."""
    return np.stack([run.correct[headline] for run in runs])


def _intervals(
    judged: JudgedStudy, shared: Sequence[Mapping[int, list[JudgedRun]]], headline: int
) -> list[dict[str, Interval]]:
    """Per set of entries its oracle and its disagreement; empty where no seed is shared."""
    values, places = [], []
    for runs in shared:
        right = [right_answers(each, headline) for each in runs.values()]
        places.append({})
        if not right:
            continue
        places[-1] = {"oracle": len(values), "disagreement": len(values) + 1}
        values.append(np.stack([each.any(axis=0) for each in right]))
        values.append(np.stack([each.any(axis=0) & ~each.all(axis=0) for each in right]))
    if not values:
        return [{} for _ in shared]
    resampled = resample(judged, values)
    return [
        {name: share_interval(resampled, place) for name, place in each.items()} for each in places
    ]


def answers(run: JudgedRun) -> np.ndarray:
    """The answered class of every sample [N] at the headline."""
    return run.headline_scores.argmax(axis=1)


def pair_measures(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray
) -> dict[str, float | None]:
    """MEASURES of two runs from their answered classes, all [N]; None = not defined, see UNDEFINED.

    q_statistic is Yule's (1900): 1 = right on the same samples, 0 = independent, -1 = opposite.
    same_wrong is the share of equal answers among samples that both get wrong.
    """
    a, b = first == labels, second == labels
    both, only_a, only_b, neither = (int(found.sum()) for found in (a & b, a & ~b, ~a & b, ~a & ~b))
    same, cross = both * neither, only_a * only_b
    size = len(labels)
    alike = int((~a & ~b & (first == second)).sum())
    return {
        "both_right": both / size,
        "only_first": only_a / size,
        "only_second": only_b / size,
        "both_wrong": neither / size,
        "q_statistic": (same - cross) / (same + cross) if same + cross else None,
        "kappa": cohen_kappa(first, second),
        "same_wrong": alike / neither if neither else None,
    }


def cohen_kappa(first: np.ndarray, second: np.ndarray) -> float | None:
    """Agreement of two lists of classes [N] beyond chance; None where chance explains it all."""
    classes = int(max(first.max(), second.max())) + 1
    size = len(first)
    counts = [np.bincount(each, minlength=classes) for each in (first, second)]
    by_chance = int((counts[0] * counts[1]).sum())
    if by_chance == size * size:
        return None
    observed = int((first == second).sum()) * size
    return (observed - by_chance) / (size * size - by_chance)


def _pair(
    judged: JudgedStudy,
    names: tuple[str, str],
    shared: Mapping[int, list[JudgedRun]],
    found: Mapping[str, Interval],
) -> dict[str, Any]:
    by_seed = {
        seed: pair_measures(answers(first), answers(second), judged.labels)
        for seed, (first, second) in shared.items()
    }
    measures, reasons = _averaged(by_seed)
    intervals = {name: found[name].as_dict() if name in found else None for name in INTERVALS}
    row = {"first": names[0], "second": names[1], "seeds": list(shared), **measures, **intervals}
    return {**row, "reasons": reasons, "sentence": _pair_sentence(judged, names, measures, found)}


def _averaged(
    by_seed: Mapping[int, dict[str, float | None]],
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Mean of each measure over the seeds that define it, and why others are missing."""
    means: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name in MEASURES:
        known = [row[name] for row in by_seed.values() if row[name] is not None]
        means[name] = float(np.mean(known)) if known else None  # type: ignore[arg-type]
        without = [seed for seed, row in by_seed.items() if row[name] is None]
        if without:
            of_seeds = f"seed {', '.join(map(str, without))}: " if known else ""
            reasons[name] = of_seeds + UNDEFINED[name]
    return means, reasons if by_seed else {"seeds": NO_SHARED_SEED}


def _pair_sentence(
    judged: JudgedStudy,
    names: tuple[str, str],
    measures: Mapping[str, float | None],
    found: Mapping[str, Interval],
) -> str:
    first, second = names
    if not found:
        return f"{first} and {second} cannot be set against each other: {NO_SHARED_SEED}"
    disagreement, oracle = (found[name].scaled(100) for name in INTERVALS)
    return (
        f"one of {first} and {second} is right and the other wrong on "
        f"{points(disagreement.estimate or 0.0)} % {span(disagreement)} of "
        f"{count(len(judged.labels), 'sample')}: only {first} is right on "
        f"{points(100 * (measures['only_first'] or 0.0))} %, only {second} on "
        f"{points(100 * (measures['only_second'] or 0.0))} %; at least one is right on "
        f"{points(oracle.estimate or 0.0)} % {span(oracle)}"
    )


def _own(judged: JudgedStudy, name: str) -> dict[str, Any]:
    """How far the seeds of one entry agree among themselves, for scale."""
    runs = judged.runs_of(name)
    rows = [
        pair_measures(answers(first), answers(second), judged.labels)
        for first, second in combinations(runs, 2)
    ]
    disagreement = [(row["only_first"] or 0.0) + (row["only_second"] or 0.0) for row in rows]
    known = [row["q_statistic"] for row in rows if row["q_statistic"] is not None]
    return {
        "entry": name,
        "seeds": [run.seed for run in runs],
        "disagreement": float(np.mean(disagreement)) if rows else None,
        "q_statistic": float(np.mean(known)) if known else None,
        "reason": "" if rows else "one seed: its trainings cannot be set against each other",
    }


def _oracle(
    judged: JudgedStudy,
    shared: Mapping[int, list[JudgedRun]],
    accuracy: Interval | None,
    headline: int,
) -> dict[str, Any]:
    """The oracle over all entries beside the best of them, over the seeds that all have."""
    common = {"entries": judged.entries, "seeds": list(shared)}
    if accuracy is None:
        empty = dict.fromkeys(("accuracy", "best_entry", "best_accuracy", "gain_points"))
        sentence = f"no oracle over all entries can be given: {NO_SHARED_SEED}"
        return {**common, **empty, "reason": NO_SHARED_SEED, "sentence": sentence}
    each = np.mean([right_answers(runs, headline).mean(axis=1) for runs in shared.values()], axis=0)
    best = int(each.argmax())
    gain = 100 * ((accuracy.estimate or 0.0) - float(each[best]))
    percent = accuracy.scaled(100)
    sentence = (
        f"at least one of {len(judged.entries)} entries is right on "
        f"{points(percent.estimate or 0.0)} % {span(percent)} of the samples, {points(gain)} "
        f"points more than {judged.entries[best]} alone"
    )
    return {
        **common,
        "accuracy": accuracy.as_dict(),
        "best_entry": judged.entries[best],
        "best_accuracy": float(each[best]),
        "gain_points": gain,
        "reason": "",
        "sentence": sentence,
    }


def _notes(judged: JudgedStudy) -> list[str]:
    notes = [
        "an oracle is an upper limit: it knows which entry to believe, and guessing entries raise "
        "it too"
    ]
    if len(judged.classes) == 2:
        notes.append("with two classes two wrong answers are always the same")
    return notes
