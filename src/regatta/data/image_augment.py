"""Augmentation of resident pictures on the device, a whole block at a time.

Shapes: B pictures, C colours, H and W picture sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from regatta.config.options import typed_options
from regatta.core.errors import ConfigError
from regatta.data.image_policies import (
    LEVELS,
    ColourJitter,
    RandomErasing,
    rand_augment,
    trivial_augment,
)
from regatta.data.window_loader import Augment

Border = Literal["zero", "reflect"]
WHERE = "train.augment_options"


@dataclass(frozen=True)
class ImageAugment:
    """The usual training changes of small pictures: shift within a border, and mirror.

    pad: pixels that a picture may move in each direction. flip: mirror half of them. border: black,
    or the picture mirrored at its edge.

    Source: He et al. 2016, Deep residual learning for image recognition, section 4.2; the mirrored
    border of Zagoruyko and Komodakis 2016, Wide residual networks, section 3.
    """

    pad: int = 4
    flip: bool = True
    border: Border = "zero"

    def __call__(self, inputs: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """uint8 or float [B, C, H, W] -> the same shape and type; draws are made in one order."""
        count, device = len(inputs), inputs.device
        offsets = torch.randint(2 * self.pad + 1, (2, count), generator=generator, device=device)
        mirror = torch.rand(count, generator=generator, device=device) < 0.5
        return shift_and_mirror(
            inputs,
            offsets[0],
            offsets[1],
            mirror & self.flip,
            pad=self.pad,
            border=self.border,
        )


def shift_and_mirror(
    images_BCHW: torch.Tensor,
    top_B: torch.Tensor,
    left_B: torch.Tensor,
    mirror_B: torch.Tensor,
    *,
    pad: int,
    border: Border = "zero",
) -> torch.Tensor:
    """Cut [H, W] out of each picture in a border of `pad` pixels, mirror where asked.

    Args:
        top_B, left_B: first row and column of the cut in the bordered picture, 0 .. 2 pad.
        border: black, or the picture mirrored at its edge, for which `pad` is below H and W.
    """
    count, _, height, width = images_BCHW.shape
    if border == "zero":
        bordered = torch.nn.functional.pad(images_BCHW, (pad, pad, pad, pad))
    else:
        rows, columns = (_mirrored(n, pad, images_BCHW.device) for n in (height, width))
        bordered = images_BCHW[:, :, rows][:, :, :, columns]
    # All cuts as views of the bordered pictures: choosing one per picture copies that one alone.
    cuts = bordered.unfold(2, height, 1).unfold(3, width, 1)
    chosen = cuts[torch.arange(count, device=images_BCHW.device), :, top_B, left_B]
    return torch.where(mirror_B[:, None, None, None], chosen.flip(-1), chosen)


def _mirrored(length: int, pad: int, device: torch.device) -> torch.Tensor:
    """Places -pad .. length + pad - 1 folded back at both ends, the end itself not repeated."""
    places = torch.arange(-pad, length + pad, device=device).abs()
    return torch.minimum(places, 2 * (length - 1) - places)


@dataclass(frozen=True)
class AugmentSteps:
    """Several changes one after the other, each drawing from the same generator in turn."""

    steps: tuple[Augment, ...]

    def __call__(self, inputs: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        for step in self.steps:
            inputs = step(inputs, generator=generator)
        return inputs


def build_image_augment(
    options: Mapping[str, Any], *, mean: Sequence[float] = (0.5, 0.5, 0.5)
) -> Augment:
    """The augmentation that `train.augment_options` asks for: shift and mirror, then the policy,
    then erasing.

    Args:
        options: the keyword arguments of `image_augment`.
        mean: the data's mean colour, 0..1; what is erased becomes it, and so zero once normalised.
    Raises:
        UnknownNameError, ConfigError: an unknown option with the nearest one, a wrong type, or a
            value out of range.
    """
    owner = "the augmentation of images"
    typed = typed_options(image_augment, options, where=WHERE, owner=owner, reserved=("mean",))
    return image_augment(**typed, mean=mean)


def image_augment(
    *,
    policy: Literal["none", "jitter", "randaugment", "trivial"] = "none",
    operations: int = 2,
    magnitude: int = 9,
    jitter: Sequence[float] = (0.2, 0.2, 0.2, 0.1),
    erasing: float = 0.0,
    pad: int = 4,
    border: Border = "zero",
    flip: bool = True,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
) -> Augment:
    """Shift and mirror, then the policy, then erasing.

    Args:
        operations, magnitude: of randaugment; magnitude is a level 0 .. 30.
        jitter: of jitter: brightness, contrast, saturation, hue.
        erasing: share of the pictures that lose a rectangle.
        pad: pixels that a picture may move in each direction, into a `border` of that kind.
        mean: colour of what is erased, 0..1.
    Raises:
        ConfigError: a value out of range.
    """
    _check("operations", operations, low=0, high=14)
    _check("magnitude", magnitude, low=0, high=LEVELS - 1)
    _check("erasing", erasing, low=0, high=1)
    _check("pad", pad, low=0, high=None)
    if len(jitter) != 4:
        _refuse("jitter", f"takes 4 numbers (brightness, contrast, saturation, hue), not {jitter}")
    for amount, most in zip(jitter, (1, 1, 1, 0.5), strict=True):
        _check("jitter", amount, low=0, high=most)
    steps: list[Augment] = [ImageAugment(pad, flip, border)]
    if policy == "jitter":
        steps.append(ColourJitter(*jitter))
    elif policy == "randaugment":
        steps.append(rand_augment(operations=operations, magnitude=magnitude))
    elif policy == "trivial":
        steps.append(trivial_augment())
    if erasing:
        fill = tuple(round(255 * value) for value in mean)
        steps.append(RandomErasing(erasing, fill))
    return AugmentSteps(tuple(steps))


def _check(option: str, value: float, *, low: float, high: float | None) -> None:
    if value < low or (high is not None and value > high):
        reach = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
        _refuse(option, f"is {reach}, got {value:g}")


def _refuse(option: str, words: str) -> None:
    raise ConfigError(f"{option} {words}", where=f"{WHERE}.{option}", hint="change it")
