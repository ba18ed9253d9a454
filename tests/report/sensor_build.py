"""Writes a judged study over windows of signals on disk: simulated scores, real records."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from regatta.config.expand import RunSpec, protocol_id
from regatta.config.load import study_from_mapping
from regatta.core.files import append_json_line, write_json
from regatta.core.seeds import stream
from regatta.records.conditions import Condition
from regatta.records.predictions import write_complete, write_part
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.records.status import Status, write_status

ACTIVITIES = ["walking", "upstairs", "downstairs", "sitting", "standing", "laying"]
CLEAN = Condition("clean", {"perturbation": "clean", "level": 0}, is_reference=True)
LEVELS = {
    "noise": (0.05, 0.5),
    "one-channel-missing": (1,),
    "one-sensor-missing": (1,),
    "rate": (25.0, 12.5),
    "rate-lowpass": (25.0, 12.5),
}
PERTURBED = [
    CLEAN,
    *(
        Condition(f"{name}-{level:g}", {"perturbation": name, "level": level})
        for name, levels in LEVELS.items()
        for level in levels
    ),
]
HEAD_TO_HEAD: list[dict[str, Any]] = [
    {
        "name": "har-vit",
        "model": "har-vit",
        "checkpoint": "none",
        "options": {"encoder": "vit-tiny", "mode": "average"},
        "train": {"freeze_encoder": True},
    },
    {"name": "cnn1d", "model": "cnn1d"},
    {"name": "majority", "model": "majority"},
]


def build_sensor_study(
    path: Path,
    entries: Sequence[dict[str, Any]] = HEAD_TO_HEAD,
    *,
    protocol: str = "plain",
    windows: int = 216,
    subjects: int = 9,
    seeds: Sequence[int] = (0,),
    epochs: int = 4,
    notes: Sequence[str] = (),
    data: dict[str, Any] | None = None,
    compare: dict[str, Any] | None = None,
) -> StudyFolder:
    """Write `path/windows`: every run is trained and judged, entries weaker from first to last.

    Args:
        notes: of data.json. data: keys of the study's `data:` section.
    """
    study = study_from_mapping(
        {
            "name": "windows",
            "title": "Simulated activities",
            "data": {"source": "uci-har", **(data or {})},
            "entries": list(entries),
            "seeds": list(seeds),
            "train": {"epochs": epochs, "batch_size": 32},
            "protocol": {"name": protocol},
            "compare": {"replicates": 300, **(compare or {})},
        },
        where="tests",
    )
    folder = open_study(path, study)
    labels = np.arange(windows) % len(ACTIVITIES)
    groups = [f"subject-{1 + n * subjects // windows:02d}" for n in range(windows)]
    conditions = PERTURBED if protocol == "sensor-robustness" else [Condition("plain")]
    names = [entry["name"] for entry in entries]
    for spec, run in folder.runs():
        place = names.index(spec.entry.name)
        _write_training(run, spec, slowness=len(names) - place)
        scores = _scores(spec, labels, conditions, skill=3.0 - 0.5 * place)
        _write_predictions(run, protocol_id(study.protocol), conditions, labels, groups, scores)
        write_status(run.status, Status(state="done", epoch=epochs, epochs=epochs))
    counts = dict(zip(ACTIVITIES, np.bincount(labels).tolist(), strict=True))
    record = {
        "settings": study.data.model_dump(mode="json"),
        "manifest_hash": "0f" * 32,
        "classes": ACTIVITIES,
        "counts": {"train": counts, "validation": counts, "test": counts},
        "groups": {"train": 17, "validation": 4, "test": subjects},
        "dropped": [],
        "notes": list(notes),
        "source": "uci-har",
        "short_clips": dict.fromkeys(names, 0),
    }
    write_json(folder.data_json, record)
    return folder


def _scores(
    spec: RunSpec, labels: np.ndarray, conditions: Sequence[Condition], *, skill: float
) -> np.ndarray:
    """float32 [C, N, K]; every condition after the first costs some skill."""
    rng = stream(spec.seed, "scores", spec.entry.name)
    truth = np.eye(len(ACTIVITIES))[labels]
    noise = rng.normal(size=(len(conditions), *truth.shape))
    strengths = np.array([skill] + [skill - 1.0] * (len(conditions) - 1))
    return (2 * (strengths[:, None, None] * truth + noise)).astype(np.float32)


def _write_predictions(
    run: RunFolder,
    protocol: str,
    conditions: list[Condition],
    labels: np.ndarray,
    groups: list[str],
    scores: np.ndarray,
) -> None:
    cells, count = len(conditions), len(labels)
    ids = [f"window-{n:05d}" for n in range(count)]
    columns = {
        "sample_id": ids * cells,
        "group": groups * cells,
        "condition": [c.id for c in conditions for _ in ids],
        "label": np.tile(labels, cells).astype(np.int32),
        "distinct_frames": np.full(cells * count, 128, dtype=np.int32),
        "span_seconds": np.full(cells * count, 2.54),
        "rate_hz": np.full(cells * count, 50.0),
        "pad_share": np.zeros(cells * count),
        "clip_key": [f"{c.id} {name}" for c in conditions for name in ids],
    }
    write_part(run.predictions(protocol), 0, columns, scores.reshape(cells * count, -1))
    write_complete(
        run.predictions(protocol),
        conditions=conditions,
        classes=ACTIVITIES,
        sample_ids=ids,
        fingerprint={
            "manifest": "0f" * 32,
            "protocol": protocol,
            "sample_ids": sha256("\n".join(ids).encode()).hexdigest(),
            "code": "0.1.0",
            "weights": sha256(run.run_id.encode()).hexdigest(),
        },
        cost={
            "decode_seconds": 0.0, "preprocess_seconds": 0.1, "forward_seconds": 0.3,
            "clips": cells * count, "samples": count, "device": "cpu",
        },
    )  # fmt: skip


def epoch_seconds(slowness: int, epochs: int) -> list[float]:
    """The first epoch holds the encoder pass."""
    return [9.0 * slowness, *[0.5 * slowness] * (epochs - 1)]


def _write_training(run: RunFolder, spec: RunSpec, *, slowness: int) -> None:
    epochs = range(1, spec.train.epochs + 1)
    history = {
        "epoch": list(epochs),
        "step": [10 * e for e in epochs],
        "train_loss": [1.5 / e for e in epochs],
        "train_acc": [1 - 0.5 / e for e in epochs],
        "val_loss": [1.6 / e for e in epochs],
        "val_acc": [1 - 0.6 / e for e in epochs],
        "val_balanced_accuracy": [1 - 0.6 / e for e in epochs],
        "val_macro_f1": [1 - 0.6 / e for e in epochs],
        "learning_rates": [1e-3 / e for e in epochs],
        "epoch_times": epoch_seconds(slowness, len(epochs)),
    }
    for step in range(1, 10 * len(epochs) + 1):
        line = {"epoch": 1 + step // 10, "step": step, "split": "train", "lr": 1e-4 * min(step, 10)}
        append_json_line(run.metrics, line)
    write_json(
        run.training_results,
        {
            "history": history,
            "best_epoch": len(epochs),
            "best_val_accuracy": history["val_acc"][-1],
            "best_val_acc": history["val_acc"][-1],
            "best_val_loss": history["val_loss"][-1],
            "temperature": 2.0,
            "steps": 10 * len(epochs),
            "samples_seen": 320 * len(epochs),
            "skipped_steps": 0,
            "train_seconds": sum(history["epoch_times"]),
            "parameters": 312_902,
            "trained_parameters": 312_902,
            "flops_per_clip": 2e7 * slowness,
            "peak_memory_gib": 0.5,
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            "torch": "2.13.0",
            "config": {"classes": ACTIVITIES, "world": 2},
        },
    )
