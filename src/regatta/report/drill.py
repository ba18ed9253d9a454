"""Everything of one class at a time: what the page's script shows for the class that is chosen.

All numbers and texts are made here; the script places them as text and never as markup. Accuracies
stand in the page once, in the data of the class table, and are not repeated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regatta.report.material import Material, axis_text
from regatta.report.numbers import signed_text
from regatta.report.style import accuracy_colormap, clean_text, entry_color, ink_on, shorten
from regatta.report.tables import NOT_MEASURED

CONFUSIONS = 5
"""Shown per entry and direction, most frequent first."""
ID_LETTERS, LISTED_IDS = 80, 2020
"""Ids are cut and counted, so that a hundred classes stay under 300 kB; the file has all of it."""
SHADES = 21

SCORES = ("precision", "recall", "f1")
HARD_FILE = "results/hard_samples.csv"
SOURCES = {
    "scores": "results/per_class.csv",
    "confusions": "results/confusion_matrix.csv",
    "drops": "results/comparison.json: robustness",
    "samples": HARD_FILE,
}


def drill_view(material: Material) -> dict[str, Any]:
    """Options of the chooser, the class chosen first, and `data` for the script.

    In `data` classes, entries and conditions are named once and meant by their place; per entry and
    class stand the scores, the drop with its rank, and the confusions at the headline.
    """
    names = [clean_text(name) for name in material.classes]
    return {
        "choices": [shorten(name, 80) for name in names],
        "chosen": hardest_class(material),
        "data": {
            "classes": names,
            "counts": _counts(material),
            "entries": [_entry(material, entry) for entry in material.entries],
            "headline": material.comparison["headline_condition"],
            "conditions": _conditions(material),
            "grid": _grid(material),
            "shades": _shades(),
            "samples": sample_lists(material),
            "words": _words(material),
            "sources": SOURCES,
        },
    }


def hardest_class(material: Material) -> int:
    """Place of the class with the lowest mean accuracy at the headline; the first without any."""
    ids = [c["id"] for c in material.comparison["conditions"]]
    row = ids.index(material.comparison["headline_condition"])
    means = np.mean([material.class_accuracy(entry)[row] for entry in material.entries], axis=0)
    return int(np.nanargmin(means)) if np.isfinite(means).any() else 0


def _counts(material: Material) -> list[list[int]]:
    """Per class its judged samples and, where they are known, the groups that these come from."""
    section = material.comparison.get("hard_samples")
    if section is not None:
        return [[row["n_samples"], row["groups"]] for row in section["classes"]]
    return [[count] for count in material.comparison["per_class"]["n_samples"]]


def _entry(material: Material, entry: str) -> dict[str, Any]:
    found = material.classification.get(entry)
    return {
        "name": entry,
        "color": entry_color(material.positions[entry]),
        "source": f"results/per_class_{entry}.csv",
        "scores": None if found is None else [_score_texts(row) for row in found["per_class"]],
        "confusions": None if found is None else confusions(material.confusion(entry)),
        "drops": ranked_drops(material, entry),
    }


def _score_texts(row: dict[str, Any]) -> list[str]:
    return [NOT_MEASURED if row[key] is None else f"{row[key]:.3f}" for key in SCORES]


def confusions(counts_KK: np.ndarray, most: int = CONFUSIONS) -> list[list[list[list[int]]]]:
    """Per class [[place, count], ...] of what was answered instead, and of what was taken for it.

    Args:
        counts_KK: answers, rows = truth. Equal counts go by place.
    """
    wrong = counts_KK.copy()
    np.fill_diagonal(wrong, 0)
    return [[_largest(wrong[k], most), _largest(wrong[:, k], most)] for k in range(len(wrong))]


def _largest(counts_K: np.ndarray, most: int) -> list[list[int]]:
    order = np.argsort(-counts_K, kind="stable")[:most]
    return [[int(k), int(counts_K[k])] for k in order if counts_K[k]]


def ranked_drops(material: Material, entry: str) -> list[list[Any] | None] | None:
    """Per class its drop as text and its rank in words, 1 = largest; None without a grid.

    Equal drops share the better rank. A class without judged samples has None.
    """
    robustness = material.comparison["robustness"]["entries"].get(entry) or {}
    rows = robustness.get("classes") or []
    if not rows:
        return None
    drops = {row["class"]: row["drop_points"] for row in rows}
    ranks = {
        name: 1 + sum(other > value for other in drops.values()) for name, value in drops.items()
    }
    return [
        [signed_text(drops[name]), f"{ranks[name]} of {len(drops)}"] if name in drops else None
        for name in material.classes
    ]


def _conditions(material: Material) -> list[list[str]]:
    ids = [c["id"] for c in material.comparison["conditions"]]
    return [[condition, clean_text(material.condition_name(condition))] for condition in ids]


def _grid(material: Material) -> dict[str, Any] | None:
    """Headings and condition ids of the coverage x stride grid, the full clip in the first row."""
    if material.axes is None or len(material.comparison["conditions"]) < 2:
        return None
    return {
        "rows": [axis_text("coverage", value) for value in material.axes.coverages[::-1]],
        "columns": [axis_text("stride", value) for value in material.axes.strides],
        "cells": material.cell_ids[::-1].tolist(),
    }


def _shades() -> list[list[str]]:
    """Background and ink from 0 to 100 %, the same for every class, so that classes compare."""
    colors = accuracy_colormap()(np.linspace(0, 1, SHADES))
    return [[_hex(color), ink_on(color[:3])] for color in colors]


def _hex(color: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in color[:3])


def sample_lists(material: Material) -> list[list[Any]] | None:
    """Per class [count, ids] of what no entry gets right and [count, [[id, entries], ...]] of what
    entries differ on (None with one entry); None where single samples were not recorded."""
    section = material.comparison.get("hard_samples")
    if section is None:
        return None
    most = max(1, min(section["most_ids"], LISTED_IDS // (2 * max(1, len(section["classes"])))))
    places = {entry: place for place, entry in enumerate(material.entries)}
    found = []
    for row in section["classes"]:
        never, differ = row["none_right"], row["differ"]
        listed = [
            [_shown(sample["id"]), [places[entry] for entry in sample["right"]]]
            for sample in (differ or {"samples": []})["samples"][:most]
        ]
        found.append(
            [
                [never["count"], [_shown(name) for name in never["ids"][:most]]],
                None if differ is None else [differ["count"], listed],
            ]
        )
    return found


def _shown(sample: str) -> str:
    return shorten(clean_text(sample), ID_LETTERS)


def _words(material: Material) -> dict[str, str]:
    """Texts of the panel that depend on the study."""
    runs = material.comparison["provenance"]["seeds_per_entry"].values()
    several = max(runs, default=1) > 1
    alone = len(material.entries) < 2
    right = "with every seed" if several else ""
    return {
        "samples": material.words.samples,
        "groups": material.words.groups,
        "headline": clean_text(material.headline_name),
        "never": f"Wrong {right}".strip() if alone else f"Wrong in every entry {right}".strip(),
        "differ": f"Right in one entry, wrong in another {right}".strip(),
        "counts": "counts of all seeds together" if several else "counts",
    }
