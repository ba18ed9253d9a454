"""The entry that looks at nothing: what a model must beat."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.spec import ModelSpec, Size, describe_config, signal_spec


class ClassShares(nn.Module):
    """One score per class, the same for every sample: the log of its share in training."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.log_share_K = nn.Parameter(torch.zeros(num_classes), requires_grad=False)

    def forward(self, features_BF: torch.Tensor) -> torch.Tensor:
        return self.log_share_K.expand(len(features_BF), -1)


class Majority(nn.Module):
    """Scores every sample with the class shares of the training split."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = ClassShares(num_classes)

    def describe(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.new_zeros((len(inputs), 0), dtype=torch.double)

    def decide(self, features_BF: torch.Tensor) -> torch.Tensor:
        return self.head(features_BF)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.decide(self.describe(inputs))

    def candidates(self) -> list[dict[str, float]]:
        return [{}]

    def fit(
        self,
        features_NF: torch.Tensor,  # noqa: ARG002
        labels_N: torch.Tensor,
        *,
        setting: dict[str, float],  # noqa: ARG002
        balanced: bool,  # noqa: ARG002 - shares are what it is about
        seed: int,  # noqa: ARG002
    ) -> dict[str, Any]:
        counts = torch.bincount(labels_N, minlength=len(self.head.log_share_K))
        self.head.log_share_K.copy_((counts / counts.sum()).log())
        return {"class_counts": counts.tolist()}


@MODELS.register("majority")
def majority(*, size: Size = "base", channels: int = 9, length: int = 128) -> ModelSpec:
    """The most frequent class of the training split, whatever the signal."""
    return signal_spec(
        "majority",
        Majority,
        channels=channels,
        length=length,
        config=describe_config("majority", size),
    )
