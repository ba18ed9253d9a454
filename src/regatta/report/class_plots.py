"""What a classifier does with each class: confusion, precision and recall, calibration.

Shapes: K classes, M bins. Counts are summed over the seeds of an entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure

from regatta.report.curves import add_legend
from regatta.report.heatmaps import class_ticks, color_bar, inside_text
from regatta.report.style import (
    INK,
    MUTED,
    accuracy_colormap,
    entry_color,
    figure_label,
    ink_on,
    name_labels,
    new_figure,
)

COUNTS_UP_TO = 20
"""A confusion matrix with more classes than this shows colours only: the digits would touch."""
SHARES_UP_TO = 8
PAGE_INCHES = 9.2
"""Widest figure that the page shows at its own size."""


@dataclass(frozen=True)
class ConfusionPanel:
    """One entry's counts [K, K], rows = true class."""

    entry: str
    counts: np.ndarray


def confusion_matrices(panels: Sequence[ConfusionPanel], classes: Sequence[str]) -> Figure:
    """A panel per entry: colour = share of the true class, so that a row sums to 1; numbers =
    counts, with the share below where there is room. Cells without a sample stay empty."""
    count = len(classes)
    inches_per_class = _inches_per_class(count)
    side = max(1.6, inches_per_class * count)
    labels = min(1.7, max(len(label) for label in name_labels(classes)) * 0.062)
    columns = min(len(panels), max(1, int((PAGE_INCHES - 1.15 - labels) // (side + 0.25))))
    rows = -(-len(panels) // columns)
    figure = new_figure(
        columns * (side + 0.25) + labels + 1.2, rows * (side + 0.45) + labels + 0.35
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    mesh: Any = None
    for number, ax in enumerate(grid.flat):
        if number >= len(panels):
            ax.set_visible(False)
            continue
        mesh = _draw_confusion(ax, panels[number].counts)
        class_ticks(ax, classes, inches_per_class=side / max(count, 1))
        is_left, is_bottom = number % columns == 0, number + columns >= len(panels)
        ax.tick_params(labelleft=is_left, labelbottom=is_bottom)
        ax.set(
            xlabel="predicted class" if is_bottom else "", ylabel="true class" if is_left else ""
        )
        ax.set_title(figure_label(panels[number].entry, limit=max(10, int(side * 9))), fontsize=8)
    color_bar(figure, mesh, grid, "share of the true class", panels=rows)
    return figure


def _inches_per_class(count: int) -> float:
    if count <= SHARES_UP_TO:
        return 0.36
    return 0.3 if count <= COUNTS_UP_TO else max(0.08, 7.2 / count)


def _draw_confusion(ax: Axes, counts: np.ndarray) -> Any:
    total = counts.sum(axis=1, keepdims=True)
    share = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
    count = len(counts)
    cmap, scale = accuracy_colormap(), Normalize(0, 1)
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(share), cmap=cmap, norm=scale, rasterized=count > COUNTS_UP_TO
    )
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    if count > COUNTS_UP_TO:
        return mesh
    for row, column in np.argwhere(counts > 0):
        text = f"{counts[row, column]}"
        if count <= SHARES_UP_TO:
            text += f"\n{share[row, column]:.2f}"
        inside_text(
            ax, column + 0.5, row + 0.5, text, ha="center", va="center",
            fontsize=_count_size(int(counts.max()), count), linespacing=1.15,
            color=ink_on(cmap(scale(share[row, column]))),
        )  # fmt: skip
    return mesh


def _count_size(largest: int, classes: int) -> float:
    """Point size at which the longest count stays inside its cell."""
    letters = max(len(str(largest)), 4 if classes <= SHARES_UP_TO else 2)
    return min(6.6, 0.92 * 72 * _inches_per_class(classes) / (0.62 * letters))


@dataclass(frozen=True)
class ClassScores:
    """One entry's scores per class as fractions [K], NaN where undefined, and judged samples."""

    entry: str
    position: int
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


TINTS = (("precision", 0.35), ("recall", 0.65), ("f1", 1.0))
"""Score and strength of its colour, in the order of the bars."""


def per_class_scores(entries: Sequence[ClassScores], classes: Sequence[str]) -> Figure:
    """Bars of precision, recall and F1 for every class, a panel per entry; support at the right."""
    count = len(classes)
    inches = 0.46 if count <= 12 else 0.3 if count <= 40 else 0.16
    labels = min(1.5, max(len(label) for label in name_labels(classes)) * 0.056)
    columns = min(len(entries), 3)
    rows = -(-len(entries) // columns)
    figure = new_figure(
        0.6 + labels + columns * (2.3 if columns > 1 else 3.8), rows * (0.55 + inches * count) + 0.3
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    names = name_labels(classes)
    for number, ax in enumerate(grid.flat):
        if number >= len(entries):
            ax.set_visible(False)
            continue
        _draw_scores(ax, entries[number], size=min(7.0, inches * 40))
        ax.set_yticks(np.arange(count), names, fontsize=min(7.5, inches * 46))
        ax.tick_params(
            labelbottom=number + columns >= len(entries), labelleft=number % columns == 0
        )
        ax.set_title(figure_label(entries[number].entry, limit=30), fontsize=8)
        if number + columns >= len(entries):
            ax.set_xlabel("score")
    grid[0, 0].set_ylim(count - 0.4, -0.6)
    _score_legend(figure, grid[0, 0])
    return figure


def _draw_scores(ax: Axes, scores: ClassScores, *, size: float) -> None:
    places = np.arange(len(scores.support))
    for step, (name, strength) in enumerate(TINTS):
        values = getattr(scores, name)
        known = np.isfinite(values)
        ax.barh(
            places[known] + 0.26 * (step - 1), values[known], height=0.25,
            color=tint(entry_color(scores.position), strength), linewidth=0,
        )  # fmt: skip
    for place, support in enumerate(scores.support.tolist()):
        ax.text(
            1.015, place, f"n {support:,}", transform=ax.get_yaxis_transform(),
            va="center", ha="left", fontsize=size, color=MUTED,
        )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")


def tint(color: str, strength: float) -> tuple[float, float, float]:
    """`color` mixed with white; strength 1 = the colour itself."""
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(color))
    return red, green, blue


def _score_legend(figure: Figure, ax: Axes) -> None:
    handles = [
        ax.barh([np.nan], [np.nan], color=tint(INK, strength), linewidth=0) for _, strength in TINTS
    ]
    add_legend(figure, handles, ["precision", "recall", "F1"])


@dataclass(frozen=True)
class ReliabilityCurve:
    """One entry's answers by confidence: mean confidence, accuracy (fractions) and samples [M].

    Bins without samples are NaN.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    samples: np.ndarray
    ece: float


@dataclass(frozen=True)
class ReliabilityPanel:
    """One entry before and, where it was fitted, after temperature scaling."""

    entry: str
    position: int
    before: ReliabilityCurve
    after: ReliabilityCurve | None


def reliability_diagrams(panels: Sequence[ReliabilityPanel]) -> Figure:
    """Accuracy against confidence, a panel per entry; a dot's area grows with its samples.

    Hollow = scores as they are, filled = after temperature scaling; on the diagonal, confidence is
    right.
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(0.5 + 2.4 * columns + (0.5 if columns == 1 else 0), 0.45 + 2.55 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for number, ax in enumerate(grid.flat):
        if number >= len(panels):
            ax.set_visible(False)
            continue
        _draw_reliability(ax, panels[number])
        ax.tick_params(labelbottom=number + columns >= len(panels))
        if number + columns >= len(panels):
            ax.set_xlabel("confidence")
        if number % columns == 0:
            ax.set_ylabel("accuracy")
    style: dict[str, Any] = {"color": INK, "linewidth": 1, "markersize": 5}
    handles = grid[0, 0].plot([], [], "o--", markerfacecolor="white", **style)
    labels = ["as trained"]
    if any(panel.after is not None for panel in panels):
        handles += grid[0, 0].plot([], [], "o-", **style)
        labels.append("after temperature scaling")
    add_legend(figure, handles, labels)
    return figure


def _draw_reliability(ax: Axes, panel: ReliabilityPanel) -> None:
    color = entry_color(panel.position)
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    lines = [("", panel.before, "white", "--"), ("after ", panel.after, color, "-")]
    said = []
    for name, curve, face, stroke in lines:
        if curve is None:
            continue
        known = np.isfinite(curve.accuracy) & (curve.samples > 0)
        x, y, samples = (a[known] for a in (curve.confidence, curve.accuracy, curve.samples))
        ax.plot(x, y, color=color, linestyle=stroke, linewidth=1, zorder=2)
        size = 8 + 60 * samples / max(float(curve.samples.sum()), 1.0)
        ax.scatter(x, y, s=size, facecolor=face, edgecolor=color, linewidth=1, zorder=3)
        said.append(f"{name}ECE {curve.ece:.3f}")
    # In the title, as a curve may run through any corner of the panel.
    ax.set_title(f"{figure_label(panel.entry, limit=30)}\n{', '.join(said)}", fontsize=7.5)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
