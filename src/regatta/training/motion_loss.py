"""The training loss of models that say a class and places: cross-entropy and squared error.

Shapes: B samples, K classes, P targets, each a place in three coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.errors import RunError
from regatta.models.contracts import HasPositions
from regatta.training.loss import BatchLoss, TrainingLoss, build_loss, training_loss_sum
from regatta.training.mix import MixedLabels


@runtime_checkable
class HasTargets(Protocol):
    """A batch that knows where things are."""

    targets: torch.Tensor
    """float32 [B, P, 3] in world units; NaN where a place is not known."""


def loss_of(
    loss: TrainingLoss | MotionLoss,
    outputs: torch.Tensor,
    labels: torch.Tensor | MixedLabels,
    batch: object,
) -> BatchLoss:
    """The sums of one batch on the device of its outputs; RunError when it lacks targets."""
    if isinstance(loss, TrainingLoss):
        return loss.of(outputs, labels)
    assert isinstance(labels, torch.Tensor), "check_recipe refuses mixing for places"
    return loss.of(outputs, labels, targets_of(batch, outputs.device))


def targets_of(batch: object, device: torch.device) -> torch.Tensor:
    """The targets of a batch on the run's device; RunError when its loader gives none."""
    if not isinstance(batch, HasTargets):
        raise RunError(
            "the model is trained on places, but the samples have none",
            hint="train it on a source of scenes; see `regatta ls sources`",
        )
    return batch.targets.to(device, non_blocking=True)


@dataclass(frozen=True)
class MotionLoss:
    """Sum over samples of w_c CE(class) + w_p mean over coordinates of ((said - true) / sd)^2.

    Places are added over the targets; one that is not known adds nothing. With `log_variances` s
    both weights are learned: exp(-s_c) CE + s_c + exp(-s_p) SE + s_p.

    Source: Kendall, Gal and Cipolla 2018, Multi-task learning using uncertainty to weigh losses,
    section 3, with log variances in place of variances.

    scale_P3: sd of the training targets, or ones for raw world units.
    """

    scale_P3: torch.Tensor
    class_weight: float = 1.0
    position_weight: float = 1.0
    label_smoothing: float = 0.0
    class_weights_K: torch.Tensor | None = None
    log_variances: torch.Tensor | None = None
    part_columns: ClassVar[tuple[str, str]] = ("loss_class", "loss_position")

    def nothing(self, outputs: torch.Tensor) -> BatchLoss:
        """Of a batch without samples."""
        zero = BatchLoss.nothing(outputs, has_parts=True)
        if self.log_variances is None:
            return zero
        # Every rank must have a gradient of every parameter.
        return replace(zero, loss=zero.loss + self.log_variances.sum() * 0.0)

    def of(
        self, outputs: torch.Tensor, labels_B: torch.Tensor, targets_BP3: torch.Tensor
    ) -> BatchLoss:
        """The sums in float32.

        Args:
            outputs: [B, K + 3 P], see `contracts.HasPositions`.
        """
        targets = targets_BP3.shape[1]
        logits_BK = outputs[:, : -3 * targets].float()
        said_BP3 = outputs[:, -3 * targets :].float().unflatten(1, (targets, 3))
        weights_K = self.class_weights_K
        weight_B = torch.ones_like(logits_BK[:, 0]) if weights_K is None else weights_K[labels_B]
        of_class = training_loss_sum(
            logits_BK,
            labels_B,
            label_smoothing=self.label_smoothing,
            class_weights_K=weights_K,
        )
        of_places = (self._squared_errors(said_BP3, targets_BP3) * weight_B).sum()
        weight = weight_B.sum()
        correct = (logits_BK.detach().argmax(dim=1) == labels_B).sum()
        loss = self._joined(of_class, of_places, weight)
        return BatchLoss(loss, weight, correct, of_class, of_places)

    def _squared_errors(self, said_BP3: torch.Tensor, targets_BP3: torch.Tensor) -> torch.Tensor:
        """[B], mean over coordinates and sum over targets, scaled."""
        known = torch.isfinite(targets_BP3)
        # Not said - target where that is NaN: its gradient would be NaN as well.
        true = torch.where(known, targets_BP3, said_BP3.detach())
        return (((said_BP3 - true) / self.scale_P3) ** 2).mean(dim=2).sum(dim=1)

    def _joined(
        self, of_class: torch.Tensor, of_places: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        if self.log_variances is None:
            return self.class_weight * of_class + self.position_weight * of_places
        class_s, place_s = self.log_variances.float()
        weighed = torch.exp(-class_s) * of_class + torch.exp(-place_s) * of_places
        return weighed + (class_s + place_s) * weight


def recipe_loss(
    train: TrainSection, module: nn.Module, class_weights_K: torch.Tensor | None = None
) -> TrainingLoss | MotionLoss:
    """The loss of a recipe for a module that is on its device, and knows the sd of its targets
    where it says places."""
    if not isinstance(module, HasPositions):
        return build_loss(train, class_weights_K)
    places = train.positions
    sd_P3 = module.position_sd
    return MotionLoss(
        scale_P3=sd_P3 if places.units == "standardised" else torch.ones_like(sd_P3),
        class_weight=places.class_weight,
        position_weight=places.weight,
        label_smoothing=train.label_smoothing,
        class_weights_K=class_weights_K,
        log_variances=module.log_variances,
    )
