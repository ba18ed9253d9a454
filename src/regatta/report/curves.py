"""Accuracy against coverage, and training curves.

Accuracies are in percent. `low` and `high` are interval ends; NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

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

MOST_POINTS_PER_CURVE = 400
"""Longer training records are thinned: more points than pixels only make the file large."""


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


@dataclass(frozen=True)
class TrainingCurve:
    """One run's record: x in epochs, and the series that were logged (each [n] or empty)."""

    entry: str
    position: int
    seed: int
    train_loss: tuple[np.ndarray, np.ndarray]
    validation_loss: tuple[np.ndarray, np.ndarray]
    train_accuracy: tuple[np.ndarray, np.ndarray]
    validation_accuracy: tuple[np.ndarray, np.ndarray]
    lr: tuple[np.ndarray, np.ndarray]

    def is_empty(self) -> bool:
        return not any(len(series[0]) for series in self.series())

    def series(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            self.train_loss,
            self.validation_loss,
            self.train_accuracy,
            self.validation_accuracy,
            self.lr,
        ]


def training_curves(curves: Sequence[TrainingCurve]) -> Figure:
    """Loss, accuracy and learning rate of all runs; dashed = training, solid = validation."""
    figure = new_figure(8.4, 2.5)
    loss_ax, accuracy_ax, lr_ax = figure.subplots(1, 3)
    for place, curve in enumerate(curves):
        size = shrinking(2.6, 1.4, place, len(curves))
        for ax, series, dashed in (
            (loss_ax, curve.train_loss, True),
            (loss_ax, curve.validation_loss, False),
            (accuracy_ax, curve.train_accuracy, True),
            (accuracy_ax, curve.validation_accuracy, False),
            (lr_ax, curve.lr, False),
        ):
            _draw_series(ax, series, entry_color(curve.position), dashed=dashed, size=size)
    for ax, title in ((loss_ax, "loss"), (accuracy_ax, "accuracy, %"), (lr_ax, "learning rate")):
        _finish_training_axis(ax, title)
    lr_ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    entries = {curve.entry: curve.position for curve in curves}
    handles = [loss_ax.plot([], [], color=entry_color(p))[0] for p in entries.values()]
    handles += loss_ax.plot([], [], color=MUTED, linestyle=DASHES, linewidth=1.2)
    handles += loss_ax.plot([], [], color=MUTED)
    add_legend(figure, handles, [*name_labels(list(entries), limit=40), "training", "validation"])
    return figure


def _finish_training_axis(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=8)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.margins(x=0.05, y=0.08)
    if not ax.lines:
        ax.set(xticks=[], yticks=[])
        where = {"ha": "center", "va": "center", "transform": ax.transAxes}
        ax.text(0.5, 0.5, "not recorded", color=MUTED, **where)


DASHES = (0, (2, 1.5))


def _draw_series(
    ax: Axes, series: tuple[np.ndarray, np.ndarray], color: str, *, dashed: bool, size: float
) -> None:
    x, y = thin_series(*series)
    if not len(x):
        return
    # A single epoch has no line; the dot keeps it visible.
    marker = "o" if len(x) <= 12 else ""
    style = DASHES if dashed else "-"
    width = 0.7 * size if dashed else size
    ax.plot(
        x, y, color=color, marker=marker, markersize=1.5 + size, linestyle=style, linewidth=width
    )


def thin_series(
    x: np.ndarray, y: np.ndarray, limit: int = MOST_POINTS_PER_CURVE
) -> tuple[np.ndarray, np.ndarray]:
    """The finite points; of many, the lowest and highest of each stretch: no spike is lost."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= limit:
        return x, y
    stretches = np.array_split(np.arange(len(x)), limit // 2)
    extremes = [place for s in stretches for place in (s[y[s].argmin()], s[y[s].argmax()])]
    kept = np.unique(extremes)
    return x[kept], y[kept]
