"""Which figures a study gets, with caption and alternative text; what cannot be drawn becomes a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from regatta.core.files import slug
from regatta.report import bars, curves, heatmaps
from regatta.report.material import Material
from regatta.report.style import FigureGap, RenderedFigure, class_labels, common_scale, figure_style, render

Drawn = RenderedFigure | FigureGap


def draw_figures(material: Material) -> dict[str, Drawn]:
    """Every figure of the study by name, in the order of the page. Names are paths below report/figures."""
    with figure_style():
        found = [*_comparison_figures(material)]
        for entry in material.entries:
            found += _entry_figures(material, entry)
    return {figure.name: figure for figure in found}


def entry_folder(entry: str) -> str:
    """Folder of an entry's figures."""
    return slug(entry)


def _comparison_figures(material: Material) -> Iterator[Drawn]:
    if material.axes is not None:
        yield _comparison_heatmaps(material)
        yield _comparison_curves(material)
        yield _frame_curves(material)
    yield _best_accuracy(material)
    yield _forest(material)
    yield _training(material)
    yield _cost(material)


def _entry_figures(material: Material, entry: str) -> Iterator[Drawn]:
    if material.axes is not None:
        yield _accuracy_heatmap(material, entry)
        yield _distinct_frames(material, entry)
        yield _accuracy_vs_coverage(material, entry)
        yield _class_distribution(material, entry)
    yield _class_representative(material, entry)
    yield _confusion(material, entry)


def _finish(
    name: str, draw: Callable[[], Figure], *, title: str, caption: str, alt: str
) -> RenderedFigure:
    return RenderedFigure(name=name, title=title, caption=caption, alt=alt, formats=render(draw()))


def _scale(material: Material) -> Normalize:
    """The one colour scale of all accuracy heat maps: entries and ceilings."""
    grids = [material.grid(entry, c, 100.0) for entry in material.entries for c in ("accuracy", "ceiling")]
    return common_scale(*grids)


def _range_text(material: Material, entry: str) -> str:
    values = material.grid(entry, "accuracy", 100.0)
    low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
    ids = material.cell_ids.ravel()
    return (
        f"{entry} from {values.flat[low]:.1f} % ({material.condition_name(ids[low])}) "
        f"to {values.flat[high]:.1f} % ({material.condition_name(ids[high])})"
    )


def ceilings_agree(material: Material) -> bool:
    """Whether one oracle ceiling holds for all entries (they saw the same frames)."""
    grids = [material.grid(entry, "ceiling", 100.0) for entry in material.entries]
    return all(np.allclose(grid, grids[0], atol=0.05, equal_nan=True) for grid in grids)


def _comparison_heatmaps(material: Material) -> Drawn:
    axes = material.axes
    assert axes is not None
    grids = [material.entry_grid(entry) for entry in material.entries]
    panels = [heatmaps.GridPanel(g.entry, g.accuracy, material.marks(g.entry)) for g in grids]
    plain = heatmaps.no_marks(axes.shape)
    known = [g for g in grids if g.ceiling is not None]
    ceilings = [heatmaps.GridPanel(f"ceiling of {g.entry}", g.ceiling, plain) for g in known if g.ceiling is not None]
    if ceilings and ceilings_agree(material):
        ceilings = [heatmaps.GridPanel("oracle ceiling", ceilings[0].values, plain)]
    if len(known) < len(grids):
        ceilings = []
    caption = "Accuracy in percent over coverage and stride, all panels on one colour scale."
    if ceilings:
        caption += (
            " The oracle ceiling is what an ideal reader of exactly the planned frames can reach:"
            " above it there is nothing to learn, below it the model loses."
        )
    return _finish(
        "comparison_heatmaps",
        lambda: heatmaps.comparison_heatmaps(panels, ceilings, axes=axes, scale=_scale(material)),
        title="Accuracy over the grid",
        caption=caption,
        alt="Heat maps of accuracy: " + "; ".join(_range_text(material, e) for e in material.entries) + ".",
    )


