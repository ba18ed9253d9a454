"""Random crop and mirror of a training clip: drawn once per clip, the same for all its frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from regatta.data.transforms import resample

ASPECT_MIN, ASPECT_MAX = 3 / 4, 4 / 3
TRIES = 10


@dataclass(frozen=True)
class CropBox:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Augmentation:
    """What happens to every frame of one clip."""

    box: CropBox
    mirror: bool


def draw_augmentation(
    rng: np.random.Generator, height: int, width: int, *, scale_min: float, flip: bool
) -> Augmentation:
    """Draw crop and mirror for a picture; `flip` allows mirroring, which then has probability 1/2.

    The same draws are made with and without `flip`.
    """
    box = draw_crop(rng, height, width, scale_min=scale_min)
    return Augmentation(box, mirror=bool(rng.random() < 0.5) and flip)


def draw_crop(rng: np.random.Generator, height: int, width: int, *, scale_min: float) -> CropBox:
    """A random box with area share in [scale_min, 1] and aspect (width / height) in [3/4, 4/3].

    Area is uniform, the aspect log-uniform (Szegedy et al. 2015, "Going deeper with convolutions",
    section 6); both hold up to rounding to whole pixels. When ten draws do not fit into the
    picture, it is the largest centred box with an allowed aspect; in a very wide or tall picture
    that box may be smaller than `scale_min`.
    """
    for _ in range(TRIES):
        area = height * width * rng.uniform(scale_min, 1.0)
        aspect = math.exp(rng.uniform(math.log(ASPECT_MIN), math.log(ASPECT_MAX)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(0, height - box_height + 1))
            left = int(rng.integers(0, width - box_width + 1))
            return CropBox(top, left, box_height, box_width)
    return _largest_centred_box(height, width)


def _largest_centred_box(height: int, width: int) -> CropBox:
    box_width = min(width, max(1, round(height * ASPECT_MAX)))
    box_height = min(height, max(1, round(width / ASPECT_MIN)))
    return CropBox((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def augment_clip(
    images_THWC: torch.Tensor, augmentation: Augmentation, *, size: int
) -> torch.Tensor:
    """Cut, scale to S x S and perhaps mirror: uint8 [T, H, W, 3] -> [T, 3, S, S], contiguous."""
    box = augmentation.box
    cut = images_THWC[:, box.top : box.top + box.height, box.left : box.left + box.width]
    clip = resample(cut, size, size)
    return clip.flip(-1).contiguous() if augmentation.mirror else clip.contiguous()
