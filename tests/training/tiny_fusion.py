"""A fusion of two experts that is small enough to follow by hand, with the parameter names of real
ones; E experts, d features, K classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from regatta.models.image.fusion import as_backbone
from regatta.models.spec import ModelSpec
from tests.training.tiny_training import tiny_run, tiny_spec

FEATURES = 4


class TinyExpert(nn.Module):
    def __init__(self, outputs: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.body = nn.Linear(2 * 3 * 4 * 4, FEATURES)
        self.norm = nn.BatchNorm1d(FEATURES) if batch_norm else nn.LayerNorm(FEATURES)
        self.dropout = nn.Dropout(0.1 if batch_norm else 0.0)
        self.head = nn.Linear(FEATURES, outputs)
        self.feature_dim = FEATURES

    def features(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(self.body(video_BTCHW.flatten(1))))

    def features_and_logits(self, video_BTCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(video_BTCHW)
        return features, self.head(features)


class TinyFusionHead(nn.Module):
    def __init__(self, experts: int, outputs: int) -> None:
        super().__init__()
        self.fusion = nn.Linear(experts * FEATURES, FEATURES)
        self.classifier = nn.Linear(FEATURES, outputs)

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        fused = self.fusion(encoded[..., :FEATURES].flatten(1)).relu()
        return torch.cat([self.classifier(fused)[:, None], encoded[..., FEATURES:]], dim=1)


class TinyFusion(nn.Module):
    """Logits [B, 1 + E, K] of clips; without dropout and batch statistics unless asked for."""

    def __init__(self, *, experts: int = 2, outputs: int = 3, batch_norm: bool = False) -> None:
        super().__init__()
        self.head_names = ("global", *(f"expert-{number}" for number in range(experts)))
        parts = [TinyExpert(outputs, batch_norm=batch_norm) for _ in range(experts)]
        self.experts = nn.ModuleList(parts)
        self.head = TinyFusionHead(experts, outputs)

    def encode(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        """What the head needs of all experts, [B, E, d + K]."""
        pairs = [as_backbone(expert).features_and_logits(video_BTCHW) for expert in self.experts]
        return torch.stack([torch.cat(pair, dim=1) for pair in pairs], dim=1)

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        return self.head(self.encode(video_BTCHW))


def tiny_fusion(*, seed: int = 0, **options: Any) -> TinyFusion:
    torch.manual_seed(seed)
    return TinyFusion(**options)


def fusion_spec() -> ModelSpec:
    config = {"name": "tiny-fusion", "size": "tiny", "options": {"experts": 2}}
    return tiny_spec(config=config, build=lambda classes: TinyFusion(outputs=classes))


def fusion_run(path: Path, **changes: Any) -> dict[str, Any]:
    """As `tiny_run`, of a fusion."""
    return tiny_run(path, **{"module": tiny_fusion(), "spec": fusion_spec(), **changes})
