"""Accuracy against cost on the page: the figure, the table of fronts, and the sentences."""

from __future__ import annotations

from typing import Any

from regatta.analysis.pareto import few
from regatta.report.comparison_figures import percent_interval
from regatta.report.contents import COMPARISON, entry_cell, entry_column, interval_cell
from regatta.report.facts import sentence
from regatta.report.material import Material
from regatta.report.numbers import chance_text
from regatta.report.pareto_figure import (
    COUNT_UNITS,
    ENERGY_UNITS,
    TIME_UNITS,
    CostPanel,
    CostPoint,
    Units,
    accuracy_vs_cost,
)
from regatta.report.style import Drawn, FigureGap, drawn
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table

UNITS: dict[str, Units] = {"s": TIME_UNITS, "J": ENERGY_UNITS}


def _axes(material: Material) -> list[dict[str, Any]]:
    return material.comparison["pareto"]["axes"]


def axis_words(material: Material, axis: dict[str, Any]) -> str:
    """The name of a cost; what a forward pass is counted in depends on the kind of data."""
    return material.words.operations if axis["cost"] == "flops_per_clip" else axis["words"]


def _panel(material: Material, axis: dict[str, Any]) -> CostPanel:
    rows = {row["entry"]: row for row in axis["entries"]}
    is_flops = axis["cost"] == "flops_per_clip"
    factor = material.words.operations_per_flop if is_flops else 1.0
    points = []
    for entry in material.comparison["entries"]:
        name, row = entry["name"], rows.get(entry["name"])
        points.append(
            CostPoint(
                name,
                material.positions[name],
                percent_interval(entry["accuracy"]),
                None if row is None else factor * row["cost"],
                row is not None and row["on_front"],
            )
        )
    units = UNITS.get(axis["unit"], COUNT_UNITS)
    return CostPanel(axis_words(material, axis), units, points)


def cost_figure(material: Material) -> Drawn:
    name, title = "accuracy_vs_cost", "Accuracy against cost"
    panels = [_panel(material, axis) for axis in _axes(material)]
    figure = accuracy_vs_cost(panels)
    if figure is None:
        reason = "No cost was measured, so accuracy cannot be set against it."
        return FigureGap(name, title, reason)
    measured = [axis for axis in _axes(material) if axis["entries"]]
    lacking = [
        f"{axis_words(material, axis)} of {', '.join(axis['not_measured'])}"
        for axis in measured
        if axis["not_measured"]
    ]
    fronts = "; ".join(
        f"{axis_words(material, axis)}: {', '.join(axis['front'])}" for axis in measured
    )
    return drawn(
        name,
        figure,
        title=title,
        caption=f"Accuracy at {material.headline_name} with its {material.confidence} interval. "
        "Line and filled marks: the front, the best accuracy that a cost buys; a hollow entry is "
        "beaten by another that is at least as accurate and costs no more."
        + (f" Not measured: {'; '.join(lacking)}." if lacking else ""),
        alt=f"Accuracy against {len(measured)} costs. Entries on the front by {fronts}.",
    )


def _weighed(material: Material) -> list[dict[str, Any]]:
    """Costs that are known of two entries or more."""
    return [axis for axis in _axes(material) if len(axis["entries"]) > 1]


def pareto_table(material: Material) -> Table | None:
    """Per entry and cost: on the front, or beaten by whom; None with nothing to weigh."""
    axes = _weighed(material)
    if not axes:
        return None
    keys = ("on_front", "probability_on_front", "beaten_by")
    columns = [
        entry_column(),
        Column("accuracy, %", ("accuracy_percent", "accuracy_low", "accuracy_high")),
        *(
            Column(
                axis_words(material, axis),
                tuple(f"{axis['cost']}_{key}" for key in keys),
                numeric=False,
                note="in brackets: share of replicates in which it is on the front",
            )
            for axis in axes
        ),
    ]
    rows = []
    for entry in material.comparison["entries"]:
        source = f"{COMPARISON}: pareto, {entry['name']}"
        row = [
            entry_cell(material, entry["name"]),
            interval_cell(entry["accuracy"], factor=100, source=source),
        ]
        rows.append(row + [_front_cell(axis, entry["name"], source) for axis in axes])
    title = f"On the accuracy-cost front at {material.headline_name}"
    return Table("pareto", title, columns, rows)


def _front_cell(axis: dict[str, Any], entry: str, source: str) -> Cell:
    row = next((row for row in axis["entries"] if row["entry"] == entry), None)
    if row is None:
        return Cell(NOT_MEASURED, (None, None, None), source)
    chance = row["probability_on_front"]
    text = "front" if row["on_front"] else f"beaten by {few(row['beaten_by'])}"
    shown = text if chance is None else f"{text} ({chance_text(chance)})"
    return Cell(shown, (row["on_front"], chance, row["beaten_by"]), source)


def pareto_view(material: Material) -> dict[str, Any] | None:
    """The sentences under the figure; None with nothing to weigh."""
    axes = _weighed(material)
    if not axes:
        return None
    section, names = material.comparison["pareto"], material.entries
    notes = [f"{axis['words']} was {axis['note']}" for axis in axes if axis["note"]]
    return {
        "sentence": sentence(section["sentence"], names),
        "sentences": [sentence(axis["sentence"], names) for axis in axes],
        "notes": [sentence(note, names) for note in notes],
        "method": sentence(section["method"], []),
    }
