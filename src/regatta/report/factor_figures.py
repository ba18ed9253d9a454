"""The critical-difference diagram of Demsar (2006): mean ranks of entries over blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regatta.report.factor_tables import blocks_words
from regatta.report.facts import sentence
from regatta.report.material import Material
from regatta.report.style import (
    INK,
    MUTED,
    Drawn,
    FigureGap,
    drawn,
    entry_color,
    name_labels,
    new_figure,
)

TITLE = "Critical differences of ranks"
ROW, BAR = 1.0, 0.42
"""Distance between labels, and between bars, in units of the vertical axis."""
EDGE, BAR_REACH = 0.02, 0.012
"""How far lines go beyond the axis, and bars beyond their entries, as shares of the axis."""
MOST_TICKS = 12


@dataclass(frozen=True)
class RankedEntry:
    """An entry's mean rank; `position` is its place in the study, which gives its colour."""

    entry: str
    position: int
    mean_rank: float


def factor_figures(material: Material) -> Iterator[Drawn]:
    name, section = "critical_difference", material.comparison["friedman"]
    if section["reason"]:
        reason = f"There is no critical-difference diagram: {section['reason']}."
        yield FigureGap(name, TITLE, reason)
        return
    if section["test"]["p_value"] is None:
        yield FigureGap(name, TITLE, sentence(section["sentence"], []))
        return
    ranked = [
        RankedEntry(row["entry"], material.positions[row["entry"]], row["mean_rank"])
        for row in section["entries"]
    ]
    limit = section["critical_difference"]
    numbers = ", ".join(f"{one.entry} {one.mean_rank:.2f}" for one in ranked)
    together = "; ".join(" and ".join(names) for names in section["undivided"])
    yield drawn(
        name,
        critical_difference(ranked, section["undivided"], limit),
        title=TITLE,
        caption=f"Mean rank of every entry over {blocks_words(material)} at "
        f"{material.condition_name(section['headline'])}; 1, on the right, is best. A bar joins "
        "entries that Nemenyi's test does not tell apart: their mean ranks lie within the critical "
        f"difference (CD) of {limit:.2f}.",
        alt=f"Critical-difference diagram. Mean ranks: {numbers}. Critical difference {limit:.2f}. "
        f"Joined by bars: {together or 'none'}.",
    )


def critical_difference(
    ranked: Sequence[RankedEntry], undivided: Sequence[Sequence[str]], limit: float
) -> Figure:
    """Ranks on an axis with the best on the right; bars join what is not told apart.

    Args:
        ranked: by mean rank. undivided: names of entries that share a bar, by rank.
    """
    count, sets = len(ranked), len(undivided)
    top = BAR * (sets + 1)
    rows = (count + 1) // 2
    height = 2.4 + top + ROW * rows
    figure = new_figure(6.4, 0.25 + 0.21 * height)
    ax = figure.add_subplot()
    ax.set_axis_off()
    ax.set_xlim(count + EDGE * (count - 1), 1 - EDGE * (count - 1))
    ax.set_ylim(-(top + ROW * rows), 2.4)
    _draw_axis(ax, count)
    _draw_limit(ax, count, limit)
    rank_of = {one.entry: one.mean_rank for one in ranked}
    for number, names in enumerate(undivided):
        ends = [rank_of[name] for name in names]
        y, reach = -BAR * (number + 1), BAR_REACH * (count - 1)
        ax.plot(
            [min(ends) - reach, max(ends) + reach], [y, y],
            color=INK, linewidth=2.6, solid_capstyle="butt", zorder=3,
        )  # fmt: skip
    labels = name_labels([one.entry for one in ranked], limit=26)
    for place, (one, label) in enumerate(zip(ranked, labels, strict=True)):
        is_right = place < rows
        row = place if is_right else count - 1 - place
        _draw_entry(ax, one, label, -(top + ROW * row), count, is_right=is_right)
    return figure


def _draw_axis(ax: Axes, count: int) -> None:
    """Ranks 1 to `count` along y = 0."""
    ax.plot([1, count], [0, 0], color=MUTED, linewidth=0.9, zorder=2)
    step = -(-(count - 1) // MOST_TICKS)
    for rank in range(1, count + 1):
        is_named = (rank - 1) % step == 0
        ax.plot([rank, rank], [0, 0.28 if is_named else 0.16], color=MUTED, linewidth=0.8)
        if is_named:
            ax.text(rank, 0.42, str(rank), ha="center", va="bottom", fontsize=7.5, color=INK)


def _draw_limit(ax: Axes, count: int, limit: float) -> None:
    """The critical difference as a length, at the left end; cut at the axis where it is longer."""
    length, y = min(limit, count - 1), 1.75
    ax.plot([count, count - length], [y, y], color=INK, linewidth=1.2)
    for end in (count, count - length):
        ax.plot([end, end], [y - 0.14, y + 0.14], color=INK, linewidth=1.2)
    ax.text(
        count - length / 2, y + 0.2, f"CD = {limit:.2f}", ha="center", va="bottom", fontsize=7.5
    )


def _draw_entry(
    ax: Axes, one: RankedEntry, label: str, y: float, count: int, *, is_right: bool
) -> None:
    """From the axis down to the row of the entry and out to its name."""
    color = entry_color(one.position)
    edge = 1 - EDGE * (count - 1) if is_right else count + EDGE * (count - 1)
    ax.plot([one.mean_rank, one.mean_rank, edge], [0, y, y], color=color, linewidth=1.1, zorder=2)
    ax.plot(one.mean_rank, 0, "o", color=color, markersize=4.2, zorder=4, clip_on=False)
    ax.annotate(
        f"{label}  {one.mean_rank:.2f}" if is_right else f"{one.mean_rank:.2f}  {label}",
        (edge, y), xytext=(4 if is_right else -4, 0), textcoords="offset points",
        ha="left" if is_right else "right", va="center", fontsize=7.5, color=INK,
        annotation_clip=False,
    )  # fmt: skip
