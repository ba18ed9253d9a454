"""Class x condition heat maps: classes that fare alike stand together.

Shapes: K classes, C conditions, E entries. Accuracies are in percent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from regatta.report.condition_axis import (
    ConditionColumns,
    condition_columns,
    draw_condition_axis,
    separate_groups,
)
from regatta.report.heatmaps import color_bar
from regatta.report.material import Material
from regatta.report.style import (
    INK,
    MUTED,
    Drawn,
    accuracy_colormap,
    common_scale,
    drawn,
    figure_label,
    name_labels,
    new_figure,
)

FEWEST_CLASSES = 3
PANELS_PER_FIGURE = 4
MOST_OPTIMAL = 300
"""Above this many classes the order of the leaves is the plain one: the best takes minutes."""
TALLEST_INCHES = 13.0
PANEL_INCHES = 6.8
"""Width of all panels together."""


@dataclass(frozen=True)
class ClassOrder:
    """Classes from top to bottom, and the tree beside them.

    `rows` are positions of classes; the last `unjudged` of them have no sample and no place in the
    tree. `tree` holds links [K - 1, 4, 2] of (height, row) as the tree is drawn.
    """

    rows: np.ndarray
    tree: np.ndarray
    unjudged: int


def order_classes(profiles: np.ndarray) -> ClassOrder:
    """Average linkage over the Euclidean distances of the rows of `profiles` [K, C].

    Leaves are turned so that neighbours are as alike as the tree allows (Bar-Joseph et al. 2001),
    the half with the higher mean on top. Rows with a NaN go to the end.
    """
    from scipy.cluster.hierarchy import dendrogram, linkage

    known = np.isfinite(profiles).all(axis=1)
    present, absent = np.flatnonzero(known), np.flatnonzero(~known)
    if len(present) < 2:
        return ClassOrder(np.concatenate([present, absent]), np.zeros((0, 4, 2)), len(absent))
    shown = profiles[present]
    links = linkage(shown, method="average", optimal_ordering=len(present) <= MOST_OPTIMAL)
    found = dendrogram(links, no_plot=True)
    leaves = np.array(found["leaves"])
    # scipy puts leaf k at 10 k + 5.
    rows, heights = np.array(found["icoord"]) / 10, np.array(found["dcoord"])
    means = shown[leaves].mean(axis=1)
    half = len(leaves) // 2
    if means[:half].mean() < means[-half:].mean():
        leaves, rows = leaves[::-1], len(leaves) - rows
    tree = np.stack([heights, rows], axis=2)
    return ClassOrder(np.concatenate([present[leaves], absent]), tree, len(absent))


def class_map_figures(material: Material) -> Iterator[Drawn]:
    """One figure per four entries; none below two conditions or three judged classes."""
    tables = [material.class_accuracy(entry) for entry in material.entries]
    judged = int(np.isfinite(tables[0][0]).sum())
    if len(tables[0]) < 2 or judged < FEWEST_CLASSES:
        return
    order = order_classes(np.concatenate(tables).T)
    ids = [condition["id"] for condition in material.comparison["conditions"]]
    columns, scale = condition_columns(material, ids), common_scale(*tables)
    drawn_rows = [material.entries.index(entry) for entry in material.drawn_entries]
    for part, start in enumerate(range(0, len(drawn_rows), PANELS_PER_FIGURE)):
        shown = drawn_rows[start : start + PANELS_PER_FIGURE]
        names = [material.entries[e] for e in shown]
        caption = (
            "Accuracy in percent of every class in every condition, all entries on one colour "
            "scale. Classes are ordered by average linkage of their accuracies over all entries "
            "and conditions; the tree shows at which distance they join."
        )
        if len(drawn_rows) < len(tables):
            caption += f" Only the {len(drawn_rows)} best of {len(tables)} entries are drawn."
        if order.unjudged:
            caption += f" At the bottom, empty: classes without judged {material.words.samples}."
        yield drawn(
            "class_conditions" if part == 0 else f"class_conditions_{part + 1}",
            class_map(
                [ClassPanel(material.entries[e], tables[e].T) for e in shown],
                material.classes,
                order=order,
                columns=columns,
                scale=scale,
            ),
            title="Classes over conditions",
            caption=caption,
            alt=f"Heat maps of {len(material.classes)} classes by {len(ids)} conditions for "
            f"{', '.join(names)}. {_extremes(material, tables, order)}",
        )


def _extremes(material: Material, tables: list[np.ndarray], order: ClassOrder) -> str:
    means = np.mean([table.mean(axis=0) for table in tables], axis=0)
    judged = order.rows[: len(order.rows) - order.unjudged]
    high, low = judged[np.argmax(means[judged])], judged[np.argmin(means[judged])]
    return (
        f"Highest on average: {material.classes[high]}, {means[high]:.1f} %; lowest: "
        f"{material.classes[low]}, {means[low]:.1f} %."
    )


@dataclass(frozen=True)
class ClassPanel:
    """One entry's accuracies [K, C]; NaN = the class has no judged sample."""

    entry: str
    values: np.ndarray


