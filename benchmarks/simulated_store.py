"""A judged study as large as published ones, simulated: no video, no model, the real writers.

    .venv/bin/python benchmarks/simulated_store.py FOLDER [--seeds 3] [--samples 12227]

Writes FOLDER/<name> as if its runs were trained and judged: 101 classes of 7 groups each, unequal
groups, 25 conditions planned by the product's own frame plans, so that short clips give identical
cells as real ones do. Planted: `vivit` is ahead by about 5 points at full coverage; `timesformer`
and `videomae` are level there, and at long strides, where 16 frames cannot be filled, `timesformer`
leads. Scores are drawn; equal clips have equal scores. About 125 MiB per run.

Shapes: C conditions, N samples, K classes, L different clip lengths.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from regatta.config.expand import RunSpec, protocol_id
from regatta.config.load import study_from_mapping
from regatta.config.schema import Study
from regatta.core.files import append_json_line, write_json
from regatta.core.seeds import stream
from regatta.data.frame_plan import FramePlan
from regatta.evaluation.protocols import plan_all, resolve_protocol
from regatta.records.conditions import Condition
from regatta.records.predictions import write_complete, write_part
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.records.status import Status, write_status

SAMPLES, CLASSES, GROUPS_PER_CLASS = 12_227, 101, 7
MODEL_FRAMES = {"timesformer": 8, "videomae": 16, "vivit": 32}
SKILL = {"timesformer": 1.44, "videomae": 1.45, "vivit": 1.75}
"""In standard deviations of difficulty, when the whole clip is seen."""
FPS = 25.0
LENGTHS = (30, 300)
"""Frames of the shortest and of the longest clip."""
EPOCHS = 5
TRUTH_COLUMNS = ("distinct_frames", "span_seconds", "rate_hz", "pad_share")


@dataclass(frozen=True)
class JudgedSamples:
    """The samples that every run is judged on, sorted by id; all [N]."""

    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    hardness: np.ndarray


@dataclass(frozen=True)
class Clips:
    """What one model sees, [C, N]: the columns of the truth, keys, and the first condition with
    the same clip."""

    truth: dict[str, np.ndarray]
    keys: np.ndarray
    source: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--name", default="simulated")
    options = parser.parse_args()
    started = time.perf_counter()
    folder = write_store(options.folder, options.name, seeds=options.seeds, samples=options.samples)
    print(f"{folder.path}: written in {time.perf_counter() - started:.0f} s")


def write_store(
    root: Path,
    name: str,
    *,
    seeds: int,
    samples: int = SAMPLES,
    compare: dict[str, Any] | None = None,
    processes: int = 2,
) -> StudyFolder:
    """Write `root/<name>` with three entries x `seeds` runs and return its folder."""
    study = _study(name, range(seeds), compare or {})
    judged, classes = draw_samples(samples), _class_names()
    folder = open_study(root, study)
    write_json(folder.data_json, _data_record(judged, classes))
    write_json(folder.motion_json, _motion_record(classes))
    write = partial(_write_run, study=study, samples=judged, classes=classes)
    with ProcessPoolExecutor(processes) as pool:
        for _ in pool.map(write, *zip(*folder.runs(), strict=True)):
            pass
    return folder


def draw_samples(count: int) -> JudgedSamples:
    """Groups of unequal size, each of one class; samples of a group share half their difficulty."""
    rng = stream(7, "samples")
    groups = CLASSES * GROUPS_PER_CLASS
    weights = rng.gamma(6.0, size=groups)
    sizes = 1 + rng.multinomial(count - groups, weights / weights.sum())
    of = np.repeat(np.arange(groups), sizes)
    names = _class_names()
    group_names = np.array(
        [f"v_{names[g // GROUPS_PER_CLASS]}_g{g % GROUPS_PER_CLASS + 1:02d}" for g in range(groups)]
    )
    within = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    labels = of // GROUPS_PER_CLASS
    ids = np.array(
        [
            f"{names[k]}/{group_names[g]}_c{i + 1:02d}"
            for k, g, i in zip(labels, of, within, strict=True)
        ]
    )
    order = np.argsort(ids)
    # A class of its own difficulty, a group of its own, and the sample's rest; variances sum to 1.
    hardness = (
        np.sqrt(0.2) * rng.normal(size=CLASSES)[labels]
        + np.sqrt(0.3) * rng.normal(size=groups)[of]
        + np.sqrt(0.5) * rng.normal(size=count)
    )
    lengths = np.clip(rng.gamma(4.0, 45.0, size=count).astype(int), *LENGTHS)
    return JudgedSamples(
        *(column[order] for column in (ids, group_names[of], labels, lengths, hardness))
    )


def plan_clips(study: Study, lengths: np.ndarray, model_frames: int) -> Clips:
    """Plan every condition once per clip length."""
    protocol = resolve_protocol(study.protocol)
    different, place = np.unique(lengths, return_inverse=True)
    plans = [list(plan_all(protocol, int(n), FPS, model_frames).values()) for n in different]

    def table(value: Any) -> np.ndarray:
        return np.array([[value(plan) for plan in row] for row in plans]).T[:, place]

    keys_LC = [[plan.unique_key for plan in row] for row in plans]
    source_LC = np.array([[keys.index(key) for key in keys] for keys in keys_LC])
    columns = {name: table(partial(_fact, name=name)) for name in TRUTH_COLUMNS}
    return Clips(columns, table(lambda plan: plan.unique_key), source_LC.T[:, place])


def _fact(plan: FramePlan, name: str) -> float:
    value = getattr(plan, name)
    # A still frame has no rate.
    return np.nan if value is None else value


def draw_scores(spec: RunSpec, samples: JudgedSamples, clips: Clips) -> np.ndarray:
    """float32 logits [C, N, K]; the answer depends on the clip, not on the condition's name."""
    cells, count = clips.source.shape
    rng = stream(spec.seed, "scores", spec.entry.name)
    seen = clips.truth["distinct_frames"]
    span = clips.truth["span_seconds"] / (samples.lengths / FPS)
    lost = 1.6 * np.exp(-seen / 3.0) + 0.5 * (1 - span) + 0.9 * clips.truth["pad_share"] ** 2
    own = 0.5 * rng.normal(size=count) + 0.25 * rng.normal(size=(cells, count))
    surplus = SKILL[spec.entry.name] + 0.03 * rng.normal() - lost - samples.hardness + own
    right = surplus > 0
    # Half of the wrong answers name the class's neighbour, as confusions of real models cluster.
    away = np.where(rng.random((cells, count)) < 0.5, 1, rng.integers(1, CLASSES, (cells, count)))
    winner = np.where(right, samples.labels, (samples.labels + away) % CLASSES)
    scores = rng.standard_normal((cells, count, CLASSES), dtype=np.float32)
    top = scores.max(axis=2) + 0.5 + 2 * np.abs(surplus)
    np.put_along_axis(scores, winner[..., None], top[..., None].astype(np.float32), axis=2)
    for cell in range(1, cells):
        repeats = clips.source[cell] < cell
        scores[cell, repeats] = scores[clips.source[cell, repeats], repeats]
    return scores


