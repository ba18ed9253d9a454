"""The section of a fusion study: systems side by side, the decision in three parts, the matrix.

Accuracies are fractions, gains are points. Experts are chosen and weighed by validation only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regatta.analysis import fusion_files as files
from regatta.analysis.classification import run_scores
from regatta.analysis.diversity import MEASURES, mean_known
from regatta.analysis.fusion_cost import cost_rows, system_costs
from regatta.analysis.fusion_decision import (
    PARTS,
    decide_parts,
    decision_parts,
    summary_sentences,
)
from regatta.analysis.fusion_judged import is_class_split
from regatta.analysis.fusion_logs import log_files
from regatta.analysis.fusion_matrix import ONE_SEED, matrix_effects, matrix_rows
from regatta.analysis.fusion_ood import NOT_MEASURED, ood_rows
from regatta.analysis.fusion_systems import FUSED, WORDS, Fused, Resampled, read_fused
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.paired import family_correction

CALIBRATED = ("nll", "brier", "ece")
EXPERTS_CHOSEN = "the best single expert is the one with the highest validation accuracy"


def fusion_section(
    judged: JudgedStudy, headline: int
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Section `fusion` of comparison.json and the files that only such a study has.

    Args:
        judged: with its experts. None and no files where nothing is fused.
    """
    if judged.unit == "class":
        return None, {}
    fusions = read_fused(judged, headline)
    if not fusions:
        return None, {}
    parts, resampled = decision_parts(fusions), Resampled(judged)
    for fused in fusions:
        for key, system in fused.systems.items():
            if system.values_SN is not None:
                resampled.add(fused.names[key], system.values_SN)
    for part in parts:
        if part.gain_SN is not None:
            resampled.add(part.key, part.gain_SN + 1)
    decisions = decide_parts(judged, parts, resampled)
    decision = [decisions[p.key] | {"entry": p.fused.entry.name} for p in parts if p.name in PARTS]
    costs, ood = cost_rows(judged, fusions), ood_rows(judged, headline)
    diversity = files.diversity_rows(judged, fusions)
    matrix = matrix_rows(judged, fusions, decisions, resampled)
    effects = matrix_effects(fusions, resampled)
    section = {
        "condition": judged.conditions[headline].id,
        "augment": judged.study.fusion.augment if judged.study.fusion else None,
        "partition": judged.study.partition.kind if judged.study.partition else None,
        "systems": [_system(fused, resampled, costs) for fused in fusions],
        "decision": decision,
        "correction": family_correction(judged.study.compare.correction),
        "family_size": sum(row["verdict"] is not None for row in decision),
        "margin_points": judged.study.compare.equivalence_margin_points,
        "matrix": matrix,
        "effects": effects,
        "calibration": [row for fused in fusions for row in _calibration(judged, fused)],
        "diversity": _diversity_by_set(diversity),
        "robustness": _robustness(judged, fusions),
        "ood": _ood_by_entry(ood),
        "sentences": summary_sentences(decision),
        "notes": _notes(judged, fusions),
    }
    tables = {
        "matrix.csv": files.matrix_csv(matrix),
        "cost.csv": files.cost_csv(costs),
        "diversity.csv": files.diversity_csv(diversity),
        "evaluation.csv": files.evaluation_csv(judged, fusions, headline),
        "ood.csv": files.ood_csv(ood),
    }
    return section, {**tables, **log_files(judged, fusions)}


