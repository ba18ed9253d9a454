"""Builds a judged study of scenes on disk: places and scores are given by the test, everything else
is written through the product's own writers. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from regatta.config.expand import RunSpec, protocol_id
from regatta.config.load import study_from_mapping
from regatta.core.files import append_json_line, write_json
from regatta.core.seeds import stream
from regatta.records.conditions import Condition
from regatta.records.predictions import write_complete, write_part
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.records.status import Status, write_status

CLASSES = ["linear", "circular", "helical", "parabolic"]
FRAMES, AHEAD = 32, 5
CLEAN = (Condition("clean", {"disturbance": "clean", "level": 0}, is_reference=True),)
ROBUST = (
    *CLEAN,
    Condition("single-frame", {"disturbance": "single-frame", "level": 1}),
    Condition("shuffled-frames", {"disturbance": "shuffled-frames", "level": 1}),
    Condition("prefix-16", {"disturbance": "prefix", "level": 16}),
    Condition("prefix-8", {"disturbance": "prefix", "level": 8}),
    Condition("noise-0.1", {"disturbance": "noise", "level": 0.1}),
    Condition("noise-0.2", {"disturbance": "noise", "level": 0.2}),
)

Places = Callable[[str, int], np.ndarray]
"""(entry, seed) -> places [C, N, 3] in u."""
Scores = Callable[[str, int], np.ndarray]
"""(entry, seed) -> logits [C, N, K]."""


@dataclass(frozen=True)
class Scenes:
    """True tracks of N scenes, [N, T + 5, 3] in u."""

    tracks: np.ndarray
    labels: np.ndarray
    ids: list[str] = field(default_factory=list)

    @property
    def targets(self) -> np.ndarray:
        return self.tracks[:, -1]

    @property
    def last(self) -> np.ndarray:
        return self.tracks[:, FRAMES - 1]

    @property
    def velocity(self) -> np.ndarray:
        return self.tracks[:, FRAMES - 1] - self.tracks[:, FRAMES - 2]

    @property
    def constant_velocity(self) -> np.ndarray:
        return self.last + AHEAD * self.velocity


def drawn_scenes(count: int, *, seed: int = 5) -> Scenes:
    """Tracks of the four kinds in turn: lines, circles, helices and parabolas about the origin."""
    s = np.arange(FRAMES + AHEAD) / (FRAMES - 1)
    tracks = []
    for n in range(count):
        rng = stream(seed, "scene", n)
        start, way = rng.uniform(-0.4, 0.4, 3), rng.normal(size=3)
        way /= np.linalg.norm(way)
        angle = rng.uniform(0, 6.28) + 6.28 * rng.uniform(0.8, 1.6) * s
        ring = rng.uniform(0.3, 0.8) * np.stack([np.cos(angle), np.sin(angle), 0 * s], axis=1)
        kind = n % 4
        if kind == 0:
            tracks.append(start + 0.9 * way * s[:, None])
        elif kind == 1:
            tracks.append(start + ring)
        elif kind == 2:
            tracks.append(start + ring + np.outer(s - 0.5, [0, 0, 1.0]))
        else:
            fall = 3.0 * (0.5 * s - s**2 / 2)
            tracks.append(start + np.stack([way[0] * s, way[1] * s, fall], axis=1))
    labels = np.arange(count) % 4
    return Scenes(np.array(tracks), labels, [f"traj_{n:05d}" for n in range(count)])


def cameras(count: int = 4, size: int = 64) -> dict[str, Any]:
    """A ring at radius 5 and height 2 that looks at the origin, as `cameras.json` holds it."""
    places, rotations = [], []
    for k in range(count):
        turn = 2 * np.pi * k / count
        place = np.array([5 * np.cos(turn), 5 * np.sin(turn), 2.0])
        forward = -place / np.linalg.norm(place)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        places.append(place.tolist())
        rotations.append([right.tolist(), np.cross(forward, right).tolist(), forward.tolist()])
    return {
        "positions": places,
        "rotations": rotations,
        "focal": 80 * size / 64,
        "centre": (size - 1) / 2,
    }


def right_scores(labels: np.ndarray, right: np.ndarray, classes: int = 4) -> np.ndarray:
    """Logits [N, K] with 4 at the label where right, at the next class where wrong."""
    found = np.zeros((len(labels), classes), dtype=np.float32)
    found[np.arange(len(labels)), np.where(right, labels, (labels + 1) % classes)] = 4
    return found


def build_scene_study(
    path: Path,
    entries: Mapping[str, Mapping[str, Any]],
    scenes: Scenes,
    *,
    places: Places,
    scores: Scores,
    seeds: Sequence[int] = (0,),
    conditions: Sequence[Condition] = CLEAN,
    horizon: int = AHEAD,
    targets: np.ndarray | None = None,
    heads: Mapping[str, tuple[Places, np.ndarray, int]] = {},
    baselines: Sequence[tuple[str, str, np.ndarray, np.ndarray]] = (),
    ood: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {},
    training: Callable[[str, int], dict[str, Any]] = lambda *_: {},
    truth: bool = True,
    compare: dict[str, Any] | None = None,
    protocol: str = "trajectories",
    name: str = "scenes",
) -> StudyFolder:
    """Write a study whose runs are trained and judged; return its folder.

    Args:
        entries: name -> options of the model `trajectory`.
        heads: target -> its places, true places and horizon. baselines: name, track, labels,
            places. ood: set -> labels, logits [N, K], places [N, 3], judged against 0.
    """
    study = study_from_mapping(
        {
            "name": name,
            "title": "Simulated trajectories",
            "data": {"source": "trajectories"},
            "entries": [
                {
                    "name": each,
                    "model": "trajectory",
                    "checkpoint": "none",
                    "options": dict(options),
                }
                for each, options in entries.items()
            ],
            "seeds": list(seeds),
            "train": {"epochs": 2, "batch_size": 16},
            "protocol": {"name": protocol},
            "compare": {"replicates": 400, **(compare or {})},
        },
        where="tests",
    )
    folder = open_study(Path(path), study)
    write_json(folder.data_json, {"classes": CLASSES, "notes": [], "dropped": []})
    write_scenes(folder.path / "scenes", scenes, baselines, truth=truth)
    true = scenes.targets if targets is None else targets
    for spec, run in folder.runs():
        entry, seed = spec.entry.name, spec.seed
        _write_training(run, spec, training(entry, seed))
        judged = run.predictions(protocol_id(study.protocol))
        logits = scores(entry, seed)
        common = {"conditions": conditions, "ids": scenes.ids, "weights": spec.run_id}
        write_places(
            judged, logits, scenes.labels, places(entry, seed), true, horizon=horizon, **common
        )
        for target, (said, truths, frames) in heads.items():
            write_places(
                judged / "heads" / target, logits, scenes.labels, said(entry, seed), truths,
                horizon=frames, **common,
            )  # fmt: skip
        for other, (labels, far, said_N3) in ood.items():
            ids = [f"{other}_{n:05d}" for n in range(len(labels))]
            write_places(
                judged / "ood" / other, far[None], labels, said_N3[None], np.zeros_like(said_N3),
                ids=ids, weights=spec.run_id,
            )  # fmt: skip
        write_status(run.status, Status(state="done", epoch=2, epochs=2))
    return folder


def write_places(
    folder: Path,
    scores_CNK: np.ndarray,
    labels: np.ndarray,
    places_CN3: np.ndarray,
    targets_N3: np.ndarray,
    *,
    ids: Sequence[str],
    horizon: int = AHEAD,
    conditions: Sequence[Condition] = CLEAN,
    weights: str = "",
) -> None:
    """One part with all samples, then complete.json."""
    cells, count, classes = scores_CNK.shape
    rows = cells * count
    columns: dict[str, Any] = {
        "sample_id": list(ids) * cells,
        "group": list(ids) * cells,
        "condition": [c.id for c in conditions for _ in ids],
        "label": np.tile(labels, cells).astype(np.int32),
        "distinct_frames": np.full(rows, FRAMES, dtype=np.int32),
        "span_seconds": np.full(rows, (FRAMES - 1) / 16),
        "rate_hz": np.full(rows, 16.0),
        "pad_share": np.zeros(rows),
        "clip_key": [f"{c.id}/{name}" for c in conditions for name in ids],
        "horizon_frames": np.full(rows, horizon, dtype=np.int32),
    }
    true = np.tile(targets_N3, (cells, 1)).astype(np.float32)
    said = places_CN3.reshape(rows, 3).astype(np.float32)
    for k, axis in enumerate("xyz"):
        columns[f"pred_{axis}"], columns[f"target_{axis}"] = said[:, k], true[:, k]
    write_part(folder, 0, columns, scores_CNK.reshape(rows, classes))
    write_complete(
        folder,
        conditions=list(conditions),
        classes=CLASSES,
        sample_ids=list(ids),
        fingerprint={
            "manifest": "0f" * 32,
            "sample_ids": sha256("\n".join(ids).encode()).hexdigest(),
            "code": "0.1.0",
            "weights": sha256(weights.encode()).hexdigest(),
        },
        cost={
            "decode_seconds": 0.5,
            "preprocess_seconds": 0.5,
            "forward_seconds": 2.0,
            "clips": rows,
            "samples": count,
            "device": "cpu",
        },
    )


def write_scenes(
    folder: Path,
    scenes: Scenes,
    baselines: Sequence[tuple[str, str, np.ndarray, np.ndarray]] = (),
    *,
    truth: bool = True,
) -> None:
    """What shard 0 of judging leaves in the study's folder `scenes`, in shuffled order."""
    folder.mkdir(parents=True, exist_ok=True)
    order = stream(9, "rows").permutation(len(scenes.ids))
    ids = [scenes.ids[n] for n in order]
    if truth:
        columns: dict[str, Any] = {"sample_id": ids, "label": scenes.labels[order]}
        parts = {
            "last": scenes.last,
            "velocity": scenes.velocity,
            "target": scenes.targets,
            "cv": scenes.constant_velocity,
        }
        for name, values in parts.items():
            columns |= {f"{name}_{axis}": values[order, k] for k, axis in enumerate("xyz")}
        columns["visible_views"] = np.full(len(ids), 4)
        pd.DataFrame(columns).to_parquet(folder / "truth.parquet")
    rows = [
        pd.DataFrame(
            {"sample_id": ids, "baseline": name, "track": track, "label": labels[order],
             **{axis: values[order, k] for k, axis in enumerate("xyz")}}
        )
        for name, track, labels, values in baselines
    ]  # fmt: skip
    if rows:
        pd.concat(rows, ignore_index=True).to_parquet(folder / "baselines.parquet")
    write_json(folder / "cameras.json", cameras())
    save_file({"positions": scenes.tracks[order]}, folder / "tracks.safetensors")
    write_json(folder / "scenes.json", {"ids": ids})


