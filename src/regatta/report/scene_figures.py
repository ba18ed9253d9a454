"""Figures of a study of scenes: errors by class, under changed conditions, examples, maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from regatta.analysis.scene_pairs import error_text
from regatta.report.comparison_figures import percent_interval
from regatta.report.curves import accuracy_limits, add_legend
from regatta.report.material import Material
from regatta.report.scene_pictures import attention_figure, forecast_figure
from regatta.report.scene_tables import error_words
from regatta.report.style import (
    MUTED,
    Drawn,
    FigureGap,
    drawn,
    entry_color,
    entry_marker,
    figure_label,
    name_labels,
    new_figure,
    padded_limits,
)

LOG_FROM = 30.0
"""From this ratio of the largest error to the smallest on, errors stand on a logarithmic axis."""
REFERENCES = {"constant velocity": "_", "last position": "x"}
PANEL_INCHES, PANELS_ACROSS = 1.55, 4
UNCHANGED = "as is"
PANEL_TITLES = {
    "prefix": "frames, from the start",
    "spread": "frames, spread evenly",
    "stride": "stride, frames",
    "noise": "pixel noise, sd",
    "blur": "blur, px",
    "dropped": "share of frames dropped",
    "camera": "cameras turned, degrees",
    "distractors": "distractors",
    "views-missing": "cameras missing",
    "h264": "H.264, crf",
}


def scene_figures(material: Material) -> Iterator[Drawn]:
    section = material.comparison["scenes"]
    if section is None:
        return
    if section["targets"]:
        yield _error_by_class(material, section["targets"][0])
        yield forecast_figure(material, section)
    if section["robustness"]:
        yield _robustness(material, section)
    found = attention_figure(material)
    if found is not None:
        yield found


@dataclass(frozen=True)
class Series:
    """Values with ends [3, n] of one entry or reference."""

    name: str
    color: str
    marker: str
    values: np.ndarray
    is_reference: bool = False


def error_values(rows: Sequence[dict[str, Any] | None]) -> np.ndarray:
    """Estimate, low and high of intervals, [3, n]; NaN where not known."""
    keys = ("estimate", "low", "high")
    found = [[np.nan if (row or {}).get(k) is None else (row or {})[k] for k in keys]
             for row in rows]  # fmt: skip
    return np.array(found, dtype=float).reshape(len(rows), 3).T


def _error_by_class(material: Material, target: dict[str, Any]) -> Drawn:
    name, title = "error_by_class", "Error by class"
    if not target["entries"]:
        return FigureGap(name, title, "Errors of places are not measured, so none are drawn.")
    series = [
        Series(
            each["entry"],
            entry_color(material.positions[each["entry"]]),
            entry_marker(material.positions[each["entry"]]),
            error_values([row["mse"] for row in each["per_class"]]),
        )
        for each in target["entries"]
    ]
    for reference, marker in REFERENCES.items():
        found = target["baselines"].get(reference)
        if found is not None:
            values = error_values([row["mse"] for row in found["per_class"]])
            series.append(Series(reference, MUTED, marker, values, is_reference=True))
    told = "; ".join(
        f"{each.name} "
        + ", ".join(
            f"{label} {error_text(value)}"
            for label, value in zip(material.classes, each.values[0], strict=True)
            if np.isfinite(value)
        )
        for each in series
    )
    figure, left_out = class_figure(series, material.classes)
    hidden = f" Not on the logarithmic axis, as they are 0: {left_out}." if left_out else ""
    known = any(each.is_reference for each in series)
    grey = " Grey: what the true track gives without learning." if known else ""
    return drawn(
        name,
        figure,
        title=title,
        caption=f"Mean squared error of the {error_words(target)} at {material.headline_name}, "
        f"with {material.confidence} intervals.{grey}{hidden}",
        alt=f"Dots with intervals by class: {told}.",
    )


def class_figure(series: Sequence[Series], classes: Sequence[str]) -> tuple[Figure, str]:
    """The figure, and what a logarithmic axis cannot show."""
    figure = new_figure(max(4.6, 1.0 + 1.35 * len(classes)), 2.9)
    ax = figure.add_subplot()
    everything = np.concatenate([each.values[0] for each in series])
    positive = everything[np.isfinite(everything) & (everything > NO_LOG)]
    is_log = len(positive) > 0 and positive.max() > LOG_FROM * positive.min()
    handles, left_out = [], []
    for place, each in enumerate(series):
        x = np.arange(len(classes)) + 0.62 * ((place + 0.5) / len(series) - 0.5)
        value, low, high = each.values
        shown = np.isfinite(value) & ((value > NO_LOG) if is_log else True)
        hidden = np.flatnonzero(np.isfinite(value) & ~shown).tolist()
        left_out += [f"{each.name} on {classes[k]}" for k in hidden]
        ends = shown & np.isfinite(low) & np.isfinite(high)
        ax.vlines(x[ends], low[ends], high[ends], color=each.color, linewidth=1.0)
        handles += ax.plot(x[shown], value[shown], each.marker, color=each.color, markersize=4.8)
    if is_log:
        log_axis(ax)
    else:
        ax.set_ylim(*padded_limits(*[each.values for each in series], floor=0.0))
    for k in range(1, len(classes)):
        ax.axvline(k - 0.5, color="#E3E6EB", linewidth=0.7)
    ax.set_xticks(range(len(classes)), name_labels(classes, limit=18))
    ax.set_xlim(-0.5, len(classes) - 0.5)
    ax.grid(visible=False, axis="x")
    ax.set_ylabel("MSE, u²")
    add_legend(figure, handles, name_labels([each.name for each in series], limit=34))
    return figure, "; ".join(left_out)


NO_LOG = 1e-9
"""Squared errors up to here, in u^2, are rounding and have no place on a logarithmic axis."""


def log_axis(ax: Axes) -> None:
    """A logarithmic y axis whose ticks are plain numbers."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.minorticks_off()


