"""I3D: an Inception network inflated to three dimensions (Carreira and Zisserman 2017,
arXiv:1705.07750, figure 3).

Shapes: B clips, C channels, T frames, t = T / 8 steps, H and W pixels, D features. Branch widths,
kernels and strides are the published ones. What follows the last block differs: the mean over space
alone, so that time is kept. Padding is symmetric, where the published code pads the end by one more
for kernels of stride 2 on even lengths; the extents agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.registry import EXTRACTORS
from regatta.models.scene.extractor_parts import (
    StretchTime,
    check_dim,
    check_extent,
    choose_shape,
    fit_dim,
    halved,
    initialise,
)
from regatta.models.spec import Size

Branches = tuple[int, int, int, int, int, int]
"""Outputs of: 1 x 1; reduce and 3 x 3; reduce and 3 x 3; 1 x 1 after the maximum."""
STEM = (64, 64, 192)
BLOCKS: tuple[tuple[Branches, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
TIME_HALVINGS = 3


@dataclass(frozen=True)
class I3dShape:
    """Share of the published widths, and features."""

    divisor: int
    dim: int


SIZES: dict[Size, I3dShape] = {
    "tiny": I3dShape(divisor=16, dim=32),
    "small": I3dShape(divisor=2, dim=512),
    "base": I3dShape(divisor=1, dim=1024),
}


@EXTRACTORS.register("i3d")
def i3d(*, size: Size, dim: int | None = None, frames: int, image_size: int) -> nn.Module:
    """I3D

    Args:
        size: base = the published widths; small halves them; tiny has a sixteenth, rounded up.
        dim: features per frame; by default 1024, 512 or 32.
        frames: frames per clip, at least 8.
        image_size: pixels per side, at least 32.
    """
    shape = choose_shape(SIZES, size)
    check_extent("i3d", frames=frames, image_size=image_size)
    dim = shape.dim if dim is None else dim
    check_dim("i3d", dim)
    return I3d(shape.divisor, dim, frames)


class I3d(nn.Module):
    """Stem, nine blocks of four branches with maxima between them, mean over space."""

    def __init__(self, divisor: int, dim: int, frames: int) -> None:
        super().__init__()
        first, second, third = (thinned(width, divisor) for width in STEM)
        self.feature_dim = dim
        layers: list[nn.Module] = [
            Unit(3, first, kernel=7, stride=2),
            MaxPool(1, 3, time_stride=1),
            Unit(first, second, kernel=1),
            Unit(second, third, kernel=3),
            MaxPool(1, 3, time_stride=1),
        ]
        channels = third
        for stage, blocks in enumerate(BLOCKS):
            if stage:
                size = 3 if stage == 1 else 2
                layers.append(MaxPool(size, size, time_stride=2))
            for published in blocks:
                widths = tuple(thinned(width, divisor) for width in published)
                block = Inception(channels, widths)
                layers.append(block)
                channels = block.channels
        self.layers = nn.Sequential(*layers)
        self.project = fit_dim(channels, dim)
        self.stretch = StretchTime(halved(frames, TIME_HALVINGS), frames)
        initialise(self)

    def forward(self, clips_BTCHW: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] -> [B, T, D]."""
        features_BCtHW = self.layers(clips_BTCHW.transpose(1, 2))
        features_BtC = features_BCtHW.mean(dim=(3, 4)).transpose(1, 2)
        return self.stretch(self.project(features_BtC))


class Inception(nn.Module):
    """Four branches side by side, [B, C, T, H, W] -> [B, C', T, H, W]."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = widths
        self.channels = one + three + five + pooled
        self.branch0 = Unit(channels, one, kernel=1)
        self.branch1 = nn.Sequential(
            Unit(channels, reduce3, kernel=1), Unit(reduce3, three, kernel=3)
        )
        self.branch2 = nn.Sequential(
            Unit(channels, reduce5, kernel=1), Unit(reduce5, five, kernel=3)
        )
        self.branch3 = nn.Sequential(
            MaxPool(3, 3, time_stride=1, space_stride=1), Unit(channels, pooled, kernel=1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        branches = (self.branch0, self.branch1, self.branch2, self.branch3)
        return torch.cat([branch(features) for branch in branches], dim=1)


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels: int, width: int, *, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            channels, width, kernel, stride=stride, padding=kernel // 2, bias=False
        )
        self.norm = nn.BatchNorm3d(width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.relu(normalised(self.norm, self.conv(features)), inplace=True)


class MaxPool(nn.Module):
    """Maximum over time x space x space, taken in two steps of 2-D.

    The backward pass of a 3-D maximum is not repeatable on a GPU.
    """

    def __init__(self, time: int, space: int, *, time_stride: int, space_stride: int = 2) -> None:
        super().__init__()
        self.time, self.space = time, space
        self.time_stride, self.space_stride = time_stride, space_stride

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        width, frames = features_BCTHW.shape[1:3]
        pictures = F.max_pool2d(
            features_BCTHW.flatten(1, 2),
            self.space,
            stride=self.space_stride,
            padding=(self.space - 1) // 2,
            ceil_mode=self.space == 2,
        ).unflatten(1, (width, frames))
        if self.time == 1:
            return pictures
        height = pictures.shape[3]
        over_time = F.max_pool2d(
            pictures.flatten(3),
            (self.time, 1),
            stride=(self.time_stride, 1),
            padding=((self.time - 1) // 2, 0),
            ceil_mode=self.time == 2,
        )
        return over_time.unflatten(3, (height, -1))


def thinned(width: int, divisor: int) -> int:
    """`width` / `divisor`, rounded up."""
    return -(-width // divisor)


def normalised(norm: nn.BatchNorm3d, features: torch.Tensor) -> torch.Tensor:
    """Batch norm, which takes its running statistics where a channel has one number only.

    A last micro-batch of one short clip would otherwise end the run: one number has no variance.
    """
    if norm.training and features.numel() == features.shape[1]:
        return F.batch_norm(
            features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
    return norm(features)
