"""X3D: one small 2-D network expanded along time, space, width and depth.

Source: Feichtenhofer 2020, arXiv:2004.04730. Shapes: B clips, C channels, T frames, H and W pixels,
K classes. No layer ever halves T. Submodules are named as in PyTorchVideo's hub checkpoints
X3D_XS, X3D_S and X3D_M, which therefore load key by key.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.spec import ModelSpec, Size, check_clip_shape
from regatta.models.video.cnn_parts import (
    Bottleneck,
    BottleneckBlock,
    Stage,
    choose_shape,
    cnn_spec,
    halved,
    initialise,
    recompute_blocks,
)

INNER_RATIO = 2.25
"""Gamma_b of the paper: channels inside a bottleneck per channel outside."""


@dataclass(frozen=True)
class X3dShape:
    """Channels and bottlenecks of the four stages; the stem has the first stage's channels."""

    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    features: int
    """Channels of the classifier's input."""


SIZES: dict[Size, X3dShape] = {
    "tiny": X3dShape(widths=(16, 16, 32, 64), blocks=(1, 1, 2, 1), features=128),
    "small": X3dShape(widths=(16, 32, 64, 128), blocks=(1, 2, 5, 3), features=512),
    "base": X3dShape(widths=(24, 48, 96, 192), blocks=(3, 5, 11, 7), features=2048),
}
SIDES: dict[Size, int] = {"tiny": 32, "small": 112}
"""Pixels per side where the size does not stand for the published network."""


@MODELS.register("x3d-xs")
def x3d_xs(
    *,
    size: Size = "base",
    frames: int = 4,
    image_size: int | None = None,
    dropout: float = 0.5,
) -> ModelSpec:
    """X3D-XS: 3.8 million weights on 4 frames of 160 px.

    Args:
        size: base = the published network; tiny trains on a CPU in seconds.
        frames: frames per clip.
        image_size: pixels per side; 160 by default (published training crop), 32 for tiny.
        dropout: share of the features dropped before the classifier.
    """
    return _x3d_spec("x3d-xs", size, 160, frames=frames, image_size=image_size, dropout=dropout)


@MODELS.register("x3d-s")
def x3d_s(
    *,
    size: Size = "base",
    frames: int = 13,
    image_size: int | None = None,
    dropout: float = 0.5,
) -> ModelSpec:
    """X3D-S: the network of X3D-XS on 13 frames of 160 px.

    Args:
        size: base = the published network; tiny trains on a CPU in seconds.
        frames: frames per clip.
        image_size: pixels per side; 160 by default (published training crop), 32 for tiny.
        dropout: share of the features dropped before the classifier.
    """
    return _x3d_spec("x3d-s", size, 160, frames=frames, image_size=image_size, dropout=dropout)


@MODELS.register("x3d-m")
def x3d_m(
    *,
    size: Size = "base",
    frames: int = 16,
    image_size: int | None = None,
    dropout: float = 0.5,
) -> ModelSpec:
    """X3D-M: the network of X3D-XS on 16 frames of 224 px.

    Args:
        size: base = the published network; tiny trains on a CPU in seconds.
        frames: frames per clip.
        image_size: pixels per side; 224 by default (published training crop), 32 for tiny.
        dropout: share of the features dropped before the classifier.
    """
    return _x3d_spec("x3d-m", size, 224, frames=frames, image_size=image_size, dropout=dropout)


