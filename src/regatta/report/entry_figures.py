"""The figures of one entry, with caption and alternative text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from regatta.core.files import slug
from regatta.report import bars, curves, heatmaps
from regatta.report.material import Material
from regatta.report.style import Drawn, FigureGap, drawn, name_labels


def entry_folder(entry: str) -> str:
    """Folder of an entry's figures."""
    return slug(entry)


def entry_figures(material: Material, entry: str) -> Iterator[Drawn]:
    """Nothing for windows of signals, whose entries stand beside each other in one figure."""
    if material.is_signal and material.classification:
        return
    if material.axes is None:
        yield _class_bars(material, entry)
    else:
        yield _accuracy_heatmap(material, entry, material.axes)
        yield _distinct_frames(material, entry, material.axes)
        yield _accuracy_vs_coverage(material, entry, material.axes)
        yield _class_distribution(material, entry, material.axes)
        yield _class_representative(material, entry, material.axes)
    if entry in material.classification:
        yield _confusion(material, entry)


def _accuracy_heatmap(material: Material, entry: str, axes: heatmaps.GridAxes) -> Drawn:
    values, marks = material.grid(entry, "accuracy", 100.0), material.marks(entry)
    return drawn(
        f"{entry_folder(entry)}/accuracy_heatmap",
        heatmaps.accuracy_heatmap(entry, values, axes=axes, marks=marks, scale=material.scale),
        title=f"{entry}: accuracy over the grid",
        caption="Accuracy in percent on the colour scale of the whole study.",
        alt=f"Heat map of accuracy: {material.range_text(entry)}.",
    )


def _distinct_frames(material: Material, entry: str, axes: heatmaps.GridAxes) -> Drawn:
    name, title = f"{entry_folder(entry)}/distinct_frames", f"{entry}: frames that really differ"
    distinct, pad_share = (material.grid(entry, c) for c in ("distinct_frames", "pad_share"))
    if not np.isfinite(distinct).any():
        return FigureGap(name, title, f"Distinct frames of {entry} were not recorded.")
    recorded = [run.judging.get("fingerprint", {}).get("frames") for run in material.runs_of(entry)]
    most = max((float(n) for n in recorded if n), default=float(np.nanmax(distinct)))
    ends = f"{np.nanmin(distinct):.3g} to {np.nanmax(distinct):.3g}"
    return drawn(
        name,
        heatmaps.distinct_frame_map(
            entry, distinct, pad_share, axes=axes, marks=material.marks(entry), model_frames=most
        ),
        title=title,
        caption=f"Mean number of distinct frames in a clip of {most:g}, and the share of padding.",
        alt=f"Heat map of distinct frames of {entry}: {ends} of {most:g}.",
    )


def _accuracy_vs_coverage(material: Material, entry: str, axes: heatmaps.GridAxes) -> Drawn:
    return drawn(
        f"{entry_folder(entry)}/accuracy_vs_coverage",
        curves.accuracy_vs_coverage(material.entry_grid(entry), axes=axes),
        title=f"{entry}: accuracy against coverage",
        caption=f"A line per stride, with {material.confidence} intervals clustered by "
        f"{material.words.group}.",
        alt=f"Lines of accuracy against coverage, one per stride: {material.range_text(entry)}.",
    )


def _class_distribution(material: Material, entry: str, axes: heatmaps.GridAxes) -> Drawn:
    accuracy = material.class_accuracy_by_coverage(entry)
    return drawn(
        f"{entry_folder(entry)}/per_class_distribution_by_coverage",
        bars.per_class_distribution(entry, accuracy, axes=axes),
        title=f"{entry}: spread over classes",
        caption="Every dot is a class, averaged over strides; box: middle half and median.",
        alt=f"Class accuracies of {entry} at each coverage.",
    )


def _class_representative(material: Material, entry: str, axes: heatmaps.GridAxes) -> Drawn:
    name, title = f"{entry_folder(entry)}/per_class_representative", f"{entry}: typical classes"
    chosen = material.comparison["robustness"]["representative_classes"] or {}
    kinds = [(kind, label) for kind in ("sensitive", "robust") for label in chosen.get(kind, [])]
    if not kinds:
        reason = f"{entry}: too few classes or coverages to choose sensitive and robust ones."
        return FigureGap(name, title, reason)
    accuracy = material.class_accuracy_by_coverage(entry)
    labels = name_labels(material.classes)
    lines = []
    for kind, label in kinds:
        number = material.classes.index(label)
        lines.append(bars.ClassLine(labels[number], kind, accuracy[number]))
    return drawn(
        name,
        bars.per_class_representative(entry, lines, axes=axes),
        title=title,
        caption=f"Averaged over strides. Chosen by rule, {chosen['rule']}.",
        alt="Class accuracy against coverage of "
        + ", ".join(f"{line.label} ({line.kind})" for line in lines)
        + ".",
    )


def _class_bars(material: Material, entry: str) -> Drawn:
    ids = [c["id"] for c in material.comparison["conditions"]]
    headline = ids.index(material.comparison["headline_condition"])
    accuracy = material.class_accuracy(entry)[headline]
    return drawn(
        f"{entry_folder(entry)}/per_class_representative",
        bars.per_class_bars(entry, material.classes, accuracy),
        title=f"{entry}: classes",
        caption="Accuracy of every class, best on top.",
        alt=f"Accuracy of {np.isfinite(accuracy).sum()} classes of {entry}.",
    )


def _confusion(material: Material, entry: str) -> Drawn:
    seeds = len({run.spec.seed for run in material.runs_of(entry)})
    together = f"; {seeds} seeds together" if seeds > 1 else ""
    return drawn(
        f"{entry_folder(entry)}/confusion_matrix",
        heatmaps.confusion_figure(entry, material.confusion(entry), material.classes),
        title=f"{entry}: confusion matrix",
        caption=f"{entry} at {material.headline_name}: rows are true classes, numbers are percent "
        f"of the row{together}.",
        alt=f"Confusion matrix of {entry} over {len(material.classes)} classes.",
    )
