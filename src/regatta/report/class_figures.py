"""Figures of the classification results of all entries, with caption and alternative text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from regatta.report import class_plots
from regatta.report.material import Material
from regatta.report.style import Drawn, drawn


def class_figures(material: Material) -> Iterator[Drawn]:
    """Confusion and scores of all entries beside each other (windows of signals), reliability."""
    found = material.classification
    if not found:
        return
    if material.is_signal:
        yield _confusion(material, found)
        yield _scores(material, found)
    yield from _reliability(material, found)


def _together(material: Material) -> str:
    seeds = max(len({run.spec.seed for run in material.runs_of(e)}) for e in material.entries)
    return ", all seeds together" if seeds > 1 else ""


def _confusion(material: Material, found: dict[str, dict[str, Any]]) -> Drawn:
    panels = [class_plots.ConfusionPanel(name, material.confusion(name)) for name in found]
    right = "; ".join(
        f"{panel.entry} {np.trace(panel.counts):,} of {panel.counts.sum():,} right"
        for panel in panels
    )
    return drawn(
        "confusion_matrix",
        class_plots.confusion_matrices(panels, material.classes),
        title="Confusion matrices",
        caption="Rows are true classes. Colour: share of the true class, so that a row sums to 1; "
        f"numbers: {material.words.samples}{_together(material)}, empty where there are none.",
        alt=f"Confusion matrices over {len(material.classes)} classes: {right}.",
    )


def _scores(material: Material, found: dict[str, dict[str, Any]]) -> Drawn:
    entries = []
    for name, part in found.items():
        columns = {
            key: np.array([np.nan if row[key] is None else row[key] for row in part["per_class"]])
            for key in ("precision", "recall", "f1")
        }
        support = np.array([row["support"] for row in part["per_class"]], dtype=np.int64)
        entries.append(
            class_plots.ClassScores(name, material.positions[name], support=support, **columns)
        )
    said = "; ".join(
        f"{name} macro F1 {part['macro_f1']:.3f}"
        for name, part in found.items()
        if part["macro_f1"] is not None
    )
    return drawn(
        "per_class",
        class_plots.per_class_scores(entries, material.classes),
        title="Precision, recall and F1 of every class",
        caption=f"n: judged {material.words.samples} of the class. No bar: "
        "not defined, as where a class was never predicted.",
        alt=f"Bars of precision, recall and F1 of {len(material.classes)} classes: {said}.",
    )


def _reliability(material: Material, found: dict[str, dict[str, Any]]) -> Iterator[Drawn]:
    panels = [
        class_plots.ReliabilityPanel(
            name,
            material.positions[name],
            _curve(part["reliability"], part["ece"]),
            _scaled_curve(part),
        )
        for name, part in found.items()
        if part.get("reliability") and name in material.drawn_entries
    ]
    if not panels:
        return
    said = "; ".join(
        f"{p.entry} ECE {p.before.ece:.3f}" + (f" and {p.after.ece:.3f} after" if p.after else "")
        for p in panels
    )
    is_scaled = any(panel.after for panel in panels)
    fitted = " The temperature is fitted on the validation split." if is_scaled else ""
    yield drawn(
        "reliability",
        class_plots.reliability_diagrams(panels),
        title="Reliability of the scores",
        caption=f"Mean accuracy against mean confidence in {len(panels[0].before.samples)} bins; "
        "on the diagonal a score means what it says, below it the model is too sure. ECE: expected "
        f"calibration error.{fitted}{_only(material)}",
        alt=f"Accuracy against confidence: {said}.",
    )


def _only(material: Material) -> str:
    """What a caption adds where only the best of many entries are drawn."""
    shown, total = len(material.drawn_entries), len(material.entries)
    return f" Only the {shown} best of {total} entries are drawn." if shown < total else ""


def _scaled_curve(part: dict[str, Any]) -> class_plots.ReliabilityCurve | None:
    if not part.get("reliability_scaled") or part.get("ece_scaled") is None:
        return None
    return _curve(part["reliability_scaled"], part["ece_scaled"])


def _curve(bins: list[dict[str, Any]], ece: float) -> class_plots.ReliabilityCurve:
    confidence, accuracy = (
        np.array([np.nan if row[key] is None else float(row[key]) for row in bins])
        for key in ("confidence", "accuracy")
    )
    samples = np.array([row["n"] for row in bins])
    return class_plots.ReliabilityCurve(confidence, accuracy, samples, ece)
