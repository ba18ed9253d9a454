"""What a module of signals may offer beside forward; a module has it or has not.

Shapes: B samples of a batch, N samples, C channels, L samples of a window, d width of a feature
vector, P channels that are encoded, K classes. Signals are float32 in their own units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class FitsStatistics(Protocol):
    """Keeps numbers of the training windows as buffers: mean and sd, or the range of a drawing."""

    def fit_statistics(self, signals_NCL: torch.Tensor) -> None:
        """Measure the training windows; called once, before the first step."""
        ...


@runtime_checkable
class EncodesOnce(Protocol):
    """Is `head(stack(encode_channel(x, c) for c in feature_channels))`: with a frozen encoder the
    vectors of a window never change, so they are computed once."""

    encoder: nn.Module
    head: nn.Module
    """Takes features [B, P, d] (or tokens [B, P, T, d]) and returns logits [B, K]."""
    feature_channels: tuple[int, ...]

    def encode_channel(self, signals_BCL: torch.Tensor, channel: int) -> torch.Tensor:
        """Features [B, d] of one channel, without dropout when in evaluation mode."""
        ...

    def encoding_identity(self) -> dict[str, Any]:
        """JSON of everything beside weights and buffers that the features depend on."""
        ...


@runtime_checkable
class FitsDirectly(Protocol):
    """Is not trained step by step but solved for, as a logistic regression is."""

    def fit(
        self,
        inputs: torch.Tensor,
        labels_N: torch.Tensor,
        *,
        validation: tuple[torch.Tensor, torch.Tensor],
        classes: Sequence[str],
        seed: int,
    ) -> dict[str, Any]:
        """Set the buffers from training samples; validation chooses settings such as the penalty.

        Returns:
            JSON facts for training_results.json: what was tried and chosen.
        """
        ...
