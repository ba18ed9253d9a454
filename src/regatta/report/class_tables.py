"""Tables of the classification results: scores of every class, and what a score is worth."""

from __future__ import annotations

from typing import Any

from regatta.report.contents import COMPARISON, entry_cell, entry_column
from regatta.report.material import Material
from regatta.report.tables import Cell, Column, Table, number_cell, text_cell

CLASS_SCORES = (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
CALIBRATION = (("nll", "NLL"), ("brier", "Brier"), ("ece", "ECE"))
"""Key of the comparison and heading; `<key>_scaled` is the same after temperature scaling."""


def class_scores_table(material: Material) -> Table | None:
    """Precision, recall and F1 of every entry and class; None where they were not computed."""
    found = material.classification
    if not found:
        return None
    columns = [
        Column("class", ("class",), numeric=False),
        entry_column(),
        *(Column(heading, (key,)) for key, heading in CLASS_SCORES),
        Column("support", ("support",), note=f"judged {material.words.samples} of the class"),
    ]
    rows = [
        _score_row(material, entry, row)
        for place in range(len(material.classes))
        for entry, part in found.items()
        for row in part["per_class"][place : place + 1]
    ]
    title = f"Precision, recall and F1 at {material.headline_name}"
    return Table("class_scores", title, columns, rows)


def _score_row(material: Material, entry: str, row: dict[str, Any]) -> list[Cell]:
    source = f"{COMPARISON}: classification, {entry}, {row['class']}"
    return [
        text_cell(row["class"]),
        entry_cell(material, entry),
        *(number_cell(row[key], "{:.3f}".format, source=source) for key, _ in CLASS_SCORES),
        number_cell(row["support"], "{:,}".format, source=source),
    ]


def calibration_table(material: Material) -> Table | None:
    """NLL, Brier and ECE as trained and after temperature scaling; None without them."""
    found = material.classification
    if not any(part.get("ece") is not None for part in found.values()):
        return None
    has_scaled = any(part.get("temperature") is not None for part in found.values())
    columns = [entry_column(), *(Column(heading, (key,)) for key, heading in CALIBRATION)]
    if has_scaled:
        note = "fitted on the validation split"
        columns.append(Column("temperature", ("temperature",), note=note))
        columns += [
            Column(f"{heading}, scaled", (f"{key}_scaled",), note=note)
            for key, heading in CALIBRATION
        ]
    rows = [_calibration_row(material, name, part, has_scaled) for name, part in found.items()]
    return Table(
        "calibration", f"Calibration at {material.headline_name}, lower is better", columns, rows
    )


def _calibration_row(
    material: Material, entry: str, part: dict[str, Any], has_scaled: bool
) -> list[Cell]:
    source = f"{COMPARISON}: classification, {entry}"

    def cell(key: str) -> Cell:
        value = part.get(key)
        if isinstance(value, (list, tuple, dict)):
            several = list(value.values()) if isinstance(value, dict) else list(value)
            text = ", ".join(f"{v:.3f}" for v in several if v is not None)
            return Cell(text, (text,), source)
        return number_cell(value, "{:.3f}".format, source=source)

    cells = [entry_cell(material, entry), *(cell(key) for key, _ in CALIBRATION)]
    if has_scaled:
        cells += [cell("temperature"), *(cell(f"{key}_scaled") for key, _ in CALIBRATION)]
    return cells
