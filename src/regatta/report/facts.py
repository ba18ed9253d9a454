"""What a reader must know beside the verdict: sizes, caveats, notes, recipes that differ."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from regatta.analysis.judged import is_origin_note
from regatta.core.passed_on import without_folders
from regatta.report.material import Material
from regatta.report.style import clean_text
from regatta.report.tables import Table
from regatta.report.words import NO_SUBJECTS

CAVEAT = re.compile(r"^leaky\b|\bcoarse\b|\bconfounded\b|" + "|".join(NO_SUBJECTS))
"""What notes say that limit what the verdict means: they stand beside it."""
LEAKY_DESIGN = "window-random"


def sentence(text: str, names: Sequence[str]) -> str:
    """`text` with a capital and a full stop; an entry's name keeps its spelling."""
    text = INTERVAL.sub("[\\1,\u00a0\\2]", NUMBER_MINUS.sub("−", text.strip()))
    if not any(text.startswith(name) for name in names):
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


INTERVAL = re.compile(r"\[(\S+), (\S+)\]")
NUMBER_MINUS = re.compile(r"(?<![\w.)\]-])-(?=\d)")


def facts(material: Material) -> list[tuple[str, str, str]]:
    """(label, number, note) of the row of facts under the verdict."""
    comparison = material.comparison
    provenance_record, words = comparison["provenance"], material.words
    seeds = sorted(set(provenance_record["seeds_per_entry"].values()))
    uncovered = (
        "training noise not covered" if seeds[-1] == 1 else "training noise not covered for all"
    )
    shown_seeds = " to ".join(str(n) for n in (seeds if len(seeds) < 3 else (seeds[0], seeds[-1])))
    per_class = comparison["per_class"]["n_samples"]
    parted = "split at random" if is_leaky(material) else "never split"
    imports = comparison["study"].get("imports") or []
    if material.is_foreign and all(row["groups"] == "none" for row in imports):
        parted = "every sample by itself"
    groups = (words.groups.capitalize(), f"{provenance_record['groups']:,}", parted)
    return [
        ("Entries", str(len(material.entries)), ""),
        (
            f"{words.samples.capitalize()} judged",
            f"{provenance_record['n']:,}",
            judged_on(material),
        ),
        *([] if material.by_class else [groups]),
        ("Classes", str(len(per_class)), ""),
        ("Conditions", str(len(comparison["conditions"])), comparison["study"]["protocol"]),
        ("Seeds per entry", shown_seeds, uncovered if seeds[0] == 1 else ""),
    ]


def judged_on(material: Material) -> str:
    """Which samples were judged."""
    if material.is_foreign:
        return "elsewhere"
    split = material.comparison["study"]["split"]
    return f"over {material.folds} folds" if material.folds else f"{split} split"


def recipe_differences(differences: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """(recipe key, "entry value, entry value") for every key in which recipes differ."""
    return [
        (key, ", ".join(f"{entry} {json.dumps(value)}" for entry, value in values.items()))
        for key, values in differences.items()
    ]


def caveats(material: Material) -> list[str]:
    """Notes that limit what the verdict means, as sentences."""
    return [_as_sentence(material, text) for text in _caveat_texts(material)]


def _caveat_texts(material: Material) -> list[str]:
    found = [t for t in _all_notes(material) if CAVEAT.search(t) or is_origin_note(t)]
    return list(dict.fromkeys(found))


def is_leaky(material: Material) -> bool:
    """Whether neighbours of one recording stand on both sides of the split."""
    return bool(material.comparison["study"].get("is_leaky"))


def with_leak(material: Material, table: Table) -> Table:
    """A table of windows split at random says in its title that its numbers leak."""
    if not is_leaky(material):
        return table
    return replace(table, title=f"{table.title} (leaky: windows split at random)")


def notes(material: Material) -> list[str]:
    """What the source and the comparison say besides; missing runs stand apart."""
    comparison = material.comparison
    apart = {*comparison["missing"], *comparison["budget"]["warnings"]}
    apart |= set(_caveat_texts(material))
    found = [text for text in _all_notes(material) if text not in apart]
    short = comparison["data"].get("short_clips") or {}
    if short and not material.is_signal and not material.is_image:
        counts = ", ".join(f"{name} {value}" for name, value in short.items())
        found.append(f"clips with fewer frames than a model needs: {counts}")
    return [_as_sentence(material, text) for text in dict.fromkeys(found)]


def _all_notes(material: Material) -> list[str]:
    comparison = material.comparison
    return [str(text) for text in (*comparison["notes"], *comparison["data"].get("notes", []))]


def _as_sentence(material: Material, text: str) -> str:
    return sentence(clean_text(without_folders(text)), material.entries)
