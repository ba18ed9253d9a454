"""Builds a judged fusion study on disk: experts, fusions with their heads, and single networks.

Goes through the writers of the product (records, core.files) and needs no torch. Scores are drawn
or given by the test; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

CLEAN = (Condition("clean", is_reference=True),)
ROBUST = (
    Condition("clean", {"corruption": "clean", "level": 0}, is_reference=True),
    Condition("noise-0.1", {"corruption": "noise", "level": 0.1}),
    Condition("fog-1", {"corruption": "fog", "level": 1}),
    Condition("fog-5", {"corruption": "fog", "level": 5}),
)

Scores = Callable[[str, int, str], np.ndarray | None]
"""(entry, seed, head) -> logits [C, N, K]; head is "" for the whole network. None = not judged."""


def labels_of(samples: int, classes: int) -> np.ndarray:
    return np.arange(samples) % classes


def drawn_scores(
    labels: np.ndarray, classes: int, *, conditions: int = 1, skills: Mapping[str, float] = {}
) -> Scores:
    """Logits with a common difficulty of every image; a skill per entry, or entry/head, in logits.

    The longest key that a name starts with counts; without one the skill is 1.
    """
    common = 1.2 * stream(11, "difficulty").normal(size=len(labels))

    def scores(entry: str, seed: int, head: str) -> np.ndarray:
        name = f"{entry}/{head}" if head else entry
        known = [key for key in skills if name.startswith(key)]
        skill = skills[max(known, key=len)] if known else 1.0
        rng = stream(seed, "fusion-scores", name)
        found = rng.normal(size=(conditions, len(labels), classes))
        for c in range(conditions):
            found[c, np.arange(len(labels)), labels] += 2.0 * skill - common - 0.5 * c
        return found.astype(np.float32)

    return scores


def counted_scores(labels: np.ndarray, classes: int, right: Mapping[str, int]) -> Scores:
    """Logits [1, N, K] that are right on the first images only, as many as `right` says of an
    entry, or of entry/head; what it does not name is not judged."""

    def scores(entry: str, seed: int, head: str) -> np.ndarray | None:
        del seed
        count = right.get(f"{entry}/{head}" if head else entry)
        if count is None:
            return None
        return answers(np.arange(len(labels)) < count, labels, classes)[None]

    return scores


def answers(right_N: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Logits [N, K] with 4 at the label where right, at the next class where wrong, else 0."""
    found = np.zeros((len(labels), classes), dtype=np.float32)
    found[np.arange(len(labels)), np.where(right_N, labels, (labels + 1) % classes)] = 4
    return found


def build_fusion_study(
    path: Path,
    *,
    fusion: dict[str, Any] | None = None,
    samples: int = 240,
    classes: int = 6,
    seeds: Sequence[int] = (0, 1, 2),
    scores: Scores | None = None,
    conditions: Sequence[Condition] = CLEAN,
    partition: dict[str, Any] | None = None,
    compare: dict[str, Any] | None = None,
    entries: Sequence[dict[str, Any]] = (),
    training: Callable[[str, int], dict[str, Any]] = lambda *_: {},
    ood: Mapping[str, Callable[[str, int], np.ndarray]] = {},
    protocol: dict[str, Any] | None = None,
    name: str = "fused",
) -> StudyFolder:
    """Write a study whose runs are trained and judged; return its folder.

    Args:
        entries: beside those that `fusion` stands for. training: (entry, seed) -> keys of
            training_results.json that differ from the usual ones. ood: set -> logits of it.
    """
    section = fusion or {"families": ["resnet", "densenet"], "types": ["multiplicative"]}
    study = study_from_mapping(
        {
            "name": name,
            "title": "Simulated experts",
            "data": {"source": "cifar10"},
            "fusion": section,
            "partition": partition or {},
            "seeds": list(seeds),
            "protocol": {"part_samples": samples, **(protocol or {})},
            "compare": {"replicates": 300, **(compare or {})},
        },
        where="tests",
    )
    if entries:
        dumped = study.model_dump(mode="json", exclude={"fusion"})
        more = {**dumped, "entries": [*dumped["entries"], *entries]}
        study = study_from_mapping(more, where="tests")
    labels = labels_of(samples, classes)
    drawn = scores or drawn_scores(labels, classes, conditions=len(conditions))
    folder = open_study(Path(path), study)
    write_json(folder.data_json, {"classes": class_names(classes), "notes": []})
    for spec, run in folder.runs():
        _write_training(run, spec, training(spec.entry.name, spec.seed))
        found = drawn(spec.entry.name, spec.seed, "")
        if found is None:
            continue
        judged = run.predictions(protocol_id(study.protocol))
        write_scores(judged, found, labels, conditions=conditions, weights=spec.run_id)
        write_status(run.status, Status(state="done", epoch=2, epochs=2))
        for k in range(len(spec.entry.needs)):
            head = drawn(spec.entry.name, spec.seed, f"expert-{k}")
            if head is not None:
                place = judged / "heads" / f"expert-{k}"
                write_scores(place, head, labels, conditions=conditions, weights=spec.run_id)
        for other, logits in ood.items():
            outside = logits(spec.entry.name, spec.seed)[None]
            unknown = np.full(outside.shape[1], -1)
            write_scores(judged / "ood" / other, outside, unknown, weights=spec.run_id)
    return folder


