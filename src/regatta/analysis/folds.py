"""The runs of an entry and seed that make one column of a comparison: one run, or its folds joined.

Shapes: C conditions, N samples, K classes. Folds judge disjoint samples; joined they judge each
sample once. An entry and seed with a fold that is not judged is left out whole: on the other folds
alone it would be compared on easier or harder samples than its rivals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from regatta.config.expand import RunSpec
from regatta.core.errors import RecordError
from regatta.core.files import read_json
from regatta.records.fingerprint import SHARED_KEYS, check_same_conditions
from regatta.records.predictions import RunPredictions, read_run_predictions
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.records.status import observed, read_status

SUMMED = ("steps", "samples_seen", "skipped_steps", "train_seconds", "energy_joules")
"""Keys of training_results.json that count for an entry and seed as the sum over its folds."""
LARGEST = ("peak_memory_gib",)
AVERAGED = ("best_val_accuracy", "best_val_acc", "best_epoch", "test_acc", "epochs_trained")
"""Keys that are the mean over folds. All others are kept where the folds agree."""

Runs = list[tuple[RunSpec, RunFolder]]


@dataclass(frozen=True)
class JoinedRun:
    """What was judged of one entry and seed.

    temperature_N: of the run that judged each sample, NaN where it is not known.
    """

    predictions: RunPredictions
    """Its run id is the first fold's."""
    run_ids: list[str]
    weights: list[Any]
    """Hash of the weights of each of `run_ids`."""
    temperature_N: np.ndarray
    training: dict[str, Any]
    """training_results.json, joined over folds; empty when it is missing."""


def whole_runs(folder: StudyFolder, protocol: str) -> tuple[list[Runs], list[str]]:
    """Runs by entry and seed whose folds are all judged, and a sentence for each that is not."""
    found: list[Runs] = []
    missing: list[str] = []
    there = {spec.entry.name for spec, run in folder.runs() if run.is_judged(protocol)}
    for (entry, seed), runs in groupby(
        folder.runs(), key=lambda pair: (pair[0].entry.name, pair[0].seed)
    ):
        folds = list(runs)
        absent = [pair for pair in folds if not pair[1].is_judged(protocol)]
        if not absent:
            found.append(folds)
        if folds[0][0].entry.is_imported:
            # Of an imported entry only some seeds need be there.
            missing += _not_imported(entry, folder) if absent and entry not in there else []
            there.add(entry)
            continue
        missing += [_missing_sentence(*pair) for pair in absent]
        if 0 < len(absent) < len(folds):
            missing.append(
                f"{entry} seed {seed} is left out whole: {len(folds) - len(absent)} of its "
                f"{len(folds)} folds are judged"
            )
    return found, missing


def read_joined(runs: Runs, protocol: str) -> JoinedRun:
    """The predictions of one entry and seed.

    Raises:
        RecordError: a file is damaged, or folds overlap or were judged under other conditions.
    """
    parts = [
        read_run_predictions(
            run.predictions(protocol), run_id=spec.run_id, entry=spec.entry.name, seed=spec.seed
        )
        for spec, run in runs
    ]
    results = [read_json(run.training_results) if run.is_trained() else {} for _, run in runs]
    temperatures = np.concatenate(
        [
            np.full(len(part.sample_ids), result.get("temperature") or np.nan, dtype=float)
            for part, result in zip(parts, results, strict=True)
        ]
    )
    order = np.argsort(np.concatenate([part.sample_ids for part in parts]), kind="stable")
    return JoinedRun(
        predictions=join_folds(parts),
        run_ids=[part.run_id for part in parts],
        weights=[part.fingerprint.get("weights") for part in parts],
        temperature_N=temperatures[order],
        training=join_training(results),
    )


