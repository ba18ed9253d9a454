"""ResNet-18 for small images (He et al. 2016, arXiv:1512.03385, in the form for CIFAR)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.image.backbone import (
    ImageClassifier,
    check_image_size,
    check_width,
    choose_shape,
    convolution,
    rounded_up_half,
    scaled,
)
from regatta.models.spec import ModelSpec, Size, describe_config, image_spec


@dataclass(frozen=True)
class ResNetShape:
    """Channels of the four stages (the stem has those of the first) and blocks in each."""

    widths: tuple[int, int, int, int]
    blocks: int = 2


SHAPES: dict[Size, ResNetShape] = {
    "tiny": ResNetShape((8, 16, 32, 64)),
    "small": ResNetShape((16, 32, 64, 128)),
    "base": ResNetShape((64, 128, 256, 512)),
}


@MODELS.register("resnet18")
def resnet18(*, size: Size = "base", image_size: int = 32, width: float = 1.0) -> ModelSpec:
    """ResNet-18 for small images: 3 x 3 stem, no pool, 512 features, 11.2 M parameters.

    Args:
        size: base = 64 to 512 channels; small = 16 to 128 (0.7 M) and tiny = 8 to 64 (0.2 M).
        image_size: pixels per side, at least 9.
        width: factor on all channels, for a network of another cost.
    Raises:
        ConfigError: images too small, or an impossible width.
    """
    shape = choose_shape(SHAPES, size)
    check_width(width)
    check_image_size("resnet18", image_size, halvings=3, halve=rounded_up_half)
    widths = [scaled(channels, width) for channels in shape.widths]

    def build(num_classes: int) -> nn.Module:
        return ImageClassifier(
            resnet_body(widths, shape.blocks),
            num_classes,
            feature_dim=widths[-1],
            image_size=image_size,
        )

    config = describe_config("resnet18", size, image_size=image_size, width=width)
    return image_spec("resnet18", build, image_size=image_size, config=config)


def resnet_body(widths: list[int], blocks: int) -> nn.Sequential:
    """Stem and one stage per width; every stage but the first halves H and W."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(
            OrderedDict(
                conv=convolution(3, widths[0], 3),
                norm=nn.BatchNorm2d(widths[0]),
                relu=nn.ReLU(inplace=True),
            )
        )
    )
    channels = widths[0]
    for number, width in enumerate(widths):
        first = BasicBlock(channels, width, stride=1 if number == 0 else 2)
        rest = (BasicBlock(width, width, stride=1) for _ in range(blocks - 1))
        parts[f"stage{number + 1}"] = nn.Sequential(first, *rest)
        channels = width
    return nn.Sequential(parts)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, ReLU after the sum."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(channels, width, 3, stride=stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = None
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=convolution(channels, width, 1, stride=stride),
                    norm=nn.BatchNorm2d(width),
                )
            )

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        kept = maps_BCHW if self.shortcut is None else self.shortcut(maps_BCHW)
        inner = F.relu(self.norm1(self.conv1(maps_BCHW)), inplace=True)
        return F.relu(self.norm2(self.conv2(inner)) + kept, inplace=True)
