"""Stacking: logistic regression on the joined features of trained experts, which stay as they are.

Shapes: B images, E experts, d_k features of expert k, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.image.experts import (
    as_backbone,
    expert_specs,
    families_of,
    feature_dims_of,
    put_weights,
)
from regatta.models.logistic import LogisticRegressor
from regatta.models.spec import ModelSpec, Size, describe_config, image_spec


class Stacking(nn.Module):
    """Scores [B, K] of images [B, 3, H, W]; solved for, not trained by steps.

    Source: Wolpert 1992, Stacked generalization; on features in the place of answers.
    """

    def __init__(
        self, experts: Sequence[nn.Module], num_classes: int, feature_dims: Sequence[int]
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts).requires_grad_(False)
        self.feature_channels = tuple(range(len(experts)))
        features = sum(feature_dims)
        self.head = LogisticRegressor(nn.Identity(), features=features, num_classes=num_classes)

    def describe(self, inputs: torch.Tensor) -> torch.Tensor:
        """Joined features float64 [B, sum of d_k], of experts in evaluation mode."""
        self.experts.eval()
        with torch.no_grad():
            parts = [as_backbone(expert).features(inputs) for expert in self.experts]
        return torch.cat(parts, dim=1).double()

    def decide(self, features_BF: torch.Tensor) -> torch.Tensor:
        return self.head.decide(features_BF)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.decide(self.describe(images_BCHW))

    def candidates(self) -> list[dict[str, float]]:
        return self.head.candidates()

    def fit(
        self,
        features_NF: torch.Tensor,
        labels_N: torch.Tensor,
        *,
        setting: dict[str, float],
        balanced: bool,
        seed: int,
    ) -> dict[str, Any]:
        return self.head.fit(features_NF, labels_N, setting=setting, balanced=balanced, seed=seed)

    def load_expert(
        self, expert: int, state: Mapping[str, torch.Tensor], *, source: object = None
    ) -> None:
        """Put a trained backbone in the place of expert number `expert`; WeightsError."""
        put_weights(f"expert {expert}", self.experts[expert], state, source)


@MODELS.register("expert-stacking")
def expert_stacking(
    *,
    size: Size = "base",
    family: str | None = None,
    families: list[str] | None = None,
    experts: int = 4,
    expert_classes: list[int] | None = None,
    image_size: int = 32,
    expert_options: dict[str, Any] | None = None,
) -> ModelSpec:
    """Logistic regression on the joined features of trained experts; its penalty by validation.

    Args:
        size, family, families, experts, expert_classes, image_size, expert_options: as of `fusion`.
    """
    names = families_of(family, families, experts)
    specs = expert_specs(size, names, image_size, expert_options or {})
    dims = feature_dims_of(specs)

    def build(num_classes: int) -> nn.Module:
        counts = expert_classes or [num_classes] * experts
        parts = [spec.build(count) for spec, count in zip(specs, counts, strict=True)]
        return Stacking(parts, num_classes, dims)

    config = describe_config(
        "expert-stacking",
        size,
        family=family,
        families=families,
        experts=experts,
        expert_classes=expert_classes,
        image_size=image_size,
        expert_options=expert_options,
    )
    return image_spec("expert-stacking", build, image_size=image_size, config=config)
