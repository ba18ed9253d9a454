"""The figure of accuracy against cost: a panel per cost, with the front as a step line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from regatta.report.bars import entry_dot
from regatta.report.curves import accuracy_limits, add_legend
from regatta.report.style import (
    MUTED,
    entry_color,
    figure_label,
    name_labels,
    new_figure,
    shrinking,
)

PANEL_COLUMNS = 3
Units = tuple[tuple[float, str], ...]
"""(smallest value, its unit), largest first; the largest cost of a panel chooses."""
TIME_UNITS: Units = ((7200.0, "hours"), (120.0, "minutes"), (1.0, "seconds"), (1e-3, "ms"))
COUNT_UNITS: Units = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
ENERGY_UNITS: Units = ((3.6e6, "kWh"), (3.6e3, "Wh"), (1.0, "J"))


@dataclass(frozen=True)
class CostPoint:
    """One entry in a panel: accuracy as (value, low, high) in percent; None = not measured."""

    entry: str
    position: int
    accuracy: tuple[float, float, float]
    cost: float | None
    on_front: bool


@dataclass(frozen=True)
class CostPanel:
    """One cost in words and every entry of the study, the same in all panels."""

    title: str
    units: Units
    points: Sequence[CostPoint]

    @property
    def is_measured(self) -> bool:
        return any(point.cost is not None for point in self.points)


def accuracy_vs_cost(panels: Sequence[CostPanel]) -> Figure | None:
    """Accuracy against each cost that was measured; None when none was.

    Filled = on the front of that cost, hollow = another entry is at least as good in both.
    """
    shown = [panel for panel in panels if panel.is_measured]
    if not shown:
        return None
    columns = min(PANEL_COLUMNS, len(shown)) if len(shown) != 4 else 2
    rows = -(-len(shown) // columns)
    figure = new_figure(1.0 + 2.5 * columns, 2.45 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    limits = accuracy_limits(*[point.accuracy for point in shown[0].points])
    for place, ax in enumerate(grid.flat):
        ax.set_visible(place < len(shown))
        if place < len(shown):
            _draw_panel(ax, shown[place], limits)
    for row in grid:
        row[0].set_ylabel("accuracy, %")
    points = shown[0].points
    handles = [entry_dot(grid[0][0], [], [], point.position, size=6) for point in points]
    add_legend(figure, handles, name_labels([point.entry for point in points], limit=40))
    return figure


def _draw_panel(ax: Axes, panel: CostPanel, limits: tuple[float, float]) -> None:
    largest = max(point.cost for point in panel.points if point.cost is not None)
    factor, unit = next((u for u in panel.units if largest >= u[0]), panel.units[-1])
    count = len(panel.points)
    placed = [
        (point, point.cost / factor, shrinking(8.0, 5.0, place, count))
        for place, point in enumerate(panel.points)
        if point.cost is not None
    ]
    _cost_axis(ax, np.array([cost for _, cost, _ in placed]))
    _draw_front(ax, [(cost, point.accuracy[0]) for point, cost, _ in placed if point.on_front])
    for point, cost, size in placed:
        _, low, high = point.accuracy
        if np.isfinite(low) and np.isfinite(high):
            ax.vlines(cost, low, high, color=entry_color(point.position), linewidth=0.15 * size)
        entry_dot(
            ax, [cost], [point.accuracy[0]], point.position, size=size, hollow=not point.on_front
        )
    ax.set_ylim(*limits)
    ax.set_xlabel(figure_label(f"{panel.title}, {unit}" if unit else panel.title, limit=44))


def _draw_front(ax: Axes, corners: Sequence[tuple[float, float]]) -> None:
    """The best accuracy that a cost buys: level to the next entry of the front, then up."""
    ordered = sorted(corners)
    costs = [cost for cost, _ in ordered] + [ax.get_xlim()[1]]
    heights = [height for _, height in ordered] + [ordered[-1][1]]
    ax.step(costs, heights, where="post", color=MUTED, linewidth=1.2, zorder=1)


def _cost_axis(ax: Axes, costs: np.ndarray) -> None:
    """From zero: twice as far is twice as dear; logarithmic where costs differ over 20-fold."""
    if costs.min() > 0 and costs.max() / costs.min() > 20:
        ax.set_xscale("log")
        ax.minorticks_off()
        ax.set_xlim(costs.min() / 1.4, costs.max() * 1.4)
    else:
        ax.set_xlim(0, max(float(costs.max()) * 1.08, 1e-9))
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
