"""Small clips, small models and the naive loop that the tests of judging share."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch import nn

from regatta.config.schema import ProtocolSection
from regatta.data.decode import read_frames
from regatta.data.manifest import Sample
from regatta.data.transforms import normalise, resize_frames
from regatta.data.video_files import write_video
from regatta.evaluation.judge import JudgeCost, judge_parts
from regatta.evaluation.part_files import finalize_predictions
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.protocols import Protocol, View, resolve_protocol
from regatta.models.spec import ModelSpec
from regatta.records.predictions import file_hash, read_part

CPU = torch.device("cpu")
CLASSES = ["left", "right", "still"]


def protocol(name: str = "temporal-grid", **options: Any) -> Protocol:
    return resolve_protocol(ProtocolSection.model_validate({"name": name, "options": options}))


GRID = protocol(coverage=[25, 100], stride=[1, 4, 16])


TEMPLATE = Sample(
    sample_id="",
    path="",
    label=0,
    label_name=CLASSES[0],
    group="g",
    split="test",
    start_frame=0,
    frames=1,
    fps=20.0,
    width=32,
    height=24,
    duration_seconds=1.0,
    content_hash="",
)


def make_sample(folder: Path, number: int, *, height: int = 24, width: int = 32) -> Sample:
    """A textured clip of 20 to 28 frames that moves by `number` pixels per frame."""
    frames = 20 + 4 * (number % 3)
    texture = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    images = np.stack([np.roll(texture, number * k, axis=1) for k in range(frames)])
    suffix, codec = ("avi", "mpeg4") if number % 2 else ("mp4", "libx264")
    path = write_video(folder / f"clip{number:02d}.{suffix}", images, fps=20, codec=codec)
    return replace(
        TEMPLATE,
        sample_id=path.name,
        path=str(path),
        label=number % 3,
        label_name=CLASSES[number % 3],
        group=f"g{number // 2}",
        frames=frames,
        width=width,
        height=height,
        content_hash=sha256(path.read_bytes()).hexdigest(),
    )


class TinyConv(nn.Module):
    """A convolution over space and time, a mean and a linear head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, classes)
        self.batches: list[int] = []

    @property
    def clips(self) -> int:
        return sum(self.batches)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(video))
        return self.head(self.conv(video.transpose(1, 2)).relu().mean((2, 3, 4)))


def entry(
    root: Path,
    run_id: str,
    *,
    frames: int = 4,
    image_size: int = 12,
    module: nn.Module | None = None,
    **changes: Any,
) -> JudgedEntry:
    torch.manual_seed(len(run_id))
    spec = ModelSpec(
        name="tiny",
        frames=frames,
        image_size=image_size,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        resize="crop",
        default_checkpoint=None,
        build=TinyConv,
        head_prefixes=("head.",),
        config={},
    )
    return JudgedEntry(run_id, (module or TinyConv()).eval(), spec, root / run_id, **changes)


def judge(
    entries: list[JudgedEntry], samples: list[Sample], design: Protocol = GRID, **changes: Any
) -> JudgeCost:
    settings: dict[str, Any] = {"batch_size": 4, "part_samples": 3, "device": CPU}
    return judge_parts(entries, samples, design, **{**settings, **changes})


def naive_scores(
    judged: JudgedEntry, samples: list[Sample], design: Protocol, batch_size: int
) -> dict[tuple[str, str], np.ndarray]:
    """Open, decode, resize, blend and run every view of every condition alone, then average."""
    scores = {}
    spec = judged.spec
    for sample in samples:
        for condition in design.conditions:
            views = design.plan_views(
                sample.frames, sample.fps, condition, spec.frames, sample_id=sample.sample_id
            )
            rows = []
            for view in views:
                clip = naive_clip(sample, view, spec)
                batch = normalise(clip.expand(batch_size, *clip.shape), spec.mean, spec.std)
                with torch.inference_mode():
                    rows.append(judged.module(batch)[0].numpy())
            scores[sample.sample_id, condition.id] = naive_average(rows, design.average)
    return scores


def naive_clip(sample: Sample, view: View, spec: ModelSpec) -> torch.Tensor:
    """uint8 [T, 3, S, S]: every picture resized and cut, blends averaged in whole numbers."""
    shown = view.plan.shown
    images = read_frames(sample.path, [index for blend in shown for index in blend]).images
    cut = resize_frames(
        torch.from_numpy(images), size=spec.image_size, resize=spec.resize, crop=view.crop
    )
    pictures = iter(cut.numpy().astype(np.int64))
    sums = [(sum(next(pictures) for _ in blend), len(blend)) for blend in shown]
    return torch.from_numpy(np.stack([(2 * s + n) // (2 * n) for s, n in sums]).astype(np.uint8))


def naive_average(rows: list[np.ndarray], average: str) -> np.ndarray:
    if len(rows) == 1:
        return rows[0]
    wide = np.stack(rows).astype(np.float64)
    if average == "logit":
        return wide.mean(axis=0).astype(np.float32)
    return np.log(softmax(wide, axis=1).mean(axis=0)).astype(np.float32)


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def table_of(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    tables, scores = zip(*(read_part(path) for path in parts_of(folder)), strict=True)
    return pd.concat(tables, ignore_index=True), np.concatenate(scores)


def rows_of(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in parts_of(folder)}


def assert_bit_equal(
    judged: JudgedEntry, samples: list[Sample], design: Protocol, *, batch_size: int = 4
) -> None:
    """The rows on disk are those of the naive loop, no more and no fewer."""
    wanted = naive_scores(judged, samples, design, batch_size)
    table, scores = table_of(judged.folder)
    assert len(table) == len(wanted) == len(samples) * len(design.conditions)
    for row, found in zip(rows_of(table), scores, strict=True):
        assert np.array_equal(found, wanted[row["sample_id"], row["condition"]]), row


def finalize(judged: JudgedEntry, samples: list[Sample], design: Protocol = GRID) -> bool:
    return finalize_predictions(
        judged.folder,
        samples=samples,
        conditions=design.conditions,
        part_samples=3,
        classes=CLASSES,
        fingerprint=judged.fingerprint,
    )
