"""The figure of agreement: which entries are right and wrong on the same samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from regatta.report.heatmaps import class_ticks, color_bar, inside_text
from regatta.report.material import Material
from regatta.report.style import (
    MUTED,
    Drawn,
    FigureGap,
    accuracy_colormap,
    drawn,
    ink_on,
    name_labels,
    new_figure,
)

NUMBERS_UP_TO = 16
"""With more entries than this the cells show colours only: the digits would touch."""
PANEL_INCHES = 3.3
"""Widest panel: two of them, names and scales stand beside each other on the page."""


@dataclass(frozen=True)
class Matrix:
    """One panel: values [E, E] of every entry with every other, NaN where there is none."""

    title: str
    values: np.ndarray
    scale: Normalize
    digits: int


def agreement_figures(material: Material) -> Iterator[Drawn]:
    section = material.comparison["agreement"]
    if section is None:
        return
    name, title = "agreement", "Where entries agree"
    known = [pair for pair in section["pairs"] if pair["disagreement"] is not None]
    if not known:
        yield FigureGap(
            name, title, "No two entries share a seed: nothing can be set side by side."
        )
        return
    said = "; ".join(
        f"{pair['first']} and {pair['second']} {100 * pair['disagreement']['estimate']:.1f} %"
        for pair in known
    )
    own = any(entry["disagreement"] is not None for entry in section["entries"])
    diagonal = " The diagonal sets the seeds of one entry against each other." if own else ""
    yield drawn(
        name,
        agreement_matrices(
            [e["entry"] for e in section["entries"]], _disagreement(section), _q(section)
        ),
        title=title,
        caption=f"Left: share of the {material.words.samples} on which one is right and the other "
        "wrong. Right: Yule's Q; 1 = right and wrong on the same ones, 0 = independent of each "
        f"other, below 0 = one is right where the other is wrong.{diagonal}",
        alt=f"Two matrices of all pairs of entries. Disagreement: {said}.",
    )


def _disagreement(section: dict[str, Any]) -> np.ndarray:
    def of_pair(pair: dict[str, Any]) -> float | None:
        return None if pair["disagreement"] is None else pair["disagreement"]["estimate"]

    own = [entry["disagreement"] for entry in section["entries"]]
    return 100 * symmetric(own, [of_pair(pair) for pair in section["pairs"]])


def _q(section: dict[str, Any]) -> np.ndarray:
    own = [entry["q_statistic"] for entry in section["entries"]]
    return symmetric(own, [pair["q_statistic"] for pair in section["pairs"]])


def symmetric(diagonal: Sequence[float | None], pairs: Sequence[float | None]) -> np.ndarray:
    """[E, E] from its diagonal and the pairs above it, row by row; None becomes NaN."""
    count = len(diagonal)
    found = np.full((count, count), np.nan)
    rows, columns = np.triu_indices(count, k=1)
    found[rows, columns] = found[columns, rows] = np.array(pairs, dtype=float)
    np.fill_diagonal(found, np.array(diagonal, dtype=float))
    return found


def agreement_matrices(names: Sequence[str], disagreement: np.ndarray, q: np.ndarray) -> Figure:
    """Disagreement in percent and Yule's Q of all pairs, both [E, E], side by side."""
    count = len(names)
    side = max(1.2, min(0.48 * count, PANEL_INCHES))
    labels = min(1.7, max(len(label) for label in name_labels(names)) * 0.062)
    largest, lowest = np.nanmax(disagreement, initial=1.0), np.nanmin(q, initial=0.0)
    matrices = [
        Matrix("disagreement, %", disagreement, Normalize(0, float(largest)), 1),
        Matrix("Q", q, Normalize(float(lowest), 1), 2),
    ]
    figure = new_figure(2 * (side + 0.75) + labels + 0.3, side + labels + 0.55)
    panels = figure.subplots(1, 2, squeeze=False)[0]
    for place, (ax, matrix) in enumerate(zip(panels, matrices, strict=True)):
        mesh = _draw(ax, matrix, cell_inches=side / count)
        class_ticks(ax, names, inches_per_class=side / count)
        ax.tick_params(labelleft=place == 0)
        ax.set_title(matrix.title, fontsize=8)
        color_bar(figure, mesh, ax, "")
    return figure


def _draw(ax: Axes, matrix: Matrix, *, cell_inches: float) -> Any:
    cmap, values = accuracy_colormap(), matrix.values
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(values), cmap=cmap, norm=matrix.scale, edgecolors="white", linewidth=1
    )
    # Square by the figure's size: a fixed aspect makes the layout cut off the names.
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    if len(values) > NUMBERS_UP_TO:
        return mesh
    for row, column in np.ndindex(*values.shape):
        value = float(values[row, column])
        is_known = np.isfinite(value)
        text = f"{value:.{matrix.digits}f}".replace("-", "−") if is_known else "–"
        inside_text(
            ax, column + 0.5, row + 0.5, text, ha="center", va="center",
            fontsize=min(7.5, 0.9 * 72 * cell_inches / (0.62 * 5)),
            color=ink_on(cmap(matrix.scale(value))) if is_known else MUTED,
        )  # fmt: skip
    return mesh
