"""The figures of a race over windows of signals, with caption and alternative text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from regatta.report import window_plots as plots
from regatta.report.comparison_figures import percent_interval
from regatta.report.material import Material
from regatta.report.numbers import duration_text
from regatta.report.perturbations import perturbation_panels, reference_rows
from regatta.report.style import Drawn, drawn


def window_figures(material: Material) -> Iterator[Drawn]:
    """What is drawn for windows of signals alone; each only where the study has numbers for it."""
    if not material.is_signal:
        return
    yield _overview(material)
    yield from _label_fraction(material)
    yield from _robustness(material)


def _overview(material: Material) -> Drawn:
    entries = [
        plots.RaceEntry(
            entry["name"],
            material.positions[entry["name"]],
            [c.validation_accuracy for c in material.curves if c.entry == entry["name"]],
            percent_interval(entry["accuracy"]),
            entry["cost"]["train_seconds"],
        )
        for entry in material.comparison["entries"]
    ]
    numbers = "; ".join(
        f"{e.entry} {e.accuracy[0]:.1f} %"
        + ("" if e.train_seconds is None else f" after {duration_text(e.train_seconds)}")
        for e in entries
    )
    split = material.comparison["study"]["split"]
    trained = "all folds of a seed" if material.folds else "one run"
    return drawn(
        "comparison",
        plots.race_overview(entries, split=split, trained=trained),
        title="The race at a glance",
        caption=f"Left: a line per run. Middle: {split} accuracy at {material.headline_name} with "
        f"{material.confidence} intervals over {material.words.groups}. Right: seconds of "
        f"training, the mean over seeds{' of all folds together' if material.folds else ''}.",
        alt=f"Validation curves, accuracies and training times: {numbers}.",
    )


def fraction_lines(material: Material) -> list[plots.FractionLine]:
    """Entries that differ in the share of labels alone, two or more in a line."""
    families: dict[str, dict[float, str]] = {}
    for run in material.runs:
        recipe = run.spec.train.model_dump(mode="json")
        share = recipe.pop("label_fraction")
        entry = run.spec.entry.model_dump(mode="json", exclude={"name", "train"})
        key = json.dumps([entry, recipe], sort_keys=True)
        families.setdefault(key, {})[100 * share] = run.spec.entry.name
    known = {entry["name"]: entry for entry in material.comparison["entries"]}
    lines = []
    for family in families.values():
        if len(family) < 2:
            continue
        ends = [percent_interval(known[name]["accuracy"]) for name in family.values()]
        columns = (np.array(column) for column in zip(*ends, strict=True))
        name = _common_name(list(family.values()), known)
        lines.append(plots.FractionLine(name, len(lines), np.array(list(family)), *columns))
    return lines


def _common_name(names: list[str], entries: dict[str, dict[str, Any]]) -> str:
    """The parts between dashes that all names begin with, else the model."""
    parts = [name.split("-") for name in names]
    common = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return "-".join(common) or str(entries[names[0]]["model"])


def _label_fraction(material: Material) -> Iterator[Drawn]:
    lines = fraction_lines(material)
    if not lines:
        return
    said = "; ".join(
        f"{line.name} from {line.accuracy[line.share.argmin()]:.1f} % with {line.share.min():g} % "
        f"of the labels to {line.accuracy[line.share.argmax()]:.1f} % with {line.share.max():g} %"
        for line in lines
    )
    yield drawn(
        "label_fraction",
        plots.label_fraction_lines(lines),
        title="How many labels are needed",
        caption="Every model trained on class-stratified shares of the same training windows, "
        f"judged on all; with {material.confidence} intervals.",
        alt=f"Accuracy against the share of labels: {said}.",
    )


def _robustness(material: Material) -> Iterator[Drawn]:
    panels = perturbation_panels(material)
    if not panels:
        return
    clean = [
        (name, material.positions[name], 100 * row["accuracy"])
        for name, row in reference_rows(material).items()
    ]
    lines = [line for panel in panels for line in panel.lines]
    said = "; ".join(
        f"{name} {value:.1f} % unchanged, "
        f"{min(v for line in lines if line.entry == name for v in line.accuracy):.1f} % at worst"
        for name, _, value in clean
    )
    yield drawn(
        "robustness",
        plots.robustness_panels(panels, clean),
        title="Accuracy under perturbations",
        caption="The raw signal is changed, then each entry draws or standardises it as usual. "
        f"Whiskers: {material.confidence} intervals over {material.words.groups}.",
        alt=f"Accuracy of every entry under {len(panels)} kinds of perturbation: {said}.",
    )