def _x3d_spec(
    name: str,
    size: Size,
    published_side: int,
    *,
    frames: int,
    image_size: int | None,
    dropout: float,
) -> ModelSpec:
    shape = choose_shape(SIZES, size)
    side = SIDES.get(size, published_side) if image_size is None else image_size

    def build(num_classes: int) -> nn.Module:
        return X3d(shape, num_classes, frames=frames, image_size=side, dropout=dropout)

    return cnn_spec(
        name,
        size,
        frames=frames,
        image_size=side,
        dropout=dropout,
        normalisation=((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        head="blocks.5.proj.",
        last_positions=frames * halved(side, 5) ** 2,
        build=build,
    )


class X3d(nn.Module):
    """Stem, four stages that each halve H and W, head."""

    def __init__(
        self, shape: X3dShape, num_classes: int, *, frames: int, image_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.frames = frames
        self.image_size = image_size
        channels = shape.widths[0]
        blocks: list[nn.Module] = [Stem(channels)]
        for width, count in zip(shape.widths, shape.blocks, strict=True):
            # A gate in every other block, beginning with the first.
            stage: list[nn.Module] = [_block(channels, width, stride=2, gated=True)]
            stage += [_block(width, width, stride=1, gated=n % 2 == 0) for n in range(1, count)]
            blocks.append(Stage(stage))
            channels = width
        blocks.append(Head(channels, shape.features, num_classes, dropout=dropout))
        self.blocks = nn.ModuleList(blocks)
        initialise(self)

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] float -> logits [B, K]. Raises RunError for another T, H or W."""
        check_clip_shape(video_BTCHW, frames=self.frames, image_size=self.image_size)
        features = video_BTCHW.transpose(1, 2)
        for block in self.blocks:
            features = block(features)
        return features

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each residual block in the backward pass."""
        recompute_blocks(self)


class SplitConvolution(nn.Module):
    """3 x 3 over space with stride 2, then 5 frames of each channel alone.

    The published names are swapped: `conv_t` looks over space and `conv_xy` over time.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_t = nn.Conv3d(
            3, width, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False
        )
        self.conv_xy = nn.Conv3d(
            width, width, (5, 1, 1), padding=(2, 0, 0), groups=width, bias=False
        )

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.conv_xy(self.conv_t(features_BCTHW))


class Stem(nn.Module):
    """[B, 3, T, H, W] -> [B, C, T, H / 2, W / 2]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = SplitConvolution(width)
        self.norm = nn.BatchNorm3d(width)

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(features_BCTHW)))


class Gate(nn.Module):
    """Squeeze and excitation (Hu et al. 2018, arXiv:1709.01507): each channel times a number in
    (0, 1) that is computed from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = gate_width(channels)
        self.block = nn.Sequential(
            nn.Conv3d(channels, inner, 1), nn.ReLU(), nn.Conv3d(inner, channels, 1), nn.Sigmoid()
        )

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        return features_BCTHW * self.block(features_BCTHW.mean(dim=(2, 3, 4), keepdim=True))


class PooledFeatures(nn.Module):
    """[B, C, T, H, W] -> [B, features, 1, 1, 1]: widen, mean over time and space, widen again."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        inner = int(INNER_RATIO * channels)
        self.pre_conv = nn.Conv3d(channels, inner, 1, bias=False)
        self.pre_norm = nn.BatchNorm3d(inner)
        self.post_conv = nn.Conv3d(inner, features, 1, bias=False)

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        wide = F.relu(self.pre_norm(self.pre_conv(features_BCTHW)))
        return F.relu(self.post_conv(wide.mean(dim=(2, 3, 4), keepdim=True)))


class Head(nn.Module):
    """Pooled features to logits. The published head goes on to a softmax; logits order alike."""

    def __init__(self, channels: int, features: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.pool = PooledFeatures(channels, features)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(features, num_classes)

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.proj(self.dropout(self.pool(features_BCTHW).flatten(1)))


def gate_width(channels: int) -> int:
    """Channels inside a gate: a sixteenth, rounded to a multiple of 8 as published.

    Rounded half up, at least 8, and up where rounding down would lose more than a tenth.
    """
    wanted = channels / 16
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _block(channels: int, width: int, *, stride: int, gated: bool) -> BottleneckBlock:
    inner, strides = int(INNER_RATIO * width), (1, stride, stride)
    convolutions = (
        nn.Conv3d(channels, inner, 1, bias=False),
        nn.Conv3d(inner, inner, 3, stride=strides, padding=1, groups=inner, bias=False),
        nn.Conv3d(inner, width, 1, bias=False),
    )
    middle = nn.Sequential(nn.BatchNorm3d(inner), Gate(inner) if gated else nn.Identity())
    shortcut = None
    if stride > 1 or channels != width:
        shortcut = nn.Conv3d(channels, width, 1, stride=strides, bias=False)
    branch = Bottleneck(convolutions, middle=middle, activation=F.silu)
    # As published: the first stage keeps its channels, and its shortcut goes without a norm.
    return BottleneckBlock(branch, shortcut, normalise_shortcut=channels != width)