def _write_run(
    spec: RunSpec, run: RunFolder, *, study: Study, samples: JudgedSamples, classes: list[str]
) -> None:
    model_frames = MODEL_FRAMES[spec.entry.name]
    clips = plan_clips(study, samples.lengths, model_frames)
    conditions = resolve_protocol(study.protocol).conditions
    scores = draw_scores(spec, samples, clips)
    _write_training(run, spec, classes)
    folder = run.predictions(protocol_id(study.protocol))
    size = study.protocol.part_samples
    for number, start in enumerate(range(0, len(samples.ids), size)):
        part = slice(start, start + size)
        _write_part(folder, number, part, samples, conditions, clips, scores)
    write_complete(
        folder,
        conditions=conditions,
        classes=classes,
        sample_ids=samples.ids.tolist(),
        fingerprint={
            "manifest": "0f" * 32,
            "protocol": protocol_id(study.protocol),
            "sample_ids": len(samples.ids),
            "code": "0.1.0",
            "decoder": "pyav 18.1.0",
            "resize": study.protocol.resize,
            "weights": sha256(spec.run_id.encode()).hexdigest(),
        },
        cost={
            "decode_seconds": 400.0,
            "preprocess_seconds": 90.0,
            "forward_seconds": 30.0 * model_frames,
            "clips": scores.shape[0] * scores.shape[1],
            "samples": scores.shape[1],
            "device": "cpu",
        },
    )
    write_status(run.status, Status(state="done", epoch=EPOCHS, epochs=EPOCHS))


def _write_part(
    folder: Path,
    number: int,
    part: slice,
    samples: JudgedSamples,
    conditions: Sequence[Condition],
    clips: Clips,
    scores: np.ndarray,
) -> None:
    cells, count = scores[:, part].shape[:2]
    columns: dict[str, Any] = {
        "sample_id": np.tile(samples.ids[part], cells).tolist(),
        "group": np.tile(samples.groups[part], cells).tolist(),
        "condition": [condition.id for condition in conditions for _ in range(count)],
        "label": np.tile(samples.labels[part], cells).astype(np.int32),
        **{name: values[:, part].reshape(-1) for name, values in clips.truth.items()},
        "clip_key": clips.keys[:, part].reshape(-1).tolist(),
    }
    columns["distinct_frames"] = columns["distinct_frames"].astype(np.int32)
    columns["rate_hz"] = [None if np.isnan(x) else float(x) for x in columns["rate_hz"]]
    write_part(folder, number, columns, scores[:, part].reshape(cells * count, -1))


