"""What each entry cost, and whether they raced on the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regatta.analysis.folds import epochs_of
from regatta.analysis.judged import JudgedRun, JudgedStudy

JUDGING_PARTS = ("decode_seconds", "preprocess_seconds", "forward_seconds")
BUDGET_KEYS = ("epochs", "steps", "samples_seen", "trials")
TRAINING_COST_KEYS = ("parameters", "flops_per_clip", "train_seconds")
BUDGET_WORDS = {"samples_seen": "samples seen", "trials": "numbers of tuning trials"}
FLOPS_ESTIMATE = "3 x forward x samples seen, for models that are trained whole"
"""A backward pass costs about two forward passes (Kaplan et al. 2020, Scaling laws for neural
language models, section 2.1)."""
ENERGY_COVERS = {
    "gpu board": "every GPU board of the run, whatever else ran on it; not the host",
    "cpu package": "everything that ran on the CPU packages of the machine meanwhile, other runs "
    "included; not memory, disks or GPUs",
}
"""`energy_source` of training_results.json -> what its number covers."""


def judging_seconds(run: JudgedRun) -> float | None:
    """Seconds that judging this run took, all conditions; None when it was not measured."""
    if any(run.cost.get(name) is None for name in JUDGING_PARTS):
        return None
    return float(sum(run.cost[name] for name in JUDGING_PARTS))


def device_seconds(training: dict[str, Any]) -> float | None:
    """Training time times the devices that were busy with it; None = not recorded.

    A device that runs share is counted whole for each of them.
    """
    seconds, devices = training.get("train_seconds"), _devices(training)
    return None if seconds is None or devices is None else float(seconds) * devices


def _devices(training: dict[str, Any]) -> int | None:
    config = training.get("config") or {}
    found = training.get("devices")
    if found is None and config.get("mode") != "dp":
        # Older records count processes, each with one device, and do not say how many dp drove.
        found = training.get("world") or config.get("world") or training.get("processes")
    return None if found is None else max(int(found), 1)


def training_flops(training: dict[str, Any]) -> float | None:
    """`FLOPS_ESTIMATE`; None where a part is frozen, the model was solved for, or not counted."""
    forward, samples = training.get("flops_per_clip"), training.get("samples_seen")
    parameters = training.get("parameters")
    is_whole = parameters is not None and training.get("trained_parameters") == parameters
    if not is_whole or "fitted" in training or forward is None or samples is None:
        return None
    return 3.0 * float(forward) * float(samples)


def energy_of(runs: Sequence[JudgedRun]) -> tuple[float | None, str | None]:
    """Mean training energy of a run in joules and what it covers; None where a run was not measured
    or was measured by other counters than the rest."""
    sources = {run.training.get("energy_source") for run in runs}
    joules = mean_of([run.training.get("energy_joules") for run in runs])
    source = sources.pop() if len(sources) == 1 else None
    return (None, None) if joules is None or source is None else (joules, source)


def entry_cost(runs: Sequence[JudgedRun]) -> dict[str, Any]:
    """Mean cost of one run of an entry (peak memory: the largest); None = not measured."""
    cost: dict[str, Any] = {
        key: mean_of([run.training.get(key) for run in runs]) for key in TRAINING_COST_KEYS
    }
    cost["device_seconds"] = mean_of([device_seconds(run.training) for run in runs])
    cost["energy_joules"], cost["energy_source"] = energy_of(runs)
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

    `trials` (recipes tried) is what the study states, else what training recorded; None = neither.
    FLOPs differ with every model, so their difference is told in `compute` and warns of nothing.
    """
    stated = judged.study.compare.tuning_trials
    rows = [_budget_row(entry, judged.runs_of(entry), stated) for entry in judged.entries]
    imported = [name for name in judged.entries if judged.runs_of(name)[0].origin]
    trained = [row for row in rows if row["entry"] not in imported]
    recipes = {
        row["entry"]: judged.runs_of(row["entry"])[0].info.get("train", {}) for row in trained
    }
    differing = _differing_keys(recipes)
    warnings = [
        f"entries were trained with different {BUDGET_WORDS.get(key, key)}: "
        + ", ".join(f"{row['entry']} {_shown(row[key])}" for row in trained)
        for key in BUDGET_KEYS
        if len({row[key] for row in trained}) > 1
    ]
    warnings += [
        f"{row['entry']}: {row['skipped_steps'] * row['runs']:.0f} optimizer steps were left out "
        "because loss or gradient was not finite (train.nonfinite: skip)"
        for row in trained
        if row["skipped_steps"]
    ]
    if imported and trained:
        warnings.append(f"the budget of {', '.join(imported)} is not known: imported")
    if differing:
        warnings.append("entries were trained with different recipes: " + ", ".join(differing))
    return {
        "entries": rows,
        "recipe_differences": differing,
        "warnings": warnings,
        "compute": _compute_sentence(rows),
        "stated_trials": stated,
    }


def mean_of(values: Sequence[Any]) -> float | None:
    """Mean, or None as soon as one value is not measured."""
    if not values or any(value is None for value in values):
        return None
    return float(sum(values)) / len(values)


def one_of(values: Sequence[Any]) -> Any:
    """The value if all agree, else all of them joined."""
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    return distinct[0] if len(distinct) == 1 else " / ".join(map(str, distinct)) or None


def _budget_row(entry: str, runs: Sequence[JudgedRun], stated: dict[str, int]) -> dict[str, Any]:
    results = [run.training for run in runs]
    epochs = [epochs_of(r) for r in results]
    return {
        "entry": entry,
        "runs": len(runs),
        "epochs": mean_of(epochs),
        "best_epoch": [r.get("best_epoch") for r in results],
        "steps": mean_of([r.get("steps") for r in results]),
        "samples_seen": mean_of([r.get("samples_seen") for r in results]),
        "trials": stated.get(entry, mean_of([r.get("trials") for r in results])),
        "skipped_steps": mean_of([r.get("skipped_steps") for r in results]),
        "train_seconds": mean_of([r.get("train_seconds") for r in results]),
        "device_seconds": mean_of([device_seconds(r) for r in results]),
        "flops_per_clip": mean_of([r.get("flops_per_clip") for r in results]),
        "training_flops_estimate": mean_of([training_flops(r) for r in results]),
    }


def _compute_sentence(rows: Sequence[dict[str, Any]]) -> str | None:
    """What the same number of samples hides; None where the compute is even or not known."""
    known = [(row["entry"], row["training_flops_estimate"]) for row in rows]
    known = [(entry, flops) for entry, flops in known if flops]
    if len(known) < 2:
        return None
    ratio = max(flops for _, flops in known) / min(flops for _, flops in known)
    if ratio < 1.01:
        return None
    return (
        f"estimated training FLOPs differ up to {ratio:.3g}-fold: "
        + ", ".join(f"{entry} {flops:.2e}" for entry, flops in known)
        + f" ({FLOPS_ESTIMATE})"
    )


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
