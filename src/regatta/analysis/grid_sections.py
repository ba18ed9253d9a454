"""What a coverage x stride grid adds: drops, frame curves, class sensitivity, published tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Bootstrap
from regatta.analysis.cells import class_counts, class_table
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.published import FAULTS, across_models, published_analysis
from regatta.analysis.robustness import (
    class_critical_rates,
    class_sensitivity,
    coverage_drops,
    frame_curve,
    grid_axes,
    representative_classes,
)


def robustness_section(
    judged: JudgedStudy, bootstrap: Bootstrap, per_class: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Per entry drops, frame curve and class sensitivity; empty for any other protocol."""
    if grid_axes(judged.conditions) is None:
        return {"entries": {}, "representative_classes": None}
    entries = {}
    for position, name in enumerate(judged.entries):
        drops = coverage_drops(bootstrap, judged.conditions, position)
        truth, mine = judged.runs_of(name)[0].truth, per_class[name]
        rates = class_critical_rates(
            mine, judged.conditions, class_counts(judged), truth["rate_hz"]
        )
        entries[name] = {
            "drops": drops,
            "curve": frame_curve(bootstrap, truth["distinct_frames"], position),
            "classes": class_sensitivity(mine, judged.conditions, judged.classes, drops),
            "critical_rate_hz": dict(zip(judged.classes, rates, strict=True)),
        }
    sensitivities = [entry["classes"] for entry in entries.values()]
    return {"entries": entries, "representative_classes": representative_classes(sensitivities)}


def published_section(
    judged: JudgedStudy, bootstrap: Bootstrap, per_class: dict[str, np.ndarray]
) -> dict[str, Any] | None:
    """The published analysis per entry and across entries; None for any other protocol."""
    if grid_axes(judged.conditions) is None:
        return None
    entries = {
        name: published_analysis(class_table(judged, accuracy))
        for name, accuracy in per_class.items()
    }
    by_entry = {name: bootstrap.observed[e].tolist() for e, name in enumerate(judged.entries)}
    return {"entries": entries, "across_models": across_models(by_entry), "faults": list(FAULTS)}