def _class_names() -> list[str]:
    return [f"Action{number:03d}" for number in range(1, CLASSES + 1)]


def _study(name: str, seeds: Sequence[int], compare: dict[str, Any]) -> Study:
    return study_from_mapping(
        {
            "name": name,
            "title": "Simulated: three video models on 101 classes",
            "data": {"source": "ucf101", "root": "data/ucf101"},
            "entries": list(MODEL_FRAMES),
            "seeds": list(seeds),
            "train": {"epochs": EPOCHS, "batch_size": 8},
            "protocol": {"name": "temporal-grid"},
            "compare": compare,
        },
        where="benchmarks",
    )


def _write_training(run: RunFolder, spec: RunSpec, classes: list[str]) -> None:
    keys = ("train_loss", "train_acc", "val_loss", "val_acc", "val_balanced_accuracy")
    history: dict[str, list[float]] = {key: [] for key in ("epoch", "step", *keys)}
    for epoch in range(1, EPOCHS + 1):
        loss, accuracy = 3.0 / epoch, 1 - 0.8 / epoch
        values = (epoch, 1000 * epoch, loss, accuracy, loss + 0.1, accuracy, accuracy)
        for key, value in zip(history, values, strict=True):
            history[key].append(value)
        for step in range(1000 * (epoch - 1) + 10, 1000 * epoch + 1, 10):
            at = {"step": step, "epoch": epoch, "seconds": 0.3 * step, "split": "train"}
            append = {"loss": 3000.0 / step, "lr": 1e-5, "samples_per_second": 26.0}
            append_json_line(run.metrics, at | append)
        at = {"step": 1000 * epoch, "epoch": epoch, "seconds": 300.0 * epoch}
        found = {"split": "validation", "loss": loss + 0.1, "accuracy": accuracy}
        append_json_line(run.metrics, at | found)
    write_json(
        run.training_results,
        {
            "history": history
            | {
                "val_macro_f1": history["val_acc"],
                "learning_rates": [1e-5] * EPOCHS,
                "epoch_times": [300.0] * EPOCHS,
            },
            "best_epoch": EPOCHS,
            "best_val_accuracy": history["val_acc"][-1],
            "steps": 1000 * EPOCHS,
            "samples_seen": 8000 * EPOCHS,
            "skipped_steps": 0,
            "train_seconds": 300.0 * EPOCHS,
            "peak_memory_gib": 6.5,
            "parameters": 80_000_000 + 100_000 * MODEL_FRAMES[spec.entry.name],
            "flops_per_clip": 1e10 * MODEL_FRAMES[spec.entry.name],
            "temperature": 1.3,
            "device": "cpu",
            "precision": "fp32",
            "threads": 2,
            "torch": "2.13.0",
            "config": {"classes": classes},
        },
    )


def _data_record(samples: JudgedSamples, classes: list[str]) -> dict[str, Any]:
    test = {name: int((samples.labels == k).sum()) for k, name in enumerate(classes)}
    return {
        "manifest_hash": "0f" * 32,
        "classes": classes,
        "counts": {
            "train": {name: 2 * count for name, count in test.items()},
            "validation": {name: count // 5 for name, count in test.items()},
            "test": test,
        },
        "groups": {"train": 1414, "validation": 202, "test": len(np.unique(samples.groups))},
        "dropped": [{"path": "Action001/broken.avi", "reason": "12 of 150 frames decode"}],
        "notes": [],
        "source": "ucf101",
        "short_clips": {},
    }


def _motion_record(classes: list[str]) -> dict[str, Any]:
    frequencies = np.arange(1, 50) * 0.25
    rng = stream(7, "motion")
    found = {}
    for name in classes:
        peak = rng.uniform(0.5, 6.0)
        power = np.exp(-((frequencies - peak) ** 2)) + 0.05 / frequencies
        power /= power.sum()
        found[name] = {
            "samples": 4,
            "fps": FPS,
            "dominant_hz": float(frequencies[power.argmax()]),
            "f95_hz": float(frequencies[np.searchsorted(power.cumsum(), 0.95)]),
            "frequencies_hz": frequencies.tolist(),
            "power": power.tolist(),
        }
    return {"settings": {"samples_per_class": 4, "split": "test"}, "classes": found}


if __name__ == "__main__":
    main()
