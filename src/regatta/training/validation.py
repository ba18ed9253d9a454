"""Unsmoothed loss and class scores on the validation split, exact over ranks.

Shapes: N samples of this rank, K classes, H heads. Of several heads the first is scored and judged,
the others are only recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from regatta.core.errors import DataError, NonFiniteError
from regatta.metrics.classification import mean_f1, recalls
from regatta.models.contracts import HasHeads
from regatta.training.batches import BatchSource, open_batches
from regatta.training.distributed import Ranks
from regatta.training.sharded import is_sharded, no_gradients
from regatta.training.step import Preparation

ONE_HEAD = ("global",)


@dataclass(frozen=True)
class ValidationScore:
    loss: float
    """Mean cross-entropy per sample, without label smoothing and class weights."""
    accuracy: float
    """Fraction, as the two below."""
    balanced_accuracy: float
    """Mean over the classes that have samples."""
    macro_f1: float
    samples: int
    logits_NK: np.ndarray
    """float32, of this rank's samples."""
    labels_N: np.ndarray
    heads: dict[str, dict[str, float]] = field(default_factory=dict)
    """Name of each head but the first -> its loss and accuracy, as above."""


def validate(
    module: nn.Module,
    source: BatchSource,
    *,
    num_classes: int,
    preparation: Preparation,
    ranks: Ranks,
    keep_going: Callable[[], bool],
    head_names: Sequence[str] = ONE_HEAD,
) -> ValidationScore | None:
    """Score the whole validation split, or None when `keep_going` said no between two batches.

    Every rank sees its share once and sums are exchanged: the score does not depend on their
    number.

    Args:
        head_names: of a module that gives logits [B, H, K]; see `contracts.HasHeads`.
    Raises:
        NonFiniteError: a score is NaN or infinite; names the samples.
        DataError: the split is empty.
    """
    found = _predict(module, source, (len(head_names), num_classes), preparation, keep_going)
    if found is None:
        return None
    logits_NHK, labels_N, sample_ids = found
    logits_NK = logits_NHK[:, 0].contiguous()
    loss = functional.cross_entropy(logits_NK.double(), labels_N, reduction="sum").item()
    others = _other_heads(logits_NHK[:, 1:], labels_N)
    cells = labels_N * num_classes + logits_NK.argmax(dim=1)
    counts = torch.bincount(cells, minlength=num_classes**2)
    loss_sum, samples, *summed = ranks.sum([loss, len(labels_N), *counts.tolist(), *others])
    if samples == 0:
        raise DataError(
            "the validation split has no sample",
            hint="raise data.validation_fraction, or give the data set a validation split",
        )
    finite_N = torch.isfinite(logits_NHK).flatten(1).all(dim=1).tolist()
    bad_ids = [name for name, ok in zip(sample_ids, finite_N, strict=True) if not ok]
    _refuse_nonfinite([name for share in ranks.gather(bad_ids) for name in share])
    cell_counts, others = summed[: num_classes**2], summed[num_classes**2 :]
    counts_KK = np.array(cell_counts, dtype=np.int64).reshape(num_classes, num_classes)
    return ValidationScore(
        loss=loss_sum / samples,
        accuracy=float(counts_KK.trace() / samples),
        balanced_accuracy=float(np.nanmean(recalls(counts_KK))),
        macro_f1=mean_f1(counts_KK),
        samples=int(samples),
        logits_NK=logits_NK.numpy(),
        labels_N=labels_N.numpy(),
        heads={
            name: {"loss": others[2 * row] / samples, "accuracy": others[2 * row + 1] / samples}
            for row, name in enumerate(head_names[1:])
        },
    )


def names_of_heads(module: nn.Module) -> tuple[str, ...]:
    """Of each classifier of a model, as it is saved; one that has no names has one."""
    return tuple(module.head_names) if isinstance(module, HasHeads) else ONE_HEAD


def _other_heads(logits_NEK: torch.Tensor, labels_N: torch.Tensor) -> list[float]:
    """Of each head, the sum of its losses and its number of right answers."""
    sums: list[float] = []
    for logits_NK in logits_NEK.unbind(dim=1):
        loss = functional.cross_entropy(logits_NK.double(), labels_N, reduction="sum")
        sums += [loss.item(), float((logits_NK.argmax(dim=1) == labels_N).sum())]
    return sums


def _predict(
    module: nn.Module,
    source: BatchSource,
    shape: tuple[int, int],
    preparation: Preparation,
    keep_going: Callable[[], bool],
) -> tuple[torch.Tensor, torch.Tensor, list[str]] | None:
    """Logits float32 [N, H, K], labels [N] (both on the CPU) and ids of this rank's samples."""
    logits: list[torch.Tensor] = [torch.empty(0, *shape, device=preparation.device)]
    labels: list[torch.Tensor] = [torch.empty(0, dtype=torch.int64)]
    sample_ids: list[str] = []
    module.eval()
    with no_gradients(module), open_batches(source, 0) as batches:
        for batch in batches:
            # All ranks have the same number of batches, so all of them ask here equally often.
            if not keep_going():
                return None
            count, inputs = len(batch.labels), batch.inputs
            if not count and not is_sharded(module):
                continue
            if not count:
                # All ranks of a sharded module compute together, also one without rows.
                inputs = inputs.new_zeros((1, *inputs.shape[1:]))
            with preparation.precision.autocast():
                found = module(preparation.inputs(inputs)).float()[:count]
            logits.append(found.reshape(count, *shape))
            labels.append(batch.labels.cpu())
            sample_ids += batch.sample_ids
        return torch.cat(logits).cpu(), torch.cat(labels), sample_ids


def _refuse_nonfinite(sample_ids: list[str]) -> None:
    if sample_ids:
        raise NonFiniteError(
            f"scores of {len(sample_ids)} samples are not finite in validation: "
            f"{', '.join(sample_ids[:4])}",
            hint="look at those samples; lower train.lr, or use train.precision: fp32",
        )
