"""What was raced over windows of signals: model, encoder, and what of it was trained."""

from __future__ import annotations

import ast
from typing import Any

from regatta.core.passed_on import without_folders
from regatta.core.registry import MODELS
from regatta.report.contents import entry_cell, entry_column
from regatta.report.material import Material
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, text_cell

CHECKPOINTS = {"none": "random", "default": "published"}
PICTURE_OPTIONS = (("encoder", "encoder"), ("mode", "mode"), ("pool", "pool"))
NONE = "–"


def entries_table(material: Material) -> Table | None:
    """A row per entry; None for videos, whose entries are told by model and size alone."""
    if not material.is_signal or not material.runs:
        return None
    has_encoder = any("encoder" in entry_options(material, e) for e in material.entries)
    columns = [entry_column(), Column("model", ("model",), numeric=False)]
    if has_encoder:
        columns += [Column(heading, (key,), numeric=False) for key, heading in PICTURE_OPTIONS]
        columns.append(Column("encoder weights", ("encoder_weights",), numeric=False))
        columns.append(Column("starting from", ("checkpoint",), numeric=False))
    columns.append(Column("labels used, %", ("label_percent",)))
    rows = [_row(material, entry, has_encoder) for entry in material.entries]
    return Table("entries", "Entries", columns, rows)


def entry_options(material: Material, entry: str) -> dict[str, Any]:
    """The options of an entry's model, with the defaults that its source text states."""
    section = material.runs_of(entry)[0].spec.entry
    listed = MODELS.listed.get(section.model)
    defaults = {} if listed is None or listed.options is None else listed.options
    return {**{key: _literal(text) for key, text in defaults.items()}, **section.options}


def _literal(text: str) -> Any:
    """A default as it is written; the text itself where it is no plain value."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _row(material: Material, entry: str, has_encoder: bool) -> list[Cell]:
    spec, options = material.runs_of(entry)[0].spec, entry_options(material, entry)
    cells = [entry_cell(material, entry), text_cell(spec.entry.model)]
    if has_encoder:
        own = "encoder" in options
        cells += [text_cell(options.get(key) if own else NONE) for key, _ in PICTURE_OPTIONS]
        state = "frozen" if spec.train.freeze_encoder else "trained"
        start = CHECKPOINTS.get(spec.entry.checkpoint, without_folders(spec.entry.checkpoint))
        cells += [text_cell(state if own else NONE), text_cell(start if own else NONE)]
    if spec.entry.is_imported:
        return [*cells, Cell(NOT_MEASURED, (None,))]
    percent = 100 * spec.train.label_fraction
    return [*cells, Cell(f"{percent:g}", (percent,), "study.yaml")]
