"""SlowFast networks (Feichtenhofer et al. 2019, arXiv:1812.03982).

Shapes: B clips, C channels, T frames, H and W pixels, K classes. The fast pathway sees all T
frames, the slow one T / 4 of them. Submodules are named as in PyTorchVideo's hub checkpoint
SLOWFAST_8x8_R50, which therefore loads key by key.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.spec import ModelSpec, Size, check_clip_shape, check_divides
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

FRAME_RATIO = 4
"""Alpha of the paper: fast frames per slow frame."""
CHANNEL_RATIO = 8
"""1 / beta of the paper: slow channels per fast channel."""
FUSED_RATIO = 2
"""A lateral connection hands on twice the channels of the fast pathway."""
SLOW_TIME_KERNELS = (1, 1, 3, 3)
FAST_TIME_KERNELS = (3, 3, 3, 3)
POOLED_SIDE = 7
"""The head averages windows of 7 x 7 and then the windows: one window at 224 px, four at 256."""


@dataclass(frozen=True)
class SlowFastShape:
    """Channels of the slow stem and bottlenecks of each stage."""

    width: int
    blocks: tuple[int, int, int, int]
    image_size: int


SIZES: dict[Size, SlowFastShape] = {
    "tiny": SlowFastShape(width=16, blocks=(1, 1, 1, 1), image_size=32),
    "small": SlowFastShape(width=32, blocks=(1, 2, 2, 1), image_size=112),
    "base": SlowFastShape(width=64, blocks=(3, 4, 6, 3), image_size=224),
}


@MODELS.register("slowfast-r50")
def slowfast_r50(
    *,
    size: Size = "base",
    frames: int = 32,
    image_size: int | None = None,
    dropout: float = 0.5,
) -> ModelSpec:
    """SlowFast 8x8 on ResNet-50: a wide pathway on every fourth frame, a narrow one on all.

    Args:
        size: base = the published 50 layers; tiny trains on a CPU in seconds.
        frames: frames of the fast pathway, a multiple of 4.
        image_size: pixels per side; 224 by default (published training crop), 32 for tiny.
        dropout: share of the pooled features dropped before the classifier.
    """
    shape = choose_shape(SIZES, size)
    side = shape.image_size if image_size is None else image_size
    check_divides("the frame ratio", FRAME_RATIO, "frames", frames)

    def build(num_classes: int) -> nn.Module:
        return SlowFast(shape, num_classes, frames=frames, image_size=side, dropout=dropout)

    return cnn_spec(
        "slowfast-r50",
        size,
        frames=frames,
        image_size=side,
        dropout=dropout,
        normalisation=((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        head="blocks.6.proj.",
        last_positions=frames // FRAME_RATIO * halved(side, 5) ** 2,
        build=build,
    )


class SlowFast(nn.Module):
    """Two stems, four stages of two pathways, one head over both."""

    slow_frames: torch.Tensor

    def __init__(
        self,
        shape: SlowFastShape,
        num_classes: int,
        *,
        frames: int,
        image_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.frames = frames
        self.image_size = image_size
        # As published: spread from the first frame to the last, not every fourth.
        places = torch.linspace(0, frames - 1, frames // FRAME_RATIO).long()
        self.register_buffer("slow_frames", places, persistent=False)
        slow, fast = shape.width, shape.width // CHANNEL_RATIO
        stems = (Stem(slow, time_kernel=1), Stem(fast, time_kernel=5))
        blocks: list[nn.Module] = [Pathways(*stems, FastToSlow(fast))]
        inputs = (slow + FUSED_RATIO * fast, fast)
        for number in range(4):
            outputs = (4 * slow * 2**number, 4 * fast * 2**number)
            blocks.append(_two_pathway_stage(inputs, outputs, number=number, shape=shape))
            inputs = (outputs[0] + FUSED_RATIO * outputs[1], outputs[1])
        # The published list has a place for the parameterless pooling before the head.
        blocks += [nn.Identity(), Head(32 * (slow + fast), num_classes, dropout=dropout)]
        self.blocks = nn.ModuleList(blocks)
        initialise(self)

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] float -> logits [B, K]. Raises RunError for another T, H or W."""
        check_clip_shape(video_BTCHW, frames=self.frames, image_size=self.image_size)
        fast = video_BTCHW.transpose(1, 2)
        slow = fast.index_select(2, self.slow_frames)
        *stages, _, head = self.blocks
        for stage in stages:
            slow, fast = stage(slow, fast)
        return head(slow, fast)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each residual block in the backward pass."""
        recompute_blocks(self)


class Pathways(nn.Module):
    """The same depth of both pathways, and what the fast one then tells the slow one."""

    def __init__(self, slow: nn.Module, fast: nn.Module, fusion: nn.Module | None) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleList([slow, fast])
        self.multipathway_fusion = fusion

    def forward(self, slow: torch.Tensor, fast: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        slow, fast = (
            block(features)
            for block, features in zip(self.multipathway_blocks, (slow, fast), strict=True)
        )
        if self.multipathway_fusion is not None:
            slow = torch.cat([slow, self.multipathway_fusion(fast)], dim=1)
        return slow, fast


class Stem(nn.Module):
    """7 x 7 convolution of stride 2 over some frames, then a 3 x 3 maximum of stride 2."""

    def __init__(self, width: int, *, time_kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            3,
            width,
            (time_kernel, 7, 7),
            stride=(1, 2, 2),
            padding=(time_kernel // 2, 3, 3),
            bias=False,
        )
        self.norm = nn.BatchNorm3d(width)

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.norm(self.conv(features_BCTHW)))
        width, frames = features.shape[1:3]
        # In 2-D: the backward pass of a 3-D maximum is not repeatable on a GPU.
        pooled = F.max_pool2d(features.flatten(1, 2), 3, stride=2, padding=1)
        return pooled.unflatten(1, (width, frames))


class FastToSlow(nn.Module):
    """Lateral connection: [B, C, T, H, W] of the fast pathway -> [B, 2 C, T / 4, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_fast_to_slow = nn.Conv3d(
            channels,
            FUSED_RATIO * channels,
            (7, 1, 1),
            stride=(FRAME_RATIO, 1, 1),
            padding=(3, 0, 0),
            bias=False,
        )
        self.norm = nn.BatchNorm3d(FUSED_RATIO * channels)

    def forward(self, fast_BCTHW: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv_fast_to_slow(fast_BCTHW)))


