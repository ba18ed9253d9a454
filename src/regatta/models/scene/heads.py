"""From features of every frame and camera to one vector, and from that to the answers.

Shapes: B scenes, V cameras, T frames, D features, K classes, P position targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

HIDDEN = 512
VIEW_HEADS = 8
ViewFusion = Literal["mean", "concat", "attention"]


class TimePool(nn.Module):
    """[B, T, D] -> [B, D]: frames weighted by the softmax of a learned score.

    A sinusoidal time code (Vaswani et al. 2017, arXiv:1706.03762, section 3.5) is added first, so
    that a score can depend on when, not on what is seen alone.
    """

    code_TD: torch.Tensor

    def __init__(self, dim: int, frames: int) -> None:
        super().__init__()
        self.register_buffer("code_TD", time_code(frames, dim), persistent=False)
        self.score = nn.Linear(dim, 1)

    def forward(self, features_BTD: torch.Tensor) -> torch.Tensor:
        coded = features_BTD + self.code_TD
        return (self._weigh(coded)[:, None] @ coded).squeeze(1)

    def weights(self, features_BTD: torch.Tensor) -> torch.Tensor:
        """Share of every frame in the pooled vector, [B, T], positive, of sum 1."""
        return self._weigh(features_BTD + self.code_TD)

    def _weigh(self, coded_BTD: torch.Tensor) -> torch.Tensor:
        return self.score(coded_BTD).squeeze(-1).softmax(dim=1)


class MeanPool(nn.Module):
    """[B, T, D] -> [B, D]: all frames alike."""

    def forward(self, features_BTD: torch.Tensor) -> torch.Tensor:
        return features_BTD.mean(dim=1)

    def weights(self, features_BTD: torch.Tensor) -> torch.Tensor:
        """1 / T for every frame, [B, T]."""
        return torch.full_like(features_BTD[..., 0], 1 / features_BTD.shape[1])


def time_code(frames: int, dim: int) -> torch.Tensor:
    """Sines in even columns, cosines in odd ones, of frame / 10000^(2 i / dim): [T, D]."""
    pairs = -(-dim // 2)
    rates = 10000.0 ** (-torch.arange(pairs) * 2 / dim)
    angles = torch.arange(frames)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dim].contiguous()


class MeanViews(nn.Module):
    """[B, V, T, D] -> [B, T, D]: the mean of the cameras that are seen."""

    def forward(self, features_BVTD: torch.Tensor, seen_BV: torch.Tensor) -> torch.Tensor:
        return _mean_seen(features_BVTD, seen_BV)


class ConcatViews(nn.Module):
    """[B, V, T, D] -> [B, T, D]: side by side, zeros for an unseen camera, then linear."""

    def __init__(self, dim: int, views: int) -> None:
        super().__init__()
        self.linear = nn.Linear(views * dim, dim)

    def forward(self, features_BVTD: torch.Tensor, seen_BV: torch.Tensor) -> torch.Tensor:
        kept = features_BVTD * seen_BV[:, :, None, None].to(features_BVTD.dtype)
        return self.linear(kept.transpose(1, 2).flatten(2))


class AttendViews(nn.Module):
    """[B, V, T, D] -> [B, T, D]: in every frame the cameras look at each other (8 heads), then the
    mean of those that are seen."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, features_BVTD: torch.Tensor, seen_BV: torch.Tensor) -> torch.Tensor:
        packed = self.qkv(features_BVTD).unflatten(-1, (3, VIEW_HEADS, -1))
        query, key, value = packed.permute(3, 0, 2, 4, 1, 5).unbind(0)
        # Softmax over no camera at all would be NaN.
        mask_BV = seen_BV | ~seen_BV.any(dim=1, keepdim=True)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask_BV[:, None, None, None]
        )
        tokens_BTVD = self.out(attended.transpose(2, 3).flatten(3))
        return _mean_seen(features_BVTD + tokens_BTVD.transpose(1, 2), seen_BV)


def view_fusion(kind: ViewFusion, dim: int, views: int) -> nn.Module:
    """The module that makes one of several cameras."""
    if kind == "concat":
        return ConcatViews(dim, views)
    return AttendViews(dim) if kind == "attention" else MeanViews()


def _mean_seen(features_BVTD: torch.Tensor, seen_BV: torch.Tensor) -> torch.Tensor:
    weights_BV = seen_BV.to(features_BVTD.dtype)
    weights_BV = weights_BV / weights_BV.sum(dim=1, keepdim=True).clamp(min=1)
    return (features_BVTD * weights_BV[:, :, None, None]).sum(dim=1)


class Heads(nn.Module):
    """[B, D] -> [B, K + 3 P]: logits, then every target's position in standard deviations.

    Every answer has two layers of its own, with dropout before each.
    """

    def __init__(self, dim: int, num_classes: int, targets: Sequence[str], dropout: float) -> None:
        super().__init__()
        self.positions = nn.ModuleList(_head(dim, 3, dropout) for _ in targets)
        # Last, as the classes of a saved model are counted at the last tensor of its heads.
        self.classifier = _head(dim, num_classes, dropout)

    def forward(self, pooled_BD: torch.Tensor) -> torch.Tensor:
        answers = [self.classifier(pooled_BD), *(head(pooled_BD) for head in self.positions)]
        return torch.cat(answers, dim=1).float()


def _head(dim: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(dim, HIDDEN),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN, outputs),
    )
