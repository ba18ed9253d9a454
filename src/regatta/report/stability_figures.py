"""Figures of "does the order hold": ranks over conditions, and where two entries change places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from regatta.report.condition_axis import (
    ConditionColumns,
    condition_columns,
    draw_condition_axis,
    mark_column,
    separate_groups,
)
from regatta.report.curves import add_legend
from regatta.report.heatmaps import color_bar, inside_text
from regatta.report.material import PERCENT_AXES, Material
from regatta.report.style import (
    EMPTY,
    INK,
    MUTED,
    Drawn,
    FigureGap,
    accuracy_colormap,
    drawn,
    entry_color,
    figure_label,
    ink_on,
    name_labels,
    new_figure,
    padded_limits,
)

PAIRS_SHOWN = 3
PAIR_RULE = (
    f"at most {PAIRS_SHOWN} pairs: those with a crossover first, then those whose difference "
    "changes sign in the largest share of replicates"
)


def stability_figures(material: Material) -> Iterator[Drawn]:
    """Nothing with one entry or one condition."""
    section = material.comparison.get("stability")
    if section is not None:
        yield _rank_stability(material, section)
    section = material.comparison.get("crossover")
    if section is not None and section["curves"]:
        yield _crossover(material, section)


@dataclass(frozen=True)
class RankTable:
    """Ranks of entries (rows) in conditions (columns).

    ranks: int [E, D]. tied: bool [E, D]. chances: of being first [E, D]; None without replicates.
    headline: its column.
    """

    entries: list[str]
    ranks: np.ndarray
    tied: np.ndarray
    chances: np.ndarray | None
    headline: int


def _rank_stability(material: Material, section: dict[str, Any]) -> Drawn:
    name, title = "rank_stability", "Ranks over the conditions"
    rows = section["conditions"]
    if len(rows) < 2:
        return FigureGap(
            name, title, "All conditions show the same inputs: there is one order only."
        )
    place = {entry: e for e, entry in enumerate(section["entries"])}
    order = [place[rank["entry"]] for rank in material.comparison["ranking"]["headline"]]
    ids = [row["condition"] for row in rows]
    chances = None
    if rows[0]["probability_first"] is not None:
        chances = np.array([row["probability_first"] for row in rows]).T[order]
    table = RankTable(
        [section["entries"][e] for e in order],
        np.array([row["rank"] for row in rows]).T[order],
        np.array([row["tied"] for row in rows]).T[order],
        chances,
        ids.index(section["headline"]),
    )
    caption = "Number: rank of the entry in the condition, = where it is shared."
    if chances is not None:
        caption += " Colour: share of replicates in which the entry is first there."
    caption += " The wedge marks the headline."
    if section["merged"]:
        caption += " Conditions that show the same inputs stand once."
    return drawn(
        name,
        rank_heatmap(table, condition_columns(material, ids)),
        title=title,
        caption=caption,
        alt=f"Table of ranks: {'; '.join(section['sentences'][:3])}.",
    )


def rank_heatmap(table: RankTable, columns: ConditionColumns) -> Figure:
    """Entries in the order of the headline, conditions in the order of the protocol."""
    entries, cells = table.ranks.shape
    pitch = max(0.13, min(0.46, 7.0 / cells))
    names = name_labels(table.entries)
    labels = 0.062 * max(len(name) for name in names)
    below = 0.62 if columns.is_grouped else 0.35 + 0.055 * columns.longest
    bar = 0.9 if table.chances is not None else 0.2
    figure = new_figure(max(3.4, labels + bar + pitch * cells), 0.45 + below + 0.3 * entries)
    ax = figure.add_subplot()
    cmap, scale = accuracy_colormap(), Normalize(0, 100)
    shown = np.full(table.ranks.shape, np.nan) if table.chances is None else 100 * table.chances
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(shown), cmap=cmap, norm=scale, edgecolors="white", linewidth=0.8
    )
    for row, column in np.ndindex(entries, cells):
        value = shown[row, column]
        text = f"{table.ranks[row, column]}{'=' if table.tied[row, column] else ''}"
        inside_text(
            ax, column + 0.5, row + 0.5, text, ha="center", va="center",
            fontsize=min(8.0, 72 * pitch / 1.5),
            color=ink_on(cmap(scale(value)) if np.isfinite(value) else EMPTY),
        )  # fmt: skip
    ax.invert_yaxis()
    ax.set_yticks(np.arange(entries) + 0.5, names)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    separate_groups(ax, columns)
    mark_column(ax, table.headline)
    draw_condition_axis(ax, columns, inches_per_column=pitch)
    figure.supxlabel(columns.title, fontsize=8)
    if table.chances is not None:
        color_bar(figure, mesh, ax, "first in,\n% of replicates")
    return figure


@dataclass(frozen=True)
class CrossoverLine:
    """One pair along one axis; differences in points [V], interval ends NaN where there are none.

    `crossing` is (place, low, high) in units of the axis, None where there is no single one.
    """

    first: str
    second: str
    positions: tuple[int, int]
    """Of the two entries in the study, for their colours."""
    axis: str
    is_log2: bool
    is_main: bool
    """The line with its band; the other one, at the headline's values, is dashed."""
    values: np.ndarray
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    crossing: tuple[float, float, float] | None
    is_shown: bool
    """A crossover is claimed."""

    def place(self, value: Any) -> Any:
        return np.log2(value) if self.is_log2 else np.asarray(value, dtype=float)