def class_names(classes: int) -> list[str]:
    return [f"class-{k:03d}" for k in range(classes)]


def write_scores(
    folder: Path,
    scores_CNK: np.ndarray,
    labels: np.ndarray,
    *,
    conditions: Sequence[Condition] = CLEAN,
    weights: str = "",
) -> None:
    """One part with all samples, then complete.json."""
    cells, count, classes = scores_CNK.shape
    ids = [f"image-{n:05d}" for n in range(count)]
    rows = cells * count
    columns = {
        "sample_id": ids * cells,
        "group": ids * cells,
        "condition": [c.id for c in conditions for _ in ids],
        "label": np.tile(labels, cells).astype(np.int32),
        "distinct_frames": [None] * rows,
        "span_seconds": [None] * rows,
        "rate_hz": [None] * rows,
        "pad_share": [None] * rows,
        "clip_key": [f"{c.id}/{name}" for c in conditions for name in ids],
    }
    write_part(folder, 0, columns, scores_CNK.reshape(rows, classes))
    write_complete(
        folder,
        conditions=list(conditions),
        classes=class_names(classes),
        sample_ids=ids,
        fingerprint={
            "manifest": "0f" * 32,
            "sample_ids": sha256("\n".join(ids).encode()).hexdigest(),
            "code": "0.1.0",
            "weights": sha256(weights.encode()).hexdigest(),
            "image_size": 32,
        },
        cost={
            "decode_seconds": 0.5,
            "preprocess_seconds": 0.5,
            "forward_seconds": 1.0,
            "clips": rows,
            "samples": count,
            "device": "cpu",
        },
    )


def _write_training(run: RunFolder, spec: RunSpec, changed: dict[str, Any]) -> None:
    """Two epochs; parameters, operations and images are those of `usual_cost`."""
    is_fusion = bool(spec.entry.needs)
    experts = [f"expert-{k}" for k in range(len(spec.entry.needs))]
    heads = {name: {"loss": 1.1, "accuracy": 0.6 + 0.01 * k} for k, name in enumerate(experts)}
    for epoch in (1, 2):
        more = {
            "loss_global": 1.0 / epoch,
            "loss_individual": 4.0 / epoch,
            "experts_lr": 1e-4,
            "fusion_lr": 1e-3,
            "global_head_lr": 1e-3,
            "grad_norm_experts": 2.0,
            "grad_norm_fusion": 0.5,
        }
        train = {"step": 10 * epoch, "epoch": epoch, "split": "train", "loss": 1.0, "lr": 0.1}
        append_json_line(run.metrics, train | (more if is_fusion else {}))
        validation = {"step": 10 * epoch, "epoch": epoch, "split": "validation", "loss": 0.9}
        append_json_line(run.metrics, validation | ({"heads": heads} if is_fusion else {}))
    write_json(
        run.training_results,
        {
            "history": {
                "epoch": [1, 2],
                "train_loss": [1.5, 1.0],
                "train_acc": [None, None],
                "val_loss": [1.2, 0.9],
                "val_acc": [0.5, 0.7],
                "learning_rates": [0.1, 0.05],
                "epoch_times": [3.0, 3.5],
            },
            "best_epoch": 2,
            "best_val_accuracy": 0.7,
            "temperature": 1.0,
            "steps": 20,
            "train_seconds": 6.5,
            "peak_memory_gib": 2.0 if is_fusion else 1.0,
            **usual_cost(is_fusion),
            "device": "cpu",
            "precision": "fp32",
            "world": 1,
            "threads": 1,
            "torch": "2.13.0",
            "skipped_steps": 0,
            "config": {},
            **changed,
        },
    )


def usual_cost(is_fusion: bool) -> dict[str, int]:
    parameters = 4_100 if is_fusion else 1_000
    return {
        "parameters": parameters,
        "trained_parameters": parameters,
        "flops_per_clip": 2 * parameters,
        "samples_seen": 500 if is_fusion else 2_000,
    }
