"""Figures of races over windows of signals: the comparison at a glance, share of labels,
perturbations.

Accuracies are in percent; `low` and `high` are interval ends, NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from regatta.report.curves import MOST_BANDS, accuracy_limits, add_legend, draw_band
from regatta.report.numbers import duration_text
from regatta.report.style import (
    INK,
    MUTED,
    entry_color,
    entry_marker,
    figure_label,
    name_labels,
    new_figure,
    padded_limits,
    shrinking,
)
from regatta.report.tables import NOT_MEASURED
from regatta.report.training_plots import Series, thin_series

PANEL_COLUMNS = 3


@dataclass(frozen=True)
class RaceEntry:
    """One entry at a glance.

    validation: percent against epochs, one series per run. accuracy: (value, low, high) on the
    judged split. train_seconds: of one run, None = not measured.
    """

    entry: str
    position: int
    validation: Sequence[Series]
    accuracy: tuple[float, float, float]
    train_seconds: float | None


def race_overview(entries: Sequence[RaceEntry], *, split: str, trained: str = "one run") -> Figure:
    """Validation accuracy over epochs, judged accuracy with intervals, seconds of training.

    Args:
        split: what was judged. trained: what the seconds are of.
    """
    labels = name_labels([entry.entry for entry in entries], limit=26)
    figure = new_figure(9.0, max(2.5, 1.0 + 0.3 * len(entries)))
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    _draw_validation(left, entries)
    places = list(range(len(entries)))
    for place, entry in enumerate(entries):
        value, low, high = entry.accuracy
        color = entry_color(entry.position)
        middle.barh(place, value, color=color, height=0.6, linewidth=0)
        if np.isfinite(low) and np.isfinite(high):
            middle.hlines(place, low, high, color=INK, linewidth=1.3)
        seconds = entry.train_seconds
        right.barh(place, seconds or 0.0, color=color, height=0.6, linewidth=0)
        _say(middle, place, f"{value:.1f}")
        _say(right, place, NOT_MEASURED if seconds is None else duration_text(seconds))
    middle.set_yticks(places, labels)
    right.set_yticks(places, [""] * len(entries))
    for ax in (middle, right):
        ax.set_ylim(len(entries) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(4))
    middle.set_xlim(0, 100)
    right.set_xlim(0, max([e.train_seconds or 0.0 for e in entries] + [1e-9]) * 1.06)
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    middle.set_title(f"{split} accuracy, %", fontsize=8)
    right.set_title(f"training of {trained}, seconds", fontsize=8)
    return figure


def _say(ax: Axes, place: int, text: str) -> None:
    """A number in words right of its bar's panel, where no bar can lie under it."""
    ax.text(
        1.02, place, text, transform=ax.get_yaxis_transform(), va="center", fontsize=7, color=INK
    )


def _draw_validation(ax: Axes, entries: Sequence[RaceEntry]) -> None:
    ax.set_title("validation accuracy, %", fontsize=8)
    ax.set_xlabel("epoch")
    ends = []
    for place, entry in enumerate(entries):
        width = shrinking(1.8, 1.0, place, len(entries))
        for series in entry.validation:
            x, y = thin_series(*series)
            if not len(x):
                continue
            marker = entry_marker(entry.position) if len(x) <= 12 else ""
            ax.plot(x, y, color=entry_color(entry.position), linewidth=width,
                    marker=marker, markersize=2.5)  # fmt: skip
            ends.append(y)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if ends:
        ax.set_ylim(*accuracy_limits(*ends))
        return
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, "not recorded", color=MUTED, ha="center", va="center", transform=ax.transAxes)