def write_explanations(predictions: Path, records: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(record) + "\n" for record in records)
    (predictions / "explanations.jsonl").write_text(text, encoding="utf-8")


def write_attention(
    predictions: Path, frames: np.ndarray, maps: np.ndarray, record: dict[str, Any]
) -> None:
    save_file({"frames": frames, "maps": maps}, predictions / "attention.safetensors")
    write_json(predictions / "attention.json", record)


def _write_training(run: RunFolder, spec: RunSpec, changed: dict[str, Any]) -> None:
    for epoch in (1, 2):
        line = {"step": 10 * epoch, "epoch": epoch, "split": "train", "loss": 1.0, "lr": 1e-3}
        append_json_line(run.metrics, line)
    write_json(
        run.training_results,
        {
            "history": {
                "epoch": [1, 2],
                "train_loss": [1.5, 1.0],
                "train_acc": [0.5, 0.8],
                "val_loss": [1.2, 0.9],
                "val_acc": [0.5, 0.7],
                "val_mse": [0.2, 0.1],
                "learning_rates": [1e-3, 5e-4],
                "epoch_times": [3.0, 3.5],
            },
            "best_epoch": 2,
            "best_val_accuracy": 0.7,
            "best_val_mse": 0.1,
            "steps": 20,
            "samples_seen": 320,
            "skipped_steps": 0,
            "train_seconds": 6.5,
            "peak_memory_gib": 1.0,
            "parameters": 2_000_000,
            "trained_parameters": 2_000_000,
            "flops_per_clip": 4e9,
            "device": "cpu",
            "precision": "fp32",
            "world": 1,
            "threads": 1,
            "torch": "2.13.0",
            "config": {"classes": CLASSES},
            **changed,
        },
    )
    del spec
