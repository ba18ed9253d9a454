"""Heat maps over coverage (rows, full clip on top) and stride (columns), and the confusion matrix.

Grids are float arrays [coverages, strides] in ascending order of both; NaN means not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regatta.report.style import (
    INK,
    MUTED,
    accuracy_colormap,
    common_scale,
    figure_label,
    ink_on,
    name_figure,
    name_labels,
    new_figure,
)

CELL_NUMBERS_UP_TO = 24
"""A confusion matrix with more classes than this shows colours only: the digits would touch."""


@dataclass(frozen=True)
class GridAxes:
    """The two axes of the temporal grid, each ascending."""

    coverages: tuple[float, ...]
    strides: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.coverages), len(self.strides)


@dataclass(frozen=True)
class CellMarks:
    """What is odd about the cells of one entry's grid, both [coverages, strides].

    still: bool, every clip is one frame shown again and again.
    twins: str, equal letters = the model saw identical clips; "" = this cell has no twin.
    """

    still: np.ndarray
    twins: np.ndarray

    def explain(self) -> str:
        """The legend line under a figure; empty when no cell is marked."""
        parts = []
        if self.still.any():
            parts.append("hatched: one still frame")
        if (self.twins != "").any():
            parts.append("same letter: identical clips")
        return " · ".join(parts)


def no_marks(shape: tuple[int, int]) -> CellMarks:
    return CellMarks(np.zeros(shape, dtype=bool), np.full(shape, "", dtype=object))


def axis_number(value: float) -> str:
    """A coverage or stride without a needless decimal point."""
    return f"{value:g}"


def draw_grid(
    ax: Axes,
    values: np.ndarray,
    *,
    axes: GridAxes,
    scale: Normalize,
    marks: CellMarks,
    cmap: Any = None,
    texts: np.ndarray | None = None,
) -> Any:
    """One heat map with a number in each cell; returns the mesh, for a colour bar."""
    cmap = cmap or accuracy_colormap()
    rows, columns = axes.shape
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(values), cmap=cmap, norm=scale, edgecolors="white", linewidth=1.2
    )
    ax.set_xticks(np.arange(columns) + 0.5, [axis_number(s) for s in axes.strides])
    ax.set_yticks(np.arange(rows) + 0.5, [axis_number(c) for c in axes.coverages])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    size = 7.5 if columns <= 6 else max(4.0, 45 / columns)
    for row, column in np.ndindex(rows, columns):
        value = float(values[row, column])
        color = ink_on(cmap(scale(value))) if np.isfinite(value) else MUTED
        text = _cell_text(value) if texts is None else str(texts[row, column])
        inside_text(
            ax, column + 0.5, row + 0.5, text, ha="center", va="center", color=color, fontsize=size
        )
        _mark_cell(ax, row, column, marks, color=color, size=size)
    return mesh


def inside_text(ax: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """A text surely inside the axes: which the layout need not measure."""
    ax.text(x, y, text, **style).set_in_layout(False)


def _cell_text(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "–"


def _mark_cell(
    ax: Axes, row: int, column: int, marks: CellMarks, *, color: str, size: float
) -> None:
    if marks.still[row, column]:
        ax.add_patch(
            Rectangle((column + 0.03, row + 0.03), 0.94, 0.2,
                      fill=False, hatch="//////", linewidth=0, edgecolor=color)
        )  # fmt: skip
    if marks.twins[row, column]:
        inside_text(
            ax, column + 0.93, row + 0.93, marks.twins[row, column],
            ha="right", va="top", color=color, fontsize=size * 0.8,
        )  # fmt: skip


def accuracy_heatmap(
    title: str, values: np.ndarray, *, axes: GridAxes, marks: CellMarks, scale: Normalize
) -> Figure:
    """One entry's accuracy in percent over the grid; `scale` is the study's common one."""
    figure = new_figure(1.6 + 0.62 * axes.shape[1], 1.15 + 0.48 * axes.shape[0])
    ax = figure.add_subplot()
    mesh = draw_grid(ax, values, axes=axes, scale=scale, marks=marks)
    name_figure(ax, title)
    _name_axes(ax)
    color_bar(figure, mesh, ax, "accuracy, %")
    _explain(figure, [marks])
    return figure


def _name_axes(ax: Axes, *, x: bool = True, y: bool = True) -> None:
    if x:
        ax.set_xlabel("stride, frames")
    if y:
        ax.set_ylabel("coverage, %")


def color_bar(figure: Figure, mesh: Any, ax: Any, label: str, *, panels: int = 1) -> None:
    """The scale beside `ax`, as thin as beside one panel where `panels` stand under each other."""
    bar = figure.colorbar(mesh, ax=ax, label=label, shrink=0.9, aspect=24 * panels, pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=2)


def _explain(figure: Figure, marks: Sequence[CellMarks]) -> None:
    lines = {part for mark in marks for part in mark.explain().split(" · ") if part}
    if lines:
        figure.supxlabel(" · ".join(sorted(lines)), fontsize=6.8, color=MUTED)


@dataclass(frozen=True)
class GridPanel:
    """One panel of the side-by-side figure."""

    title: str
    values: np.ndarray
    marks: CellMarks


def comparison_heatmaps(
    panels: Sequence[GridPanel],
    ceilings: Sequence[GridPanel] = (),
    *,
    axes: GridAxes,
    scale: Normalize,
) -> Figure:
    """All entries side by side under one colour scale.

    Args:
        ceilings: none, one for all entries that stands beside them, or one under each entry.
    """
    rows = panel_rows(panels, ceilings)
    columns = max(len(row) for row in rows)
    width = 0.5 + 0.36 * axes.shape[1]
    figure = new_figure(1.1 + columns * width, 0.75 + len(rows) * (0.5 + 0.36 * axes.shape[0]))
    grid = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    mesh = None
    for row, column in np.ndindex(len(rows), columns):
        ax: Any = grid[row, column]
        if column >= len(rows[row]):
            ax.set_visible(False)
            continue
        panel = rows[row][column]
        mesh = draw_grid(ax, panel.values, axes=axes, scale=scale, marks=panel.marks)
        ax.set_title(figure_label(panel.title, limit=max(12, int(width * 11))), fontsize=8)
        bottom = row + 1 == len(rows) or column >= len(rows[row + 1])
        ax.tick_params(labelbottom=bottom, labelleft=column == 0)
        _name_axes(ax, x=bottom, y=column == 0)
    color_bar(figure, mesh, grid, "accuracy, %")
    _explain(figure, [panel.marks for panel in panels])
    return figure


def panel_rows(panels: Sequence[GridPanel], ceilings: Sequence[GridPanel]) -> list[list[GridPanel]]:
    """Rows of at most four panels; a ceiling of its own stands right under its entry."""
    if len(ceilings) != len(panels) or len(ceilings) == 1:
        panels, ceilings = [*panels, *ceilings], []
    count = len(panels)
    columns = next(
        (c for c in (4, 3) if count <= c or count % c == 0), 4 if count % 4 > count % 3 else 3
    )
    rows: list[list[GridPanel]] = []
    for start in range(0, count, columns):
        rows.append(list(panels[start : start + columns]))
        if ceilings:
            rows.append(list(ceilings[start : start + columns]))
    return rows


def distinct_frame_map(
    title: str,
    distinct: np.ndarray,
    pad_share: np.ndarray,
    *,
    axes: GridAxes,
    marks: CellMarks,
    model_frames: float,
) -> Figure:
    """Mean distinct frames per clip (colour, upper number) and padding share (lower number)."""
    figure = new_figure(1.6 + 0.66 * axes.shape[1], 1.2 + 0.54 * axes.shape[0])
    ax = figure.add_subplot()
    texts = np.full(axes.shape, "–", dtype=object)
    for place in np.ndindex(*axes.shape):
        if np.isfinite(distinct[place]):
            texts[place] = f"{distinct[place]:.3g}"
            if np.isfinite(pad_share[place]):
                texts[place] += f"\n{100 * pad_share[place]:.0f} % pad"
    scale = common_scale(distinct, [0.0, model_frames])
    mesh = draw_grid(ax, distinct, axes=axes, scale=scale, marks=marks, texts=texts)
    for text in ax.texts:
        text.set_fontsize(min(text.get_fontsize(), 6.8))
        text.set_linespacing(1.25)
    name_figure(ax, title)
    _name_axes(ax)
    color_bar(figure, mesh, ax, "distinct frames")
    _explain(figure, [marks])
    return figure


def confusion_figure(title: str, counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrix [K, K] of counts, rows = truth, shown as percent of the row.

    Classes without samples stay empty.
    """
    total = counts.sum(axis=1, keepdims=True)
    share = np.where(total > 0, 100 * counts / np.maximum(total, 1), np.nan)
    count = len(classes)
    side = max(
        1.8, min(0.42 * count, 10.0) if count <= CELL_NUMBERS_UP_TO else min(0.11 * count, 11)
    )
    longest = max((len(label) for label in name_labels(classes)), default=1)
    label_inches = min(7.5, max(4.0, side / max(count, 1) * 61)) / 72 * 0.6 * longest
    figure = new_figure(side + 1.3 + label_inches, side + 0.7 + label_inches)
    ax = figure.add_subplot()
    cmap = accuracy_colormap()
    scale = Normalize(0, 100)
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(share), cmap=cmap, norm=scale, rasterized=count > CELL_NUMBERS_UP_TO
    )
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    class_ticks(ax, classes, inches_per_class=side / max(count, 1))
    if count <= CELL_NUMBERS_UP_TO:
        size = min(7.5, 3 + 22 / count)
        for row, column in np.ndindex(*share.shape):
            if np.isfinite(share[row, column]):
                inside_text(
                    ax, column + 0.5, row + 0.5, f"{share[row, column]:.0f}",
                    ha="center", va="center", fontsize=size,
                    color=ink_on(cmap(scale(share[row, column]))),
                )  # fmt: skip
    ax.set(xlabel="predicted class", ylabel="true class")
    name_figure(ax, title, left_inches=0.5 + label_inches)
    color_bar(figure, mesh, ax, "% of the true class")
    return figure


def class_ticks(ax: Axes, classes: Sequence[str], *, inches_per_class: float) -> None:
    """Label as many classes as fit: all of them down to 4 points, else every n-th."""
    size = min(7.5, inches_per_class * 72 * 0.85)
    step = 1 if size >= 4 else int(np.ceil(4.5 / size))
    places = np.arange(0, len(classes), step)
    labels = name_labels(classes, limit=24)
    shown = [labels[place] for place in places]
    ax.set_xticks(places + 0.5, shown, rotation=90, fontsize=max(size, 4))
    ax.set_yticks(places + 0.5, shown, fontsize=max(size, 4))
    ax.tick_params(length=0, labelcolor=INK)
