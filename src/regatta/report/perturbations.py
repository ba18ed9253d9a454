"""The protocol sensor-robustness as panels and as a table: accuracy under each perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from regatta.report.contents import interval_cell, interval_keys, row_interval, row_source
from regatta.report.material import Material
from regatta.report.tables import Cell, Column, Table
from regatta.report.window_plots import LevelLine, PerturbationPanel
from regatta.report.words import perturbation_words


@dataclass(frozen=True)
class PanelKind:
    """One panel: its title and the perturbations in it, the second one drawn dashed.

    `ticks` replaces levels by words, one per perturbation, where there is no level to speak of.
    """

    title: str
    perturbations: tuple[str, ...]
    variants: tuple[str, str] | None = None
    ticks: tuple[str, ...] = ()


KINDS = (
    PanelKind("noise, share of the channel's sd", ("noise",)),
    PanelKind("device turned, degrees", ("rotation",)),
    PanelKind("gain", ("gain",)),
    PanelKind(
        "missing part",
        ("one-channel-missing", "one-sensor-missing"),
        ticks=("one channel", "one sensor"),
    ),
    PanelKind("channel missing, its number", ("channel",)),
    PanelKind("sensor missing, its number", ("sensor",)),
    PanelKind("missing block, % of the window", ("block",)),
    PanelKind("rate, Hz", ("rate-lowpass", "rate"), ("after a low-pass", "without low-pass")),
    PanelKind("start later, points", ("offset",)),
)
UNORDERED = ("channel", "sensor")


def is_robustness(material: Material) -> bool:
    return material.is_signal and set(material.comparison["axes"]) == {"perturbation", "level"}


def reference_rows(material: Material) -> dict[str, dict[str, Any]]:
    """The row of the unchanged windows by entry."""
    reference = next(c["id"] for c in material.comparison["conditions"] if c["is_reference"])
    return {entry: material.rows[entry, reference] for entry in material.entries}


def perturbation_panels(material: Material) -> list[PerturbationPanel]:
    """A panel for each kind of perturbation that was judged; empty for any other protocol."""
    if not is_robustness(material):
        return []
    known = {name for kind in KINDS for name in kind.perturbations}
    named = dict.fromkeys(
        c["axes"]["perturbation"]
        for c in material.comparison["conditions"]
        if not c["is_reference"]
    )
    kinds = [*KINDS, *(PanelKind(name, (name,)) for name in named if name not in known)]
    panels = [_panel(material, kind) for kind in kinds if set(kind.perturbations) & set(named)]
    return [panel for panel in panels if panel.lines]


def _panel(material: Material, kind: PanelKind) -> PerturbationPanel:
    cells = [
        (c["axes"], c["id"])
        for c in material.comparison["conditions"]
        if c["axes"]["perturbation"] in kind.perturbations and not c["is_reference"]
    ]
    if kind.ticks:
        places = {name: float(n) for n, name in enumerate(_present(kind, cells))}
        ticks = [kind.ticks[kind.perturbations.index(name)] for name in places]
        found = [(places[axes["perturbation"]], 0, cell) for axes, cell in cells]
    else:
        levels = sorted(
            {float(axes["level"]) for axes, _ in cells}, reverse="rate" in kind.perturbations
        )
        ticks = [f"{level:g}" for level in levels]
        found = [
            (
                float(levels.index(float(axes["level"]))),
                kind.perturbations.index(axes["perturbation"]),
                cell,
            )
            for axes, cell in cells
        ]
    lines = [
        _line(material, entry, [(x, cell) for x, v, cell in found if v == variant], variant)
        for entry in material.entries
        for variant in sorted({v for _, v, _ in found})
    ]
    ordered = not kind.ticks and not set(kind.perturbations) & set(UNORDERED)
    variants = kind.variants if len({v for _, v, _ in found}) > 1 else None
    return PerturbationPanel(kind.title, ticks, lines, is_ordered=ordered, variants=variants)


def _present(kind: PanelKind, cells: list[tuple[dict[str, Any], str]]) -> list[str]:
    judged = {axes["perturbation"] for axes, _ in cells}
    return [name for name in kind.perturbations if name in judged]


def _line(
    material: Material, entry: str, cells: list[tuple[float, str]], variant: int
) -> LevelLine:
    cells = sorted(cells)
    rows = [material.rows[entry, cell] for _, cell in cells]
    columns = (
        np.array([np.nan if row[key] is None else 100 * row[key] for row in rows])
        for key in ("accuracy", "accuracy_low", "accuracy_high")
    )
    places = np.array([x for x, _ in cells])
    return LevelLine(entry, material.positions[entry], places, *columns, variant=variant)


def perturbations_table(material: Material) -> Table | None:
    """A row per condition, a column per entry; None for any other protocol."""
    if not is_robustness(material):
        return None
    columns = [
        Column("windows", ("perturbation", "level"), numeric=False),
        *(Column(f"{entry}, %", interval_keys(f"{entry}_percent")) for entry in material.entries),
    ]
    rows = []
    for condition in material.comparison["conditions"]:
        axes = condition["axes"]
        words = perturbation_words(axes) or condition["id"]
        cells = [material.rows[entry, condition["id"]] for entry in material.entries]
        rows.append(
            [
                Cell(words, (axes["perturbation"], axes["level"])),
                *(
                    interval_cell(row_interval(row), factor=100, source=row_source(row))
                    for row in cells
                ),
            ]
        )
    title = f"Accuracy under perturbations, with {material.confidence} intervals"
    return Table("perturbations", title, columns, rows)