class Head(nn.Module):
    """Pooled features of both pathways, side by side, to logits."""

    def __init__(self, channels: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(channels, num_classes)

    def forward(self, slow_BCTHW: torch.Tensor, fast_BCTHW: torch.Tensor) -> torch.Tensor:
        pooled = torch.cat([_pool(slow_BCTHW), _pool(fast_BCTHW)], dim=1)
        return self.proj(self.dropout(pooled))


def _pool(features_BCTHW: torch.Tensor) -> torch.Tensor:
    """[B, C, T, H, W] -> [B, C]: mean over time, over windows of 7 x 7, over windows.

    The published head classifies each window and averages logits; a linear layer allows either
    order.
    """
    features_BCHW = features_BCTHW.mean(dim=2)
    window = min(POOLED_SIDE, features_BCHW.shape[-1])
    return F.avg_pool2d(features_BCHW, window, stride=1).mean(dim=(2, 3))


def _two_pathway_stage(
    inputs: tuple[int, int], outputs: tuple[int, int], *, number: int, shape: SlowFastShape
) -> Pathways:
    """Stage `number` (from 0); the last one has no lateral connection."""
    slow_kernel, fast_kernel = SLOW_TIME_KERNELS[number], FAST_TIME_KERNELS[number]
    stride, blocks = 2 if number else 1, shape.blocks[number]
    return Pathways(
        _stage(inputs[0], outputs[0], slow_kernel, stride=stride, blocks=blocks),
        _stage(inputs[1], outputs[1], fast_kernel, stride=stride, blocks=blocks),
        FastToSlow(outputs[1]) if number < 3 else None,
    )


def _stage(channels: int, width: int, time_kernel: int, *, stride: int, blocks: int) -> Stage:
    first = _block(channels, width, time_kernel, stride)
    return Stage([first, *(_block(width, width, time_kernel, 1) for _ in range(blocks - 1))])


def _block(channels: int, width: int, time_kernel: int, stride: int) -> BottleneckBlock:
    inner, strides = width // 4, (1, stride, stride)
    convolutions = (
        nn.Conv3d(
            channels, inner, (time_kernel, 1, 1), padding=(time_kernel // 2, 0, 0), bias=False
        ),
        nn.Conv3d(inner, inner, (1, 3, 3), stride=strides, padding=(0, 1, 1), bias=False),
        nn.Conv3d(inner, width, 1, bias=False),
    )
    shortcut = None
    if stride > 1 or channels != width:
        shortcut = nn.Conv3d(channels, width, 1, stride=strides, bias=False)
    branch = Bottleneck(convolutions, middle=nn.BatchNorm3d(inner), activation=F.relu)
    return BottleneckBlock(branch, shortcut)