def _comparison_curves(material: Material) -> Drawn:
    axes = material.axes
    assert axes is not None
    grids = [material.entry_grid(entry) for entry in material.entries]
    confidence = f"{100 * material.comparison['provenance']['confidence']:g} %"
    return _finish(
        "comparison_accuracy_vs_coverage",
        lambda: curves.comparison_accuracy_vs_coverage(grids, axes=axes),
        title="Accuracy against coverage",
        caption=f"One panel per stride; bands are {confidence} intervals clustered by group."
        + (" Dashed steps: the oracle ceiling of each entry." if any(g.ceiling is not None for g in grids) else ""),
        alt="Lines of accuracy against coverage, one panel per stride, one line per entry. "
        + "; ".join(_range_text(material, e) for e in material.entries) + ".",
    )  # fmt: skip


def _frame_curves(material: Material) -> Drawn:
    entries = material.comparison["robustness"]["entries"]
    found = []
    for entry in material.entries:
        points = entries.get(entry, {}).get("curve", {}).get("points", [])
        if points:
            frames, accuracy = zip(*((p["distinct_frames"], 100 * p["accuracy"]) for p in points), strict=True)
            found.append(
                curves.FrameCurve(entry, material.positions[entry], np.array(frames), np.array(accuracy))
            )
    title = "Accuracy against distinct frames"
    if not found:
        return FigureGap("accuracy_vs_distinct_frames", title, "The number of distinct frames was not recorded.")
    return _finish(
        "accuracy_vs_distinct_frames",
        lambda: curves.accuracy_vs_distinct_frames(found),
        title=title,
        caption="Every condition placed by how many different frames the model saw on average; padding does not "
        "count. Entries are compared at equal evidence, not at equal settings.",
        alt="Lines of accuracy against mean distinct frames per clip, one line per entry.",
    )


def _three(interval: dict[str, float | None]) -> tuple[float, float, float]:
    value, low, high = (
        np.nan if interval[key] is None else 100 * float(interval[key] or 0.0) for key in ("estimate", "low", "high")
    )
    return value, low, high


def _best_accuracy(material: Material) -> Drawn:
    several = len(material.comparison["conditions"]) > 1
    cells = []
    for entry in material.comparison["entries"]:
        row = material.rows[(entry["name"], entry["best"]["condition"])]
        best = {"estimate": row["accuracy"], "low": row["accuracy_low"], "high": row["accuracy_high"]}
        cells.append(
            bars.BestCell(
                entry["name"],
                material.positions[entry["name"]],
                _three(entry["accuracy"]),
                _three(best) if several else None,
                material.condition_name(entry["best"]["condition"]) if several else "",
            )
        )
    headline = material.condition_name(material.comparison["headline_condition"])
    caption = f"Accuracy at the headline condition ({headline})"
    if several:
        caption += (
            " and at each entry's own best condition. The best of many conditions is flattered by chance:"
            " it says what is possible, not which entry is better"
        )
    return _finish(
        "comparison_best_accuracy",
        lambda: bars.comparison_best_accuracy(cells),
        title="Best accuracy",
        caption=caption + ".",
        alt="Dots with intervals: " + "; ".join(f"{c.entry} {c.headline[0]:.1f} %" for c in cells) + ".",
    )


def _pair_rows(pairs: list[dict]) -> list[bars.PairRow]:
    rows = []
    for pair in pairs:
        value, low, high = (
            np.nan if pair["difference_points"][key] is None else float(pair["difference_points"][key])
            for key in ("estimate", "low", "high")
        )
        rows.append(
            bars.PairRow(pair["first"], pair["second"], value, low, high, pair["verdict"] in ("ahead", "behind"))
        )
    return rows