@dataclass(frozen=True)
class ChangePanel:
    """One kind of change: tick labels, and rows of the section by entry in their order."""

    title: str
    ticks: list[str]
    rows: dict[str, list[dict[str, Any]]]
    is_ordered: bool


def change_panels(
    section: dict[str, Any], entries: Sequence[str], names: dict[str, str]
) -> list[ChangePanel]:
    """A panel for each change with levels, the unchanged scenes first; those without in one.

    Args:
        names: condition id -> its words.
    """
    by_entry = {name: [r for r in section["robustness"] if r["entry"] == name] for name in entries}
    first = by_entry[entries[0]]
    reference = next((row["condition"] for row in first if row["is_reference"]), None)
    levels: dict[str, list[dict[str, Any]]] = {}
    for row in first:
        if row["condition"] != reference:
            levels.setdefault(row["change"], []).append(row)
    single = [rows[0] for rows in levels.values() if len(rows) == 1]
    panels = []

    def panel(title: str, rows: list[dict[str, Any]], ticks: list[str], ordered: bool) -> None:
        wanted = [*([reference] if reference else []), *(row["condition"] for row in rows)]
        found = {
            name: [next(r for r in mine if r["condition"] == c) for c in wanted]
            for name, mine in by_entry.items()
        }
        panels.append(
            ChangePanel(title, [*([UNCHANGED] if reference else []), *ticks], found, ordered)
        )

    for change, rows in levels.items():
        if len(rows) > 1:
            ticks = [names[r["condition"]] if r["level"] is None else f"{r['level']:g}"
                     for r in rows]  # fmt: skip
            panel(PANEL_TITLES.get(change, change), rows, ticks, ordered=True)
    if single:
        panel("other changes", single, [names[r["condition"]] for r in single], ordered=False)
    return panels


