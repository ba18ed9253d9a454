"""Figures of a fusion study: systems side by side, three gains, cost, and diversity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from regatta.analysis.fusion_decision import PARTS
from regatta.analysis.fusion_systems import FUSED, WORDS
from regatta.report.comparison_figures import percent_interval
from regatta.report.curves import accuracy_limits, add_legend
from regatta.report.fusion_tables import COST_WORDS, costed_systems
from regatta.report.material import Material
from regatta.report.style import (
    INK,
    MUTED,
    PALETTE,
    Drawn,
    FigureGap,
    drawn,
    figure_label,
    name_labels,
    new_figure,
    padded_limits,
)

ROW_INCHES = 0.25
SHOWN = {
    FUSED: ("o", PALETTE[0], True),
    "cotrained-logits": ("s", PALETTE[2], False),
    "original-logits": ("D", PALETTE[3], False),
    "best-expert": ("v", MUTED, False),
    "full-equal-cost": ("^", PALETTE[1], True),
}
"""System -> mark, colour, and whether it is filled."""
COST_MARKS = {
    FUSED: "o",
    "original-logits": "D",
    "stacking": "P",
    "full": "v",
    "full-equal-cost": "^",
    "wide": "s",
}
COST_PANELS = ("train_flops", "macs_per_image", "parameters", "device_seconds")
UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def fusion_figures(material: Material) -> Iterator[Drawn]:
    section = material.comparison["fusion"]
    if section is None:
        return
    yield _systems(material, section)
    yield _decision(material, section)
    yield _cost(section)
    yield _diversity(section)


def _rows_by_architecture(section: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for each in section["systems"]:
        found.setdefault(each["architecture"], []).append(each)
    return found


def _row_label(each: dict[str, Any], section: dict[str, Any]) -> str:
    several = len({one["alpha"] for one in section["systems"]}) > 1
    return f"{each['fusion_type']}, alpha {each['alpha']:g}" if several else each["fusion_type"]


def _systems(material: Material, section: dict[str, Any]) -> Drawn:
    told = "; ".join(
        f"{each['entry']} {100 * each['accuracies'][FUSED]['accuracy']['estimate']:.1f} %"
        for each in section["systems"]
    )
    absent = [
        WORDS[key]
        for key in SHOWN
        if all(each["accuracies"][key]["accuracy"] is None for each in section["systems"])
    ]
    return drawn(
        "fusion_systems",
        systems_figure(section),
        title="Fused systems beside their experts",
        caption=f"Accuracy at {material.headline_name} with its {material.confidence} interval. "
        "A row per fused system; experts before and after co-training are averaged by their "
        "logits, and the best single expert is chosen on validation."
        + (f" Not known here: {'; '.join(absent)}." if absent else ""),
        alt=f"Dots with intervals, a row per fused system. Fused: {told}.",
    )


def systems_figure(section: dict[str, Any]) -> Figure:
    """A panel per architecture, a row per fusion; marks of one row lie a little apart."""
    by_row = _rows_by_architecture(section)
    counts = [len(each) for each in by_row.values()]
    figure = new_figure(6.6, 0.5 + sum(counts) * 1.6 * ROW_INCHES + 0.3 * len(counts))
    grid = figure.subplots(len(by_row), 1, squeeze=False, sharex=True, height_ratios=counts)[:, 0]
    values, handles = [], {}
    for ax, (architecture, systems) in zip(grid, by_row.items(), strict=True):
        for row, each in enumerate(reversed(systems)):
            for place, key in enumerate(SHOWN):
                accuracy = each["accuracies"][key]["accuracy"]
                if accuracy is not None:
                    found = percent_interval(accuracy)
                    values.append(found)
                    handles[key] = _mark(ax, key, found, row + 0.28 - 0.14 * place)
        labels = [_row_label(each, section) for each in reversed(systems)]
        _name_rows(ax, labels, architecture)
    grid[-1].set_xlim(*accuracy_limits(*values))
    grid[-1].set_xlabel("accuracy, %")
    shown = [key for key in SHOWN if key in handles]
    add_legend(figure, [handles[key] for key in shown], [WORDS[key] for key in shown])
    return figure


def _mark(ax: Axes, key: str, value: tuple[float, float, float], y: float) -> Any:
    mark, color, filled = SHOWN[key]
    accuracy, low, high = value
    if np.isfinite(low) and np.isfinite(high):
        ax.hlines(y, low, high, color=color, linewidth=0.9)
    face = color if filled else "white"
    return ax.plot([accuracy], [y], mark, color=color, markerfacecolor=face, markersize=4.5)[0]


def _name_rows(ax: Axes, labels: Sequence[str], title: str) -> None:
    ax.set_yticks(range(len(labels)), name_labels(labels, limit=30))
    ax.set_ylim(-0.6, len(labels) - 0.4)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    for row in range(1, len(labels)):
        ax.axhline(row - 0.5, color="#E3E6EB", linewidth=0.6)
    ax.set_title(figure_label(title, limit=40), fontsize=8)


def _decision(material: Material, section: dict[str, Any]) -> Drawn:
    name, title = "fusion_decision", "The decision in three parts"
    known = [row for row in section["decision"] if row["verdict"] is not None]
    if not known:
        reasons = "; ".join(dict.fromkeys(row["reason"] for row in section["decision"]))
        return FigureGap(name, title, f"No part of the decision is known: {reasons}.")
    margin = section["margin_points"]
    told = "; ".join(
        f"{row['part']} of {row['entry']} {row['difference_points']['estimate']:+.1f}"
        for row in known
    )
    return drawn(
        name,
        decision_figure(section),
        title=title,
        caption=f"Differences in accuracy with {material.confidence} intervals, paired by image. "
        "Filled: the corrected test and the interval say that they differ. Shaded: the equivalence "
        f"margin of ±{margin:g} {'point' if margin == 1 else 'points'}.",
        alt=f"Intervals of differences in points: {told}.",
    )


def decision_figure(section: dict[str, Any]) -> Figure:
    """A panel per part, a row per fusion."""
    by_place = {(row["entry"], row["part"]): row for row in section["decision"]}
    names = [each["entry"] for each in section["systems"]][::-1]
    labels = name_labels(names, limit=34)
    width = 0.6 + 0.062 * max(len(label) for label in labels) + 2.1 * len(PARTS)
    figure = new_figure(width, 0.9 + ROW_INCHES * len(names))
    grid = figure.subplots(1, len(PARTS), squeeze=False, sharey=True)[0]
    for ax, part in zip(grid, PARTS, strict=True):
        _draw_part(ax, [by_place[(name, part)] for name in names], section["margin_points"])
        ax.set_title(part, fontsize=8)
    grid[0].set_yticks(range(len(names)), labels)
    grid[0].set_ylim(-0.7, len(names) - 0.3)
    figure.supxlabel("difference in accuracy, points", fontsize=8)
    return figure


def _draw_part(ax: Axes, rows: Sequence[dict[str, Any]], margin: float) -> None:
    ax.axvspan(-margin, margin, color="#E9EDF3", linewidth=0, zorder=0)
    ax.axvline(0, color=MUTED, linewidth=0.8)
    ends = [-margin, margin]
    for y, row in enumerate(rows):
        if row["verdict"] is None:
            box = {"facecolor": "#E9EDF3", "edgecolor": "none", "pad": 1.5}
            ax.text(
                0, y, "not known", ha="center", va="center", fontsize=6.5, color=MUTED, bbox=box
            )
            continue
        found = row["difference_points"]
        decided = row["verdict"] in ("ahead", "behind")
        color = INK if decided else MUTED
        if found["low"] is not None:
            ax.hlines(y, found["low"], found["high"], color=color, linewidth=1.5)
            ends += [found["low"], found["high"]]
        face = color if decided else "white"
        ax.plot([found["estimate"]], [y], "s", color=color, markerfacecolor=face, markersize=4.5)
        ends.append(found["estimate"])
    ax.set_xlim(*padded_limits(ends))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)


def _cost(section: dict[str, Any]) -> Drawn:
    name, title = "fusion_cost", "Accuracy against the cost of the whole system"
    systems = costed_systems(section)
    panels = [key for key in COST_PANELS if any(row["cost"][key] is not None for row in systems)]
    if not panels:
        return FigureGap(name, title, "No cost was measured, so accuracy cannot be set against it.")
    lacking = [COST_WORDS[key] for key in COST_PANELS if key not in panels]
    return drawn(
        name,
        cost_figure(systems, panels),
        title=title,
        caption="A fused system and an average pay for the training of all their experts. Colour = "
        "architecture, mark = kind of system."
        + (f" Not measured: {', '.join(lacking)}." if lacking else ""),
        alt=f"Accuracy against {len(panels)} costs of {len(systems)} systems.",
    )


def cost_figure(systems: Sequence[dict[str, Any]], panels: Sequence[str]) -> Figure:
    """Accuracy over each cost, a mark per system."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(1.0 + 2.9 * columns, 2.4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    colors = _architecture_colors([row["architecture"] for row in systems])
    accuracy = [percent_interval(row["accuracy"]) for row in systems]
    for place, ax in enumerate(grid.flat):
        ax.set_visible(place < len(panels))
        if place < len(panels):
            _cost_panel(ax, systems, accuracy, panels[place], colors)
    grid[0][0].set_ylim(*accuracy_limits(*accuracy))
    for row in grid:
        row[0].set_ylabel("accuracy, %")
    dots = [(color, "o", name) for name, color in colors.items()]
    kinds = [kind for kind in COST_MARKS if any(row["kind"] == kind for row in systems)]
    dots += [(INK, COST_MARKS[kind], WORDS[kind]) for kind in kinds]
    handles = [grid[0][0].plot([], [], mark, color=color)[0] for color, mark, _ in dots]
    add_legend(figure, handles, [figure_label(name, limit=34) for *_, name in dots])
    return figure


