"""Tables that only studies of signals have: one row per run, and one per run and perturbation.

A run here is an entry and seed, its folds joined.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.analysis.bootstrap import FEW_GROUPS, Bootstrap, bootstrap_accuracy
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.analysis.tables import csv_text
from regatta.core.registry import SOURCES

LEAKY = "window-random"
LEAK_NOTE = (
    "leaky: windows were split at random, so that neighbours that overlap stand in training and "
    "test; every accuracy of this study is too high"
)
NO_SUBJECTS = "not measured"
"""In a note of a data set without subjects, whose groups are blocks of neighbouring windows."""
HAR_COLUMNS = (
    "run", "entry", "mode", "pool", "encoder", "frozen", "seed", "split", "label_fraction",
    "accuracy", "low", "high", "macro_f1", "nll", "ece", "parameters", "macs", "train_seconds",
    "infer_ms",
)  # fmt: skip
ROBUSTNESS_COLUMNS = (
    "run", "entry", "condition", "level", "accuracy", "low", "high", "n_windows", "n_subjects",
)  # fmt: skip


def is_of_signals(judged: JudgedStudy) -> bool:
    """Whether the study judges windows of signals; an unknown source is one of videos."""
    listed = SOURCES.listed.get(judged.study.data.source)
    return listed is not None and listed.kind == "signal"


def is_leaky(judged: JudgedStudy) -> bool:
    """Whether neighbours of one recording stand in training and test."""
    return judged.study.data.design == LEAKY


def data_caveats(judged: JudgedStudy) -> list[str]:
    """Notes on the design that limit what any number of the study means."""
    groups, design = len(set(judged.groups)), judged.study.data.design
    said = [note for note in judged.data.get("notes", []) if note.startswith("leaky")]
    found = said or ([LEAK_NOTE] if is_leaky(judged) else [])
    blocks = subject_notes(judged)
    if is_of_signals(judged) and groups < FEW_GROUPS:
        can_loso = design not in ("loso", LEAKY) and not blocks
        more = "; data.design: loso has the most groups" if can_loso else ""
        found = [*found, f"{groups} groups: coarse{more}"]
    return found + blocks


def subject_notes(judged: JudgedStudy) -> list[str]:
    """What the data say of subjects that are not known."""
    return [note for note in judged.data.get("notes", []) if NO_SUBJECTS in note]


def sensor_section(
    judged: JudgedStudy,
    bootstrap: Bootstrap,
    headline: int,
    scores: dict[str, dict[str, float | None]],
) -> dict[str, Any] | None:
    """Section `sensor` of comparison.json; None for a study of videos.

    Args:
        scores: by run id, the numbers of `classification.run_scores`.
    """
    if not is_of_signals(judged):
        return None
    by_run = _bootstrap_by_run(judged, bootstrap)
    runs = list(enumerate(judged.runs))
    rows = [_har_row(judged, run, scores[run.run_id], by_run, r, headline) for r, run in runs]
    axes = [set(condition.axes) for condition in judged.conditions]
    robustness = None
    if all(found == {"perturbation", "level"} for found in axes):
        robustness = [row for r, run in runs for row in _robustness_rows(judged, run, by_run, r)]
    return {"runs": rows, "robustness": robustness}


def sensor_files(section: dict[str, Any] | None) -> dict[str, str]:
    """File name -> text."""
    if section is None:
        return {}
    files = {"har_results.csv": _csv(HAR_COLUMNS, section["runs"])}
    if section["robustness"] is not None:
        files["robustness.csv"] = _csv(ROBUSTNESS_COLUMNS, section["robustness"])
    return files


def _csv(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    return csv_text(columns, ([row[name] for name in columns] for row in rows))


def _bootstrap_by_run(judged: JudgedStudy, bootstrap: Bootstrap) -> Bootstrap:
    """Each run as an entry of its own, on the same drawn groups."""
    ordered = [run.run_id for entry in judged.entries for run in judged.runs_of(entry)]
    if max(bootstrap.seeds) == 1 and ordered == [run.run_id for run in judged.runs]:
        return bootstrap
    settings = judged.study.compare
    return bootstrap_accuracy(
        np.stack([run.correct for run in judged.runs]),
        judged.groups,
        entry_of_run=range(len(judged.runs)),
        replicates=settings.replicates,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def _har_row(
    judged: JudgedStudy,
    run: JudgedRun,
    scores: dict[str, float | None],
    by_run: Bootstrap,
    position: int,
    headline: int,
) -> dict[str, Any]:
    options = _options(judged, run)
    train = run.info.get("train", {})
    accuracy = by_run.interval(
        lambda a: a[..., position, headline], entries=[position], collapse="share"
    )
    flops = run.training.get("flops_per_clip")
    return {
        "run": run.run_id,
        "entry": run.entry,
        **{key: options.get(key) for key in ("mode", "pool", "encoder")},
        "frozen": train.get("freeze_encoder") if "encoder" in options else None,
        "seed": run.seed,
        "split": _split(judged),
        "label_fraction": train.get("label_fraction"),
        "accuracy": accuracy.estimate,
        "low": accuracy.low,
        "high": accuracy.high,
        **{key: scores[key] for key in ("macro_f1", "nll", "ece")},
        "parameters": run.training.get("parameters"),
        "macs": None if flops is None else flops / 2,
        "train_seconds": run.training.get("train_seconds"),
        "infer_ms": _infer_ms(run),
    }


def _options(judged: JudgedStudy, run: JudgedRun) -> dict[str, Any]:
    """The model's options with their defaults, as training recorded them; else as written."""
    recorded = run.training.get("model") or {}
    if "options" in recorded:
        return recorded["options"]
    return next(entry.options for entry in judged.study.entries if entry.name == run.entry)


def _split(judged: JudgedStudy) -> str:
    """How the data were parted, and what was judged where that is not the test split."""
    design, split = judged.study.data.design, judged.study.protocol.split
    words = f"{design} (leaky)" if is_leaky(judged) else design
    return words if split == "test" else f"{words}, {split}"


def _infer_ms(run: JudgedRun) -> float | None:
    """Milliseconds of a forward pass per window; None when it was not measured."""
    seconds, windows = run.cost.get("forward_seconds"), run.cost.get("distinct_clips")
    return 1000 * seconds / windows if seconds is not None and windows else None


def _robustness_rows(
    judged: JudgedStudy, run: JudgedRun, by_run: Bootstrap, position: int
) -> list[dict[str, Any]]:
    intervals = by_run.intervals(
        lambda a: a[..., position, :], entries=[position], collapse="share"
    )
    subjects = None if subject_notes(judged) else by_run.groups
    return [
        {
            "run": run.run_id,
            "entry": run.entry,
            "condition": condition.axes["perturbation"],
            "level": condition.axes["level"],
            "accuracy": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "n_windows": by_run.samples,
            "n_subjects": subjects,
        }
        for condition, interval in zip(judged.conditions, intervals, strict=True)
    ]