def _robustness(material: Material, section: dict[str, Any]) -> Drawn:
    names = {c["id"]: material.condition_name(c["id"]) for c in material.comparison["conditions"]}
    panels = change_panels(section, material.entries, names)
    has_errors = any(row["mse"] is not None for row in section["robustness"])
    figure = robustness_figure(material, panels, has_errors=has_errors)
    lowest = min(section["robustness"], key=lambda row: row["accuracy"]["estimate"])
    what = f" and error of the {error_words(section['targets'][0])}" if has_errors else ""
    return drawn(
        "robustness",
        figure,
        title="Under changed conditions",
        caption=f"Accuracy{what} with {material.confidence} intervals. Levels "
        "stand in the order of the protocol.",
        alt=f"{len(panels)} panels of accuracy{what}; lowest accuracy "
        f"{100 * lowest['accuracy']['estimate']:.1f} % of {lowest['entry']} at "
        f"{names[lowest['condition']]}.",
    )


def robustness_figure(
    material: Material, panels: Sequence[ChangePanel], *, has_errors: bool
) -> Figure:
    """Blocks of panels, accuracy above RMSE; PANELS_ACROSS changes side by side."""
    columns = min(PANELS_ACROSS, len(panels))
    blocks = -(-len(panels) // columns)
    kinds = 2 if has_errors else 1
    figure = new_figure(1.0 + 1.9 * columns, PANEL_INCHES * kinds * blocks)
    grid = figure.subplots(blocks * kinds, columns, squeeze=False)
    handles: list[Any] = []
    shares, roots = [], []
    for number in range(blocks * columns):
        block, column = divmod(number, columns)
        axes = [grid[block * kinds + kind][column] for kind in range(kinds)]
        if number >= len(panels):
            for ax in axes:
                ax.set_visible(False)
            continue
        panel = panels[number]
        handles = _draw_panel(material, axes[0], panel, "accuracy", shares)
        axes[0].set_title(figure_label(panel.title, limit=30), fontsize=8)
        if has_errors:
            _draw_panel(material, axes[1], panel, "mse", roots)
        axes[0].set_ylabel("accuracy, %" if column == 0 else "")
        if has_errors:
            axes[1].set_ylabel("RMSE, u" if column == 0 else "")
    for row, axes_row in enumerate(grid):
        limits = accuracy_limits(*shares) if row % kinds == 0 else padded_limits(*roots, floor=0.0)
        for ax in axes_row:
            ax.set_ylim(*limits)
    add_legend(figure, handles, name_labels(material.entries, limit=34))
    return figure


def _draw_panel(
    material: Material, ax: Axes, panel: ChangePanel, key: str, seen: list[np.ndarray]
) -> list[Any]:
    handles, count = [], len(panel.rows)
    x = np.arange(len(panel.ticks), dtype=float)
    for place, (name, rows) in enumerate(panel.rows.items()):
        if key == "accuracy":
            values = np.array([percent_interval(row["accuracy"]) for row in rows]).T
        else:
            values = np.sqrt(np.maximum(error_values([row["mse"] for row in rows]), 0))
        seen.append(values)
        value, low, high = values
        aside = x + 0.18 * ((place + 0.5) / count - 0.5)
        position = material.positions[name]
        ends = np.isfinite(low) & np.isfinite(high)
        color = entry_color(position)
        ax.vlines(aside[ends], low[ends], high[ends], color=color, linewidth=0.8, alpha=0.7)
        line = "-" if panel.is_ordered else "none"
        handles += ax.plot(
            aside, value, color=color, marker=entry_marker(position), markersize=3.8,
            linewidth=1.2, linestyle=line,
        )  # fmt: skip
    labels = name_labels(panel.ticks, limit=16)
    slanted = max(map(len, labels)) * len(labels) > 26
    ax.set_xticks(x, labels, rotation=32 if slanted else 0, ha="right" if slanted else "center")
    ax.set_xlim(-0.4, len(x) - 0.6)
    ax.grid(visible=False, axis="x")
    return handles
