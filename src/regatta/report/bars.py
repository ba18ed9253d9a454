"""Figures of single numbers: classes, best conditions, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regatta.report.curves import accuracy_limits, add_legend
from regatta.report.heatmaps import GridAxes, axis_number
from regatta.report.style import (
    INK,
    MUTED,
    PALETTE,
    entry_color,
    entry_marker,
    figure_label,
    name_figure,
    name_labels,
    new_figure,
    padded_limits,
)


def per_class_distribution(title: str, accuracy: np.ndarray, *, axes: GridAxes) -> Figure:
    """How class accuracies [classes, coverages] in percent spread: a dot per class, a box over."""
    figure = new_figure(4.6, 3.0)
    ax = figure.add_subplot()
    for column in range(accuracy.shape[1]):
        values = accuracy[:, column]
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        ax.scatter(
            column + side_by_side(values),
            values,
            s=9,
            color=PALETTE[0],
            alpha=0.45,
            linewidths=0,
            zorder=2,
        )
        if values.size >= 4:
            ax.boxplot(
                values, positions=[column], widths=0.62, whis=(0, 100),
                showcaps=False, manage_ticks=False,
                medianprops={"color": PALETTE[1], "linewidth": 1.6},
                boxprops={"color": MUTED, "linewidth": 0.8},
                whiskerprops={"color": MUTED, "linewidth": 0.8},
            )  # fmt: skip
        else:
            ax.hlines(
                np.median(values), column - 0.31, column + 0.31, color=PALETTE[1], linewidth=1.6
            )
    ax.set_xticks(range(len(axes.coverages)), [axis_number(c) for c in axes.coverages])
    ax.set_xlim(-0.6, len(axes.coverages) - 0.4)
    ax.set_ylim(*accuracy_limits(accuracy))
    ax.set(xlabel="coverage, %", ylabel="class accuracy, %")
    name_figure(ax, title)
    return figure


def side_by_side(values: np.ndarray, *, width: float = 0.26, bins: int = 40) -> np.ndarray:
    """Sideways shifts [n] that keep close values apart; equal input gives equal shifts."""
    low, high = values.min(), values.max()
    levels = np.round((values - low) / max(high - low, 1e-9) * bins).astype(int)
    shifts = np.zeros(len(values))
    for level in np.unique(levels):
        members = np.flatnonzero(levels == level)
        if len(members) > 1:
            shifts[members] = np.linspace(-1, 1, len(members)) * width * min(1.0, len(members) / 8)
    return shifts


@dataclass(frozen=True)
class ClassLine:
    """One representative class: its accuracies [coverages] and the rule that chose it.

    `label` is one of `style.name_labels` over all classes: numbers in it are class numbers.
    """

    label: str
    kind: str
    """sensitive | typical | robust."""
    accuracy: np.ndarray


KIND_COLORS = {"sensitive": PALETTE[1], "typical": MUTED, "robust": PALETTE[0]}


def per_class_representative(title: str, lines: Sequence[ClassLine], *, axes: GridAxes) -> Figure:
    """Accuracy against coverage of the classes that lose most, typically and least."""
    figure = new_figure(4.6, 3.0)
    ax = figure.add_subplot()
    handles = []
    for line in lines:
        order = [other for other in lines if other.kind == line.kind].index(line)
        handles += ax.plot(
            axes.coverages, line.accuracy, color=KIND_COLORS[line.kind], marker=entry_marker(order),
            linestyle=("-", (0, (4, 1.5)), (0, (1, 1)))[order % 3],
        )  # fmt: skip
    ax.set_xticks(axes.coverages, [axis_number(c) for c in axes.coverages])
    ax.set_xlim(*padded_limits(axes.coverages))
    ax.set_ylim(*accuracy_limits(*[line.accuracy for line in lines]))
    ax.set(xlabel="coverage, %", ylabel="class accuracy, %")
    name_figure(ax, title)
    add_legend(figure, handles, [f"{line.label} ({line.kind})" for line in lines])
    return figure


def per_class_bars(title: str, names: Sequence[str], accuracy: np.ndarray) -> Figure:
    """Class accuracies at one condition, best on top; many names shrink, none is left out."""
    count = len(names)
    inches = 0.2 if count <= 40 else 0.115
    figure = new_figure(5.6, 0.9 + inches * count)
    ax = figure.add_subplot()
    order = np.argsort(np.nan_to_num(accuracy, nan=-1.0), kind="stable")
    places = np.arange(count)
    ax.hlines(places, 0, accuracy[order], color=PALETTE[5], linewidth=min(4.0, inches * 22))
    ax.plot(accuracy[order], places, "o", color=PALETTE[0], markersize=min(4.0, inches * 24))
    labels = name_labels(names, limit=30)
    ax.set_yticks(places, [labels[place] for place in order], fontsize=min(7.5, inches * 60))
    ax.set_ylim(-0.8, count - 0.2)
    ax.set_xlim(*accuracy_limits([0.0], accuracy))
    ax.set_xlabel("accuracy, %")
    ax.grid(visible=False, axis="y")
    name_figure(ax, title, left_inches=2.2)
    return figure


@dataclass(frozen=True)
class BestCell:
    """An entry's accuracy (value, low, high in percent) at headline and best condition."""

    entry: str
    position: int
    headline: tuple[float, float, float]
    best: tuple[float, float, float] | None
    best_label: str


