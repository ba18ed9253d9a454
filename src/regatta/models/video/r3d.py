"""Video residual networks of 18 layers: R3D, R(2+1)D and MC3 (Tran et al. 2018, arXiv:1711.11248).

Shapes: B clips, C channels, T frames, H and W pixels, K classes. Submodules are named as in
torchvision's video resnets, whose published weights therefore load key by key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.spec import ModelSpec, Size, check_clip_shape
from regatta.models.video.cnn_parts import (
    choose_shape,
    cnn_spec,
    halved,
    initialise,
    recompute_blocks,
    run_block,
)

KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
Kernel = Literal["3d", "2d", "2d+1d"]
"""3 x 3 x 3; 1 x 3 x 3; or 1 x 3 x 3 followed by 3 x 1 x 1."""


@dataclass(frozen=True)
class ResNetShape:
    """Channels and residual blocks of the four stages."""

    widths: tuple[int, int, int, int]
    blocks: int
    image_size: int


SIZES: dict[Size, ResNetShape] = {
    "tiny": ResNetShape(widths=(16, 32, 64, 128), blocks=1, image_size=32),
    "small": ResNetShape(widths=(32, 64, 128, 256), blocks=1, image_size=112),
    "base": ResNetShape(widths=(64, 128, 256, 512), blocks=2, image_size=112),
}


@MODELS.register("r3d18")
def r3d18(
    *,
    size: Size = "base",
    frames: int = 16,
    image_size: int | None = None,
    dropout: float = 0.0,
) -> ModelSpec:
    """R3D-18: 3 x 3 x 3 convolutions throughout.

    Args:
        size: base = the published 18 layers; tiny trains on a CPU in seconds.
        frames: frames per clip.
        image_size: pixels per side; 112 by default, 32 for tiny.
        dropout: share of the pooled features dropped before the classifier.
    """
    return _resnet_spec(
        "r3d18", size, ("3d",) * 4, frames=frames, image_size=image_size, dropout=dropout
    )


@MODELS.register("r2plus1d18")
def r2plus1d18(
    *,
    size: Size = "base",
    frames: int = 16,
    image_size: int | None = None,
    dropout: float = 0.0,
) -> ModelSpec:
    """R(2+1)D-18: every 3-D convolution split into one over space and one over time.

    Args:
        size: base = the published 18 layers; tiny trains on a CPU in seconds.
        frames: frames per clip.
        image_size: pixels per side; 112 by default, 32 for tiny.
        dropout: share of the pooled features dropped before the classifier.
    """
    return _resnet_spec(
        "r2plus1d18", size, ("2d+1d",) * 4, frames=frames, image_size=image_size, dropout=dropout
    )


@MODELS.register("mc3-18")
def mc3_18(
    *,
    size: Size = "base",
    frames: int = 16,
    image_size: int | None = None,
    dropout: float = 0.0,
) -> ModelSpec:
    """MC3-18: 3-D convolutions in the stem and first stage, then 2-D ones that keep every frame.

    Args:
        size: base = the published 18 layers; tiny trains on a CPU in seconds.
        frames: frames per clip.
        image_size: pixels per side; 112 by default, 32 for tiny.
        dropout: share of the pooled features dropped before the classifier.
    """
    return _resnet_spec(
        "mc3-18",
        size,
        ("3d", "2d", "2d", "2d"),
        frames=frames,
        image_size=image_size,
        dropout=dropout,
    )


def _resnet_spec(
    name: str,
    size: Size,
    kernels: tuple[Kernel, ...],
    *,
    frames: int,
    image_size: int | None,
    dropout: float,
) -> ModelSpec:
    shape = choose_shape(SIZES, size)
    side = shape.image_size if image_size is None else image_size
    last_frames = frames if "2d" in kernels else halved(frames, 3)

    def build(num_classes: int) -> nn.Module:
        return VideoResNet(
            shape, num_classes, kernels=kernels, frames=frames, image_size=side, dropout=dropout
        )

    return cnn_spec(
        name,
        size,
        frames=frames,
        image_size=side,
        dropout=dropout,
        normalisation=KINETICS,
        head="fc.",
        last_positions=last_frames * halved(side, 4) ** 2,
        build=build,
    )


class VideoResNet(nn.Module):
    """Stem, four stages, mean over time and space, linear classifier.

    Every stage after the first halves H and W, and T unless its kernels are 2-D.
    """

    def __init__(
        self,
        shape: ResNetShape,
        num_classes: int,
        *,
        kernels: tuple[Kernel, ...],
        frames: int,
        image_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.frames = frames
        self.image_size = image_size
        w1, w2, w3, w4 = shape.widths
        k1, k2, k3, k4 = kernels
        self.stem = _split_stem(w1) if k1 == "2d+1d" else _plain_stem(w1)
        self.layer1 = _stage(w1, w1, k1, stride=1, blocks=shape.blocks)
        self.layer2 = _stage(w1, w2, k2, stride=2, blocks=shape.blocks)
        self.layer3 = _stage(w2, w3, k3, stride=2, blocks=shape.blocks)
        self.layer4 = _stage(w3, w4, k4, stride=2, blocks=shape.blocks)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(w4, num_classes)
        initialise(self)

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] float -> logits [B, K]. Raises RunError for another T, H or W."""
        check_clip_shape(video_BTCHW, frames=self.frames, image_size=self.image_size)
        features_BCTHW = self.stem(video_BTCHW.transpose(1, 2))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features_BCTHW = stage(features_BCTHW)
        return self.fc(self.dropout(features_BCTHW.mean(dim=(2, 3, 4))))

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each residual block in the backward pass."""
        recompute_blocks(self)


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut; [B, C, T, H, W] -> the same, or with a stride."""

    def __init__(self, channels: int, width: int, kernel: Kernel, stride: int) -> None:
        super().__init__()
        self.recomputes = False
        middle = _split_width(channels, width)
        self.conv1 = nn.Sequential(
            _convolution(channels, width, kernel, middle=middle, stride=stride),
            nn.BatchNorm3d(width),
            nn.ReLU(),
        )
        self.conv2 = nn.Sequential(
            _convolution(width, width, kernel, middle=middle, stride=1), nn.BatchNorm3d(width)
        )
        self.downsample = None
        if stride > 1 or channels != width:
            strides = (1 if kernel == "2d" else stride, stride, stride)
            self.downsample = nn.Sequential(
                nn.Conv3d(channels, width, 1, stride=strides, bias=False), nn.BatchNorm3d(width)
            )

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        return run_block(self, self._add_shortcut, features_BCTHW)

    def _add_shortcut(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        kept = features_BCTHW if self.downsample is None else self.downsample(features_BCTHW)
        return F.relu(self.conv2(self.conv1(features_BCTHW)) + kept)


def _stage(channels: int, width: int, kernel: Kernel, *, stride: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(channels, width, kernel, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, kernel, 1) for _ in range(blocks - 1)))


