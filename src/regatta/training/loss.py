"""The training loss: cross-entropy with label smoothing, class weights and mixed labels.

Shapes: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from regatta.config.schema import TrainSection
from regatta.core.errors import ConfigError, DataError
from regatta.training.mix import MixedLabels


@dataclass(frozen=True)
class BatchLoss:
    """Sums over the samples of one micro-batch, scalars on its device."""

    loss: torch.Tensor
    """With a graph; of (weight of the sample x its loss)."""
    weight: torch.Tensor
    """Of the samples' weights: their number when classes are not weighted."""
    correct: torch.Tensor
    """Samples whose highest score is their label's; a mixed sample counts its share."""


@dataclass(frozen=True)
class TrainingLoss:
    """Sum over samples of w_y [(1 - e) CE(label) + e mean_k CE(k)], with e the smoothing.

    The step divides the sum by the sum of the weights w of all its samples (over micro-batches and
    ranks), so its gradient is that of their weighted mean, as `CrossEntropyLoss(weight=...)` has it
    for one batch: the learning rate means the same with weights and without. With weights, the
    smoothing term of class k weighs w_k, as in torch.

    Source of the smoothing: Szegedy et al. 2016, Rethinking the Inception architecture, section 7.
    """

    label_smoothing: float = 0.0
    class_weights_K: torch.Tensor | None = None

    def of(self, logits_BK: torch.Tensor, labels: torch.Tensor | MixedLabels) -> BatchLoss:
        """The sums in float32; `labels` are class numbers [B] or pairs of them."""
        scores_BK = logits_BK.float()
        predicted_B = scores_BK.detach().argmax(dim=1)
        if isinstance(labels, torch.Tensor):
            return self._of_labels(scores_BK, labels, predicted_B)
        # Linear in the target: the loss of a mixed target is the mixed loss of its two labels
        # (Zhang et al. 2018, mixup, section 2).
        first = self._of_labels(scores_BK, labels.first_B, predicted_B)
        second = self._of_labels(scores_BK, labels.second_B, predicted_B)
        return BatchLoss(
            *(
                labels.share * one + (1.0 - labels.share) * other
                for one, other in (
                    (first.loss, second.loss),
                    (first.weight, second.weight),
                    (first.correct, second.correct),
                )
            )
        )

    def _of_labels(
        self, scores_BK: torch.Tensor, labels_B: torch.Tensor, predicted_B: torch.Tensor
    ) -> BatchLoss:
        weights_K = self.class_weights_K
        loss = training_loss_sum(
            scores_BK, labels_B, label_smoothing=self.label_smoothing, class_weights_K=weights_K
        )
        # A fill on the device: a copy from the host would wait for the device.
        count = torch.full((), float(len(labels_B)), device=scores_BK.device)
        weight = count if weights_K is None else weights_K[labels_B].sum()
        return BatchLoss(loss, weight, (predicted_B == labels_B).sum())


def training_loss_sum(
    logits_BK: torch.Tensor,
    labels_B: torch.Tensor,
    *,
    label_smoothing: float,
    class_weights_K: torch.Tensor | None = None,
) -> torch.Tensor:
    """The sum that `TrainingLoss` describes, in float32, for one label per sample."""
    return functional.cross_entropy(
        logits_BK.float(),
        labels_B,
        weight=class_weights_K,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def class_weights(
    train: TrainSection, counts: Sequence[int] | None, classes: Sequence[str]
) -> torch.Tensor | None:
    """The recipe's weight of each class, float32 [K]: None, or balanced = N / (K n_k).

    n_k of the N training samples are of class k.
    Source: King and Zeng 2001, Logistic regression in rare events data, section 3.2.

    Raises:
        ConfigError: the counts are not known.
        DataError: a class has no training sample.
    """
    if train.class_weights == "none":
        return None
    if counts is None:
        raise ConfigError(
            "class weights need the number of training samples of each class",
            where="train.class_weights",
            hint="give class_counts to train_run, or set train.class_weights: none",
        )
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"{len(empty)} class(es) without a training sample cannot be weighted: "
            f"{', '.join(empty[:10])}",
            where="train.class_weights",
            hint="add training samples of these classes, or set train.class_weights: none",
        )
    total = sum(counts)
    return torch.tensor([total / (len(counts) * count) for count in counts])
