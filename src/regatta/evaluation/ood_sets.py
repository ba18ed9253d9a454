"""Images from elsewhere, judged to see whether a model tells them from its own data.

A set stands in a study as `gaussian-noise`, `uniform-noise` or `images:<folder or zip>`. Its scores
go to `<predictions>/ood/<name>/` in the format of all predictions, with the label -1.

Shapes: N images, 3 colours, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import PurePath

import numpy as np
import torch

from regatta.core.errors import ConfigError
from regatta.core.files import slug
from regatta.core.registry import nearest
from regatta.core.seeds import stream
from regatta.data.manifest import Sample
from regatta.data.unknown_classes import UNKNOWN_LABEL

NOISE = ("gaussian-noise", "uniform-noise")
_IMAGES = "images:"


@dataclass(frozen=True)
class OodSet:
    """name: of its folder. images_NCHW: uint8; samples: one each, in the same order."""

    name: str
    images_NCHW: torch.Tensor
    samples: list[Sample]

    def select(self, samples: Sequence[Sample]) -> torch.Tensor:
        """uint8 [n, 3, H, W] of these samples."""
        return self.images_NCHW[[self._places[sample.sample_id] for sample in samples]]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {sample.sample_id: place for place, sample in enumerate(self.samples)}


def check_ood_items(items: Sequence[str]) -> None:
    """ConfigError for an item of no known kind, or two that would share a folder."""
    where = "protocol.options.ood"
    for item in items:
        if item in NOISE or (item.startswith(_IMAGES) and item != _IMAGES):
            continue
        close = nearest(item, NOISE)
        hint = f"did you mean '{close}'? " if close else ""
        known = f"{', '.join(NOISE)}, or {_IMAGES}<folder or zip>"
        raise ConfigError(
            f"there is no ood set '{item}'", where=where, hint=f"{hint}known: {known}"
        )
    names = [ood_name(item) for item in items]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        hint = "folders are told apart by their last part: rename one"
        raise ConfigError(f"ood names {', '.join(twice)} twice", where=where, hint=hint)


def ood_name(item: str) -> str:
    """The folder name of an item: of files the last part of their path."""
    return item if item in NOISE else slug(PurePath(item.removeprefix(_IMAGES)).stem)


def ood_path(item: str) -> str | None:
    """The files that an item names; None for generated noise."""
    return None if item in NOISE else item.removeprefix(_IMAGES)


def open_ood_sets(
    items: Sequence[str],
    images: Mapping[str, torch.Tensor],
    *,
    count: int,
    shape: tuple[int, ...],
    seed: int = 0,
) -> tuple[list[OodSet], list[str]]:
    """The sets that can be judged, and the items whose images are not there.

    Args:
        images: item -> uint8 [N, 3, H, W], decoded at the models' size; noise is made here.
        count, shape: of generated noise, `shape` is (3, H, W).
    Raises:
        ConfigError: images of another size than `shape`.
    """
    found, absent = [], []
    for item in items:
        if item in NOISE:
            pictures = make_noise(item, count, shape, seed=seed)
        elif item in images and len(images[item]):
            pictures = images[item]
        else:
            absent.append(item)
            continue
        if tuple(pictures.shape[1:]) != tuple(shape):
            raise ConfigError(
                f"ood set '{item}' holds images of {list(pictures.shape[1:])}, not {list(shape)}",
                where="protocol.options.ood",
            )
        name = ood_name(item)
        samples = [_sample(name, number, image) for number, image in enumerate(pictures)]
        found.append(OodSet(name, pictures, samples))
    return found, absent


def make_noise(kind: str, count: int, shape: tuple[int, ...], *, seed: int) -> torch.Tensor:
    """uint8 [count, *shape]: each value normal with mean 0.5 and sd 1, cut to 0..1, or uniform.

    Source: Liang, Li and Srikant 2018, Enhancing the reliability of out-of-distribution image
    detection in neural networks, section 4.2.
    """
    pictures = np.empty((count, *shape), dtype=np.uint8)
    for number in range(count):
        rng = stream(seed, "ood", kind, number)
        if kind == "gaussian-noise":
            values = np.clip(rng.normal(0.5, 1.0, shape), 0, 1)
            pictures[number] = np.round(values * 255)
        else:
            pictures[number] = rng.integers(0, 256, shape)
    return torch.from_numpy(pictures)


def _sample(name: str, number: int, image_CHW: torch.Tensor) -> Sample:
    _, height, width = image_CHW.shape
    sample_id = f"{name}/{number:06d}"
    return Sample(
        sample_id=sample_id,
        path="",
        label=UNKNOWN_LABEL,
        label_name=name,
        group=sample_id,
        split="unknown",
        start_frame=0,
        frames=1,
        fps=1.0,
        width=width,
        height=height,
        duration_seconds=0.0,
        content_hash=sha256(np.ascontiguousarray(image_CHW.numpy()).tobytes()).hexdigest(),
    )