@dataclass(frozen=True)
class FractionLine:
    """One model at several shares of the labels: percent, accuracy and interval ends, all [n].

    `name` is the model in words; `position` that of its first entry.
    """

    name: str
    position: int
    share: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def label_fraction_lines(lines: Sequence[FractionLine]) -> Figure:
    """Accuracy against the share of training windows whose labels were used, logarithmic."""
    figure = new_figure(5.4, 3.1)
    ax = figure.add_subplot()
    handles = []
    for place, line in enumerate(lines):
        order = np.argsort(line.share)
        x, y = line.share[order], line.accuracy[order]
        color = entry_color(line.position)
        # Whiskers of different models stand side by side, not on each other.
        aside = x * 1.015 ** (place - (len(lines) - 1) / 2)
        draw_band(
            ax, aside, line.low[order], line.high[order], color, fill=len(lines) <= MOST_BANDS
        )
        handles += ax.plot(aside, y, color=color, marker=entry_marker(line.position))
    shares = np.unique(np.concatenate([line.share for line in lines]))
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(shares, [f"{share:g}" for share in shares])
    ax.set_xlim(shares.min() / 1.2, shares.max() * 1.2)
    ax.set_ylim(
        *accuracy_limits(*[a for line in lines for a in (line.accuracy, line.low, line.high)])
    )
    ax.set(xlabel="labels used, % of the training windows", ylabel="accuracy, %")
    add_legend(figure, handles, name_labels([line.name for line in lines], limit=40))
    return figure


@dataclass(frozen=True)
class LevelLine:
    """One entry in one panel: places on the x axis and accuracy with interval ends, all [n].

    `variant` sets the stroke: 0 solid, 1 dashed (the same perturbation done another way).
    """

    entry: str
    position: int
    x: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    variant: int = 0


@dataclass(frozen=True)
class PerturbationPanel:
    """One kind of perturbation: what its x axis is called, its ticks, and the lines in it.

    `is_ordered` says whether places follow one another, so that a line may join them.
    """

    title: str
    ticks: Sequence[str]
    lines: Sequence[LevelLine]
    is_ordered: bool = True
    variants: tuple[str, str] | None = None


LETTERS_PER_AXIS = 26
STROKES = ("-", (0, (3, 1.5)))


