"""Unsmoothed loss and class scores on the validation split, exact over ranks.

Shapes: N samples of this rank, K classes, H heads. Of several heads the first is scored and judged,
the others are only recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from regatta.core.errors import DataError, NonFiniteError
from regatta.metrics.classification import mean_f1, recalls
from regatta.models.contracts import HasHeads, HasPositions
from regatta.training.batches import BatchSource, open_batches
from regatta.training.distributed import Ranks
from regatta.training.motion_loss import HasTargets
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
    of_positions: dict[str, float] = field(default_factory=dict)
    """Of a model that says places, for its first target: `mse` (mean over coordinates) and `rmse`
    in world units, and `joint`, see `joint_score`."""


def validate(
    module: nn.Module,
    source: BatchSource,
    *,
    num_classes: int,
    preparation: Preparation,
    ranks: Ranks,
    keep_going: Callable[[], bool],
    head_names: Sequence[str] = ONE_HEAD,
    places: HasPositions | None = None,
) -> ValidationScore | None:
    """Score the whole validation split, or None when `keep_going` said no between two batches.

    Every rank sees its share once and sums are exchanged: the score does not depend on their
    number.

    Args:
        head_names: of a module that gives logits [B, H, K]; see `contracts.HasHeads`.
        places: the module, where it says places beside the class.
    Raises:
        NonFiniteError: a score is NaN or infinite; names the samples.
        DataError: the split is empty.
    """
    width = num_classes + (3 * len(places.position_names) if places else 0)
    found = _predict(module, source, (len(head_names), width), preparation, keep_going)
    if found is None:
        return None
    outputs_NHF, labels_N, targets_NP3, sample_ids = found
    logits_NHK = outputs_NHF[..., :num_classes]
    logits_NK = logits_NHK[:, 0].contiguous()
    loss = functional.cross_entropy(logits_NK.double(), labels_N, reduction="sum").item()
    others = _other_heads(logits_NHK[:, 1:], labels_N)
    said_N3 = outputs_NHF[:, 0, num_classes : num_classes + 3]
    errors = [] if places is None else _place_sums(said_N3, targets_NP3, places)
    cells = labels_N * num_classes + logits_NK.argmax(dim=1)
    counts = torch.bincount(cells, minlength=num_classes**2)
    summed = ranks.sum([loss, len(labels_N), *counts.tolist(), *others, *errors])
    loss_sum, samples, *summed = summed
    errors = summed[len(summed) - len(errors) :]
    if samples == 0:
        raise DataError(
            "the validation split has no sample",
            hint="raise data.validation_fraction, or give the data set a validation split",
        )
    finite_N = torch.isfinite(outputs_NHF).flatten(1).all(dim=1).tolist()
    bad_ids = [name for name, ok in zip(sample_ids, finite_N, strict=True) if not ok]
    _refuse_nonfinite([name for share in ranks.gather(bad_ids) for name in share])
    cell_counts, others = summed[: num_classes**2], summed[num_classes**2 :]
    counts_KK = np.array(cell_counts, dtype=np.int64).reshape(num_classes, num_classes)
    balanced = float(np.nanmean(recalls(counts_KK)))
    return ValidationScore(
        loss=loss_sum / samples,
        accuracy=float(counts_KK.trace() / samples),
        balanced_accuracy=balanced,
        macro_f1=mean_f1(counts_KK),
        samples=int(samples),
        logits_NK=logits_NK.numpy(),
        labels_N=labels_N.numpy(),
        heads={
            name: {"loss": others[2 * row] / samples, "accuracy": others[2 * row + 1] / samples}
            for row, name in enumerate(head_names[1:])
        },
        of_positions=_place_scores(errors, balanced) if errors else {},
    )


def joint_score(balanced_accuracy: float, rmse: float, rmse_of_mean: float) -> float:
    """balanced accuracy - 0.1 x rmse / (rmse of always answering the training targets' mean)."""
    return balanced_accuracy - 0.1 * rmse / rmse_of_mean


def _place_sums(
    said_N3: torch.Tensor, targets_NP3: torch.Tensor, module: HasPositions
) -> list[float]:
    """Samples whose place is known, their squared errors, and those of the training mean."""
    if not len(targets_NP3):
        return [0.0, 0.0, 0.0]
    targets_N3 = targets_NP3[:, 0]
    known_N = torch.isfinite(targets_N3).all(dim=1)
    true = targets_N3[known_N].double()
    mean_3 = module.position_mean[0].cpu().double()
    squared = [((guess - true) ** 2).mean(dim=1).sum() for guess in (said_N3[known_N], mean_3)]
    return [float(known_N.sum()), *(float(total) for total in squared)]


def _place_scores(sums: Sequence[float], balanced_accuracy: float) -> dict[str, float]:
    known, squared, of_mean = sums
    if not known:
        raise DataError(
            "no validation sample has a known place to compare with",
            hint="train on data with labels of places, or on target last-visible",
        )
    rmse, rmse_of_mean = math.sqrt(squared / known), math.sqrt(of_mean / known)
    joint = joint_score(balanced_accuracy, rmse, rmse_of_mean)
    return {"mse": squared / known, "rmse": rmse, "joint": joint}


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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]] | None:
    """Outputs float32 [N, H, F], labels [N], places [N, P, 3] where the samples have any (all on
    the CPU) and ids of this rank's samples."""
    targets: list[torch.Tensor] = []
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
            if isinstance(batch, HasTargets):
                targets.append(batch.targets.cpu())
            sample_ids += batch.sample_ids
        places = torch.cat(targets) if targets else torch.empty(0, 0, 3)
        return torch.cat(logits).cpu(), torch.cat(labels), places, sample_ids


def _refuse_nonfinite(sample_ids: list[str]) -> None:
    if sample_ids:
        raise NonFiniteError(
            f"scores of {len(sample_ids)} samples are not finite in validation: "
            f"{', '.join(sample_ids[:4])}",
            hint="look at those samples; lower train.lr, or use train.precision: fp32",
        )