def _system(fused: Fused, resampled: Resampled, costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Every accuracy that stands beside one fusion, in the order of WORDS."""
    cost = system_costs(fused, costs)
    found = {}
    for key in WORDS:
        system = fused.systems[key]
        accuracy = None
        if system.values_SN is not None:
            accuracy = resampled.share(fused.names[key], system.divisor).as_dict()
        found[key] = {
            "accuracy": accuracy,
            "seeds": system.seeds,
            "reason": system.reason,
            "of": system.of,
            "cost": cost.get(key),
        }
    own = [team.own_accuracy for team in fused.teams.values() if team.own_accuracy is not None]
    return {
        "entry": fused.entry.name,
        "architecture": fused.row,
        "fusion_type": fused.fusion_type,
        "alpha": fused.alpha,
        "experts": fused.entry.needs,
        "accuracies": found,
        "own_class_accuracy": np.mean(own, axis=0).tolist() if own else None,
    }


def _calibration(judged: JudgedStudy, fused: Fused) -> list[dict[str, Any]]:
    """Mean over seeds of the fused system, raw and by its temperature, and of the averages."""
    runs = [run_scores(run, judged.labels) for run in judged.runs_of(fused.entry.name)]
    keys = [*CALIBRATED, *(f"{name}_scaled" for name in CALIBRATED)]
    # One seed without a temperature leaves the mean over seeds open.
    own = {k: None if any(r[k] is None for r in runs) else mean_known([r[k] for r in runs])
           for k in keys}  # fmt: skip
    rows = [{"entry": fused.entry.name, "system": FUSED, **own}]
    for prefix, teams in (("original", fused.teams), ("cotrained", fused.cotrained)):
        found = [team.averages["logits"] for team in teams.values()]
        scores = [one.calibration for one in found if one is not None and one.calibration]
        means = {k: mean_known([each[k] for each in scores]) for k in CALIBRATED}
        scaled = dict.fromkeys(f"{name}_scaled" for name in CALIBRATED)
        name = f"{prefix}-logits"
        rows.append({"entry": fused.entry.name, "system": name, **means, **scaled})
    return rows


def _diversity_by_set(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, one row per set or pair of experts and fusion."""
    keys = ("architecture", "fusion_type", "alpha", "kind")
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        place = (*(row[key] for key in keys), tuple(row["members"]))
        grouped.setdefault(place, []).append(row)
    return [
        {
            **dict(zip((*keys, "members"), (*place[:-1], list(place[-1])), strict=True)),
            **{
                name: mean_known([row[name] for row in found])
                for name in (*MEASURES, "oracle", "ambiguity")
            },
            "cka": None,
            "seeds": len(found),
        }
        for place, found in grouped.items()
    ]


def _robustness(judged: JudgedStudy, fusions: Sequence[Fused]) -> dict[str, Any] | None:
    """Accuracy per condition of fused systems and baselines, and their mean corruption error."""
    if len(judged.conditions) < 2:
        return None
    experts = {entry.name for entry in judged.study.entries if entry.role == "expert"}
    rows = {}
    for entry in judged.entries:
        if entry not in experts:
            correct = np.stack([run.correct for run in judged.runs_of(entry)])
            rows[entry] = correct.mean(axis=(0, 2))
    references = {fused.entry.name: fused.names["full"] for fused in fusions}
    return {
        "conditions": [condition.id for condition in judged.conditions],
        "accuracy": {name: values.tolist() for name, values in rows.items()},
        "mean_corruption_error": {
            name: corruption_error(judged, rows[name], rows.get(reference))
            for name, reference in references.items()
        },
        "relative_to": references,
    }


def corruption_error(
    judged: JudgedStudy, accuracy_C: np.ndarray, reference_C: np.ndarray | None
) -> float | None:
    """Mean over corruptions of the error summed over severities, over that of a reference network
    (Hendrycks and Dietterich 2019, equation 1), in percent; None without one, or where it makes no
    error. Gaussian noise of a given sd is no corruption of that list.
    """
    if reference_C is None:
        return None
    by_name: dict[str, list[int]] = {}
    for c, condition in enumerate(judged.conditions):
        name = condition.axes.get("corruption")
        if name not in (None, "clean", "noise"):
            by_name.setdefault(str(name), []).append(c)
    errors = [
        ((1 - accuracy_C[cells]).sum(), (1 - reference_C[cells]).sum())
        for cells in by_name.values()
    ]
    if not errors or any(reference == 0 for _, reference in errors):
        return None
    return 100 * float(np.mean([own / reference for own, reference in errors]))


def _ood_by_entry(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds per set, entry and score; experts are in ood.csv only."""
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["role"] != "expert":
            place = (row["ood_dataset"], row["entry"], row["score"])
            grouped.setdefault(place, []).append(row)
    return [
        {
            **dict(zip(("ood_dataset", "entry", "score"), place, strict=True)),
            "status": NOT_MEASURED
            if any(row["status"] == NOT_MEASURED for row in found)
            else found[0]["status"],
            **{
                name: None
                if any(row[name] is None for row in found)
                else mean_known([row[name] for row in found])
                for name in ("auroc", "aupr", "fpr95", "detection_accuracy")
            },
        }
        for place, found in grouped.items()
    ]


def _notes(judged: JudgedStudy, fusions: Sequence[Fused]) -> list[str]:
    notes = [EXPERTS_CHOSEN]
    if min(len(fused.systems[FUSED].seeds) for fused in fusions) == 1:
        notes.append(ONE_SEED)
    if is_class_split(judged):
        notes.append(
            "experts know their own classes only: their average is all their classes side by side, "
            "each expert's logits over the temperature fitted on validation"
        )
        unfitted = [
            run.entry
            for run in judged.runs
            if run.entry in {name for fused in fusions for name in fused.entry.needs}
            and not run.training.get("temperature")
        ]
        if unfitted:
            notes.append(
                "no temperature is recorded for "
                f"{', '.join(dict.fromkeys(unfitted))}: its logits are taken as they are"
            )
    lacking = {
        key: [f.row for f in fusions if f.systems[key].values_SN is None]
        for key in ("full-equal-cost", "full", "wide")
    }
    notes += [
        f"{WORDS[key]}: {fusions[0].systems[key].reason} for {', '.join(dict.fromkeys(rows))}"
        for key, rows in lacking.items()
        if rows
    ]
    return notes
