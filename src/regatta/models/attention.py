"""Attention that uses the fused kernel, for library models that only have the written-out form.

Shapes: B batch, N tokens, C width, H heads, D = C / H.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn


class SdpaSelfAttention(nn.Module):
    """Self-attention over a packed qkv projection, by `scaled_dot_product_attention`.

    Takes the place of the library's TimeSformer self-attention: it keeps that module's `qkv` layer,
    so state-dict keys and weights stay what they were, and its outputs agree to 1e-5.

    Args:
        written_out: the library module; needs `qkv`, `attn_drop` and `num_heads`.
    """

    def __init__(self, written_out: nn.Module) -> None:
        super().__init__()
        self.qkv = cast("nn.Linear", written_out.qkv)
        self.attn_drop = cast("nn.Dropout", written_out.attn_drop)
        self.num_heads = cast("int", written_out.num_heads)

    def forward(
        self, hidden_states: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """[B, N, C] -> ([B, N, C],), and the weights [B, H, N, N] when asked for."""
        batch, tokens, width = hidden_states.shape
        packed = self.qkv(hidden_states).reshape(batch, tokens, 3, self.num_heads, -1)
        query_BHND, key_BHND, value_BHND = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if output_attentions:
            # The fused kernel never holds the weights, so they are written out on request only.
            scores = query_BHND @ key_BHND.transpose(-2, -1) * query_BHND.shape[-1] ** -0.5
            weights_BHNN = self.attn_drop(scores.softmax(dim=-1))
            context = weights_BHNN @ value_BHND
            return context.transpose(1, 2).reshape(batch, tokens, width), weights_BHNN
        context = F.scaled_dot_product_attention(
            query_BHND,
            key_BHND,
            value_BHND,
            dropout_p=self.attn_drop.p if self.training else 0.0,
        )
        return (context.transpose(1, 2).reshape(batch, tokens, width),)
