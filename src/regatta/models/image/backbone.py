"""What the convolutional classifiers of small images share: the network's frame, sizes, first
weights.

Shapes: B images, C channels, H and W pixels, d features, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from regatta.core.errors import ConfigError, RunError
from regatta.models.spec import Size

Shape = TypeVar("Shape")
SMALLEST_IMAGE = 8
"""Pixels per side."""


class ImageClassifier(nn.Module):
    """Feature maps, mean over space, linear classifier; satisfies `contracts.Backbone`.

    Args:
        body: [B, 3, H, W] -> feature maps [B, feature_dim, H', W'].
        feature_dim: d, channels of those maps.
        image_size: H = W of the images.
    """

    def __init__(
        self, body: nn.Module, num_classes: int, *, feature_dim: int, image_size: int
    ) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.image_size = image_size
        self.body = body
        self.head = nn.Linear(feature_dim, num_classes)
        initialise(self)

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] normalised -> features [B, d]. Raises RunError for another H or W."""
        expected = (3, self.image_size, self.image_size)
        if images_BCHW.dim() != 4 or tuple(images_BCHW.shape[1:]) != expected:
            raise RunError(
                f"the model takes images of {list(expected)}, not {list(images_BCHW.shape[1:])}",
                hint="set image_size in the entry's options to the size of the data's images",
            )
        return self.body(images_BCHW).mean(dim=(2, 3))

    def features_and_logits(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B, d] and logits [B, K] of one pass."""
        features_Bd = self.features(images_BCHW)
        return features_Bd, self.head(features_Bd)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] normalised -> logits [B, K]."""
        return self.features_and_logits(images_BCHW)[1]


class PreActivation(nn.Sequential):
    """Batch norm and ReLU, as they stand before a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(OrderedDict(norm=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True)))


def convolution(
    channels: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A padded convolution without bias: a batch norm follows it sooner or later."""
    return nn.Conv2d(
        channels, width, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )


def initialise(network: nn.Module) -> None:
    """First weights of convolutions: normal, He et al. 2015, fan out; biases of linear layers 0.

    Batch norms keep torch's own start, scale 1 and shift 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def choose_shape(shapes: Mapping[Size, Shape], size: Size) -> Shape:
    """The dimensions of a size name; ConfigError for another word."""
    if size not in shapes:
        raise ConfigError(f"there is no size '{size}'", hint=f"known: {', '.join(shapes)}")
    return shapes[size]


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded, at least 1."""
    return max(1, round(channels * width))


def check_width(width: float) -> None:
    """ConfigError unless `width` is a factor above 0 that memory may hold."""
    if not 0 < width <= 16:
        raise ConfigError(f"width must be above 0 and at most 16, not {width:g}")


def check_image_size(
    name: str, image_size: int, *, halvings: int, halve: Callable[[int], int]
) -> None:
    """ConfigError for images so small that batch norm cannot train on their last feature maps.

    Args:
        halve: side of a feature map -> its side after one stage that halves it.
    """
    side = image_size
    for _ in range(halvings):
        side = halve(side)
    if image_size < SMALLEST_IMAGE or side < 2:
        # The variance of one number is none: a last batch of one image would end the run.
        raise ConfigError(
            f"images of {image_size} px are too small for {name}: {halvings} of its stages halve "
            "them, and batch norm needs 2 x 2 at the end",
            where="options.image_size",
            hint=f"set image_size to {_smallest_size(halvings, halve)} or more",
        )


def rounded_up_half(side: int) -> int:
    """What a padded convolution of stride 2 leaves of a side."""
    return -(-side // 2)


def rounded_down_half(side: int) -> int:
    """What a pool of 2 x 2 leaves of a side."""
    return side // 2


def _smallest_size(halvings: int, halve: Callable[[int], int]) -> int:
    def last(side: int) -> int:
        for _ in range(halvings):
            side = halve(side)
        return side

    return next(side for side in range(SMALLEST_IMAGE, 4096) if last(side) >= 2)
