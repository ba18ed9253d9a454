"""All pairs of entries at the headline, on average and per condition, with their companions."""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.analysis import wording
from regatta.analysis.bootstrap import Bootstrap
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.many_entries import first_entries
from regatta.analysis.paired import (
    Pair,
    PairedData,
    PairSettings,
    cochran_q,
    compare_pairs,
    mcnemar,
)


def only(judged: JudgedStudy, position: int) -> np.ndarray:
    """Weights [C] of one condition."""
    weights = np.zeros(len(judged.conditions))
    weights[position] = 1
    return weights


def pairs_section(judged: JudgedStudy, bootstrap: Bootstrap, headline: int) -> dict[str, Any]:
    """Differences at the headline, on average, and per condition: three families of tests."""
    settings = judged.study.compare
    data = _paired_data(judged)
    margin = settings.equivalence_margin_points / 100
    how = PairSettings(settings.correction, margin, settings.replicates, settings.seed)
    cells = len(judged.conditions)
    (at_headline,) = compare_pairs(data, bootstrap, [only(judged, headline)], how)
    (on_average,) = compare_pairs(data, bootstrap, [np.ones(cells)], how)
    few, their_bootstrap = first_entries(judged, bootstrap)
    each = compare_pairs(
        _paired_data(few), their_bootstrap, [only(judged, c) for c in range(cells)], how
    )
    return {
        "headline": [
            {**_pair_row(judged, bootstrap, pair), "mcnemar": _mcnemar(judged, pair, headline)}
            for pair in at_headline
        ],
        "average": [_pair_row(judged, bootstrap, pair) for pair in on_average],
        "by_condition": [
            {"condition": condition.id, "pairs": [pair.as_dict() for pair in found]}
            for condition, found in zip(judged.conditions, each, strict=True)
        ],
        "cochran_q": _cochran(judged, headline),
        "method": at_headline[0].method if at_headline else "no pairs",
        "correction": settings.correction,
        "margin_points": settings.equivalence_margin_points,
        "family_sizes": {
            "headline": len(at_headline),
            "average": len(on_average),
            "by_condition": len(each[0]) * (1 if settings.correction == "tukey" else cells),
        },
    }


def _paired_data(judged: JudgedStudy) -> PairedData:
    return PairedData(
        judged.entries,
        [np.stack([run.correct for run in judged.runs_of(e)]) for e in judged.entries],
        judged.groups,
        knows_samples=judged.unit == "sample",
    )


def _pair_row(judged: JudgedStudy, bootstrap: Bootstrap, pair: Pair) -> dict[str, Any]:
    seeds = [len(judged.runs_of(name)) for name in (pair.first, pair.second)]
    sentence = wording.pair_sentence(
        pair,
        groups=bootstrap.groups,
        seeds=seeds,
        margin_points=judged.study.compare.equivalence_margin_points,
        group_word=judged.group_word,
    )
    return {**pair.as_dict(), "sentence": sentence}


def _mcnemar(judged: JudgedStudy, pair: Pair, condition: int) -> list[dict[str, Any]]:
    """Per seed that both entries have: exact McNemar with the discordant counts. None where it is
    not known which samples were right."""
    if judged.unit == "class":
        return []
    second = {run.seed: run for run in judged.runs_of(pair.second)}
    return [
        {"seed": run.seed, **mcnemar(run.correct[condition], second[run.seed].correct[condition])}
        for run in judged.runs_of(pair.first)
        if run.seed in second
    ]


def _cochran(judged: JudgedStudy, condition: int) -> list[dict[str, Any]]:
    """Per seed that all of three or more entries have: Cochran's Q; none without samples."""
    found = []
    if judged.unit == "class":
        return found
    for seed in judged.study.seeds:
        runs = [run for run in judged.runs if run.seed == seed]
        if len(runs) == len(judged.entries) > 2:
            table = np.stack([run.correct[condition] for run in runs], axis=1)
            found.append({"seed": seed, **cochran_q(table)})
    return found