def comparison_best_accuracy(cells: Sequence[BestCell]) -> Figure:
    """A row per entry: hollow = headline condition, filled = its best; lines = intervals."""
    figure = new_figure(5.8, 0.85 + 0.42 * len(cells))
    ax = figure.add_subplot()
    handles: dict[str, Any] = {}
    for row, cell in enumerate(reversed(cells)):
        if cell.best is None:
            handles["headline condition"] = _dot(ax, row, cell.headline, hollow=False, cell=cell)
            continue
        handles["headline condition"] = _dot(ax, row - 0.14, cell.headline, hollow=True, cell=cell)
        handles["best of its conditions"] = _dot(ax, row + 0.14, cell.best, hollow=False, cell=cell)
        ax.annotate(
            cell.best_label, (cell.best[0], row + 0.14),
            xytext=(0, 4.5), textcoords="offset points",
            ha="center", va="bottom", fontsize=6.2, color=MUTED,
        )  # fmt: skip
    labels = name_labels([cell.entry for cell in cells], limit=26)
    ax.set_yticks(range(len(cells)), labels[::-1])
    ax.set_ylim(-0.6, len(cells) - 0.25)
    ax.set_xlim(
        *accuracy_limits(*[v for c in cells for v in (c.headline, c.best) if v is not None])
    )
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("accuracy, %")
    if len(handles) > 1:
        add_legend(figure, list(handles.values()), list(handles))
    return figure


def _dot(
    ax: Axes, row: float, value: tuple[float, float, float], *, hollow: bool, cell: BestCell
) -> Any:
    accuracy, low, high = value
    if np.isfinite(low) and np.isfinite(high):
        ax.hlines(row, low, high, color=entry_color(cell.position), linewidth=1.2)
    return entry_dot(ax, [accuracy], [row], cell.position, size=6, hollow=hollow)


@dataclass(frozen=True)
class PairRow:
    """First minus second, paired by sample, in points."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    decided: bool
    """The corrected test says that the two differ."""


def forest_plot(
    panels: Sequence[tuple[str, Sequence[PairRow]]],
    *,
    margin_points: float | None,
    confidence: float,
) -> Figure:
    """Paired differences with intervals, one panel per (title, pairs); all have the same pairs.

    Shaded = the equivalence margin of the study; filled = the corrected test says they differ.
    """
    pairs = panels[0][1]
    labels = name_labels([f"{pair.first} − {pair.second}" for pair in pairs], limit=44)[::-1]
    width = 0.8 + 0.062 * max(len(label) for label in labels) + 3.4 * len(panels)
    figure = new_figure(width, 0.95 + 0.27 * len(pairs))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    limits = _forest_limits([pair for _, rows in panels for pair in rows], margin_points)
    for ax, (title, rows) in zip(grid, panels, strict=True):
        _draw_forest(ax, rows, margin_points)
        ax.set_xlim(*limits)
        ax.set_title(figure_label(title, limit=44), fontsize=8)
    grid[0].set_yticks(range(len(pairs)), labels)
    grid[0].set_ylim(-0.7, len(pairs) - 0.3)
    figure.supxlabel(
        f"difference in accuracy, points, with {100 * confidence:g} % interval", fontsize=8
    )
    return figure


def _forest_limits(pairs: Sequence[PairRow], margin_points: float | None) -> tuple[float, float]:
    ends = [value for pair in pairs for value in (pair.difference, pair.low, pair.high)]
    reach = [0.0] if margin_points is None else [-margin_points, margin_points]
    return padded_limits(ends, reach)


def _draw_forest(ax: Axes, pairs: Sequence[PairRow], margin_points: float | None) -> None:
    if margin_points is not None:
        ax.axvspan(-margin_points, margin_points, color="#E9EDF3", linewidth=0, zorder=0)
    ax.axvline(0, color=MUTED, linewidth=0.8)
    for row, pair in enumerate(reversed(pairs)):
        color = INK if pair.decided else MUTED
        if np.isfinite(pair.low) and np.isfinite(pair.high):
            ax.hlines(row, pair.low, pair.high, color=color, linewidth=1.6)
        face = color if pair.decided else "white"
        ax.plot([pair.difference], [row], "s", color=color, markerfacecolor=face, markersize=5)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(pairs)), [_interval_text(p) for p in reversed(pairs)], fontsize=7)
    right.tick_params(length=0)
    right.spines[:].set_visible(False)


def _interval_text(pair: PairRow) -> str:
    if not (np.isfinite(pair.low) and np.isfinite(pair.high)):
        return f"{pair.difference:+.1f}"
    return f"{pair.difference:+.1f} [{pair.low:+.1f}, {pair.high:+.1f}]"


def entry_dot(
    ax: Axes, x: list[float], y: list[float], position: int, *, size: float, hollow: bool = False
) -> Any:
    """One entry's mark in its colour and shape; hollow = a white face."""
    color = entry_color(position)
    face = "white" if hollow else color
    return ax.plot(
        x, y, entry_marker(position), color=color, markerfacecolor=face, markersize=size
    )[0]