def _cost_panel(
    ax: Axes,
    systems: Sequence[dict[str, Any]],
    accuracy: Sequence[tuple[float, float, float]],
    key: str,
    colors: dict[str, str],
) -> None:
    known = [row["cost"][key] for row in systems if row["cost"][key] is not None]
    factor, unit = next((u for u in UNITS if max(known) >= u[0]), UNITS[-1])
    if key == "device_seconds":
        factor, unit = (3600.0, "hours") if max(known) >= 7200 else (1.0, "s")
    for row, (value, low, high) in zip(systems, accuracy, strict=True):
        if row["cost"][key] is None:
            continue
        color, x = colors[row["architecture"]], row["cost"][key] / factor
        if np.isfinite(low) and np.isfinite(high):
            ax.vlines(x, low, high, color=color, linewidth=0.7, alpha=0.6)
        face = color if row["kind"] == FUSED else "white"
        ax.plot([x], [value], COST_MARKS[row["kind"]], color=color, markerfacecolor=face)
    if min(known) > 0 and max(known) / min(known) > 20:
        ax.set_xscale("log")
        ax.minorticks_off()
    else:
        ax.set_xlim(0, 1.08 * max(known) / factor or 1.0)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlabel(f"{COST_WORDS[key]}, {unit}" if unit else COST_WORDS[key])


