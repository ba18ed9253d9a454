"""Drawings of the protocols that are no grid: lines over one axis, pairs of lines, dots per case.

Accuracies are in percent; `low` and `high` are interval ends, NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from regatta.report.curves import (
    MOST_BANDS,
    accuracy_limits,
    add_legend,
    draw_band,
    shared_dashes,
)
from regatta.report.style import (
    MUTED,
    entry_color,
    entry_marker,
    figure_label,
    name_labels,
    new_figure,
    padded_limits,
    shrinking,
)

PANEL_COLUMNS = 3
DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.5))


@dataclass(frozen=True)
class ProtocolCurve:
    """One entry's accuracies along x, all arrays [n]; `ceiling` is NaN where none is known."""

    entry: str
    position: int
    x: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ceiling: np.ndarray

    @property
    def values(self) -> list[np.ndarray]:
        """Everything that the accuracy axis must contain."""
        return [self.accuracy, self.low, self.high, self.ceiling]


def has_ceiling(curves: Sequence[ProtocolCurve]) -> bool:
    return any(np.isfinite(curve.ceiling).any() for curve in curves)


def protocol_lines(
    curves: Sequence[ProtocolCurve], *, xlabel: str, log2: bool = False, x_ends: str = "tight"
) -> Figure:
    """A line with its band per entry and dashed ceilings.

    Args:
        log2: doublings of x are equal steps. x_ends: "percent" names 0 .. 100 instead of places.
    """
    figure = new_figure(5.4, 3.1)
    ax = figure.add_subplot()
    handles = [
        _draw_curve(ax, curve, place, len(curves), log2=log2) for place, curve in enumerate(curves)
    ]
    places = np.concatenate([curve.x for curve in curves])
    if x_ends == "percent":
        ax.set_xticks([0, 25, 50, 75, 100])
        ax.set_xlim(*padded_limits(places, [0.0, 100.0]))
    else:
        place_axis(ax, places, log2=log2)
    ax.set_ylim(*accuracy_limits(*[a for curve in curves for a in curve.values]))
    ax.set(xlabel=xlabel, ylabel="accuracy, %")
    labels = name_labels([curve.entry for curve in curves], limit=40)
    if has_ceiling(curves):
        handles += ax.plot([], [], color=MUTED, linestyle=DASHED, linewidth=1)
        labels.append("oracle ceiling")
    add_legend(figure, handles, labels)
    return figure


def place_axis(ax: Axes, places: np.ndarray, *, log2: bool) -> None:
    """Ticks at the judged places, leaving out those that would stand on each other."""
    ticks = np.unique(np.round(places[np.isfinite(places)], 2))
    if log2 and ticks.size and ticks.min() > 0:
        ax.set_xscale("log", base=2)
        ax.set_xlim(ticks.min() / 1.2, ticks.max() * 1.2)
        scaled = np.log2(ticks)
    else:
        ax.set_xlim(*padded_limits(ticks))
        scaled = ticks
    kept = _apart(scaled, share=0.09)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(ticks[kept], [f"{value:g}" for value in ticks[kept]])


def _apart(places: np.ndarray, *, share: float) -> list[int]:
    """Positions of ascending `places` that keep a gap of `share` of the range; last one kept."""
    if len(places) < 2:
        return list(range(len(places)))
    gap = share * (places[-1] - places[0])
    kept = [len(places) - 1]
    for number in range(len(places) - 2, -1, -1):
        if places[kept[-1]] - places[number] >= gap:
            kept.append(number)
    return kept[::-1]


def _draw_curve(ax: Axes, curve: ProtocolCurve, place: int, count: int, *, log2: bool) -> Any:
    color, few = entry_color(curve.position), count <= MOST_BANDS
    order = np.argsort(curve.x, kind="stable")
    x, (accuracy, low, high, ceiling) = curve.x[order], (a[order] for a in curve.values)
    step = 0.012 * (place - (count - 1) / 2)
    # Many bands blend into mud: then each line keeps whiskers, a little aside of the next.
    aside = x if few else (x * 2 ** (4 * step) if log2 else x + step * np.ptp(x))
    draw_band(ax, aside, low, high, color, fill=few)
    ax.plot(x, ceiling, color=color, linestyle=shared_dashes(place, count), linewidth=1)
    size = shrinking(5.5, 4.0, place, count)
    marker = entry_marker(curve.position)
    return ax.plot(aside, accuracy, color=color, marker=marker, markersize=size)[0]


@dataclass(frozen=True)
class FilterPanel:
    """One entry under point sampling and under the box filter, both along the stride."""

    entry: str
    position: int
    point: ProtocolCurve
    box: ProtocolCurve


