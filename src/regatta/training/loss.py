"""The training loss: cross-entropy with label smoothing, class weights and mixed labels.

Shapes: B samples, K classes, H heads, of which the first is the global one and E = H - 1 are the
experts' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

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
    """Samples whose highest score is their label's; a mixed sample counts its share. Of several
    heads, the first alone."""
    first_loss: torch.Tensor | None = None
    """With a graph; the part of `loss` that the first column of `part_columns` names. None = the
    loss has one part."""
    second_loss: torch.Tensor | None = None
    """With a graph; the other part, before it is weighted."""

    def sums(self) -> torch.Tensor:
        """Loss, weight and correct [3]; of a loss of two parts both as well [5]."""
        parts = (self.loss, self.weight, self.correct, self.first_loss, self.second_loss)
        return torch.stack([part.detach() for part in parts if part is not None])

    @classmethod
    def nothing(cls, outputs: torch.Tensor, *, has_parts: bool) -> BatchLoss:
        """Zeros that hang on the graph of `outputs`, for a batch without samples."""
        zero = outputs.float().sum() * 0.0
        parts = (zero, zero) if has_parts else (None, None)
        return cls(zero, zero.detach(), zero.detach(), *parts)


@dataclass(frozen=True)
class TrainingLoss:
    """Sum over samples of w_y [(1 - e) CE(label) + e mean_k CE(k)], with e the smoothing.

    The step divides the sum by the sum of the weights w of all its samples (over micro-batches and
    ranks), so its gradient is that of their weighted mean, as `CrossEntropyLoss(weight=...)` has it
    for one batch: the learning rate means the same with weights and without. With weights, the
    smoothing term of class k weighs w_k, as in torch.

    Of several heads it is that sum of the first + alpha R over the experts' heads of their own,
    with R their sum or their mean; labels, smoothing and weights are the same for all heads.

    Source of the smoothing: Szegedy et al. 2016, Rethinking the Inception architecture, section 7.
    """

    label_smoothing: float = 0.0
    class_weights_K: torch.Tensor | None = None
    alpha: float = 1.0
    reduction: Literal["sum", "mean"] = "sum"
    part_columns: ClassVar[tuple[str, str]] = ("loss_global", "loss_individual")
    """Of metrics.jsonl; a model of one head has neither."""

    def nothing(self, logits: torch.Tensor) -> BatchLoss:
        """Of a batch without samples."""
        return BatchLoss.nothing(logits, has_parts=logits.dim() == 3)

    def of(self, logits: torch.Tensor, labels: torch.Tensor | MixedLabels) -> BatchLoss:
        """The sums in float32.

        Args:
            logits: [B, K], or [B, H, K] of several heads.
            labels: class numbers [B] or pairs of them.
        """
        scores = logits.float()
        first_BK = scores if scores.dim() == 2 else scores[:, 0]
        predicted_B = first_BK.detach().argmax(dim=1)
        if isinstance(labels, torch.Tensor):
            return self._of_labels(scores, labels, predicted_B)
        # Linear in the target: the loss of a mixed target is the mixed loss of its two labels
        # (Zhang et al. 2018, mixup, section 2).
        first = self._of_labels(scores, labels.first_B, predicted_B)
        second = self._of_labels(scores, labels.second_B, predicted_B)
        mixed = {}
        for field in fields(BatchLoss):
            one, other = getattr(first, field.name), getattr(second, field.name)
            if one is not None:
                mixed[field.name] = labels.share * one + (1.0 - labels.share) * other
        return BatchLoss(**mixed)

    def _of_labels(
        self, scores: torch.Tensor, labels_B: torch.Tensor, predicted_B: torch.Tensor
    ) -> BatchLoss:
        weights_K = self.class_weights_K
        # A fill on the device: a copy from the host would wait for the device.
        count = torch.full((), float(len(labels_B)), device=scores.device)
        weight = count if weights_K is None else weights_K[labels_B].sum()
        correct = (predicted_B == labels_B).sum()
        if scores.dim() == 2:
            return BatchLoss(self._sum(scores, labels_B), weight, correct)
        experts = scores.shape[1] - 1
        of_all = labels_B.repeat_interleave(experts)
        individual = self._sum(scores[:, 1:].flatten(0, 1), of_all)
        if self.reduction == "mean":
            individual = individual / max(experts, 1)
        of_first = self._sum(scores[:, 0], labels_B)
        loss = of_first + self.alpha * individual
        return BatchLoss(loss, weight, correct, of_first, individual)

    def _sum(self, scores_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        return training_loss_sum(
            scores_BK,
            labels_B,
            label_smoothing=self.label_smoothing,
            class_weights_K=self.class_weights_K,
        )


def build_loss(train: TrainSection, class_weights_K: torch.Tensor | None = None) -> TrainingLoss:
    """The loss of a recipe.

    Args:
        class_weights_K: of `class_weights`, on the device of the scores.
    """
    return TrainingLoss(
        train.label_smoothing, class_weights_K, train.loss.alpha, train.loss.reduction
    )


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
