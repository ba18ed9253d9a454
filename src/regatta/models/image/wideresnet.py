"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv:1605.07146)."""

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
    rounded_up_half,
    scaled,
)
from regatta.models.spec import ModelSpec, Size, check_dropout, describe_config, image_spec


@dataclass(frozen=True)
class WideShape:
    """Channels of the three groups and blocks in each: depth 6 blocks + 4; the stem has 16."""

    widths: tuple[int, int, int]
    blocks: int
    stem: int = 16


SHAPES: dict[Size, WideShape] = {
    "tiny": WideShape((16, 32, 64), blocks=1),
    "small": WideShape((32, 64, 128), blocks=2),
    "base": WideShape((160, 320, 640), blocks=4),
}


@MODELS.register("improved_wideresnet28_10")
def improved_wideresnet28_10(
    *, size: Size = "base", image_size: int = 32, width: float = 1.0, dropout: float = 0.3
) -> ModelSpec:
    """Wide ResNet 28-10, pre-activation, dropout in the blocks: 640 features, 36.5 M parameters.

    Args:
        size: base = 28-10; small = 16-2 (0.7 M); tiny = 10-1 (0.08 M).
        image_size: pixels per side, at least 8.
        width: factor on all channels, for a network of another cost.
        dropout: share dropped between the two convolutions of a block.
    Raises:
        ConfigError: images too small, or an impossible width or dropout.
    """
    name = "improved_wideresnet28_10"
    shape = choose_shape(SHAPES, size)
    check_width(width)
    check_dropout(dropout)
    check_image_size(name, image_size, halvings=2, halve=rounded_up_half)
    stem, *widths = (scaled(channels, width) for channels in (shape.stem, *shape.widths))

    def build(num_classes: int) -> nn.Module:
        module = ImageClassifier(
            wide_body(stem, widths, shape.blocks, dropout=dropout),
            num_classes,
            feature_dim=widths[-1],
            image_size=image_size,
        )
        nn.init.xavier_uniform_(module.head.weight)
        return module

    config = describe_config(name, size, image_size=image_size, width=width, dropout=dropout)
    return image_spec(name, build, image_size=image_size, config=config)


def wide_body(stem: int, widths: list[int], blocks: int, *, dropout: float) -> nn.Sequential:
    """Stem, one group per width, batch norm and ReLU; groups 2 and 3 halve H and W."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=convolution(3, stem, 3))
    channels = stem
    for number, width in enumerate(widths):
        first = WideBlock(channels, width, stride=1 if number == 0 else 2, dropout=dropout)
        rest = (WideBlock(width, width, stride=1, dropout=dropout) for _ in range(blocks - 1))
        parts[f"group{number + 1}"] = nn.Sequential(first, *rest)
        channels = width
    parts["last"] = PreActivation(channels)
    return nn.Sequential(parts)


class WideBlock(nn.Module):
    """Two pre-activated 3 x 3 convolutions with dropout between, beside a shortcut.

    Where the shape changes, the shortcut is a convolution of the pre-activated input.
    """

    def __init__(self, channels: int, width: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.before1 = PreActivation(channels)
        self.conv1 = convolution(channels, width, 3, stride=stride)
        self.before2 = PreActivation(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = convolution(width, width, 3)
        self.shortcut = None
        if stride > 1 or channels != width:
            self.shortcut = convolution(channels, width, 1, stride=stride)

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        active = self.before1(maps_BCHW)
        kept = maps_BCHW if self.shortcut is None else self.shortcut(active)
        inner = self.before2(self.conv1(active))
        return self.conv2(self.dropout(inner)) + kept
