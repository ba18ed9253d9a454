"""One optimizer step: accumulate, agree over ranks, unscale, weigh, clip, step.

Shapes: B samples, K classes, logits_BK; inputs are as `batches.Batch` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from regatta.core.errors import DataError
from regatta.data.transforms import normalise
from regatta.training.batches import Batch
from regatta.training.distributed import Ranks
from regatta.training.precision import Precision

Verdict = Literal["applied", "scaler_backoff", "nonfinite"]


@dataclass(frozen=True)
class Preparation:
    """How the inputs of a batch become model input on the run's device.

    mean, std: of the colours of uint8 pictures; floats (signals, features) pass as they are.
    """

    device: torch.device
    precision: Precision
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs on any device -> floats on the run's device."""
        on_device = inputs.to(self.device, non_blocking=True)
        if on_device.dtype != torch.uint8:
            return on_device
        return normalise(on_device, self.mean, self.std, dtype=self.precision.dtype)


@dataclass(frozen=True)
class StepParts:
    """What one optimizer step works on; made once per run."""

    module: nn.Module
    """The module as it is called: plain, in DDP, or compiled."""
    hold_gradients: Callable[[], AbstractContextManager[object]]
    """Context in which a backward pass does not exchange gradients between ranks."""
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    base_rates: list[float]
    """Learning rate of each parameter group before the schedule."""
    scaler: torch.amp.GradScaler
    preparation: Preparation
    ranks: Ranks
    label_smoothing: float
    clip_norm: float | None
    full_samples: int
    """Samples of a full step on one rank: batch size x accumulate."""


@dataclass(frozen=True)
class StepOutcome:
    """What one optimizer step did. Sums are over all ranks."""

    verdict: Verdict
    loss_sum: float
    """Smoothed training loss, summed over samples."""
    samples: int
    gradient_norm: float
    """Before clipping."""
    sample_ids: tuple[str, ...]
    """Of this rank."""
    stop_asked: bool
    """At least one rank was asked to stop."""

    @property
    def loss(self) -> float:
        return self.loss_sum / self.samples


def take_step(
    parts: StepParts,
    batches: Iterator[Batch],
    *,
    micro_batches: int,
    stop_asked: Callable[[], bool],
    seed: int,
) -> StepOutcome:
    """Consume `micro_batches` and take one optimizer step with the mean gradient of their samples.

    Each sample weighs the same, however unevenly samples are spread over micro-batches and ranks:
    the last short group of an epoch gives the gradient of its own mean. A loss or gradient that is
    not finite takes no step (`nonfinite`); an fp16 gradient that only overflowed its scale takes
    none either and lowers the scale (`scaler_backoff`).

    Args:
        stop_asked: asked as late as possible, once the gradients are there.
        seed: for dropout; drawn anew for every step, so that a resume needs no generator state.
    """
    torch.manual_seed(seed)
    parts.optimizer.zero_grad(set_to_none=True)
    local_loss, sample_ids = _accumulate_gradients(parts, batches, micro_batches)
    loss_sum, samples, stops = parts.ranks.sum([local_loss, len(sample_ids), stop_asked()])
    if samples == 0:
        raise DataError("the loader gave an optimizer step without a sample")
    parts.scaler.unscale_(parts.optimizer)
    gradients = [p.grad for p in parts.parameters if p.grad is not None]
    _weigh(gradients, full=parts.full_samples * parts.ranks.world, true=samples)
    norm = nn.utils.get_total_norm(gradients)
    verdict = _judge(loss_sum, norm, parts.scaler)
    if verdict == "applied":
        if parts.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parts.parameters, parts.clip_norm, norm)
        parts.scaler.step(parts.optimizer)
    parts.scaler.update()
    return StepOutcome(
        verdict, loss_sum, int(samples), norm.item(), tuple(sample_ids), stop_asked=stops > 0
    )


def training_loss_sum(
    logits_BK: torch.Tensor, labels_B: torch.Tensor, *, label_smoothing: float
) -> torch.Tensor:
    """Sum over samples of (1 - e) CE(label) + e mean_k CE(k), in float32.

    Source: Szegedy et al. 2016, Rethinking the Inception architecture, section 7.
    """
    return functional.cross_entropy(
        logits_BK.float(), labels_B, reduction="sum", label_smoothing=label_smoothing
    )


def gradient_hold(module: nn.Module) -> Callable[[], AbstractContextManager[object]]:
    """`no_sync` of a DDP module; a context without effect for one process."""
    return module.no_sync if isinstance(module, DistributedDataParallel) else nullcontext


def _accumulate_gradients(
    parts: StepParts, batches: Iterator[Batch], micro_batches: int
) -> tuple[float, list[str]]:
    """Gradients of (sum of losses / full_samples), this rank's loss sum, and its sample ids."""
    loss_sum = torch.zeros((), dtype=torch.float64, device=parts.preparation.device)
    sample_ids: list[str] = []
    for number in range(1, micro_batches + 1):
        batch = next(batches, None)
        if batch is None:
            raise DataError(
                f"the loader ended {micro_batches - number + 1} micro-batches too early"
            )
        # Exchanging gradients only at the last micro-batch sends them once per step.
        with parts.hold_gradients() if number < micro_batches else nullcontext():
            loss = _forward_loss(parts, batch)
            parts.scaler.scale(loss / parts.full_samples).backward()
        loss_sum += loss.detach()
        sample_ids += batch.sample_ids
    return loss_sum.item(), sample_ids


def _forward_loss(parts: StepParts, batch: Batch) -> torch.Tensor:
    """The summed loss of one micro-batch; zero, but with a graph, when it has no rows.

    DDP waits for a backward pass of every rank, so a rank without rows sends zeros.
    """
    prepare = parts.preparation
    empty = len(batch.labels) == 0
    rows = batch.inputs.new_zeros((1, *batch.inputs.shape[1:])) if empty else batch.inputs
    inputs = prepare.inputs(rows)
    with prepare.precision.autocast():
        logits_BK = parts.module(inputs)
    if empty:
        return logits_BK.float().sum() * 0.0
    labels_B = batch.labels.to(prepare.device, non_blocking=True)
    return training_loss_sum(logits_BK, labels_B, label_smoothing=parts.label_smoothing)


def _weigh(gradients: list[torch.Tensor], *, full: int, true: float) -> None:
    """Turn gradients of (sum / full) into gradients of the mean; nothing to do for a full step."""
    if true != full:
        for gradient in gradients:
            gradient.mul_(full / true)


def _judge(loss_sum: float, norm: torch.Tensor, scaler: torch.amp.GradScaler) -> Verdict:
    """The same on every rank: the loss is a sum over ranks, the gradient was exchanged."""
    loss_is_finite = abs(loss_sum) < float("inf")
    if loss_is_finite and bool(torch.isfinite(norm)):
        return "applied"
    # A gradient that overflows even at scale 1 is not the scaler's doing.
    if loss_is_finite and scaler.is_enabled() and scaler.get_scale() > 1.0:
        return "scaler_backoff"
    return "nonfinite"