def class_map(
    panels: Sequence[ClassPanel],
    classes: Sequence[str],
    *,
    order: ClassOrder,
    columns: ConditionColumns,
    scale: Normalize,
) -> Figure:
    """A panel per entry beside each other, the tree at the right."""
    count, cells = panels[0].values.shape
    class_inches = 0.2 if count <= 40 else max(0.1, 6.0 / count)
    class_inches = min(class_inches, TALLEST_INCHES / count)
    pitch = min(0.32, max(0.045, PANEL_INCHES / (len(panels) * cells)))
    width, names = max(0.9, pitch * cells), name_labels(classes, limit=26)
    size = min(7.5, max(3.8, 72 * class_inches * 0.82))
    labels = 0.62 * size / 72 * max(len(name) for name in names)
    below = 0.65 if columns.is_grouped else 0.3 + 0.055 * columns.longest
    figure = new_figure(
        labels + (width + 0.12) * len(panels) + 1.5,
        min(count * class_inches, TALLEST_INCHES) + 0.35 + below,
    )
    grid = figure.subplots(
        1, len(panels) + 1, squeeze=False, width_ratios=[width] * len(panels) + [0.5]
    )[0]
    mesh: Any = None
    for ax, panel in zip(grid, panels, strict=False):
        mesh = _draw_panel(ax, panel.values[order.rows], scale)
        ax.set_title(figure_label(panel.entry, limit=max(8, int(width * 13))), fontsize=8)
        separate_groups(ax, columns)
        draw_condition_axis(ax, columns, inches_per_column=width / cells)
        ax.set_yticks([])
    _name_classes(grid[0], [names[k] for k in order.rows], size, class_inches)
    _draw_tree(grid[-1], order)
    figure.supxlabel(columns.title, fontsize=8)
    color_bar(figure, mesh, grid, "accuracy, %", panels=max(1, round(figure.get_figheight() / 3)))
    return figure


def _draw_panel(ax: Axes, values: np.ndarray, scale: Normalize) -> Any:
    # As vectors, 101 classes x 25 conditions would be thousands of paths in every SVG.
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(values), cmap=accuracy_colormap(), norm=scale, rasterized=True
    )
    ax.set_ylim(len(values), 0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return mesh


def _name_classes(ax: Axes, names: list[str], size: float, class_inches: float) -> None:
    """All classes while their names do not touch, else every n-th."""
    step = max(1, int(np.ceil(size * 1.1 / (72 * class_inches))))
    places = np.arange(0, len(names), step)
    ax.set_yticks(places + 0.5, [names[place] for place in places], fontsize=size)
    ax.tick_params(axis="y", length=0, labelcolor=INK)


def _draw_tree(ax: Axes, order: ClassOrder) -> None:
    ax.set_axis_off()
    ax.set_ylim(len(order.rows), 0)
    if len(order.tree):
        ax.add_collection(LineCollection(list(order.tree), colors=MUTED, linewidths=0.7))
        ax.set_xlim(0, max(float(order.tree[..., 0].max()) * 1.02, 1e-9))
