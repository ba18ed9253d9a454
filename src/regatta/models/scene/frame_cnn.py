"""Frame CNN + attention (magvit): every frame through a small 2-D network, then time.

The name `magvit` comes from the system that this study follows; the network is not the published
MAGVIT tokenizer (Yu et al. 2023). Its parts: a residual-free convolutional net per picture, two
convolutions over time, one multi-head self-attention over the frames (Vaswani et al. 2017,
arXiv:1706.03762, section 3.2.2) with a shortcut and layer norm behind it.

Shapes: B clips, T frames, N = B T pictures, C channels, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.registry import EXTRACTORS
from regatta.models.scene.extractor_parts import (
    check_dim,
    check_extent,
    choose_shape,
    initialise,
)
from regatta.models.spec import Size

HEADS = 4


@dataclass(frozen=True)
class FrameCnnShape:
    """Channels of the three convolutions, width of a frame's vector, features."""

    widths: tuple[int, int, int]
    frame_dim: int
    dim: int


SIZES: dict[Size, FrameCnnShape] = {
    "tiny": FrameCnnShape((8, 16, 32), frame_dim=32, dim=32),
    "small": FrameCnnShape((32, 64, 128), frame_dim=256, dim=512),
    "base": FrameCnnShape((64, 128, 256), frame_dim=512, dim=1024),
}


@EXTRACTORS.register("magvit")
def magvit(*, size: Size, dim: int | None = None, frames: int, image_size: int) -> nn.Module:
    """frame CNN + attention (magvit)

    Args:
        size: base = the widths of the study; small halves them; tiny trains on a CPU.
        dim: features per frame, a multiple of 4; by default 1024, 512 or 32.
        frames: frames per clip, at least 8.
        image_size: pixels per side, at least 32.
    """
    shape = choose_shape(SIZES, size)
    check_extent("magvit", frames=frames, image_size=image_size)
    dim = shape.dim if dim is None else dim
    check_dim("magvit", dim, heads=HEADS)
    return FrameCnn(shape, dim)


class FrameCnn(nn.Module):
    """`forward` is `follow_time(frame_maps(clips), T)`."""

    def __init__(self, shape: FrameCnnShape, dim: int) -> None:
        super().__init__()
        first, second, third = shape.widths
        self.feature_dim = dim
        self.cnn = nn.Sequential(
            nn.Conv2d(3, first, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
            nn.Conv2d(second, third, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(third),
            nn.ReLU(inplace=True),
        )
        self.frame_vector = nn.Linear(third, shape.frame_dim)
        self.time1 = nn.Conv1d(shape.frame_dim, dim, 3, padding=1)
        self.time2 = nn.Conv1d(dim, dim, 3, padding=1)
        self.attention = TimeAttention(dim)
        self.norm = nn.LayerNorm(dim)
        initialise(self)

    def forward(self, clips_BTCHW: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] -> [B, T, D]."""
        return self.follow_time(self.frame_maps(clips_BTCHW), clips_BTCHW.shape[1])

    def frame_maps(self, clips_BTCHW: torch.Tensor) -> torch.Tensor:
        """The last convolution's output of every picture, [B T, C, h, w], each side / 16."""
        pictures = clips_BTCHW.flatten(0, 1)
        # Colours last in memory: a fifth less time for a step on a CPU.
        return self.cnn(pictures.contiguous(memory_format=torch.channels_last))

    def follow_time(self, maps_NChw: torch.Tensor, frames: int) -> torch.Tensor:
        """Features [B, T, D] of the maps [B T, C, h, w] of every picture."""
        vectors = self.frame_vector(maps_NChw.mean(dim=(2, 3))).unflatten(0, (-1, frames))
        over_time = F.relu(self.time1(vectors.transpose(1, 2)))
        features_BTD = F.relu(self.time2(over_time)).transpose(1, 2)
        return self.norm(features_BTD + self.attention(features_BTD))


class TimeAttention(nn.Module):
    """Self-attention of 4 heads over the frames, [B, T, D] -> [B, T, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, features_BTD: torch.Tensor) -> torch.Tensor:
        packed = self.qkv(features_BTD).unflatten(-1, (3, HEADS, -1))
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        seen_BHTd = F.scaled_dot_product_attention(query, key, value)
        return self.out(seen_BHTd.transpose(1, 2).flatten(2))
