"""Small pictures and small models of images that the tests of judging images share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from regatta.config.schema import ProtocolSection
from regatta.data.manifest import Sample
from regatta.data.transforms import normalise
from regatta.evaluation.image_protocols import ImageProtocol, resolve_image_protocol
from regatta.evaluation.judge_images import judge_images
from regatta.evaluation.judged_parts import JudgeCost
from regatta.evaluation.predict import JudgedEntry
from regatta.models.spec import image_spec
from tests.evaluation.tiny_judging import CPU, TEMPLATE

SIDE = 16


def protocol(name: str = "plain", **options: Any) -> ImageProtocol:
    section = ProtocolSection.model_validate({"name": name, "options": options})
    return resolve_image_protocol(section)


def scenes(count: int, side: int = 32) -> np.ndarray:
    """uint8 [count, side, side, 3]: soft shapes of all sizes with a few edges, over all grey
    levels."""
    rng = np.random.default_rng(0)
    rough = rng.standard_normal((count, side, side, 3))
    soft = sum(size * gaussian_filter(rough, (0, size, size, 0)) for size in (1.0, 2.0, 4.0))
    edge = np.sign(gaussian_filter(rng.standard_normal((count, side, side, 1)), (0, 4, 4, 0)))
    image = soft + 0.5 * edge
    image -= image.min(axis=(1, 2, 3), keepdims=True)
    return np.round(255 * image / image.max(axis=(1, 2, 3), keepdims=True)).astype(np.uint8)


class Pictures:
    """A store of pictures by sample id."""

    def __init__(self, count: int = 10) -> None:
        self.images = torch.from_numpy(scenes(count, SIDE)).permute(0, 3, 1, 2).contiguous()
        self.samples = [
            replace(TEMPLATE, sample_id=f"i{n:02d}", label=n % 3, group=f"i{n:02d}", frames=1)
            for n in range(count)
        ]

    def select(self, samples: list[Sample]) -> torch.Tensor:
        return self.images[[int(sample.sample_id[1:]) for sample in samples]]


class TinyCnn(nn.Module):
    """A convolution, a mean and a linear head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, classes)
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return self.head(self.conv(images).relu().mean((2, 3)))


class TinyFusion(nn.Module):
    """Two convolutional networks whose logits are averaged."""

    head_names = ("global", "expert-0", "expert-1")

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(TinyCnn() for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        own = torch.stack([expert(images) for expert in self.experts], dim=1)
        return torch.cat([own.mean(1, keepdim=True), own], dim=1)


def entry(root: Path, run_id: str, module: nn.Module | None = None) -> JudgedEntry:
    torch.manual_seed(len(run_id))
    spec = image_spec("tiny", TinyCnn, image_size=SIDE, config={})
    return JudgedEntry(run_id, (module or TinyCnn()).eval(), spec, root / run_id)


def judge(
    entries: list[JudgedEntry], pictures: Pictures, design: ImageProtocol, **changes: Any
) -> JudgeCost:
    settings: dict[str, Any] = {"batch_size": 4, "part_samples": 3, "device": CPU}
    settings |= {"samples": pictures.samples, "images": pictures.select}
    return judge_images(entries, protocol=design, **(settings | changes))


def naive_scores(
    judged: JudgedEntry, pictures: Pictures, design: ImageProtocol
) -> dict[tuple[str, str], np.ndarray]:
    """Every image under every condition alone, repeated to a full batch of 4."""
    scores = {}
    for sample in pictures.samples:
        image = pictures.select([sample])
        for condition in design.conditions:
            shown = design.show(image, [sample.sample_id], condition) if design.show else image
            batch = normalise(shown.expand(4, -1, -1, -1), judged.spec.mean, judged.spec.std)
            with torch.inference_mode():
                scores[sample.sample_id, condition.id] = judged.module(batch)[0].numpy()
    return scores
