"""SlowFast with basic blocks (Feichtenhofer et al. 2019, arXiv:1812.03982).

A wide path sees every fourth frame, a path of an eighth of its width sees all of them, and tells
the wide one what it saw after the stem and after each stage but the last. Four stages of basic
blocks (He et al. 2016) as in ResNet-18, where the paper has bottlenecks; features of every frame,
where the paper has one vector of a clip.

Shapes: B clips, C channels, T frames, H and W pixels, D features.
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
    initialise,
)
from regatta.models.spec import Size

FRAME_RATIO = 4
"""Alpha of the paper: fast frames per slow frame."""
CHANNEL_RATIO = 8
"""1 / beta of the paper: slow channels per fast channel."""
LATERAL_RATIO = 2
"""A lateral connection hands on twice the channels of the fast path."""
SLOW_TIME_KERNELS = (1, 1, 3, 3)
FAST_TIME_KERNELS = (3, 3, 3, 3)


@dataclass(frozen=True)
class PathsShape:
    """Channels of the slow stem and first stage, blocks of each stage, features."""

    width: int
    blocks: int
    dim: int


SIZES: dict[Size, PathsShape] = {
    "tiny": PathsShape(width=8, blocks=1, dim=32),
    "small": PathsShape(width=32, blocks=2, dim=512),
    "base": PathsShape(width=64, blocks=2, dim=1024),
}


@EXTRACTORS.register("slowfast")
def slowfast(*, size: Size, dim: int | None = None, frames: int, image_size: int) -> nn.Module:
    """SlowFast

    Args:
        size: base = widths of ResNet-18; small halves them; tiny has an eighth and single blocks.
        dim: features per frame; by default 1024, 512 or 32.
        frames: frames per clip, a multiple of 4, at least 8.
        image_size: pixels per side, at least 32.
    """
    shape = choose_shape(SIZES, size)
    check_extent("slowfast", frames=frames, image_size=image_size, frames_multiple=FRAME_RATIO)
    dim = shape.dim if dim is None else dim
    check_dim("slowfast", dim)
    return SlowFastPaths(shape, dim, frames)


class SlowFastPaths(nn.Module):
    """Two stems, four stages of two paths, means over space side by side, linear."""

    def __init__(self, shape: PathsShape, dim: int, frames: int) -> None:
        super().__init__()
        slow, fast = shape.width, shape.width // CHANNEL_RATIO
        self.feature_dim = dim
        self.slow_stem = stem(slow, time_kernel=1)
        self.fast_stem = stem(fast, time_kernel=5)
        laterals = []
        slow_stages, fast_stages = [], []
        inputs = (slow, fast)
        for number in range(4):
            laterals.append(lateral(inputs[1]))
            joined = inputs[0] + LATERAL_RATIO * inputs[1]
            outputs = (slow * 2**number, fast * 2**number)
            stride = 2 if number else 1
            slow_stages.append(
                stage(joined, outputs[0], SLOW_TIME_KERNELS[number], stride, shape.blocks)
            )
            fast_stages.append(
                stage(inputs[1], outputs[1], FAST_TIME_KERNELS[number], stride, shape.blocks)
            )
            inputs = outputs
        self.laterals = nn.ModuleList(laterals)
        self.slow_stages = nn.ModuleList(slow_stages)
        self.fast_stages = nn.ModuleList(fast_stages)
        self.stretch = StretchTime(frames // FRAME_RATIO, frames)
        self.project = nn.Linear(sum(inputs), dim)
        initialise(self)

    def forward(self, clips_BTCHW: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] -> [B, T, D]."""
        slow = _pooled(self.slow_stem(clips_BTCHW[:, ::FRAME_RATIO].transpose(1, 2)))
        fast = _pooled(self.fast_stem(clips_BTCHW.transpose(1, 2)))
        stages = zip(self.laterals, self.slow_stages, self.fast_stages, strict=True)
        for tell, slow_stage, fast_stage in stages:
            slow = slow_stage(torch.cat([slow, tell(fast)], dim=1))
            fast = fast_stage(fast)
        slow_BTC = self.stretch(slow.mean(dim=(3, 4)).transpose(1, 2))
        fast_BTC = fast.mean(dim=(3, 4)).transpose(1, 2)
        return self.project(torch.cat([slow_BTC, fast_BTC], dim=2))


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut; [B, C, T, H, W] -> [B, C', T, H', W']."""

    def __init__(self, channels: int, width: int, time_kernel: int, stride: int) -> None:
        super().__init__()
        strides = (1, stride, stride)
        kernel, padding = (time_kernel, 3, 3), (time_kernel // 2, 1, 1)
        self.conv1 = nn.Conv3d(channels, width, kernel, stride=strides, padding=padding, bias=False)
        self.norm1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, kernel, padding=padding, bias=False)
        self.norm2 = nn.BatchNorm3d(width)
        self.shortcut = None
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv3d(channels, width, 1, stride=strides, bias=False), nn.BatchNorm3d(width)
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        kept = features if self.shortcut is None else self.shortcut(features)
        features = F.relu(self.norm1(self.conv1(features)), inplace=True)
        return F.relu(self.norm2(self.conv2(features)) + kept)


def stem(width: int, *, time_kernel: int) -> nn.Module:
    """7 x 7 convolution of stride 2 over some frames."""
    return nn.Sequential(
        nn.Conv3d(
            3,
            width,
            (time_kernel, 7, 7),
            stride=(1, 2, 2),
            padding=(time_kernel // 2, 3, 3),
            bias=False,
        ),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def lateral(channels: int) -> nn.Module:
    """[B, C, T, H, W] of the fast path -> [B, 2 C, T / 4, H, W]."""
    width = LATERAL_RATIO * channels
    return nn.Sequential(
        nn.Conv3d(
            channels,
            width,
            (5, 1, 1),
            stride=(FRAME_RATIO, 1, 1),
            padding=(2, 0, 0),
            bias=False,
        ),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def stage(channels: int, width: int, time_kernel: int, stride: int, blocks: int) -> nn.Module:
    """Basic blocks one after the other, of which the first changes width and extent."""
    first = BasicBlock(channels, width, time_kernel, stride)
    return nn.Sequential(
        first, *(BasicBlock(width, width, time_kernel, 1) for _ in range(1, blocks))
    )


def _pooled(features_BCTHW: torch.Tensor) -> torch.Tensor:
    """3 x 3 maximum of stride 2, in 2-D: of a 3-D one the backward pass is not repeatable."""
    width, frames = features_BCTHW.shape[1:3]
    pooled = F.max_pool2d(features_BCTHW.flatten(1, 2), 3, stride=2, padding=1)
    return pooled.unflatten(1, (width, frames))
