"""A residual 3-D convolutional network after R3D (Tran et al. 2018, arXiv:1711.11248).

Shapes: B clips, C channels, T frames, H and W pixels, K classes.

Two departures from the paper. GroupNorm (Wu and He 2018) takes the place of BatchNorm: a clip's
output then never depends on the clips beside it, neither in training with small or accumulated
batches nor in judging, where short batches are filled up. The base size has the widths, depths and
parameter count of R3D-18.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from regatta.core.errors import ConfigError
from regatta.core.registry import MODELS
from regatta.models.spec import (
    CheckpointLayout,
    ModelSpec,
    Size,
    check_clip_shape,
    check_dropout,
    describe_config,
)

CHANNELS_PER_GROUP = 8


@dataclass(frozen=True)
class CnnSize:
    """Channels and residual blocks of each stage; every stage after the first halves T, H and W."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    image_size: int


SIZES: dict[Size, CnnSize] = {
    "tiny": CnnSize(widths=(16, 32, 64), blocks=(1, 1, 1), image_size=32),
    "small": CnnSize(widths=(32, 64, 128, 256), blocks=(1, 1, 1, 1), image_size=112),
    "base": CnnSize(widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2), image_size=112),
}


@MODELS.register("cnn3d")
def cnn3d(
    *,
    size: Size = "base",
    frames: int = 16,
    image_size: int | None = None,
    dropout: float = 0.0,
) -> ModelSpec:
    """3-D residual network with GroupNorm, classified from the mean over time and space.

    Args:
        size: base = the dimensions of R3D-18; tiny trains on a CPU in seconds.
        frames: frames per clip, at least 1.
        image_size: pixels per side, at least 16; 112 by default, 32 for tiny.
        dropout: share of the pooled features dropped before the classifier.
    """
    if size not in SIZES:
        raise ConfigError(f"there is no size '{size}'", hint=f"known: {', '.join(SIZES)}")
    shape = SIZES[size]
    image_size = shape.image_size if image_size is None else image_size
    check_dropout(dropout)
    if frames < 1 or image_size < 16:
        raise ConfigError(f"clips of {frames} frames at {image_size} px are too small for cnn3d")

    def build(num_classes: int) -> nn.Module:
        return Cnn3d(shape, num_classes, frames=frames, image_size=image_size, dropout=dropout)

    return ModelSpec(
        name="cnn3d",
        frames=frames,
        image_size=image_size,
        # Kinetics-400 statistics, as R3D is published with.
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
        resize="crop",
        default_checkpoint=None,
        build=build,
        head_prefixes=("classifier.",),
        config=describe_config(
            "cnn3d", size, frames=frames, image_size=image_size, dropout=dropout
        ),
        layout=CheckpointLayout(architecture={"model_type": "cnn3d"}),
    )


class Cnn3d(nn.Module):
    """Stem, stages of residual blocks, mean over time and space, linear classifier."""

    def __init__(
        self, shape: CnnSize, num_classes: int, *, frames: int, image_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.frames = frames
        self.image_size = image_size
        self.recompute_blocks = False
        first = shape.widths[0]
        self.stem = nn.Conv3d(3, first, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        self.stem_norm = group_norm(first)
        blocks = []
        channels = first
        for stage, (width, count) in enumerate(zip(shape.widths, shape.blocks, strict=True)):
            for index in range(count):
                blocks.append(ResidualBlock(channels, width, 2 if stage and not index else 1))
                channels = width
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] float -> logits [B, K]. Raises RunError for another T, H or W."""
        check_clip_shape(video_BTCHW, frames=self.frames, image_size=self.image_size)
        features = F.relu(self.stem_norm(self.stem(video_BTCHW.transpose(1, 2))))
        for block in self.blocks:
            if self.recompute_blocks and self.training:
                features = checkpoint(block, features, use_reentrant=False)
            else:
                features = block(features)
        return self.classifier(self.dropout(features.mean(dim=(2, 3, 4))))

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each residual block in the backward pass."""
        self.recompute_blocks = True


class ResidualBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions beside a shortcut; [B, C, T, H, W] -> the same, or halved."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = group_norm(width)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.norm2 = group_norm(width)
        self.shortcut = None
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv3d(channels, width, 1, stride=stride, bias=False), group_norm(width)
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        kept = features if self.shortcut is None else self.shortcut(features)
        features = F.relu(self.norm1(self.conv1(features)))
        return F.relu(self.norm2(self.conv2(features)) + kept)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of 8 channels per group."""
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
