"""What the extractors of scenes share: checks of a clip's extent, and one time axis for all.

Shapes: B clips, T frames, t steps of a network's own shorter time axis, D features. An extractor is
a module from normalised clips float [B, T, 3, H, W] to features [B, T, D] that says D as
`feature_dim`; its factory is registered in `EXTRACTORS` and takes
(size, dim, frames, image_size), all by keyword.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.errors import ConfigError
from regatta.models.spec import Size

MIN_FRAMES = 8
MIN_SIDE = 32
Shape = TypeVar("Shape")


@runtime_checkable
class Extractor(Protocol):
    """Gives features of every frame of a clip, [B, T, 3, H, W] -> [B, T, feature_dim]."""

    feature_dim: int

    def __call__(self, clips_BTCHW: torch.Tensor, /) -> torch.Tensor: ...


class StretchTime(nn.Module):
    """[B, t, D] -> [B, T, D] by linear interpolation.

    A product with a fixed matrix: the backward pass of `interpolate` is not repeatable on a GPU.
    """

    matrix_Tt: torch.Tensor

    def __init__(self, steps: int, frames: int) -> None:
        super().__init__()
        matrix = F.interpolate(torch.eye(steps)[None], size=frames, mode="linear")[0].T
        self.register_buffer("matrix_Tt", matrix.contiguous(), persistent=False)

    def forward(self, features_BtD: torch.Tensor) -> torch.Tensor:
        frames, steps = self.matrix_Tt.shape
        if frames == steps:
            return features_BtD
        return self.matrix_Tt.to(features_BtD.dtype) @ features_BtD


def choose_shape(sizes: Mapping[Size, Shape], size: Size) -> Shape:
    """The dimensions of a size name; ConfigError for another word."""
    if size not in sizes:
        raise ConfigError(f"there is no size '{size}'", hint=f"known: {', '.join(sizes)}")
    return sizes[size]


def check_extent(
    name: str,
    *,
    frames: int,
    image_size: int,
    frames_multiple: int = 1,
    side_multiple: int = 1,
) -> None:
    """ConfigError unless extractor `name` can take clips of this extent."""
    _check_length(name, "frames", frames, at_least=MIN_FRAMES, multiple=frames_multiple)
    _check_length(name, "image_size", image_size, at_least=MIN_SIDE, multiple=side_multiple)


def check_dim(name: str, dim: int, *, heads: int = 1) -> None:
    """ConfigError unless features of `dim` numbers are possible, and `heads` can share them."""
    if dim < 1 or dim % heads:
        hint = f"choose {max(1, round(dim / heads)) * heads}" if heads > 1 else None
        wanted = f"a positive multiple of {heads}" if heads > 1 else "positive"
        raise ConfigError(f"dim of {name} must be {wanted}, not {dim}", hint=hint)


def fit_dim(width: int, dim: int) -> nn.Module:
    """What takes features of `width` numbers to `dim`: nothing where they agree, else linear."""
    return nn.Identity() if width == dim else nn.Linear(width, dim)


def halved(length: int, times: int = 1) -> int:
    """What `times` padded steps of stride 2 leave of a length, each rounding up."""
    return -(-length // 2**times)


def initialise(network: nn.Module) -> None:
    """First weights: He et al. 2015 for convolutions (fan out), torch's own for the rest."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _check_length(name: str, what: str, length: int, *, at_least: int, multiple: int) -> None:
    if length < at_least or length % multiple:
        fitting = max(-(-at_least // multiple), round(length / multiple)) * multiple
        wanted = f"at least {at_least}"
        if multiple > 1:
            wanted = f"a multiple of {multiple}, {wanted}"
        raise ConfigError(
            f"{what} of the extractor {name} must be {wanted}, not {length}",
            hint=f"set {what}: {fitting}",
        )
