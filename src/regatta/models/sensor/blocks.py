"""The transformer block that the models of signals share, with the fused attention kernel.

Shapes: B batch, T tokens, d width, H heads.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from regatta.core.errors import ConfigError

NormPlace = Literal["pre", "post"]


class SelfAttention(nn.Module):
    """Multi-head self-attention; separate projections, as published vision transformers have."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} cannot be shared by {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens_BTd: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part(tokens_BTd).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then an MLP with GELU, each beside a skip connection.

    Attention is always pre-norm: x + A(LN(x)). The MLP is pre-norm, x + M(LN(x)), or post-norm,
    LN(x + M(x)), as in the detection encoder of the reference system.

    Args:
        mlp: hidden width of the MLP.
        mlp_norm: where the norm of the MLP stands.
        dropout: share dropped of what attention and MLP add.
        epsilon: of both norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp: int,
        dropout: float,
        mlp_norm: NormPlace = "pre",
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=epsilon)
        self.attention = SelfAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=epsilon)
        self.mlp_in = nn.Linear(width, mlp)
        self.mlp_out = nn.Linear(mlp, width)
        self.dropout = nn.Dropout(dropout)
        self.mlp_norm: NormPlace = mlp_norm

    def forward(self, tokens_BTd: torch.Tensor) -> torch.Tensor:
        x = tokens_BTd + self.dropout(self.attention(self.norm_attention(tokens_BTd)))
        if self.mlp_norm == "post":
            return self.norm_mlp(x + self._mlp(x))
        return x + self._mlp(self.norm_mlp(x))

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.mlp_out(F.gelu(self.mlp_in(x))))


def run_blocks(blocks: nn.ModuleList, x: torch.Tensor, *, recompute: bool) -> torch.Tensor:
    """All blocks in turn; `recompute` keeps only their inputs for the backward pass."""
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            # Reentrant checkpointing drops the gradients of a frozen input and clashes with DDP.
            x = checkpoint(block, x, use_reentrant=False)
        else:
            x = block(x)
    return x


def initialise(module: nn.Module, std: float) -> None:
    """Truncated normal weights of spread `std`, biases 0 (Dosovitskiy et al. 2021)."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
