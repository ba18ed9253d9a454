"""Small clips on disk, and a loader over them."""

from __future__ import annotations

from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regatta.data.clip_recipe import ClipRecipe
from regatta.data.loader import Batch, ClipLoader
from regatta.data.manifest import Sample
from regatta.data.video_files import write_video

HEIGHT, WIDTH = 24, 32


def make_sample(folder: Path, number: int) -> Sample:
    """A clip of 9 to 12 frames, dark left and bright right, brighter with every frame."""
    rng = np.random.default_rng(number)
    frames = 9 + number % 4
    images = np.empty((frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    images[:, :, : WIDTH // 2] = 20 + 8 * np.arange(frames, dtype=np.uint8)[:, None, None, None]
    images[:, :, WIDTH // 2 :] = images[:, :, : WIDTH // 2] + 100
    images += rng.integers(0, 12, images.shape, dtype=np.uint8)
    path = write_video(folder / f"clip{number:02d}.avi", images, fps=10, codec="mpeg4")
    return Sample(
        sample_id=path.name,
        path=str(path),
        label=number % 3,
        label_name=f"class{number % 3}",
        group=f"g{number}",
        split="train",
        start_frame=0,
        frames=frames,
        fps=10.0,
        width=WIDTH,
        height=HEIGHT,
        duration_seconds=frames / 10,
        content_hash=sha256(path.read_bytes()).hexdigest(),
    )


def loader(samples: list[Sample], **changes: Any) -> ClipLoader:
    names = {field.name for field in fields(ClipRecipe)}
    shape = {"frames": 4, "image_size": 16, "resize": "crop"}
    shape |= {name: changes.pop(name) for name in names & changes.keys()}
    return ClipLoader(
        samples, **{"recipe": ClipRecipe(**shape), "batch_size": 3, "seed": 5, **changes}
    )


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    assert [batch.sample_ids for batch in found] == [batch.sample_ids for batch in wanted]
    assert [batch.position for batch in found] == [batch.position for batch in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours.inputs, theirs.inputs)
        assert torch.equal(ours.labels, theirs.labels)


def by_id(batches: list[Batch]) -> dict[str, torch.Tensor]:
    rows = [
        (batch.sample_ids[k], batch.inputs[k])
        for batch in batches
        for k in range(len(batch.sample_ids))
    ]
    return dict(rows)
