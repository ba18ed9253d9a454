"""The figures that set entries against each other, with caption and alternative text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from regatta.report import bars, curves, heatmaps
from regatta.report.material import Material
from regatta.report.style import PALETTE, Drawn, FigureGap, drawn
from regatta.report.training_plots import training_history

Interval = tuple[float, float, float]
"""(estimate, low, high); NaN = not known."""


def comparison_figures(material: Material) -> Iterator[Drawn]:
    if material.axes is not None:
        yield _heatmaps(material, material.axes)
        yield _accuracy_curves(material, material.axes)
        yield _frame_curves(material)
    if not material.is_signal:
        # The best of many perturbations says nothing; windows have the race at a glance instead.
        yield _best_accuracy(material)
    yield _forest(material)
    yield from _training(material)


def ceilings_agree(material: Material) -> bool:
    """Whether one oracle ceiling holds for all entries (they saw the same frames)."""
    grids = [material.grid(entry, "ceiling", 100.0) for entry in material.entries]
    return all(np.allclose(grid, grids[0], atol=0.05, equal_nan=True) for grid in grids)


def _ceiling_panels(
    material: Material, axes: heatmaps.GridAxes, grids: list[curves.EntryGrid]
) -> list[heatmaps.GridPanel]:
    """No panel, one for all entries, or one per entry."""
    known = [(grid.entry, grid.ceiling) for grid in grids if grid.ceiling is not None]
    if len(known) < len(grids):
        return []
    plain = heatmaps.no_marks(axes.shape)
    if ceilings_agree(material):
        return [heatmaps.GridPanel("oracle ceiling", known[0][1], plain)]
    return [heatmaps.GridPanel(f"ceiling of {entry}", values, plain) for entry, values in known]


def _heatmaps(material: Material, axes: heatmaps.GridAxes) -> Drawn:
    grids = [material.entry_grid(entry) for entry in material.entries]
    panels = [heatmaps.GridPanel(g.entry, g.accuracy, material.marks(g.entry)) for g in grids]
    ceilings = _ceiling_panels(material, axes, grids)
    caption = "Accuracy in percent over coverage and stride, all panels on one colour scale."
    if ceilings:
        caption += (
            " The oracle ceiling is what an ideal reader of exactly the planned frames can reach:"
            " above it there is nothing to learn, below it the model loses."
        )
    ranges = "; ".join(material.range_text(entry) for entry in material.entries)
    return drawn(
        "comparison_heatmaps",
        heatmaps.comparison_heatmaps(panels, ceilings, axes=axes, scale=material.scale),
        title="Accuracy over the grid",
        caption=caption,
        alt=f"Heat maps of accuracy: {ranges}.",
    )


def _accuracy_curves(material: Material, axes: heatmaps.GridAxes) -> Drawn:
    grids = [material.entry_grid(entry) for entry in material.entries]
    caption = (
        f"One panel per stride, with {material.confidence} intervals clustered by "
        f"{material.words.group}."
    )
    if any(grid.ceiling is not None for grid in grids):
        caption += " Dashed steps: the oracle ceiling of each entry."
    ranges = "; ".join(material.range_text(entry) for entry in material.entries)
    return drawn(
        "comparison_accuracy_vs_coverage",
        curves.comparison_accuracy_vs_coverage(grids, axes=axes),
        title="Accuracy against coverage",
        caption=caption,
        alt=f"Lines of accuracy against coverage, a panel per stride, a line per entry: {ranges}.",
    )


def _frame_curves(material: Material) -> Drawn:
    name, title = "accuracy_vs_distinct_frames", "Accuracy against distinct frames"
    entries = material.comparison["robustness"]["entries"]
    found = []
    for entry in material.entries:
        points = entries.get(entry, {}).get("curve", {}).get("points", [])
        if points:
            frames = np.array([point["distinct_frames"] for point in points], dtype=float)
            accuracy = 100 * np.array([point["accuracy"] for point in points], dtype=float)
            found.append(curves.FrameCurve(entry, material.positions[entry], frames, accuracy))
    if not found:
        return FigureGap(name, title, "The number of distinct frames was not recorded.")
    return drawn(
        name,
        curves.accuracy_vs_distinct_frames(found),
        title=title,
        caption="Every condition placed by how many different frames the model saw on average; "
        "padding does not count. Entries are compared at equal evidence, not at equal settings.",
        alt="Lines of accuracy against mean distinct frames per clip, one line per entry.",
    )


def percent_interval(interval: dict[str, Any]) -> Interval:
    """A fraction with its ends, as percent."""
    value, low, high = (
        np.nan if interval[key] is None else 100 * float(interval[key])
        for key in ("estimate", "low", "high")
    )
    return value, low, high


def _best_cell(material: Material, entry: dict[str, Any], *, several: bool) -> bars.BestCell:
    name, position = entry["name"], material.positions[entry["name"]]
    headline = percent_interval(entry["accuracy"])
    if not several:
        return bars.BestCell(name, position, headline, None, "")
    row = material.rows[(name, entry["best"]["condition"])]
    ends = {"estimate": "accuracy", "low": "accuracy_low", "high": "accuracy_high"}
    best = percent_interval({key: row[column] for key, column in ends.items()})
    label = material.condition_name(entry["best"]["condition"])
    return bars.BestCell(name, position, headline, best, label)


def _best_accuracy(material: Material) -> Drawn:
    several = len(material.comparison["conditions"]) > 1
    entries = material.comparison["entries"]
    cells = [_best_cell(material, entry, several=several) for entry in entries]
    caption = f"Accuracy at {material.headline_name}"
    if several:
        caption += (
            ", the headline, and at each entry's own best condition. The best of many conditions"
            " is flattered by chance: it says what is possible, not which entry is better"
        )
    numbers = "; ".join(f"{cell.entry} {cell.headline[0]:.1f} %" for cell in cells)
    return drawn(
        "comparison_best_accuracy",
        bars.comparison_best_accuracy(cells),
        title="Best accuracy",
        caption=f"{caption}.",
        alt=f"Dots with intervals: {numbers}.",
    )


def _pair_row(pair: dict[str, Any]) -> bars.PairRow:
    ends = pair["difference_points"]
    value, low, high = (
        np.nan if ends[key] is None else float(ends[key]) for key in ("estimate", "low", "high")
    )
    decided = pair["verdict"] in ("ahead", "behind")
    return bars.PairRow(pair["first"], pair["second"], value, low, high, decided)


def _forest(material: Material) -> Drawn:
    pairs, title = material.comparison["pairs"], "Differences between entries"
    if not pairs["headline"]:
        reason = "There is one entry only, so there is no difference to draw."
        return FigureGap("forest", title, reason)
    shown = material.shown_pairs
    panels = [("headline condition", [_pair_row(pairs["headline"][n]) for n in shown])]
    if len(material.comparison["conditions"]) > 1:
        panels.append(("mean over all conditions", [_pair_row(pairs["average"][n]) for n in shown]))
    margin, confidence = pairs["margin_points"], material.comparison["provenance"]["confidence"]
    paired_by = (
        "class"
        if material.by_class
        else ("window" if material.is_signal else "image" if material.is_image else "sample")
    )
    numbers = "; ".join(f"{p.first} minus {p.second} {p.difference:+.1f}" for p in panels[0][1])
    return drawn(
        "forest",
        bars.forest_plot(panels, margin_points=margin, confidence=confidence),
        title=title,
        caption=f"First minus second, paired by {paired_by}. Filled: the corrected test and the "
        f"interval say that they differ. Shaded: the equivalence margin of ±{margin:g} "
        f"{'point' if margin == 1 else 'points'}{material.shown_pairs_words}.",
        alt=f"Forest plot of differences in points: {numbers}.",
    )


def _training(material: Material) -> Iterator[Drawn]:
    """The history of all runs; where entries outnumber the colours, in several figures."""
    title = "Training history"
    if not material.curves:
        reason = "No training record was found: there are no curves to draw."
        yield FigureGap("training_history", title, reason)
        return
    entries = list(dict.fromkeys(curve.entry for curve in material.curves))
    for part, start in enumerate(range(0, len(entries), len(PALETTE))):
        shown = entries[start : start + len(PALETTE)]
        chosen = [curve for curve in material.curves if curve.entry in shown]
        yield drawn(
            "training_history" if part == 0 else f"training_history_{part + 1}",
            training_history(chosen),
            title=title,
            caption="A line per run: loss and accuracy (dashed training, solid validation), "
            "learning rate on a logarithmic axis, seconds of each epoch.",
            alt="Loss, accuracy, learning rate and seconds per epoch of "
            f"{len(chosen)} runs of {', '.join(shown)}.",
        )
