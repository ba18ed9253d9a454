"""Samples of each class that no entry gets right, and samples on which the entries differ.

With several seeds an entry gets a sample right when every seed does, and wrong when every seed
does. A sample on which the seeds of an entry disagree is neither, so it is never called hard.

Shapes: E entries, C conditions, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regatta.analysis.judged import JudgedStudy
from regatta.analysis.tables import csv_text

MOST_IDS = 10
"""Ids per class and list, so that the section stays small for a hundred classes."""


def hard_samples_section(
    judged: JudgedStudy, headline: int, most_ids: int = MOST_IDS
) -> dict[str, Any] | None:
    """Section `hard_samples` of comparison.json at the headline; None where answers are per class.

    `classes` has a row per class: `none_right` counts the samples that no seed of any entry gets
    right, `differ` those that one entry gets right with every seed and another wrong with every
    seed (None with a single entry). Both list up to `most_ids` ids, those first that are right in
    the smallest share of all conditions, or in whose share the entries differ most.
    """
    if judged.unit == "class":
        return None
    share_EN = np.stack([_right_share(judged, entry, slice(None)) for entry in judged.entries])
    here_EN = np.stack([_right_share(judged, entry, headline) for entry in judged.entries])
    never_N = (here_EN == 0).all(axis=0)
    differ_N = (here_EN == 1).any(axis=0) & (here_EN == 0).any(axis=0)
    hardest = _ordered(judged, share_EN.mean(axis=0))
    most_different = _ordered(judged, share_EN.min(axis=0) - share_EN.max(axis=0))
    rows = []
    for number, name in enumerate(judged.classes):
        mine_N = judged.labels == number
        rows.append(
            {
                "class": name,
                "n_samples": int(mine_N.sum()),
                "groups": len(np.unique(judged.groups[mine_N])),
                "none_right": _listed(judged, mine_N & never_N, hardest, most_ids),
                "differ": _differing(judged, mine_N & differ_N, most_different, here_EN, most_ids),
            }
        )
    seeds = {entry: len(judged.runs_of(entry)) for entry in judged.entries}
    return {
        "condition": judged.conditions[headline].id,
        "most_ids": most_ids,
        "n": len(judged.labels),
        "groups": len(np.unique(judged.groups)),
        "seeds_per_entry": seeds,
        "method": "counted, no interval",
        "none_right": int(never_N.sum()),
        "differ": int(differ_N.sum()) if len(seeds) > 1 else None,
        "sentence": _sentence(judged, headline, int(never_N.sum()), int(differ_N.sum())),
        "classes": rows,
    }


def hard_sample_files(section: dict[str, Any] | None) -> dict[str, str]:
    """`hard_samples.csv`: one row per listed sample; nothing where answers are per class."""
    if section is None:
        return {}
    rows: list[Sequence[Any]] = []
    for found in section["classes"]:
        name, differ = found["class"], found["differ"] or {"samples": []}
        rows += [[name, sample, "none right", None] for sample in found["none_right"]["ids"]]
        rows += [[name, s["id"], "entries differ", s["right"]] for s in differ["samples"]]
    return {"hard_samples.csv": csv_text(["class", "sample_id", "kind", "right_entries"], rows)}


def _right_share(judged: JudgedStudy, entry: str, conditions: int | slice) -> np.ndarray:
    """Share of the entry's seeds, and of `conditions`, in which a sample is right, [N]."""
    shares = [
        run.correct[conditions].reshape(-1, len(judged.labels)).mean(axis=0)
        for run in judged.runs_of(entry)
    ]
    return np.mean(shares, axis=0)


def _ordered(judged: JudgedStudy, value_N: np.ndarray) -> np.ndarray:
    """Positions of all samples by value, equal ones by id."""
    return np.lexsort((judged.sample_ids.astype(str), value_N))


def _listed(
    judged: JudgedStudy, chosen_N: np.ndarray, order: np.ndarray, most: int
) -> dict[str, Any]:
    places = order[chosen_N[order]][:most]
    return {
        "count": int(chosen_N.sum()),
        "ids": [str(name) for name in judged.sample_ids[places]],
    }


def _differing(
    judged: JudgedStudy, chosen_N: np.ndarray, order: np.ndarray, here_EN: np.ndarray, most: int
) -> dict[str, Any] | None:
    if len(judged.entries) < 2:
        return None
    places = order[chosen_N[order]][:most]
    samples = [
        {
            "id": str(judged.sample_ids[place]),
            "right": [judged.entries[e] for e in np.flatnonzero(here_EN[:, place] == 1)],
        }
        for place in places
    ]
    return {"count": int(chosen_N.sum()), "samples": samples}


def _sentence(judged: JudgedStudy, headline: int, never: int, differ: int) -> str:
    several = max(len(judged.runs_of(entry)) for entry in judged.entries) > 1
    alone = len(judged.entries) < 2
    seeds = "every seed of " if several else ""
    who = f"{seeds}{judged.entries[0] if alone else 'every entry'}"
    split = "" if alone else f"; the entries differ on {differ:,}"
    return (
        f"at {judged.conditions[headline].id}, {who} is wrong on {never:,} of "
        f"{len(judged.labels):,} samples{split}"
    )
