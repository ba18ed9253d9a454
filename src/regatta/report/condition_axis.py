"""Conditions side by side as the columns of a figure: short labels, groups of one coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from regatta.report.material import PERCENT_AXES, Material, axis_text
from regatta.report.style import INK, MUTED, name_labels

SMALLEST_POINTS = 4.0


@dataclass(frozen=True)
class ConditionColumns:
    """Labels of the columns, in the order of the protocol.

    `groups` are (label, first column, one past the last) of neighbours that share a value; empty
    where there are none, and the labels are then whole names.
    """

    labels: list[str]
    groups: list[tuple[str, int, int]]
    title: str

    @property
    def longest(self) -> int:
        return max(len(label) for label in self.labels)

    @property
    def is_grouped(self) -> bool:
        return bool(self.groups)


def condition_columns(material: Material, ids: Sequence[str]) -> ConditionColumns:
    """How `ids`, in the order of the protocol, are named as columns."""
    by_id = {c["id"]: c["axes"] for c in material.comparison["conditions"]}
    axes = [by_id[name] for name in ids]
    for axis in axes[0]:
        groups = _groups_of(axes, axis)
        rest = [name for name in axes[0] if name != axis]
        if groups and len(rest) == 1:
            labels = [axis_text("", a[rest[0]]) for a in axes]
            unit = ", %" if axis in PERCENT_AXES else ""
            return ConditionColumns(labels, groups, f"{rest[0]}, in groups of {axis}{unit}")
    labels = name_labels([_plain_name(material, name, by_id[name]) for name in ids], limit=30)
    return ConditionColumns(labels, [], _only_axis(axes))


def _groups_of(axes: Sequence[dict[str, Any]], axis: str) -> list[tuple[str, int, int]]:
    """Runs of neighbours with one value of `axis`; none unless each value is one run of several."""
    if any(set(a) != set(axes[0]) for a in axes):
        return []
    values = [a[axis] for a in axes]
    if not all(isinstance(value, (int, float)) for value in values):
        return []
    starts = [k for k, value in enumerate(values) if k == 0 or value != values[k - 1]]
    if not 1 < len(starts) == len(set(values)) or len(values) < 1.5 * len(starts):
        return []
    return [(f"{values[a]:g}", a, b) for a, b in pairwise([*starts, len(values)])]


def _plain_name(material: Material, condition: str, axes: dict[str, Any]) -> str:
    return (
        axis_text("", next(iter(axes.values()))) if len(axes) == 1 else _name(material, condition)
    )


def _name(material: Material, condition: str) -> str:
    return material.condition_name(condition).removeprefix("condition ")


def _only_axis(axes: Sequence[dict[str, Any]]) -> str:
    """The axis label where one axis is all there is."""
    names = {name for a in axes for name in a}
    if len(names) != 1:
        return ""
    name = names.pop()
    return f"{name}, %" if name in PERCENT_AXES else name


def draw_condition_axis(ax: Axes, columns: ConditionColumns, *, inches_per_column: float) -> None:
    """Label the columns 0.5, 1.5 ... of `ax`; values that would touch give way to their groups.

    The title of the axis is left to the figure, which may have several panels.
    """
    places = [k + 0.5 for k in range(len(columns.labels))]
    ax.tick_params(axis="x", length=0, labelcolor=INK)
    pitch = 72 * inches_per_column
    if not columns.is_grouped:
        size = min(7.5, 0.85 * pitch)
        upright = columns.longest * 0.62 * 7 < 0.95 * pitch
        shown = places if size >= SMALLEST_POINTS else places[:: int(SMALLEST_POINTS / size) + 1]
        labels = [columns.labels[int(place)] for place in shown]
        ax.set_xticks(
            shown, labels, rotation=0 if upright else 90,
            fontsize=7 if upright else max(size, SMALLEST_POINTS),
        )  # fmt: skip
        return
    size = min(7.0, 0.95 * pitch / (0.62 * columns.longest))
    shows_values = size >= SMALLEST_POINTS
    ax.set_xticks(places if shows_values else [], columns.labels if shows_values else [])
    ax.tick_params(axis="x", labelsize=size)
    below = ax.secondary_xaxis("bottom")
    below.spines[:].set_visible(False)
    below.set_xticks(
        [(start + stop) / 2 for _, start, stop in columns.groups],
        [label for label, _, _ in columns.groups],
    )
    below.tick_params(
        length=0, pad=5 + size * 1.25 if shows_values else 3, labelsize=7.5, labelcolor=INK
    )


def separate_groups(ax: Axes, columns: ConditionColumns, *, color: str = "white") -> None:
    """A line between neighbouring groups."""
    for _, start, _ in columns.groups[1:]:
        ax.axvline(start, color=color, linewidth=2.2)


def mark_column(ax: Axes, column: int) -> None:
    """A small wedge over the column of the headline."""
    ax.plot(
        [column + 0.5], [1.0], marker=7, color=MUTED, markersize=4.5, clip_on=False,
        transform=ax.get_xaxis_transform(),
    )  # fmt: skip
