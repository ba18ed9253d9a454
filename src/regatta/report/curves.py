"""Accuracy against coverage and against distinct frames.

Accuracies are in percent. `low` and `high` are interval ends; NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from regatta.report.heatmaps import GridAxes, axis_number
from regatta.report.style import (
    MUTED,
    entry_color,
    entry_marker,
    name_figure,
    name_labels,
    new_figure,
    ordered_colors,
    padded_limits,
    shrinking,
)

MOST_BANDS = 4


@dataclass(frozen=True)
class EntryGrid:
    """One entry's accuracies over the grid, all arrays [coverages, strides] in percent.

    `position` is the entry's place in the study: it sets colour and marker. `ceiling` is None
    where the data set knows no oracle.
    """

    entry: str
    position: int
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ceiling: np.ndarray | None = None


def add_legend(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], *, title: str = ""
) -> None:
    """A legend under the axes with as many columns as the longest label leaves room for."""
    widest = max((len(label) for label in labels), default=1)
    room = int(figure.get_figwidth() * 72 / (7.5 * 0.62))
    columns = max(1, min(len(labels), room // (widest + 6)))
    # Figures are made taller by the legend, so that the axes keep their size with eight long names.
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * rows + (0.15 if title else 0.05))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns,
        title=title or None, title_fontsize=7.5,
        handlelength=2.2, columnspacing=1.4,
    )  # fmt: skip


def draw_band(
    ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: Any, *, fill: bool
) -> None:
    """Intervals at every x as whiskers, and as a band between them where `fill` says so."""
    known = np.isfinite(low) & np.isfinite(high)
    if known.sum() > 1 and fill:
        ax.fill_between(x, low, high, where=known.tolist(), color=color, alpha=0.13, linewidth=0)
    ax.vlines(x[known], low[known], high[known], color=color, linewidth=0.8, alpha=0.6)


def _coverage_axis(ax: Axes, axes: GridAxes) -> None:
    ax.set_xticks(axes.coverages, [axis_number(c) for c in axes.coverages])
    ax.set_xlim(*padded_limits(axes.coverages))


def accuracy_vs_coverage(grid: EntryGrid, *, axes: GridAxes) -> Figure:
    """One entry: a line per stride, light = dense and dark = sparse, with interval bands."""
    figure = new_figure(4.6, 3.1)
    ax = figure.add_subplot()
    x = np.asarray(axes.coverages, dtype=float)
    handles = []
    for column, color in enumerate(ordered_colors(len(axes.strides))):
        y = grid.accuracy[:, column]
        draw_band(ax, x, grid.low[:, column], grid.high[:, column], color, fill=True)
        handles += ax.plot(x, y, color=color, marker=entry_marker(column))
    _coverage_axis(ax, axes)
    ax.set_ylim(*accuracy_limits(grid.accuracy, grid.low, grid.high))
    ax.set(xlabel="coverage, %", ylabel="accuracy, %")
    name_figure(ax, grid.entry)
    add_legend(figure, handles, [axis_number(s) for s in axes.strides], title="stride, frames")
    return figure


def accuracy_limits(*arrays: Any) -> tuple[float, float]:
    """Limits for percentages: every value inside, at most a margin beyond 0 and 100."""
    low, high = padded_limits(*arrays, floor=-2.0, ceiling=102.0)
    return low, high


def comparison_accuracy_vs_coverage(grids: Sequence[EntryGrid], *, axes: GridAxes) -> Figure:
    """One panel per stride, a line with its band per entry, oracle ceilings as dashed steps."""
    panels = len(axes.strides)
    columns = min(3, panels)
    rows = -(-panels // columns)
    figure = new_figure(2.6 * columns + 0.6 if panels > 1 else 5.0, 2.05 * rows + 0.4)
    grid_of_axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    everything = [a for g in grids for a in (g.accuracy, g.low, g.high, g.ceiling) if a is not None]
    handles: list[Any] = []
    for column, ax in enumerate(grid_of_axes.flat):
        if column >= panels:
            ax.set_visible(False)
            continue
        handles = [
            _draw_entry(ax, grid, column, axes, place, len(grids))
            for place, grid in enumerate(grids)
        ]
        _coverage_axis(ax, axes)
        ax.set_ylim(*accuracy_limits(*everything))
        ax.set_title(f"stride {axis_number(axes.strides[column])}", fontsize=8)
        if column + columns >= panels:
            ax.set_xlabel("coverage, %")
        if column % columns == 0:
            ax.set_ylabel("accuracy, %")
    labels = name_labels([grid.entry for grid in grids], limit=40)
    if any(grid.ceiling is not None for grid in grids):
        handles += grid_of_axes.flat[0].plot(
            [], [], color=MUTED, linestyle=(0, (3, 2)), linewidth=1
        )
        labels.append("oracle ceiling")
    add_legend(figure, handles, labels)
    return figure


def shared_dashes(place: int, count: int) -> tuple[float, tuple[float, float]]:
    """Dashes in which `count` lines on top of each other show in turn, none hides another."""
    return 3.0 * place, (3.0, max(2.0, 3.0 * (count - 1)))


def _draw_entry(
    ax: Axes, grid: EntryGrid, column: int, axes: GridAxes, place: int, count: int
) -> Any:
    x = np.asarray(axes.coverages, dtype=float)
    color, dashes = entry_color(grid.position), shared_dashes(place, count)
    # Many bands blend into mud: then each line keeps whiskers, a little aside of the next.
    few = count <= MOST_BANDS
    aside = (
        0.0
        if few
        else (place - (count - 1) / 2) * 0.006 * (max(axes.coverages) - min(axes.coverages))
    )
    draw_band(ax, x + aside, grid.low[:, column], grid.high[:, column], color, fill=few)
    if grid.ceiling is not None:
        # Steps, not a slope: the ceiling between two judged coverages was not computed.
        ax.step(x, grid.ceiling[:, column], where="mid", color=color, linestyle=dashes, linewidth=1)
    size = shrinking(5.5, 4.0, place, count)
    marker = entry_marker(grid.position)
    return ax.plot(x, grid.accuracy[:, column], color=color, marker=marker, markersize=size)[0]


@dataclass(frozen=True)
class FrameCurve:
    """One entry's accuracies (percent) against mean distinct frames, both [n]."""

    entry: str
    position: int
    frames: np.ndarray
    accuracy: np.ndarray


def accuracy_vs_distinct_frames(curves: Sequence[FrameCurve]) -> Figure:
    """Accuracy at equal evidence: every condition placed by the frames that really differ."""
    figure = new_figure(5.0, 3.0)
    ax = figure.add_subplot()
    handles = [
        ax.plot(
            curve.frames, curve.accuracy, color=entry_color(curve.position),
            marker=entry_marker(curve.position), linewidth=1.1, markersize=4,
        )[0]
        for curve in curves
    ]  # fmt: skip
    frames = np.concatenate([curve.frames for curve in curves])
    if frames.min() > 0:
        ax.set_xscale("log", base=2)
        ax.set_xlim(frames.min() / 1.15, frames.max() * 1.15)
    else:
        ax.set_xlim(*padded_limits(frames))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_ylim(*accuracy_limits(*[curve.accuracy for curve in curves]))
    ax.set(xlabel="mean distinct frames in a clip", ylabel="accuracy, %")
    add_legend(figure, handles, name_labels([curve.entry for curve in curves], limit=40))
    return figure