def robustness_panels(
    panels: Sequence[PerturbationPanel], clean: Sequence[tuple[str, int, float]]
) -> Figure:
    """A panel per perturbation, a line with whiskers per entry; horizontal lines = clean.

    Args:
        clean: (entry, position, accuracy on the unchanged windows in percent).
    """
    columns = min(len(panels), PANEL_COLUMNS)
    rows = -(-len(panels) // columns)
    figure = new_figure(max(4.8, 3.0 * columns + 0.2), 2.0 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    values = [np.array([value for _, _, value in clean])]
    values += [a for p in panels for line in p.lines for a in (line.accuracy, line.low, line.high)]
    limits = accuracy_limits(*values)
    for number, ax in enumerate(grid.flat):
        if number >= len(panels):
            ax.set_visible(False)
            continue
        _draw_panel(ax, panels[number], clean)
        ax.set_ylim(*limits)
        if number % columns == 0:
            ax.set_ylabel("accuracy, %")
    _robustness_legend(figure, grid.flat[0], panels, clean)
    return figure


def _draw_panel(
    ax: Axes, panel: PerturbationPanel, clean: Sequence[tuple[str, int, float]]
) -> None:
    for place, (_, position, value) in enumerate(clean):
        dashes = (3.0 * place, (1.0, max(2.0, 1.0 + 2.0 * (len(clean) - 1))))
        ax.axhline(value, color=entry_color(position), linestyle=dashes, linewidth=1.3)
    order = list(dict.fromkeys(line.entry for line in panel.lines))
    for line in panel.lines:
        color = entry_color(line.position)
        step = 0.42 / max(len(order), 1)
        x = line.x + (order.index(line.entry) - (len(order) - 1) / 2) * step
        draw_band(ax, x, line.low, line.high, color, fill=False)
        ax.plot(
            x, line.accuracy, color=color, marker=entry_marker(line.position), markersize=4,
            linestyle=STROKES[line.variant] if panel.is_ordered else "",
            markerfacecolor="white" if line.variant else color, linewidth=1.1,
        )  # fmt: skip
    ax.set_xticks(np.arange(len(panel.ticks)), list(panel.ticks))
    if sum(map(len, panel.ticks)) > LETTERS_PER_AXIS:
        ax.tick_params(axis="x", labelrotation=30)
        for label in ax.get_xticklabels():
            label.set_horizontalalignment("right")
    ax.set_xlim(-0.5, len(panel.ticks) - 0.5)
    ax.set_title(figure_label(panel.title, limit=44), fontsize=8)


def _robustness_legend(
    figure: Figure,
    ax: Axes,
    panels: Sequence[PerturbationPanel],
    clean: Sequence[tuple[str, int, float]],
) -> None:
    handles = [
        ax.plot([], [], color=entry_color(position), marker=entry_marker(position))[0]
        for _, position, _ in clean
    ]
    labels = name_labels([name for name, _, _ in clean], limit=40)
    handles += ax.plot([], [], color=MUTED, linestyle=(0, (1, 2)), linewidth=1)
    labels.append("unchanged windows")
    variants = next((panel.variants for panel in panels if panel.variants), None)
    if variants:
        for name, stroke, face in zip(variants, STROKES, (MUTED, "white"), strict=True):
            handles += ax.plot(
                [], [], color=MUTED, linestyle=stroke, marker="o", markerfacecolor=face
            )
            labels.append(name)
    add_legend(figure, handles, labels)


@dataclass(frozen=True)
class BatchLine:
    """One stage at one precision over batch sizes: windows per second and peak GB, [n]; NaN = not
    measured. `failed` are the batch sizes that did not fit."""

    name: str
    batch: np.ndarray
    windows_per_second: np.ndarray
    peak_gb: np.ndarray
    failed: Sequence[int] = ()


def batch_sweep(lines: Sequence[BatchLine]) -> Figure:
    """Throughput and peak memory against batch size; crosses = batch sizes that did not fit."""
    has_memory = any(np.isfinite(line.peak_gb).any() for line in lines)
    figure = new_figure(8.0 if has_memory else 4.6, 2.7)
    grid: list[Any] = list(figure.subplots(1, 2 if has_memory else 1, squeeze=False)[0])
    columns = [("windows per second", "windows_per_second"), ("peak memory, GB", "peak_gb")]
    handles: list[Any] = []
    for ax, (title, column) in zip(grid, columns, strict=False):
        drawn = [
            _draw_batches(ax, line, getattr(line, column), place)
            for place, line in enumerate(lines)
        ]
        handles = handles or drawn
        _batch_axis(ax, lines, title)
    labels = name_labels([line.name for line in lines], limit=40)
    if any(line.failed for line in lines):
        handles += grid[0].plot([], [], "x", color=MUTED, markersize=6)
        labels.append("did not fit")
    add_legend(figure, handles, labels)
    return figure


def _draw_batches(ax: Axes, line: BatchLine, values: np.ndarray, place: int) -> Any:
    known = np.isfinite(values)
    color = entry_color(place)
    if line.failed:
        ax.plot(line.failed, [0] * len(line.failed), "x", color=color, markersize=6, clip_on=False)
    return ax.plot(line.batch[known], values[known], color=color, marker=entry_marker(place))[0]


def _batch_axis(ax: Axes, lines: Sequence[BatchLine], title: str) -> None:
    batches = np.unique(
        np.concatenate([[*line.batch, *line.failed] for line in lines]).astype(float)
    )
    ax.set_xscale("log", base=2)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(batches, [f"{batch:g}" for batch in batches])
    ax.set_xlim(batches.min() / 1.3, batches.max() * 1.3)
    highest = padded_limits(*(line.get_ydata() for line in ax.lines), [0.0])
    ax.set_ylim(0, max(highest[1], 1e-9))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_title(title, fontsize=8)
    ax.set_xlabel("batch size")
