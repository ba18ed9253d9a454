"""The profile of a study, where one was measured: a table of rows and the batch sweep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from regatta.core.passed_on import without_folders
from regatta.records.profile_table import OUT_OF_MEMORY
from regatta.report import window_plots as plots
from regatta.report.material import Material
from regatta.report.style import Drawn, drawn
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, number_cell, text_cell

SWEEP = "sweep"
NUMBERS = (
    ("median_ms", "median, ms"),
    ("windows_per_second", "per second"),
    ("peak_gb", "peak, GB"),
    ("mb_per_window", "MB each"),
    ("largest_difference", "largest difference"),
)
"""Column of profile.csv and its heading."""


def measured_text(value: float) -> str:
    """Three digits, or all of them before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def profile_rows(material: Material) -> list[dict[str, Any]]:
    return [] if material.profile is None else material.profile["rows"]


def not_profiled(material: Material) -> list[str]:
    """What the profile says it lacks, and why."""
    return [without_folders(text) for text in (material.profile or {}).get("not_measured", [])]


def profile_table(material: Material) -> Table | None:
    """Every measurement of the profile; None where nothing was profiled."""
    rows = profile_rows(material)
    if not rows:
        return None
    shown = [part for part in NUMBERS if any(row.get(part[0]) is not None for row in rows)]
    columns = [
        Column("entry", ("entry",), numeric=False),
        Column("stage", ("stage",), numeric=False),
        Column("batch", ("batch",)),
        Column("precision", ("precision", "compiled"), numeric=False),
        Column("10 to 90 %, ms", ("p10_ms", "p90_ms"), note="of the timed calls"),
        *(Column(heading, (key,)) for key, heading in shown),
        Column("status", ("status",), numeric=False),
    ]
    cells = [_row(material, number, row, shown) for number, row in enumerate(rows)]
    return Table("profile", f"Profile on {material.profile_device}", columns, cells)


def _row(
    material: Material, number: int, row: dict[str, Any], shown: list[tuple[str, str]]
) -> list[Cell]:
    source = f"results/profile.csv, row {number + 1}"
    compiled = bool(row.get("compiled"))
    precision = f"{row['precision']}, compiled" if compiled else row["precision"] or "–"
    return [
        Cell(row["entry"], (row["entry"],), position=material.positions.get(row["entry"])),
        text_cell(row["stage"]),
        number_cell(row["batch"]),
        Cell(precision, (row["precision"], compiled)),
        _spread_cell(row, source),
        *(number_cell(row.get(key), measured_text, source=source) for key, _ in shown),
        Cell(row["status"], (row["status"],), without_folders(row.get("message") or source)),
    ]


def _spread_cell(row: dict[str, Any], source: str) -> Cell:
    low, high = row.get("p10_ms"), row.get("p90_ms")
    text = (
        NOT_MEASURED
        if low is None or high is None
        else f"{measured_text(low)} to {measured_text(high)}"
    )
    return Cell(text, (low, high), source)


def profile_figures(material: Material) -> Iterator[Drawn]:
    """Throughput and memory over batch sizes; nothing without a sweep."""
    lines = batch_lines(profile_rows(material))
    if not lines:
        return
    said = "; ".join(
        f"{line.name} up to {measured_text(np.nanmax(line.windows_per_second))} per second"
        for line in lines
        if np.isfinite(line.windows_per_second).any()
    )
    yield drawn(
        "profile",
        plots.batch_sweep(lines),
        title="Throughput and memory against batch size",
        caption=f"Training steps on {material.profile_device}. A cross marks a batch that did not "
        "fit into memory.",
        alt=f"Throughput and peak memory against batch size: {said or NOT_MEASURED}.",
    )


def batch_lines(rows: list[dict[str, Any]]) -> list[plots.BatchLine]:
    """The batch sweep as a line per entry and precision."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["stage"] == SWEEP:
            families.setdefault((row["entry"], row["precision"]), []).append(row)
    lines = []
    for (entry, precision), family in families.items():
        family = sorted(family, key=lambda row: row["batch"])
        measured = [row for row in family if row.get("windows_per_second") is not None]
        failed = [row["batch"] for row in family if row["status"] == OUT_OF_MEMORY]
        columns = (
            np.array([np.nan if row.get(k) is None else float(row[k]) for row in measured])
            for k in ("batch", "windows_per_second", "peak_gb")
        )
        if measured:
            name = f"{entry}, {precision}" if precision else entry
            lines.append(plots.BatchLine(name, *columns, failed=failed))
    return lines