def _forest(material: Material) -> Drawn:
    pairs, title = material.comparison["pairs"], "Differences between entries"
    if not pairs["headline"]:
        return FigureGap("forest", title, "There is one entry only, so there is no difference to draw.")
    panels = [("headline condition", _pair_rows(pairs["headline"]))]
    if len(material.comparison["conditions"]) > 1:
        panels.append(("mean over all conditions", _pair_rows(pairs["average"])))
    margin = pairs["margin_points"]
    return _finish(
        "forest",
        lambda: bars.forest_plot(
            panels, margin_points=margin, confidence=material.comparison["provenance"]["confidence"]
        ),
        title=title,
        caption=f"First minus second, paired by sample. Filled: the corrected test says that they differ. Shaded: "
        f"the equivalence margin of ±{margin:g} {'point' if margin == 1 else 'points'}.",
        alt="Forest plot: " + "; ".join(f"{p.first} minus {p.second} {p.difference:+.1f} points" for p in panels[0][1]),
    )


def _training(material: Material) -> Drawn:
    title = "Training curves"
    if not material.curves:
        return FigureGap("training_curves", title, "No training record was found: there are no curves to draw.")
    return _finish(
        "training_curves",
        lambda: curves.training_curves(material.curves),
        title=title,
        caption="Loss, accuracy and learning rate of every run; dashed = training, solid = validation.",
        alt="Training and validation loss, accuracy and learning rate against epochs, one line per run.",
    )


def _cost(material: Material) -> Drawn:
    points = []
    for entry in material.comparison["entries"]:
        times = [run.ms_per_clip for run in material.runs_of(entry["name"])]
        known = [time for time in times if time is not None]
        points.append(
            bars.CostPoint(
                entry["name"],
                material.positions[entry["name"]],
                _three(entry["accuracy"]),
                entry["cost"]["train_seconds"],
                entry["cost"]["parameters"],
                sum(known) / len(known) if known else None,
            )
        )
    title = "Accuracy against cost"
    with_cost = any((p.train_seconds, p.parameters, p.judge_ms_per_clip) != (None, None, None) for p in points)
    if not with_cost:
        return FigureGap("accuracy_vs_cost", title, "No cost was measured, so accuracy cannot be set against it.")
    return _finish(
        "accuracy_vs_cost",
        lambda: bars.accuracy_vs_cost(points),
        title=title,
        caption="Accuracy at the headline condition with its interval against training time, size and judging time.",
        alt="Dots of accuracy against cost, one per entry.",
    )


def _accuracy_heatmap(material: Material, entry: str) -> Drawn:
    axes = material.axes
    assert axes is not None
    marks = material.marks(entry)
    return _finish(
        f"{entry_folder(entry)}/accuracy_heatmap",
        lambda: heatmaps.accuracy_heatmap(
            entry, material.grid(entry, "accuracy", 100.0), axes=axes, marks=marks, scale=_scale(material)
        ),
        title=f"{entry}: accuracy over the grid",
        caption="Accuracy in percent on the colour scale of the whole study.",
        alt=f"Heat map of accuracy: {_range_text(material, entry)}.",
    )


def _distinct_frames(material: Material, entry: str) -> Drawn:
    axes = material.axes
    assert axes is not None
    name, title = f"{entry_folder(entry)}/distinct_frames", f"{entry}: frames that really differ"
    distinct = material.grid(entry, "distinct_frames")
    if not np.isfinite(distinct).any():
        return FigureGap(name, title, f"Distinct frames of {entry} were not recorded.")
    frames = [run.judging.get("fingerprint", {}).get("frames") for run in material.runs_of(entry)]
    most = max((float(f) for f in frames if f), default=float(np.nanmax(distinct)))
    return _finish(
        name,
        lambda: heatmaps.distinct_frame_map(
            entry, distinct, material.grid(entry, "pad_share"), axes=axes, marks=material.marks(entry),
            model_frames=most,
        ),
        title=title,
        caption=f"Mean number of distinct frames in a clip of {most:g}, and the share of the clip that is padding.",
        alt=f"Heat map of distinct frames of {entry}: {np.nanmin(distinct):.3g} to {np.nanmax(distinct):.3g} of {most:g}.",
    )  # fmt: skip


