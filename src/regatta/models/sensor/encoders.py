"""Vision transformers that encode drawn signals.

Shapes: N pictures, H = W = side pixels, G = side / patch, T = G x G patches, d width.
Sources: Dosovitskiy et al. 2021 (arXiv:2010.11929) for the pre-norm encoders with a class token,
Touvron et al. 2021 (arXiv:2012.12877) for the width and heads of `vit-tiny`; `vit-b8-detection` is
the encoder of the reference system, after Chen et al. 2022 (arXiv:2109.10852).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from regatta.core.registry import unknown_name
from regatta.models.hf_video import initial_weight_std
from regatta.models.sensor.blocks import Block, NormPlace, initialise, run_blocks

PUBLISHED_VIT_B16 = "google/vit-base-patch16-224@3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3"


@dataclass(frozen=True)
class EncoderShape:
    """One vision transformer.

    Args:
        side: of its pictures, in pixels, unless another is asked for.
        mlp_norm: see `Block`.
        class_token: a learned token in front of the patches, read by `pool: cls`.
        stem_norm: a norm between the patch embedding and the positions.
        published: hub id of its weights.
    """

    width: int
    layers: int
    heads: int
    mlp: int
    patch: int
    side: int = 224
    mlp_norm: NormPlace = "pre"
    class_token: bool = True
    stem_norm: bool = False
    epsilon: float = 1e-12
    published: str | None = None


ENCODERS: dict[str, EncoderShape] = {
    "vit-b16": EncoderShape(768, 12, 12, mlp=3072, patch=16, published=PUBLISHED_VIT_B16),
    "vit-b8-detection": EncoderShape(
        768,
        12,
        12,
        mlp=3072,
        patch=8,
        mlp_norm="post",
        class_token=False,
        stem_norm=True,
        epsilon=1e-6,
    ),
    "vit-tiny": EncoderShape(192, 12, 3, mlp=768, patch=16),
    "vit-micro": EncoderShape(32, 2, 2, mlp=128, patch=8, side=32),
}


def choose_encoder(name: str) -> EncoderShape:
    """The encoder of this name. Raises UnknownNameError with the nearest one."""
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS, "encoder")
    return ENCODERS[name]


class PictureEncoder(nn.Module):
    """uint8 pictures in grey -> tokens; it normalises them with its own mean and sd."""

    def __init__(self, shape: EncoderShape, *, side: int, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        self.recompute = False
        self.pixel_mean: torch.Tensor
        self.pixel_sd: torch.Tensor
        # Of pixels in 0..1, per colour; the published ViT's, until a checkpoint brings its own.
        self.register_buffer("pixel_mean", torch.full((3,), 0.5))
        self.register_buffer("pixel_sd", torch.full((3,), 0.5))
        width = shape.width
        self.stem = nn.Conv2d(3, width, shape.patch, stride=shape.patch)
        self.stem_norm = nn.LayerNorm(width, eps=shape.epsilon) if shape.stem_norm else None
        tokens = (side // shape.patch) ** 2 + shape.class_token
        std = initial_weight_std(width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * std) if shape.class_token else None
        self.position_embeddings = nn.Parameter(torch.empty(1, tokens, width))
        nn.init.trunc_normal_(self.position_embeddings, std=std, a=-2 * std, b=2 * std)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                width,
                shape.heads,
                mlp=shape.mlp,
                dropout=dropout,
                mlp_norm=shape.mlp_norm,
                epsilon=shape.epsilon,
            )
            for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(width, eps=shape.epsilon)
        initialise(self, std)

    def set_normalisation(self, mean: Sequence[float], sd: Sequence[float]) -> None:
        """Take a checkpoint's own mean and sd of pixels in 0..1, per colour."""
        self.pixel_mean.copy_(torch.tensor(mean))
        self.pixel_sd.copy_(torch.tensor(sd))

    def normalise(self, pictures_NHW: torch.Tensor) -> torch.Tensor:
        """uint8 [N, H, W] -> float32 [N, 3, H, W] = (grey / 255 - mean) / sd."""
        scale, shift = 1 / (255 * self.pixel_sd), -self.pixel_mean / self.pixel_sd
        grey = pictures_NHW[:, None].to(self.pixel_mean.dtype)
        return grey * scale[:, None, None] + shift[:, None, None]

    def forward(self, pictures_NHW: torch.Tensor) -> torch.Tensor:
        """All tokens after the last norm, [N, T, d]; a class token stands first."""
        x = self.stem(self.normalise(pictures_NHW)).flatten(2).transpose(1, 2)
        if self.stem_norm is not None:
            x = self.stem_norm(x)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        x = self.dropout(x + self.position_embeddings)
        return self.norm(run_blocks(self.blocks, x, recompute=self.recompute and self.training))
