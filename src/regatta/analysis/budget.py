"""What each entry cost, and whether they raced on the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regatta.analysis.folds import epochs_of
from regatta.analysis.judged import JudgedRun, JudgedStudy

JUDGING_PARTS = ("decode_seconds", "preprocess_seconds", "forward_seconds")
BUDGET_KEYS = ("epochs", "steps", "samples_seen", "trials")
TRAINING_COST_KEYS = ("parameters", "flops_per_clip", "train_seconds", "peak_memory_gib")


def judging_seconds(run: JudgedRun) -> float | None:
    """Seconds that judging this run took, all conditions; None when it was not measured."""
    if any(run.cost.get(name) is None for name in JUDGING_PARTS):
        return None
    return float(sum(run.cost[name] for name in JUDGING_PARTS))


def entry_cost(runs: Sequence[JudgedRun]) -> dict[str, Any]:
    """Mean cost of one run of an entry (peak memory: the largest); None = not measured."""
    cost: dict[str, Any] = {
        key: mean_of([run.training.get(key) for run in runs]) for key in TRAINING_COST_KEYS
    }
    peaks = [run.training.get("peak_memory_gib") for run in runs]
    cost["peak_memory_gib"] = max((p for p in peaks if p is not None), default=None)
    for part in JUDGING_PARTS:
        cost[part] = mean_of([run.cost.get(part) for run in runs])
    cost["judging_seconds"] = mean_of([judging_seconds(run) for run in runs])
    samples = mean_of([run.cost.get("samples") for run in runs])
    seconds = cost["judging_seconds"]
    cost["judging_seconds_per_sample"] = seconds / samples if seconds and samples else None
    cost["judging_device"] = one_of([run.cost.get("device") for run in runs])
    for key in ("device", "precision", "threads", "torch"):
        cost[key] = one_of([run.training.get(key) for run in runs])
    return cost


def budget_ledger(judged: JudgedStudy) -> dict[str, Any]:
    """Budget per entry, recipe keys that differ, and a plain warning for each difference.

    `trials` (recipes tried before this one) is what training recorded; None = not recorded.
    """
    rows = [_budget_row(entry, judged.runs_of(entry)) for entry in judged.entries]
    recipes = {entry: judged.runs_of(entry)[0].info.get("train", {}) for entry in judged.entries}
    differing = _differing_keys(recipes)
    warnings = [
        f"entries were trained with different {key.replace('_', ' ')}: "
        + ", ".join(f"{row['entry']} {_shown(row[key])}" for row in rows)
        for key in BUDGET_KEYS
        if len({row[key] for row in rows}) > 1
    ]
    if differing:
        warnings.append("entries were trained with different recipes: " + ", ".join(differing))
    return {"entries": rows, "recipe_differences": differing, "warnings": warnings}


def mean_of(values: Sequence[Any]) -> float | None:
    """Mean, or None as soon as one value is not measured."""
    if not values or any(value is None for value in values):
        return None
    return float(sum(values)) / len(values)


def one_of(values: Sequence[Any]) -> Any:
    """The value if all agree, else all of them joined."""
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    return distinct[0] if len(distinct) == 1 else " / ".join(map(str, distinct)) or None


def _budget_row(entry: str, runs: Sequence[JudgedRun]) -> dict[str, Any]:
    results = [run.training for run in runs]
    epochs = [epochs_of(r) for r in results]
    return {
        "entry": entry,
        "runs": len(runs),
        "epochs": mean_of(epochs),
        "best_epoch": [r.get("best_epoch") for r in results],
        "steps": mean_of([r.get("steps") for r in results]),
        "samples_seen": mean_of([r.get("samples_seen") for r in results]),
        "trials": mean_of([r.get("trials") for r in results]),
        "skipped_steps": mean_of([r.get("skipped_steps") for r in results]),
        "train_seconds": mean_of([r.get("train_seconds") for r in results]),
        "flops_per_clip": mean_of([r.get("flops_per_clip") for r in results]),
    }


def _differing_keys(recipes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
    found = {}
    for key in keys:
        values = {entry: recipe.get(key) for entry, recipe in recipes.items()}
        if len({repr(value) for value in values.values()}) > 1:
            found[key] = values
    return found


def _shown(value: float | None) -> str:
    return "not recorded" if value is None else f"{value:g}"