def _accuracy_vs_coverage(material: Material, entry: str) -> Drawn:
    axes = material.axes
    assert axes is not None
    confidence = f"{100 * material.comparison['provenance']['confidence']:g} %"
    return _finish(
        f"{entry_folder(entry)}/accuracy_vs_coverage",
        lambda: curves.accuracy_vs_coverage(material.entry_grid(entry), axes=axes),
        title=f"{entry}: accuracy against coverage",
        caption=f"A line per stride; bands are {confidence} intervals clustered by group.",
        alt=f"Lines of accuracy against coverage, one per stride: {_range_text(material, entry)}.",
    )


def _class_distribution(material: Material, entry: str) -> Drawn:
    axes = material.axes
    assert axes is not None
    accuracy = material.class_accuracy_by_coverage(entry)
    return _finish(
        f"{entry_folder(entry)}/per_class_distribution_by_coverage",
        lambda: bars.per_class_distribution(entry, accuracy, axes=axes),
        title=f"{entry}: spread over classes",
        caption="Every dot is a class, averaged over strides; box = middle half, line = median, whiskers = all.",
        alt=f"Class accuracies of {entry} at each coverage.",
    )


def _class_representative(material: Material, entry: str) -> Drawn:
    name, title = f"{entry_folder(entry)}/per_class_representative", f"{entry}: classes"
    axes = material.axes
    chosen = material.comparison["robustness"]["representative_classes"]
    if axes is None:
        return _class_bars(material, entry, name, title)
    if not chosen or not chosen["sensitive"] + chosen["robust"]:
        return FigureGap(name, title, "Too few classes or coverages to choose sensitive and robust ones.")
    by_coverage = dict(zip(material.classes, material.class_accuracy_by_coverage(entry), strict=True))
    labels = dict(zip(material.classes, class_labels(material.classes), strict=True))
    lines = [
        bars.ClassLine(labels[label], kind, by_coverage[label])
        for kind in ("sensitive", "robust")
        for label in chosen[kind]
    ]
    return _finish(
        name,
        lambda: bars.per_class_representative(entry, lines, axes=axes),
        title=f"{entry}: representative classes",
        caption=f"Averaged over strides. Chosen by rule, {chosen['rule']}.",
        alt="Class accuracy against coverage of " + ", ".join(f"{x.label} ({x.kind})" for x in lines) + ".",
    )


def _class_bars(material: Material, entry: str, name: str, title: str) -> Drawn:
    ids = [c["id"] for c in material.comparison["conditions"]]
    accuracy = material.class_accuracy(entry)[ids.index(material.comparison["headline_condition"])]
    unknown = np.full(len(accuracy), np.nan)
    return _finish(
        name,
        lambda: bars.per_class_bars(entry, material.classes, accuracy, unknown, unknown),
        title=title,
        caption="Accuracy of every class, best on top.",
        alt=f"Accuracy of {np.isfinite(accuracy).sum()} classes of {entry}.",
    )


def _confusion(material: Material, entry: str) -> Drawn:
    headline = material.condition_name(material.comparison["headline_condition"])
    seeds = len(material.runs_of(entry))
    return _finish(
        f"{entry_folder(entry)}/confusion_matrix",
        lambda: heatmaps.confusion_figure(entry, material.confusion[entry], material.classes),
        title=f"{entry}: confusion matrix",
        caption=f"{entry} at {headline}: rows are true classes, numbers are percent of the row"
        + (f"; {seeds} seeds together." if seeds > 1 else "."),
        alt=f"Confusion matrix of {entry} over {len(material.classes)} classes.",
    )
