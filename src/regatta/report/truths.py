"""What the conditions really showed, in sentences: still frames and identical clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regatta.report.material import Material


def condition_truths(material: Material) -> list[str]:
    """The truth about the conditions: which show still frames and which the same clips."""
    said: dict[str, list[str]] = {}
    for entry in material.entries:
        rows = [row for row in material.comparison["table"] if row["model"] == entry]
        for text in [] if material.is_image else _cell_truths(rows):
            said.setdefault(text, []).append(entry)
    return [f"{_listed(entries)}: {text}." for text, entries in said.items()]


def _cell_truths(rows: list[dict[str, Any]]) -> list[str]:
    """What is odd in the conditions of one entry, at most three sentences."""
    still = [row["condition"] for row in rows if (row["still_share"] or 0) >= 1]
    partly = [row["condition"] for row in rows if 0 < (row["still_share"] or 0) < 1]
    twins = {(row["condition"], *row["identical_to"]) for row in rows if row["identical_to"]}
    groups = dict.fromkeys(
        tuple(r["condition"] for r in rows if r["condition"] in group) for group in sorted(twins)
    )
    parts = []
    if still:
        parts.append(f"one still frame in {_listed(still)}")
    if partly:
        parts.append(f"one still frame in some samples of {_listed(partly)}")
    if groups:
        parts.append("identical clips in " + "; ".join(" = ".join(group) for group in groups))
    return parts


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