def _convolution(
    channels: int, width: int, kernel: Kernel, *, middle: int, stride: int
) -> nn.Module:
    if kernel == "3d":
        return nn.Conv3d(channels, width, 3, stride=stride, padding=1, bias=False)
    over_space = nn.Conv3d(
        channels,
        width if kernel == "2d" else middle,
        (1, 3, 3),
        stride=(1, stride, stride),
        padding=(0, 1, 1),
        bias=False,
    )
    if kernel == "2d":
        return over_space
    over_time = nn.Conv3d(
        middle, width, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False
    )
    return nn.Sequential(over_space, nn.BatchNorm3d(middle), nn.ReLU(), over_time)


def _split_width(channels: int, width: int) -> int:
    """Channels between the halves of a split convolution, so that it has as many weights as whole.

    Source: Tran et al. 2018, section 3.5: floor(t d^2 N N' / (d^2 N + t N')) with t = d = 3. The
    second convolution of a block keeps the number of the first, as in the published weights.
    """
    return 27 * channels * width // (9 * channels + 3 * width)


def _plain_stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(),
    )


def _split_stem(width: int) -> nn.Sequential:
    # The published stem has 45 channels before its 64, which the formula does not give (83).
    middle = 45 * width // 64
    return nn.Sequential(
        nn.Conv3d(3, middle, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(),
        nn.Conv3d(middle, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(),
    )
