"""A whole training run that is small enough for a test: real modules, tensors and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.files import write_json
from regatta.core.seeds import stream
from regatta.core.signals import StopFlag
from regatta.models.spec import ModelSpec
from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import RunFolder

CLASSES = ["left", "right", "up"]
TIMING = {"seconds", "samples_per_second", "memory_gb", "epoch_times"}


@dataclass(frozen=True)
class TinyBatch:
    inputs: torch.Tensor
    labels: torch.Tensor
    sample_ids: list[str]


@dataclass(frozen=True)
class TinyClips:
    """In-memory clips, ordered as `ClipLoader` promises: seeded per epoch, dealt out over ranks."""

    videos: torch.Tensor
    labels: torch.Tensor
    batch_size: int = 4
    seed: int = 0
    rank: int = 0
    world: int = 1
    before_batch: Callable[[int, int], None] | None = None
    """Called with (epoch, position); where tests send signals from."""

    def __len__(self) -> int:
        return -(-len(self.labels) // (self.batch_size * self.world))

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[TinyBatch]:
        order = stream(self.seed, "order", epoch).permutation(len(self.labels))
        step = self.batch_size * self.world
        for position in range(start, len(self)):
            if self.before_batch:
                self.before_batch(epoch, position)
            rows = torch.from_numpy(order[position * step :][:step][self.rank :: self.world].copy())
            yield TinyBatch(
                self.videos[rows], self.labels[rows], [f"clip-{row}" for row in rows.tolist()]
            )


class TinyNet(nn.Module):
    """Two layers with dropout between: a wrong random stream shows in the weights."""

    def __init__(self, *, dropout: float = 0.1, batch_norm: bool = False, outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(2 * 3 * 4 * 4, 8)
        self.norm = nn.BatchNorm1d(8) if batch_norm else nn.LayerNorm(8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, outputs)

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.body(video_BTCHW.flatten(1)))
        return self.head(self.dropout(features.relu()))


def tiny_net(*, seed: int = 0, **options: Any) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet(**options)


def tiny_clips(count: int, *, seed: int = 0, noise: float = 60.0, **options: Any) -> TinyClips:
    """Clips whose class is the colour channel that is brighter, under noise."""
    rng = stream(seed, "clips")
    labels = torch.arange(count) % len(CLASSES)
    videos = 110 + noise * torch.from_numpy(rng.standard_normal((count, 2, 3, 4, 4)))
    for row, label in enumerate(labels.tolist()):
        videos[row, :, label] += 30
    return TinyClips(videos.clamp(0, 255).to(torch.uint8), labels, **options)


def tiny_spec(**changes: Any) -> ModelSpec:
    spec = ModelSpec(
        name="tiny",
        frames=2,
        image_size=4,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        resize="crop",
        default_checkpoint=None,
        build=lambda classes: TinyNet(outputs=classes),
        head_prefixes=("head.",),
        config={"name": "tiny", "size": "tiny", "options": {}},
    )
    return replace(spec, **changes)


def tiny_run(path: Path, *, content_hash: str = "abc", **changes: Any) -> dict[str, Any]:
    """Arguments of `train_run` for a run in `path`: 22 clips in micro-batches of 4, 3 epochs.

    Keys of the recipe and arguments of `train_run` may be given by name.
    """
    folder = RunFolder(path)
    if not folder.run_json.exists() or folder.info()["content_hash"] != content_hash:
        write_json(folder.run_json, {"run_id": path.name, "content_hash": content_hash})
    recipe = {"epochs": 3, "batch_size": 4, "lr": 0.01, "log_every_steps": 2, "augment": "none"}
    recipe |= {key: changes.pop(key) for key in list(changes) if key in TrainSection.model_fields}
    train = TrainSection(**recipe)
    return {
        "module": tiny_net(),
        "spec": tiny_spec(),
        "train": train,
        "train_loader": tiny_clips(22, batch_size=train.batch_size),
        "validation": tiny_clips(13, seed=1, batch_size=5),
        "folder": folder,
        "device": torch.device("cpu"),
        "seed": 7,
        "classes": CLASSES,
        "stop": StopFlag(),
        "report": lambda _: None,
        **changes,
    }


def outcome(path: Path) -> dict[str, Any]:
    """All that a finished run left that must not depend on interruptions."""
    folder = RunFolder(path)
    results = json.loads(folder.training_results.read_text())
    return {
        "weights": sha256((folder.model / "model.safetensors").read_bytes()).hexdigest(),
        "metrics": without_timing(read_metrics(folder.metrics)),
        "history": without_timing(rows_of(results["history"])),
        **{key: results[key] for key in ("best_epoch", "steps", "samples_seen", "skipped")},
    }


def rows_of(history: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """One record per epoch."""
    columns = zip(*history.values(), strict=True)
    return [dict(zip(history, values, strict=True)) for values in columns]


def without_timing(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: record[key] for key in record.keys() - TIMING} for record in records]