def chosen_pairs(curves: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The pairs that the figure shows; see PAIR_RULE."""
    best: dict[tuple[str, str], tuple[int, float]] = {}
    for curve in curves:
        key = (int(curve["verdict"] != "none shown"), curve["crossing_share"] or 0.0)
        names = (curve["first"], curve["second"])
        best[names] = max(best.get(names, (0, 0.0)), key)
    ordered = sorted(best, key=lambda names: best[names], reverse=True)
    return ordered[:PAIRS_SHOWN]


def _crossover(material: Material, section: dict[str, Any]) -> Drawn:
    pairs = chosen_pairs(section["curves"])
    lines = [_line(material, c) for c in section["curves"] if (c["first"], c["second"]) in pairs]
    every = len({(c["first"], c["second"]) for c in section["curves"]})
    caption = (
        f"First minus second in points, with {material.confidence} intervals clustered by "
        f"{material.words.group}. "
        "Diamond: the crossing with its interval, filled where a crossover is shown, which needs "
        "one entry ahead at one end and the other at the other end."
    )
    if any(not line.is_main for line in lines):
        caption += " Solid: the mean over the other axes; dashed: at the headline's values."
    if every > len(pairs):
        caption += f" Shown are {PAIR_RULE}; {every - len(pairs)} more are in the table."
    return drawn(
        "crossover",
        crossover_panels(lines),
        title="Where two entries change places",
        caption=caption,
        alt=f"Differences along each axis: {'; '.join(section['sentences'][:6])}.",
    )


def _line(material: Material, curve: dict[str, Any]) -> CrossoverLine:
    estimate, low, high = (
        np.array([np.nan if d[key] is None else d[key] for d in curve["difference_points"]])
        for key in ("estimate", "low", "high")
    )
    found = curve["crossing"]
    crossing = None
    if found is not None:
        low_end, high_end = (
            np.nan if found[key] is None else float(found[key]) for key in ("low", "high")
        )
        crossing = (float(found["estimate"]), low_end, high_end)
    same = (curve["first"], curve["second"], curve["axis"])
    others = [
        c["at"]
        for c in material.comparison["crossover"]["curves"]
        if (c["first"], c["second"], c["axis"]) == same
    ]
    return CrossoverLine(
        curve["first"],
        curve["second"],
        (material.positions[curve["first"]], material.positions[curve["second"]]),
        curve["axis"],
        curve["scale"] == "log2",
        curve["at"] == others[0],
        np.array(curve["values"]),
        estimate,
        low,
        high,
        crossing,
        curve["verdict"] == "crossover",
    )


def crossover_panels(lines: Sequence[CrossoverLine]) -> Figure:
    """A row per pair, a column per axis, all on one scale of differences."""
    pairs = list(dict.fromkeys((line.first, line.second) for line in lines))
    axes = list(dict.fromkeys(line.axis for line in lines))
    columns, rows = len(axes), len(pairs)
    figure = new_figure(0.7 + (3.6 if columns == 1 else 3.0) * columns, 0.35 + 1.75 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex="col")
    limits = padded_limits([0.0], *[a for x in lines for a in (x.difference, x.low, x.high)])
    for (row, column), ax in np.ndenumerate(grid):
        mine = [x for x in lines if (x.first, x.second) == pairs[row] and x.axis == axes[column]]
        for line in mine:
            _draw_line(ax, line)
        ax.set_ylim(*limits)
        _label_panel(ax, mine[0], is_left=column == 0, is_bottom=row == rows - 1)
    _legend(figure, lines)
    return figure


def _draw_line(ax: Axes, line: CrossoverLine) -> None:
    x = line.place(line.values)
    if line.is_main:
        ax.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
        for sign, position in zip((1, -1), line.positions, strict=True):
            ax.fill_between(
                x, line.difference, 0, where=(sign * line.difference > 0).tolist(),
                interpolate=True, color=entry_color(position), alpha=0.28, linewidth=0,
            )  # fmt: skip
        known = np.isfinite(line.low) & np.isfinite(line.high)
        ax.fill_between(x, line.low, line.high, where=known.tolist(), color=INK, alpha=0.08, lw=0)
        ax.vlines(x[known], line.low[known], line.high[known], color=INK, linewidth=0.8, alpha=0.6)
        ax.plot(x, line.difference, "o-", color=INK, markersize=3.5, linewidth=1.4)
        _draw_crossing(ax, line)
    else:
        ax.plot(x, line.difference, "o", color=MUTED, markersize=2.8, linestyle=(0, (4, 2)), lw=1)


def _draw_crossing(ax: Axes, line: CrossoverLine) -> None:
    if line.crossing is None:
        return
    place, low, high = (line.place(x) for x in line.crossing)
    color = INK if line.is_shown else MUTED
    if np.isfinite(low) and np.isfinite(high):
        ax.hlines(0, low, high, color=color, linewidth=3.2, alpha=0.9, zorder=3)
    face = color if line.is_shown else "white"
    ax.plot([place], [0], "D", color=color, markerfacecolor=face, markersize=5.5, zorder=4)


def _label_panel(ax: Axes, line: CrossoverLine, *, is_left: bool, is_bottom: bool) -> None:
    ax.set_xticks(line.place(line.values), [f"{value:g}" for value in line.values])
    ax.set_xlim(*padded_limits(line.place(line.values)))
    ax.set_title(figure_label(f"{line.first} − {line.second}", limit=44), fontsize=8)
    if is_bottom:
        ax.set_xlabel(f"{line.axis}, %" if line.axis in PERCENT_AXES else line.axis)
    if is_left:
        ax.set_ylabel("difference, points")


def _legend(figure: Figure, lines: Sequence[CrossoverLine]) -> None:
    named = {
        position: name
        for line in lines
        for name, position in zip((line.first, line.second), line.positions, strict=True)
    }
    handles: list[Any] = [
        Patch(color=entry_color(position), alpha=0.4, linewidth=0) for position in sorted(named)
    ]
    names = name_labels([named[position] for position in sorted(named)], limit=34)
    labels = [f"{name} ahead" for name in names]
    if any(not line.is_main for line in lines):
        handles.append(Line2D([], [], color=MUTED, linestyle=(0, (4, 2)), linewidth=1))
        labels.append("at the headline's values")
    add_legend(figure, handles, labels)
