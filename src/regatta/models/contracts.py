"""What a module of signals or images may offer beside forward; a module has it or has not.

Shapes: B samples of a batch, N samples, C channels, L samples of a window, d width of a feature
vector, P channels that are encoded, K classes. Signals are float32 in their own units.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    @property
    def encoder(self) -> nn.Module: ...

    @property
    def head(self) -> nn.Module:
        """Takes features [B, P, d] (or tokens [B, P, T, d]) and returns logits [B, K]."""
        ...

    @property
    def feature_channels(self) -> tuple[int, ...]: ...

    def encode_channel(self, inputs: torch.Tensor, channel: int, /) -> torch.Tensor:
        """Features [B, d] of one channel of signals, or of one expert on images; without dropout
        when in evaluation mode."""
        ...

    def encoding_identity(self) -> dict[str, Any]:
        """JSON of everything beside weights and buffers that the features depend on."""
        ...


@runtime_checkable
class FitsDirectly(Protocol):
    """Is not trained step by step but solved for, as a logistic regression is:
    `forward(x)` is `decide(describe(x))`."""

    def describe(self, inputs: torch.Tensor) -> torch.Tensor:
        """Features float64 [B, F] of samples as forward takes them; does not depend on the fit."""
        ...

    def decide(self, features_BF: torch.Tensor) -> torch.Tensor:
        """Scores [B, K], as logits."""
        ...

    def candidates(self) -> list[dict[str, float]]:
        """Settings that validation chooses among; one empty dict where there is no choice."""
        ...

    def fit(
        self,
        features_NF: torch.Tensor,
        labels_N: torch.Tensor,
        *,
        setting: dict[str, float],
        balanced: bool,
        seed: int,
    ) -> dict[str, Any]:
        """Set parameters and buffers from training samples, on the CPU; every class is among them.

        Args:
            balanced: classes weigh the same, whatever their number of samples.
        Returns:
            JSON facts of this fit, such as whether the solver converged.
        """
        ...


@runtime_checkable
class SizedByFit(Protocol):
    """Has tensors whose size the training samples decide, so that a saved model says it."""

    def take_sizes(self, state: dict[str, torch.Tensor]) -> None:
        """Make room for the tensors of a saved state, given under this module's own keys."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A classifier of images that shows its features: `forward(x)` is `head(features(x))`."""

    head: nn.Module
    feature_dim: int

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Features [B, feature_dim] of normalised images, after global average pooling."""
        ...

    def features_and_logits(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B, feature_dim] and logits [B, K] of one pass."""
        ...


@runtime_checkable
class TakesExperts(Protocol):
    """Is built of trained classifiers, which are put into it before it is trained itself."""

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """A number for each expert."""
        ...

    def load_expert(
        self, expert: int, state: Mapping[str, torch.Tensor], *, source: object = None
    ) -> None:
        """Put a trained backbone's state in the place of an expert; WeightsError if it does not
        fit."""
        ...


@runtime_checkable
class HasHeads(Protocol):
    """Answers with several classifiers at once: forward returns logits [B, H, K] in every mode.

    The first head is the answer of the whole system: it is validated, selected and judged as any
    model's; the others are recorded beside it.
    """

    head_names: tuple[str, ...]
    """H names, ("global", "expert-0", "expert-1" ...)."""


@runtime_checkable
class HasPositions(Protocol):
    """Says beside the class where something is: forward returns float32 [B, K + 3 P] in every mode,
    K logits and then the positions of P targets, in world units."""

    position_names: tuple[str, ...]
    """P targets, ("forecast",) or also ("last-visible",); the first is selected on and judged."""
    position_mean: torch.Tensor
    """[P, 3] mean of the training targets."""
    position_sd: torch.Tensor
    """[P, 3] standard deviation of each coordinate over the training targets."""
    log_variances: torch.Tensor | None
    """[2] learned log variances of the class loss and of the position loss; None = fixed weights.
    """

    def fit_targets(self, targets_NP3: torch.Tensor) -> None:
        """Keep mean and sd of the training targets; called once, before the first step."""
        ...
