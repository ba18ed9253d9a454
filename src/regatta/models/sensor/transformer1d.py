"""A small transformer on raw windows of signals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.errors import ConfigError
from regatta.core.registry import MODELS
from regatta.models.sensor.blocks import Block, run_blocks
from regatta.models.sensor.cnn1d import Standardise
from regatta.models.spec import ModelSpec, Size, check_dropout, describe_config, signal_spec

WIDTH = 64
LAYERS = 4
HEADS = 4
MLP = 128


class Transformer1d(nn.Module):
    """Patches of samples of all channels as tokens, four pre-norm layers, norm, mean, linear.

    Shapes: B windows, C channels, L samples, T = ceil(L / patch) tokens, K classes.
    """

    def __init__(
        self, *, channels: int, length: int, num_classes: int, patch: int, dropout: float
    ) -> None:
        super().__init__()
        self.patch = patch
        self.standardise = Standardise(channels)
        self.embed = nn.Linear(channels * patch, WIDTH)
        tokens = -(-length // patch)
        self.position_embeddings = nn.Parameter(torch.empty(1, tokens, WIDTH))
        nn.init.trunc_normal_(self.position_embeddings, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(WIDTH, HEADS, mlp=MLP, dropout=dropout) for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, num_classes)
        self.recompute = False

    def fit_statistics(self, signals_NCL: torch.Tensor) -> None:
        self.standardise.fit(signals_NCL)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each layer in the backward pass."""
        self.recompute = True

    def forward(self, signals_BCL: torch.Tensor) -> torch.Tensor:
        signals = self.standardise(signals_BCL)
        # A last short patch is filled up with each channel's mean, which is 0 here.
        signals = F.pad(signals, (0, -signals.shape[2] % self.patch))
        patches_BTCp = signals.unflatten(2, (-1, self.patch)).transpose(1, 2)
        x = self.dropout(self.embed(patches_BTCp.flatten(2)) + self.position_embeddings)
        x = run_blocks(self.blocks, x, recompute=self.recompute and self.training)
        return self.head(self.norm(x).mean(dim=1))


@MODELS.register("transformer1d")
def transformer1d(
    *,
    size: Size = "base",
    channels: int = 9,
    length: int = 128,
    patch: int = 8,
    dropout: float = 0.1,
) -> ModelSpec:
    """Transformer on raw signals: tokens of 8 samples, 4 layers of width 64, about 140 k numbers.

    Args:
        patch: samples per token. A window that is no multiple of it ends in a patch filled up with
            the channels' means.
        dropout: share of activations dropped in every layer.
    """
    check_dropout(dropout)
    if patch < 1:
        raise ConfigError(f"patch must be at least 1 sample, not {patch}")

    def build(num_classes: int) -> nn.Module:
        return Transformer1d(
            channels=channels,
            length=length,
            num_classes=num_classes,
            patch=patch,
            dropout=dropout,
        )

    return signal_spec(
        "transformer1d",
        build,
        channels=channels,
        length=length,
        config=describe_config("transformer1d", size, patch=patch, dropout=dropout),
    )