def filter_panels(panels: Sequence[FilterPanel]) -> Figure:
    """A panel per entry: hollow = point, filled = box; the two ceilings as grey lines."""
    rows = -(-len(panels) // PANEL_COLUMNS)
    columns = -(-len(panels) // rows)
    figure = new_figure(2.7 * columns + 0.6 if len(panels) > 1 else 4.6, 2.3 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    curves = [curve for panel in panels for curve in (panel.point, panel.box)]
    limits = accuracy_limits(*[a for curve in curves for a in curve.values])
    for number, ax in enumerate(grid.flat):
        if number >= len(panels):
            ax.set_visible(False)
            continue
        _draw_filter_panel(ax, panels[number])
        ax.set_ylim(*limits)
        ax.set_title(figure_label(panels[number].entry, limit=26), fontsize=8)
        if number + columns >= len(panels):
            ax.set_xlabel("stride, frames")
        if number % columns == 0:
            ax.set_ylabel("accuracy, %")
    _filter_legend(figure, grid.flat[0], ceilings=has_ceiling(curves))
    return figure


def _draw_filter_panel(ax: Axes, panel: FilterPanel) -> None:
    color, marker = entry_color(panel.position), entry_marker(panel.position)
    for curve, style in ((panel.point, DASHED), (panel.box, DOTTED)):
        ax.plot(curve.x, curve.ceiling, color=MUTED, linestyle=style, linewidth=1.1)
    draw_band(ax, panel.point.x, panel.point.low, panel.point.high, MUTED, fill=True)
    draw_band(ax, panel.box.x, panel.box.low, panel.box.high, color, fill=True)
    # The larger hollow mark shows around the filled one where both give the same.
    look: dict[str, Any] = {"color": color, "marker": marker}
    ax.plot(
        panel.point.x, panel.point.accuracy, **look, markerfacecolor="white",
        markersize=7, linestyle=(0, (3, 1.2)), linewidth=1.2,
    )  # fmt: skip
    ax.plot(panel.box.x, panel.box.accuracy, **look, markersize=4)
    place_axis(ax, panel.point.x, log2=True)


def _filter_legend(figure: Figure, ax: Axes, *, ceilings: bool) -> None:
    look: dict[str, Any] = {"color": MUTED, "marker": "o"}
    handles = ax.plot(
        [], [], **look, markerfacecolor="white", markersize=6, linestyle=(0, (3, 1.2))
    )
    handles += ax.plot([], [], **look, markersize=4)
    labels = ["point sampling", "box filter"]
    if ceilings:
        handles += ax.plot([], [], color=MUTED, linestyle=DASHED, linewidth=1.1)
        handles += ax.plot([], [], color=MUTED, linestyle=DOTTED, linewidth=1.1)
        labels += ["ceiling of point", "ceiling of box"]
    add_legend(figure, handles, labels)


def case_dots(curves: Sequence[ProtocolCurve], cases: Sequence[str]) -> Figure:
    """A dot with its interval per case and entry, side by side; dashes = oracle ceilings.

    `curves` have x = 0 .. cases - 1.
    """
    count = len(curves)
    width = max(5.4, 1.2 + len(cases) * max(0.75, 0.16 * count))
    figure = new_figure(width, 3.1)
    ax = figure.add_subplot()
    room = 0.7 / max(count, 1)
    handles = []
    for place, curve in enumerate(curves):
        color = entry_color(curve.position)
        x = curve.x + (place - (count - 1) / 2) * room
        draw_band(ax, x, curve.low, curve.high, color, fill=False)
        ax.hlines(
            curve.ceiling, x - 0.45 * room, x + 0.45 * room, color=color, linestyle=(0, (2, 1))
        )
        handles += ax.plot(x, curve.accuracy, entry_marker(curve.position), color=color)
    for edge in range(len(cases) - 1):
        ax.axvline(edge + 0.5, color=MUTED, linewidth=0.4)
    ax.set_xticks(range(len(cases)), [figure_label(case, limit=14) for case in cases])
    ax.set_xlim(-0.5, len(cases) - 0.5)
    ax.set_ylim(*accuracy_limits(*[a for curve in curves for a in curve.values]))
    ax.grid(visible=False, axis="x")
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("accuracy, %")
    labels = name_labels([curve.entry for curve in curves], limit=40)
    if has_ceiling(curves):
        handles += ax.plot([], [], color=MUTED, linestyle=(0, (2, 1)), linewidth=1.2)
        labels.append("oracle ceiling")
    add_legend(figure, handles, labels)
    return figure
