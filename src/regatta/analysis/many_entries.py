"""Pairs grow with the square of the entries: beyond a dozen, what sets all pairs side by side in
every condition, or sample by sample, keeps to the first entries of the study."""

from __future__ import annotations

from dataclasses import replace

from regatta.analysis.bootstrap import Bootstrap
from regatta.analysis.judged import JudgedStudy

MOST_IN_PAIRS = 12
"""66 pairs. The first of the study, because a choice by result would make its p-values too small.
"""


def first_entries(judged: JudgedStudy, bootstrap: Bootstrap) -> tuple[JudgedStudy, Bootstrap]:
    """Both reduced to the first MOST_IN_PAIRS entries; as they are where there are no more."""
    kept = judged.entries[:MOST_IN_PAIRS]
    if len(kept) == len(judged.entries):
        return judged, bootstrap
    fixed, count = bootstrap.fixed_seeds, len(kept)
    return (
        replace(judged, runs=[run for run in judged.runs if run.entry in kept]),
        replace(
            bootstrap,
            observed=bootstrap.observed[:count],
            replicates=bootstrap.replicates[:, :count],
            fixed_seeds=None if fixed is None else fixed[:, :count],
            seeds=bootstrap.seeds[:count],
        ),
    )


def limit_note(judged: JudgedStudy) -> list[str]:
    """What a reader of a large study must know; nothing for a small one."""
    if len(judged.entries) <= MOST_IN_PAIRS:
        return []
    return [
        f"agreement, pairs in single conditions and crossovers are those of the first "
        f"{MOST_IN_PAIRS} of {len(judged.entries)} entries of the study; all pairs are tested at "
        "the headline and on average"
    ]
