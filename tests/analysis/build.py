"""Builds a whole judged study on disk: simulated scores, everything else as the worker writes it.

`build_judged_study` goes through the same writers as the product (records, core.files) and needs
no torch. The scores are drawn, not computed by models; what they must obey is exact: identical
frame indices give identical scores, a group shares its difficulty, and fewer distinct frames make
a sample harder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from regatta.config.expand import RunSpec, protocol_id
from regatta.config.load import study_from_mapping
from regatta.config.schema import Study
from regatta.core.files import append_json_line, write_json
from regatta.core.seeds import stream
from regatta.records.conditions import Condition
from regatta.records.predictions import write_complete, write_part
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.records.status import Status, write_status
from tests.analysis.protocol_conditions import (
    WITHOUT_CEILING,
    clip_name,
    conditions_of,
    plan_indices,
)

MODEL_FRAMES = {"timesformer": 8, "videomae": 16, "vivit": 32}
FPS = 32.0
FRAMES_PER_SAMPLE = (48, 64, 80)
CLASS_NAMES = (
    "turn-left",
    "turn-right",
    "drift-left",
    "drift-right",
    "stand",
    "shake",
    "fall",
    "rise",
)

Alter = Callable[[str, int, np.ndarray, np.ndarray], np.ndarray]
"""(entry, seed, scores [C, N, K], labels [N]) -> scores to write instead."""


@dataclass(frozen=True)
class JudgedSamples:
    """The samples every run is judged on."""

    ids: list[str]
    groups: list[str]
    labels: np.ndarray
    total_frames: np.ndarray
    classes: list[str]


def build_judged_study(
    path: Path,
    entries: int | Sequence[str] = 3,
    samples: int = 240,
    classes: int | Sequence[str] = 4,
    seeds: Sequence[int] = (0,),
    *,
    protocol: str = "temporal-grid",
    name: str = "demo",
    samples_per_group: int = 4,
    skills: Sequence[float] | None = None,
    unjudged: Sequence[tuple[str, int]] = (),
    dropped: Sequence[tuple[str, str]] = (("turn-left/broken.avi", "12 of 150 frames decode"),),
    entry_train: dict[str, dict[str, Any]] | None = None,
    compare: dict[str, Any] | None = None,
    part_samples: int = 64,
    alter: Alter | None = None,
    ceiling: dict[str, float] | None = None,
) -> StudyFolder:
    """Write `path/<name>` as a study whose runs are trained and judged; return its folder.

    Args:
        path: the runs root.
        entries: how many of timesformer, videomae, vivit, or names; "vivit-b" is one more vivit.
        samples: judged samples; `samples_per_group` neighbours of one class share a group.
        classes: how many classes, or their names.
        protocol: name of any protocol; its conditions are those of its default options.
        skills: one number per entry, in logits; more = more accurate.
        unjudged: (entry, seed) pairs that are trained but have no predictions.
        dropped: (path, reason) of damaged files in data.json.
        entry_train: entry -> keys of `train:` that it overrides.
        compare: keys of the study's `compare:` section.
        alter: replaces the simulated scores of each run; see tests.analysis.planted.
        ceiling: oracle ceilings that replace the simulated ones, by condition id.
    """
    names = _entry_names(entries)
    study = _study(names, seeds, protocol, name, part_samples, entry_train or {}, compare or {})
    judged = _samples(samples, _class_names(classes), samples_per_group)
    folder = open_study(Path(path), study)
    strengths = dict(zip(names, skills or np.linspace(1.6, 0.6, len(names)), strict=True))
    write_json(folder.data_json, _data_record(judged, dropped))
    for spec, run in folder.runs():
        _write_training(run, spec, judged)
        if (spec.entry.name, spec.seed) in unjudged:
            write_status(run.status, Status(state="queued", phase="judge"))
            continue
        _write_judging(run, spec, study, judged, strengths[spec.entry.name], alter, ceiling)
        epochs = spec.train.epochs
        write_status(run.status, Status(state="done", epoch=epochs, epochs=epochs))
    return folder


def write_predictions(
    run: RunFolder,
    protocol: str,
    *,
    samples: JudgedSamples,
    conditions: list[Condition],
    scores: np.ndarray,
    model_frames: int,
    part_samples: int,
    fingerprint: dict[str, Any],
    cost: dict[str, Any],
    ceiling: dict[str, float] | None,
) -> None:
    """Write parts, ceiling.json and complete.json for `scores` [C, N, K]."""
    folder = run.predictions(protocol)
    truth = _truth(samples.total_frames, conditions, model_frames)
    ids, groups = np.array(samples.ids, dtype=object), np.array(samples.groups, dtype=object)
    for number, start in enumerate(range(0, len(ids), part_samples)):
        part = np.arange(start, min(start + part_samples, len(ids)))
        cells = len(conditions)
        columns = {
            "sample_id": list(np.tile(ids[part], cells)),
            "group": list(np.tile(groups[part], cells)),
            "condition": [c.id for c in conditions for _ in part],
            "label": np.tile(samples.labels[part], cells).astype(np.int32),
            **{key: values[:, part].reshape(-1) for key, values in truth.items()},
        }
        columns["clip_key"] = list(columns["clip_key"])
        # A still frame has no rate: null in the file, as the engine writes it.
        columns["rate_hz"] = [None if np.isnan(x) else float(x) for x in columns["rate_hz"]]
        write_part(folder, number, columns, scores[:, part].reshape(cells * len(part), -1))
    if ceiling is not None:
        write_json(folder / "ceiling.json", ceiling)
    write_complete(
        folder,
        conditions=conditions,
        classes=samples.classes,
        sample_ids=samples.ids,
        fingerprint=fingerprint,
        cost=cost,
    )


def _entry_names(entries: int | Sequence[str]) -> list[str]:
    return list(MODEL_FRAMES)[:entries] if isinstance(entries, int) else list(entries)


def _class_names(classes: int | Sequence[str]) -> list[str]:
    if not isinstance(classes, int):
        return list(classes)
    extra = [f"class-{number:03d}" for number in range(len(CLASS_NAMES), classes)]
    return [*CLASS_NAMES, *extra][:classes]


def _model_of(entry: str) -> str:
    return entry.partition("-")[0]


def _study(
    names: list[str],
    seeds: Sequence[int],
    protocol: str,
    name: str,
    part_samples: int,
    entry_train: dict[str, dict[str, Any]],
    compare: dict[str, Any],
) -> Study:
    return study_from_mapping(
        {
            "name": name,
            "title": "Simulated rotors",
            "data": {"source": "rotors"},
            "entries": [
                {
                    "name": entry,
                    "model": _model_of(entry),
                    "size": "tiny",
                    "checkpoint": "none",
                    "train": entry_train.get(entry, {}),
                }
                for entry in names
            ],
            "seeds": list(seeds),
            "train": {"epochs": 3, "batch_size": 8},
            "protocol": {"name": protocol, "part_samples": part_samples},
            "compare": compare,
        },
        where="tests",
    )


def _samples(count: int, classes: list[str], per_group: int) -> JudgedSamples:
    group_count = -(-count // per_group)
    group_of = np.arange(count) // per_group
    labels = np.arange(group_count) % len(classes)
    groups = [f"{classes[labels[g]]}/g{g // len(classes) + 1:03d}" for g in range(group_count)]
    rng = stream(7, "frames")
    return JudgedSamples(
        ids=[f"{groups[g]}_c{i % per_group + 1:02d}.avi" for i, g in enumerate(group_of)],
        groups=[groups[g] for g in group_of],
        labels=labels[group_of],
        total_frames=rng.choice(FRAMES_PER_SAMPLE, size=count),
        classes=classes,
    )


def _truth(
    total_frames: np.ndarray, conditions: list[Condition], model_frames: int
) -> dict[str, np.ndarray]:
    """What each clip really holds, [C, N] per column."""
    shape = (len(conditions), len(total_frames))
    numbers = {k: np.empty(shape) for k in ("span_seconds", "rate_hz", "pad_share")}
    distinct, keys = np.empty(shape, dtype=np.int32), np.empty(shape, dtype=object)
    for frames in np.unique(total_frames):
        here = total_frames == frames
        for row, condition in enumerate(conditions):
            indices = plan_indices(int(frames), condition, model_frames)
            different = sorted(set(indices))
            span = (different[-1] - different[0]) / FPS
            distinct[row, here] = len(different)
            numbers["span_seconds"][row, here] = span
            numbers["rate_hz"][row, here] = (len(different) - 1) / span if span else np.nan
            numbers["pad_share"][row, here] = 1 - len(different) / len(indices)
            name = clip_name(condition, indices)
            keys[row, here] = sha256(name.encode()).hexdigest()[:16]
    return {"distinct_frames": distinct, **numbers, "clip_key": keys}


def _scores(
    spec: RunSpec,
    samples: JudgedSamples,
    conditions: list[Condition],
    truth: dict[str, Any],
    skill: float,
) -> np.ndarray:
    """float32 logits [C, N, K]; equal clip keys of one sample have equal scores."""
    cells, count, classes = len(conditions), len(samples.ids), len(samples.classes)
    shared = stream(7, "difficulty")
    group_codes = np.unique(samples.groups, return_inverse=True)[1]
    group_hardness = 0.9 * shared.normal(size=group_codes.max() + 1)
    hardness = group_hardness[group_codes] + shared.normal(size=count)
    rng = stream(spec.seed, "scores", spec.entry.name)
    seed_shift = 0.1 * rng.normal()
    lost = 2.5 * np.exp(-truth["distinct_frames"] / 3.0)
    own = 0.6 * rng.normal(size=count) + 0.4 * rng.normal(size=(cells, count))
    right = skill + seed_shift - hardness - lost + own > 0
    scores = rng.normal(size=(cells, count, classes)).astype(np.float32)
    wrong_label = (samples.labels + rng.integers(1, max(classes, 2), size=(cells, count))) % classes
    winner = np.where(right, samples.labels, wrong_label)
    np.put_along_axis(scores, winner[..., None], scores.max(axis=2, keepdims=True) + 1.5, axis=2)
    for frames in np.unique(samples.total_frames):
        here = np.flatnonzero(samples.total_frames == frames)
        _, first = np.unique(truth["clip_key"][:, here[0]], return_index=True)
        source = {truth["clip_key"][row, here[0]]: row for row in first}
        same = [source[truth["clip_key"][row, here[0]]] for row in range(cells)]
        scores[:, here] = scores[same][:, here]
    return scores


def _write_judging(
    run: RunFolder,
    spec: RunSpec,
    study: Study,
    samples: JudgedSamples,
    skill: float,
    alter: Alter | None,
    ceiling: dict[str, float] | None,
) -> None:
    conditions = conditions_of(study.protocol.name)
    model_frames = MODEL_FRAMES[spec.entry.model]
    truth = _truth(samples.total_frames, conditions, model_frames)
    scores = _scores(spec, samples, conditions, truth, skill)
    if alter is not None:
        scores = alter(spec.entry.name, spec.seed, scores, samples.labels)
    distinct = truth["distinct_frames"].mean(axis=1)
    clips = int(len(samples.ids) * len(conditions))
    write_predictions(
        run,
        protocol_id(study.protocol),
        samples=samples,
        conditions=conditions,
        scores=scores,
        model_frames=model_frames,
        part_samples=study.protocol.part_samples,
        fingerprint={
            "manifest": "0f" * 32,
            "protocol": protocol_id(study.protocol),
            "sample_ids": sha256("\n".join(sorted(samples.ids)).encode()).hexdigest(),
            "decoder": "pyav 18.1.0",
            "resize": study.protocol.resize,
            "code": "0.1.0",
            "weights": sha256(spec.run_id.encode()).hexdigest(),
            "frames": model_frames,
            "image_size": 32,
        },
        cost={
            "decode_seconds": 6.0,
            "preprocess_seconds": 1.5,
            "forward_seconds": 0.25 * model_frames,
            "clips": clips,
            "samples": len(samples.ids),
            "device": "cpu",
        },
        ceiling={
            c.id: float(max(1 - 0.5**d, 1 / len(samples.classes)))
            for c, d in zip(conditions, distinct, strict=True)
            if c.id not in WITHOUT_CEILING
        }
        | (ceiling or {}),
    )


def _write_training(run: RunFolder, spec: RunSpec, samples: JudgedSamples) -> None:
    steps_per_epoch = 25
    history: dict[str, list[Any]] = {}
    for epoch in range(1, spec.train.epochs + 1):
        loss, accuracy = 1.4 / epoch, 1 - 0.6 / epoch
        lr = spec.train.lr * (1 - epoch / (spec.train.epochs + 1))
        record = {
            "epoch": epoch,
            "step": epoch * steps_per_epoch,
            "train_loss": loss,
            "train_acc": accuracy,
            "val_loss": loss + 0.1,
            "val_acc": accuracy,
            "val_balanced_accuracy": accuracy,
            "val_macro_f1": accuracy,
            "learning_rates": lr,
            "epoch_times": 3.0,
        }
        for key, value in record.items():
            history.setdefault(key, []).append(value)
        step = epoch * steps_per_epoch
        common = {"step": step, "epoch": epoch, "seconds": 3.0 * epoch}
        train = {"split": "train", "loss": loss, "lr": lr, "samples_per_second": 60.0}
        append_json_line(run.metrics, {**common, **train})
        append_json_line(
            run.metrics, {**common, "split": "validation", "loss": loss + 0.1, "accuracy": accuracy}
        )
    steps = steps_per_epoch * spec.train.epochs
    write_json(
        run.training_results,
        {
            "history": history or {"epoch": []},
            "best_epoch": spec.train.epochs,
            "best_val_accuracy": history["val_acc"][-1] if history else None,
            "steps": steps,
            "samples_seen": steps * spec.train.batch_size,
            "skipped_steps": 0,
            "train_seconds": 3.0 * spec.train.epochs,
            "peak_memory_gib": 1.25,
            "parameters": 1_000_000 + 10_000 * MODEL_FRAMES[spec.entry.model],
            "flops_per_clip": 1e9 * MODEL_FRAMES[spec.entry.model],
            "device": "cpu",
            "precision": "fp32",
            "world": 1,
            "threads": 1,
            "torch": "2.13.0",
            "config": {"classes": samples.classes},
        },
    )


def _data_record(samples: JudgedSamples, dropped: Sequence[tuple[str, str]]) -> dict[str, Any]:
    test = {name: int((samples.labels == k).sum()) for k, name in enumerate(samples.classes)}
    return {
        "manifest_hash": "0f" * 32,
        "classes": samples.classes,
        "counts": {
            "train": {name: 3 * count for name, count in test.items()},
            "validation": {name: max(1, count // 3) for name, count in test.items()},
            "test": test,
        },
        "groups": {"train": 120, "validation": 12, "test": len(set(samples.groups))},
        "dropped": [{"path": path, "reason": reason} for path, reason in dropped],
        "notes": ["start phase within 0.3 rad"],
        "source": "rotors",
        "short_clips": {},
    }
