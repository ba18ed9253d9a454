"""Pre-activation ResNeXt (Xie et al. 2017, arXiv:1611.05431; order of layers: He et al. 2016,
arXiv:1603.05027)."""

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
from regatta.models.spec import ModelSpec, Size, describe_config, image_spec


@dataclass(frozen=True)
class NextShape:
    """Groups of the middle convolutions, channels per group in the first stage (doubled in each
    further one), channels that the stages give, and blocks in each."""

    cardinality: int
    group_width: int
    outputs: tuple[int, int, int]
    blocks: int
    stem: int


SHAPES: dict[Size, NextShape] = {
    "tiny": NextShape(2, 8, (16, 32, 64), blocks=1, stem=16),
    "small": NextShape(4, 16, (64, 128, 256), blocks=2, stem=32),
    "base": NextShape(8, 64, (256, 512, 1024), blocks=3, stem=64),
}


@MODELS.register("preact_resnext29_8x64d")
def preact_resnext29_8x64d(
    *, size: Size = "base", image_size: int = 32, width: float = 1.0
) -> ModelSpec:
    """Pre-activation ResNeXt-29, 8 x 64d: 1,024 features, 34.4 M parameters for 10 classes.

    Args:
        size: base = 8 x 64d with 3 blocks per stage (34.5 M for 100 classes); small = 4 x 16d with
            2 (0.8 M); tiny = 2 x 8d with 1 (0.04 M).
        image_size: pixels per side, at least 8.
        width: factor on all channels, for a network of another cost; the groups stay as many.
    Raises:
        ConfigError: images too small, or an impossible width.
    """
    name = "preact_resnext29_8x64d"
    shape = choose_shape(SHAPES, size)
    check_width(width)
    check_image_size(name, image_size, halvings=2, halve=rounded_up_half)
    scaled_shape = NextShape(
        shape.cardinality,
        scaled(shape.group_width, width),
        _scaled_outputs(shape.outputs, width),
        shape.blocks,
        scaled(shape.stem, width),
    )

    def build(num_classes: int) -> nn.Module:
        return ImageClassifier(
            next_body(scaled_shape),
            num_classes,
            feature_dim=scaled_shape.outputs[-1],
            image_size=image_size,
        )

    config = describe_config(name, size, image_size=image_size, width=width)
    return image_spec(name, build, image_size=image_size, config=config)


def _scaled_outputs(outputs: tuple[int, int, int], width: float) -> tuple[int, int, int]:
    first, second, third = outputs
    return scaled(first, width), scaled(second, width), scaled(third, width)


def next_body(shape: NextShape) -> nn.Sequential:
    """Stem, three stages, batch norm and ReLU; stages 2 and 3 halve H and W."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=convolution(3, shape.stem, 3))
    channels = shape.stem
    for number, output in enumerate(shape.outputs):
        middle = shape.cardinality * shape.group_width * 2**number
        blocks: list[nn.Module] = []
        for index in range(shape.blocks):
            stride = 2 if number > 0 and index == 0 else 1
            blocks.append(
                NextBlock(channels, middle, output, stride=stride, groups=shape.cardinality)
            )
            channels = output
        parts[f"stage{number + 1}"] = nn.Sequential(*blocks)
    parts["last"] = PreActivation(channels)
    return nn.Sequential(parts)


class NextBlock(nn.Module):
    """Pre-activated 1 x 1, grouped 3 x 3 and 1 x 1 convolutions beside a shortcut.

    Where the shape changes, the shortcut is a convolution of the pre-activated input.
    """

    def __init__(
        self, channels: int, middle: int, output: int, *, stride: int, groups: int
    ) -> None:
        super().__init__()
        self.before1 = PreActivation(channels)
        self.conv1 = convolution(channels, middle, 1)
        self.before2 = PreActivation(middle)
        self.conv2 = convolution(middle, middle, 3, stride=stride, groups=groups)
        self.before3 = PreActivation(middle)
        self.conv3 = convolution(middle, output, 1)
        self.shortcut = None
        if stride > 1 or channels != output:
            self.shortcut = convolution(channels, output, 1, stride=stride)

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        active = self.before1(maps_BCHW)
        kept = maps_BCHW if self.shortcut is None else self.shortcut(active)
        inner = self.conv2(self.before2(self.conv1(active)))
        return self.conv3(self.before3(inner)) + kept