def _architecture_colors(names: Sequence[str]) -> dict[str, str]:
    return {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(dict.fromkeys(names))}


def _diversity(section: dict[str, Any]) -> Drawn:
    name, title = "fusion_diversity", "Disagreement and double fault"
    pairs = [row for row in section["diversity"] if row["kind"] == "pair"]
    if not pairs:
        return FigureGap(name, title, "No two experts were judged for the same seed.")
    means = "; ".join(
        f"{row['architecture']} {100 * row['disagreement']:.1f} %"
        for row in section["diversity"]
        if row["kind"] == "set" and row["fusion_type"] == "none"
    )
    return drawn(
        name,
        diversity_figure(pairs),
        title=title,
        caption="Every pair of experts of one set, the mean over seeds: the share of images on "
        "which only one of the two is right, against the share that both get wrong. Hollow: as "
        "trained; filled: co-trained with a fusion. Only where they disagree can experts help each "
        "other; where both are wrong an average has nothing to choose from.",
        alt=f"Scatter of {len(pairs)} pairs of experts. Disagreement as trained: {means}.",
    )


def diversity_figure(pairs: Sequence[dict[str, Any]]) -> Figure:
    figure = new_figure(4.8, 3.2)
    ax = figure.add_subplot()
    colors = _architecture_colors([row["architecture"] for row in pairs])
    for row in sorted(pairs, key=lambda row: row["fusion_type"] == "none"):
        color, original = colors[row["architecture"]], row["fusion_type"] == "none"
        ax.plot(
            [100 * row["disagreement"]], [100 * row["double_fault"]], "o", color=color,
            markerfacecolor="white" if original else color,
            markersize=5.5 if original else 3.0, alpha=1.0 if original else 0.55,
        )  # fmt: skip
    ax.set_xlim(*padded_limits([100 * row["disagreement"] for row in pairs], floor=0.0))
    ax.set_ylim(*padded_limits([100 * row["double_fault"] for row in pairs], floor=0.0))
    ax.set(xlabel="disagreement, %", ylabel="double fault, %")
    handles = [ax.plot([], [], "o", color=color)[0] for color in colors.values()]
    add_legend(figure, handles, [figure_label(name, limit=34) for name in colors])
    return figure