def join_folds(parts: Sequence[RunPredictions]) -> RunPredictions:
    """One table over the samples of all folds, sorted by id; a single part comes back as it is.

    Ceilings are means weighted by samples; costs are sums.

    Raises:
        RecordError: a sample is in two folds, or classes, conditions or fingerprints differ.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    ids = np.concatenate([part.sample_ids for part in parts])
    order = np.argsort(ids, kind="stable")
    where = f"{first.entry} seed {first.seed}"
    twice = np.unique(ids[order][1:][ids[order][1:] == ids[order][:-1]])
    if len(twice):
        raise RecordError(
            f"{len(twice)} samples were judged in two folds, for example {str(twice[0])!r}",
            where=where,
            hint="judge the study again",
        )
    for part in parts[1:]:
        if part.classes != first.classes or part.conditions != first.conditions:
            raise RecordError("its folds were judged with other classes or conditions", where=where)
    # Their number of samples rightly differs; all else must not.
    alike = [{k: v for k, v in p.fingerprint.items() if k != "sample_ids"} for p in parts]
    check_same_conditions({p.run_id: print_ for p, print_ in zip(parts, alike, strict=True)})
    shares = np.array([len(part.sample_ids) for part in parts]) / len(ids)
    return replace(
        first,
        sample_ids=ids[order],
        groups=np.concatenate([part.groups for part in parts])[order],
        labels=np.concatenate([part.labels for part in parts])[order],
        scores=np.concatenate([part.scores for part in parts], axis=1)[:, order],
        truth={
            name: np.concatenate([part.truth[name] for part in parts], axis=1)[:, order]
            for name in first.truth
        },
        clip_keys=np.concatenate([part.clip_keys for part in parts], axis=1)[:, order],
        fingerprint=_joined_fingerprint(parts),
        cost=_joined_cost([part.cost for part in parts]),
        ceiling={
            name: float(shares @ [part.ceiling[name] for part in parts])
            for name in first.ceiling
            if all(name in part.ceiling for part in parts)
        },
    )


def join_training(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """training_results.json of an entry and seed; empty when one of its folds has none."""
    if len(results) == 1 or not all(results):
        return results[0] if len(results) == 1 else {}
    joined: dict[str, Any] = {}
    for key in results[0]:
        values: list[Any] = [result.get(key) for result in results]
        if key in (*SUMMED, *LARGEST, *AVERAGED):
            if any(value is None for value in values):
                joined[key] = None
            elif key in SUMMED:
                joined[key] = sum(values)
            else:
                joined[key] = max(values) if key in LARGEST else sum(values) / len(values)
        elif all(value == values[0] for value in values):
            joined[key] = values[0]
    return {**joined, "folds": len(results), "epochs_trained": _mean_epochs(results)}


def epochs_of(result: dict[str, Any]) -> float | None:
    """Epochs that a run was trained for; the mean over folds where it is a joined record."""
    if "epochs_trained" in result:
        return result["epochs_trained"]
    history = result.get("history")
    if history is None:
        return None
    return len(history["epoch"]) if isinstance(history, dict) else len(history)


def _mean_epochs(results: Sequence[dict[str, Any]]) -> float | None:
    epochs = [epochs_of(result) for result in results]
    known = [count for count in epochs if count is not None]
    return sum(known) / len(known) if len(known) == len(epochs) else None


def _joined_fingerprint(parts: Sequence[RunPredictions]) -> dict[str, Any]:
    joined = {}
    for key, value in parts[0].fingerprint.items():
        if key == "sample_ids" and isinstance(value, int):
            joined[key] = sum(part.fingerprint[key] for part in parts)
        elif key in SHARED_KEYS or all(part.fingerprint.get(key) == value for part in parts):
            joined[key] = value
    return joined


def _joined_cost(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    joined = {}
    for key, value in costs[0].items():
        values: list[Any] = [cost.get(key) for cost in costs]
        if isinstance(value, int | float) and not any(other is None for other in values):
            joined[key] = sum(values)
        elif all(other == value for other in values):
            joined[key] = value
    return joined


def _not_imported(entry: str, folder: StudyFolder) -> list[str]:
    return [
        f"{entry} is not in this comparison: nothing was imported for it under this protocol; "
        f"regatta compare {folder.path.name} --import {entry}=FILE"
    ]


def _missing_sentence(spec: RunSpec, run: RunFolder) -> str:
    status = observed(read_status(run.status))
    what = "trained but not judged" if run.is_trained() else "not trained"
    cause = f" ({status.cause})" if status.cause else ""
    return f"{spec.label} is not in this comparison: {what} yet, its state is {status.state}{cause}"
