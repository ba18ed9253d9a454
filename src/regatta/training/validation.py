"""Unsmoothed loss and accuracy on the validation split, exact over ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from regatta.core.errors import DataError, NonFiniteError
from regatta.training.batches import Batch, BatchSource, open_batches
from regatta.training.distributed import Ranks
from regatta.training.step import Preparation


@dataclass(frozen=True)
class ValidationScore:
    loss: float
    """Mean cross-entropy per sample, without label smoothing."""
    accuracy: float
    """Fraction."""
    samples: int


def validate(
    module: nn.Module,
    source: BatchSource,
    *,
    preparation: Preparation,
    ranks: Ranks,
    keep_going: Callable[[], bool],
) -> ValidationScore | None:
    """Score the whole validation split, or None when `keep_going` said no between two batches.

    Every rank sees its share once and sums are exchanged: the score does not depend on their
    number.

    Raises:
        NonFiniteError: a score is NaN or infinite; names the samples.
        DataError: the split is empty.
    """
    loss_sum, correct, samples = 0.0, 0.0, 0.0
    bad_ids: list[str] = []
    module.eval()
    with torch.inference_mode(), open_batches(source, 0) as batches:
        for batch in batches:
            # All ranks have the same number of batches, so all of them ask here equally often.
            if not keep_going():
                return None
            if len(batch.labels):
                batch_loss, batch_correct, batch_bad_ids = _score_batch(module, batch, preparation)
                loss_sum += batch_loss
                correct += batch_correct
                samples += len(batch.labels)
                bad_ids += batch_bad_ids
    loss_sum, correct, samples = ranks.sum([loss_sum, correct, samples])
    if samples == 0:
        raise DataError(
            "the validation split has no sample",
            hint="raise data.validation_fraction, or give the data set a validation split",
        )
    _refuse_nonfinite([name for share in ranks.gather(bad_ids) for name in share])
    return ValidationScore(loss_sum / samples, correct / samples, int(samples))


def _score_batch(
    module: nn.Module, batch: Batch, preparation: Preparation
) -> tuple[float, int, list[str]]:
    """Summed loss, number of correct samples, and the samples whose scores are not finite."""
    with preparation.precision.autocast():
        logits_BK = module(preparation.inputs(batch.inputs)).float()
    labels_B = batch.labels.to(preparation.device)
    loss = functional.cross_entropy(logits_BK.double(), labels_B, reduction="sum")
    finite_B = torch.isfinite(logits_BK).all(dim=1).tolist()
    bad_ids = [name for name, ok in zip(batch.sample_ids, finite_B, strict=True) if not ok]
    return loss.item(), int((logits_BK.argmax(dim=1) == labels_B).sum()), bad_ids


def _refuse_nonfinite(sample_ids: list[str]) -> None:
    if sample_ids:
        raise NonFiniteError(
            f"scores of {len(sample_ids)} samples are not finite in validation: "
            f"{', '.join(sample_ids[:4])}",
            hint="look at those samples; lower train.lr, or use train.precision: fp32",
        )
