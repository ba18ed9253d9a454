"""DenseNet-121 for small images (Huang et al. 2017, arXiv:1608.06993, the BC form)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.image.backbone import (
    ImageClassifier,
    PreActivation,
    check_image_size,
    check_width,
    choose_shape,
    convolution,
    rounded_down_half,
    scaled,
)
from regatta.models.spec import ModelSpec, Size, check_dropout, describe_config, image_spec

BOTTLENECK = 4
"""Channels of a layer's 1 x 1 convolution, in growth rates."""
STEM = 2
"""Channels of the stem, in growth rates."""


@dataclass(frozen=True)
class DenseShape:
    """Channels that a layer adds, and layers of each block."""

    growth: int
    blocks: tuple[int, ...]


SHAPES: dict[Size, DenseShape] = {
    "tiny": DenseShape(8, (2, 2, 2, 2)),
    "small": DenseShape(16, (2, 4, 6, 4)),
    "base": DenseShape(32, (6, 12, 24, 16)),
}


@MODELS.register("densenet121")
def densenet121(
    *, size: Size = "base", image_size: int = 32, width: float = 1.0, dropout: float = 0.2
) -> ModelSpec:
    """DenseNet-121 for small images: 3 x 3 stem, growth 32, 1,024 features, 7.0 M parameters.

    Args:
        size: base = blocks of 6, 12, 24, 16 layers; small = growth 16 with 2, 4, 6, 4 (0.3 M);
            tiny = growth 8 with 2 each (0.03 M).
        image_size: pixels per side, at least 16.
        width: factor on the growth rate and the stem, for a network of another cost.
        dropout: share dropped of what each layer adds.
    Raises:
        ConfigError: images too small, or an impossible width or dropout.
    """
    shape = choose_shape(SHAPES, size)
    check_width(width)
    check_dropout(dropout)
    check_image_size(
        "densenet121", image_size, halvings=len(shape.blocks) - 1, halve=rounded_down_half
    )
    growth = scaled(shape.growth, width)

    def build(num_classes: int) -> nn.Module:
        body, feature_dim = dense_body(growth, shape.blocks, dropout=dropout)
        return ImageClassifier(body, num_classes, feature_dim=feature_dim, image_size=image_size)

    config = describe_config(
        "densenet121", size, image_size=image_size, width=width, dropout=dropout
    )
    return image_spec("densenet121", build, image_size=image_size, config=config)


def dense_body(
    growth: int, blocks: tuple[int, ...], *, dropout: float
) -> tuple[nn.Sequential, int]:
    """Stem, dense blocks with a transition between two, batch norm and ReLU; and its channels.

    A transition halves the channels (compression 0.5) and H and W.
    """
    channels = STEM * growth
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=convolution(3, channels, 3))
    for number, layers in enumerate(blocks, start=1):
        parts[f"block{number}"] = nn.Sequential(
            *(DenseLayer(channels + i * growth, growth, dropout=dropout) for i in range(layers))
        )
        channels += layers * growth
        if number < len(blocks):
            parts[f"transition{number}"] = nn.Sequential(
                OrderedDict(
                    before=PreActivation(channels),
                    conv=convolution(channels, channels // 2, 1),
                    pool=nn.AvgPool2d(2),
                )
            )
            channels //= 2
    parts["last"] = PreActivation(channels)
    return nn.Sequential(parts), channels


class DenseLayer(nn.Module):
    """[B, C, H, W] -> [B, C + growth, H, W]: the input with what a 1 x 1 and a 3 x 3 convolution,
    each pre-activated, make of it."""

    def __init__(self, channels: int, growth: int, *, dropout: float) -> None:
        super().__init__()
        self.before1 = PreActivation(channels)
        self.conv1 = convolution(channels, BOTTLENECK * growth, 1)
        self.before2 = PreActivation(BOTTLENECK * growth)
        self.conv2 = convolution(BOTTLENECK * growth, growth, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        inner = self.conv2(self.before2(self.conv1(self.before1(maps_BCHW))))
        return torch.cat([maps_BCHW, self.dropout(inner)], dim=1)
