"""A transformer over tubelets of space and time, all of which look at each other.

Tubelets and joint attention after ViViT, model 1 (Arnab et al. 2021, arXiv:2103.15691); pre-norm
layers after Dosovitskiy et al. 2021 (arXiv:2010.11929).

Shapes: B clips, T frames, t = T / 2 steps, G patches per side, S = G x G patches, N = t S tokens,
D width of a token, A attention heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.registry import EXTRACTORS
from regatta.models.scene.extractor_parts import (
    StretchTime,
    check_dim,
    check_extent,
    choose_shape,
    fit_dim,
)
from regatta.models.spec import Size

PATCH_FRAMES = 2
PATCH_SIDE = 8
DROPOUT = 0.1


@dataclass(frozen=True)
class TransformerShape:
    """Width of a token (and features by default), layers, heads, hidden width of a layer."""

    width: int
    layers: int
    heads: int
    hidden: int


SIZES: dict[Size, TransformerShape] = {
    "tiny": TransformerShape(width=32, layers=2, heads=4, hidden=128),
    "small": TransformerShape(width=256, layers=4, heads=8, hidden=1024),
    "base": TransformerShape(width=512, layers=4, heads=8, hidden=2048),
}


@EXTRACTORS.register("transformer")
def transformer(*, size: Size, dim: int | None = None, frames: int, image_size: int) -> nn.Module:
    """space-time transformer

    Args:
        size: base = tokens of 512 numbers; small of 256; tiny of 32, with 2 layers.
        dim: features per frame; by default the width of a token.
        frames: frames per clip, even, at least 8.
        image_size: pixels per side, a multiple of 8, at least 32.
    """
    shape = choose_shape(SIZES, size)
    check_extent(
        "transformer",
        frames=frames,
        image_size=image_size,
        frames_multiple=PATCH_FRAMES,
        side_multiple=PATCH_SIDE,
    )
    dim = shape.width if dim is None else dim
    check_dim("transformer", dim)
    return SpaceTime(shape, dim, frames=frames, image_size=image_size)


class SpaceTime(nn.Module):
    """Tubelets, learned positions, layers, norm, mean over space."""

    def __init__(self, shape: TransformerShape, dim: int, *, frames: int, image_size: int) -> None:
        super().__init__()
        width, steps = shape.width, frames // PATCH_FRAMES
        patch = (PATCH_FRAMES, PATCH_SIDE, PATCH_SIDE)
        self.feature_dim = dim
        self.grid = (steps, image_size // PATCH_SIDE)
        self.patches = nn.Conv3d(3, width, patch, stride=patch)
        self.space_code = nn.Parameter(torch.empty(self.grid[1] ** 2, width))
        self.time_code = nn.Parameter(torch.empty(steps, width))
        for code in (self.space_code, self.time_code):
            nn.init.trunc_normal_(code, std=0.02)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.project = fit_dim(width, dim)
        self.stretch = StretchTime(steps, frames)

    def forward(self, clips_BTCHW: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] -> [B, T, D]."""
        tokens_BND = self.tokens(clips_BTCHW)
        for layer in self.layers:
            tokens_BND = layer(tokens_BND)
        return self.frame_features(tokens_BND)

    def attend(self, clips_BTCHW: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What `forward` returns, and every layer's attention [B, N, N], mean over heads; rows are
        the tokens that look."""
        tokens_BND, weights = self.tokens(clips_BTCHW), []
        for layer in self.layers:
            weights.append(cast("Layer", layer).attention_weights(tokens_BND))
            tokens_BND = layer(tokens_BND)
        return self.frame_features(tokens_BND), weights

    def tokens(self, clips_BTCHW: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, D] with their positions, time first."""
        patches_BDtGG = self.patches(clips_BTCHW.transpose(1, 2))
        patches_BtSD = patches_BDtGG.flatten(3).permute(0, 2, 3, 1)
        coded = patches_BtSD + self.space_code + self.time_code[:, None]
        return self.dropout(coded.flatten(1, 2))

    def frame_features(self, tokens_BND: torch.Tensor) -> torch.Tensor:
        """Features [B, T, D] of the last layer's tokens."""
        per_step = self.norm(tokens_BND).unflatten(1, (self.grid[0], -1)).mean(dim=2)
        return self.stretch(self.project(per_step))


class Layer(nn.Module):
    """Self-attention and two linear layers, each behind a norm and beside a shortcut."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm1 = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm2 = nn.LayerNorm(shape.width)
        self.widen = nn.Linear(shape.width, shape.hidden)
        self.narrow = nn.Linear(shape.hidden, shape.width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens_BND: torch.Tensor) -> torch.Tensor:
        query, key, value = self._packed(tokens_BND).unbind(0)
        seen_BAND = F.scaled_dot_product_attention(query, key, value)
        seen_BND = self.out(seen_BAND.transpose(1, 2).flatten(2))
        tokens_BND = tokens_BND + self.dropout(seen_BND)
        hidden = self.dropout(F.gelu(self.widen(self.norm2(tokens_BND))))
        return tokens_BND + self.dropout(self.narrow(hidden))

    def attention_weights(self, tokens_BND: torch.Tensor) -> torch.Tensor:
        """Attention [B, N, N] on these tokens, mean over heads: the fused kernel never holds it."""
        query, key, _ = self._packed(tokens_BND).unbind(0)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        return scores.softmax(dim=-1).mean(dim=1)

    def _packed(self, tokens_BND: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values, [3, B, A, N, D / A]."""
        packed = self.qkv(self.norm1(tokens_BND)).unflatten(-1, (3, self.heads, -1))
        return packed.permute(2, 0, 3, 1, 4)
