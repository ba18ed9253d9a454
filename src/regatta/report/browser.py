"""The condition browser: what the page shows for each cell, as ready texts and bar lengths."""

from __future__ import annotations

from typing import Any

from regatta.report.contents import (
    condition_columns,
    interval_cell,
    row_fact,
    row_interval,
    row_source,
)
from regatta.report.material import Material, axis_text
from regatta.report.words import corruption_words, perturbation_words


def browser_view(material: Material) -> dict[str, Any] | None:
    """Choices per axis and one record per cell; None when there is a single condition.

    A record's key is its axis values joined by "|", in the order of the choices. Texts are made
    here, so that the page's script only places them and never formats a number.
    """
    conditions = material.comparison["conditions"]
    if len(conditions) < 2:
        return None
    names = material.comparison["axes"]
    own_levels = material.is_signal or "disturbance" in names
    if not names or any(set(c["axes"]) != set(names) for c in conditions) or own_levels:
        # Conditions without common axes are chosen by name; so are perturbations, each of which
        # has levels of its own.
        keys = {c["id"]: c["id"] for c in conditions}
        choices = [(c["id"], _named(c)) for c in conditions]
        axes = [{"name": "condition", "choices": choices}]
    else:
        keys = {c["id"]: "|".join(str(c["axes"][name]) for name in names) for c in conditions}
        axes = [{"name": name, "choices": _choices(name, conditions)} for name in names]
    headline = material.comparison["headline_condition"]
    cells = {keys[c["id"]]: _cell(material, c["id"]) for c in conditions}
    return {
        "axes": axes,
        "chosen": keys[headline].split("|"),
        "cells": cells,
        "current": cells[keys[headline]],
        "columns": [(name, heading) for name, heading, _ in condition_columns(material)],
        "entries": [(entry, material.positions[entry]) for entry in material.entries],
    }


def _named(condition: dict[str, Any]) -> str:
    axes = condition["axes"]
    return perturbation_words(axes) or corruption_words(axes) or condition["id"]


def _choices(name: str, conditions: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(value, text) of every value of an axis: numbers ascending, words as the protocol lists."""
    values = list(dict.fromkeys(c["axes"][name] for c in conditions))
    numeric = all(isinstance(value, (int, float)) for value in values)
    ordered = sorted(values) if numeric else values
    return [(str(value), axis_text(name, value)) for value in ordered]


def _cell(material: Material, condition: str) -> dict[str, Any]:
    rows = [material.rows[(entry, condition)] for entry in material.entries]
    return {
        "id": condition,
        "note": _note(condition, rows, material),
        "entries": [_entry(material, row) for row in rows],
    }


def _entry(material: Material, row: dict[str, Any]) -> dict[str, Any]:
    shown = interval_cell(row_interval(row), factor=100).text
    accuracy, _, interval = shown.partition(" [")
    texts = {"accuracy": accuracy, "interval": f"[{interval}" if interval else ""}
    texts |= {name: row_fact(row, name, factor) for name, _, factor in condition_columns(material)}
    low, high = _percent(row["accuracy_low"]), _percent(row["accuracy_high"])
    return {
        "texts": texts,
        "accuracy": _percent(row["accuracy"]),
        "low": low if high is not None else None,
        "high": high if low is not None else None,
        "ceiling": _percent(row["ceiling"]),
        "source": row_source(row),
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _note(condition: str, rows: list[dict[str, Any]], material: Material) -> str:
    """What is odd about a cell, in words."""
    clips = f"{material.words.sample}s"
    parts = [] if material.is_signal or material.is_image else _still_notes(rows)
    twins = {tuple(row["identical_to"]) for row in rows}
    if len(twins) == 1 and rows[0]["identical_to"]:
        others = ", ".join(rows[0]["identical_to"])
        parts.append(f"Its {clips} are identical to those of {others}.")
    else:
        parts += [
            f"For {row['model']} its {clips} are identical to those of "
            f"{', '.join(row['identical_to'])}."
            for row in rows
            if row["identical_to"]
        ]
    return " ".join([f"Condition {condition}.", *parts])


def _still_notes(rows: list[dict[str, Any]]) -> list[str]:
    parts = []
    still = [row["model"] for row in rows if row["still_share"] and row["still_share"] >= 1]
    if still:
        who = "every entry" if len(still) == len(rows) else ", ".join(still)
        parts.append(f"In every clip {who} sees one still frame again and again.")
    for row in rows:
        share = row["still_share"]
        if share and 0 < share < 1:
            parts.append(
                f"{row['model']} sees one still frame in {100 * share:.0f} % of the clips."
            )
    return parts
