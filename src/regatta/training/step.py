"""One optimizer step: mix, accumulate, agree over ranks, unscale, weigh and clip, step.

Shapes: B samples, K classes, logits_BK; inputs are as `batches.Batch` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from regatta.core.errors import DataError
from regatta.data.transforms import normalise
from regatta.training.batches import Batch
from regatta.training.distributed import Ranks
from regatta.training.loss import BatchLoss, TrainingLoss
from regatta.training.mix import Mixing, StepMixer
from regatta.training.precision import Precision
from regatta.training.sharded import gradient_sync_hold, whole_tensor

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
    loss: TrainingLoss
    mixing: Mixing | None
    clip_norm: float | None
    full_samples: int
    """Samples of a full step on one rank: batch size x accumulate."""
    keeps_gradients: bool = False
    """Gradients are set to zero in their memory, and not given back; see `own_gradients`."""


@dataclass(frozen=True)
class StepOutcome:
    """What one optimizer step did. Sums are over all ranks."""

    verdict: Verdict
    loss_sum: float
    """Smoothed and weighted training loss, summed over samples."""
    weight: float
    """Of the samples: their number, when classes are not weighted."""
    correct: float
    samples: int
    gradient_norm: float
    """Before clipping."""
    sample_ids: tuple[str, ...]
    """Of this rank."""
    stop_asked: bool
    """At least one rank was asked to stop."""

    @property
    def loss(self) -> float:
        return self.loss_sum / self.weight

    @property
    def accuracy(self) -> float:
        return self.correct / self.samples


def take_step(
    parts: StepParts,
    batches: Iterator[Batch],
    *,
    micro_batches: int,
    stop_asked: Callable[[], bool],
    seed: int,
) -> StepOutcome:
    """Consume `micro_batches` and take one optimizer step with the mean gradient of their samples.

    Each sample weighs as its class does (all the same without class weights), however unevenly
    samples are spread over micro-batches and ranks: the last short group of an epoch gives the
    gradient of its own mean. A loss or gradient that is not finite takes no step (`nonfinite`); an
    fp16 gradient that only overflowed its scale takes none either and lowers the scale
    (`scaler_backoff`).

    Args:
        stop_asked: asked as late as possible, once the gradients are there.
        seed: for dropout and mixing; another one for every step, so that a resume needs no
            generator state.
    """
    _seed_generators(seed, parts.preparation.device)
    parts.optimizer.zero_grad(set_to_none=not parts.keeps_gradients)
    mixer = parts.mixing.begin_step(seed) if parts.mixing else None
    local, sample_ids = _accumulate_gradients(parts, batches, micro_batches, mixer)
    parts.scaler.unscale_(parts.optimizer)
    gradients = [p.grad for p in parts.parameters if p.grad is not None]
    norm = whole_tensor(nn.utils.get_total_norm(gradients))
    # One transfer for all four: each would wait for the device.
    *local_sums, scaled_norm = torch.stack([*local, norm.double()]).tolist()
    loss_sum, weight, correct, samples, stops = parts.ranks.sum(
        [*local_sums, len(sample_ids), stop_asked()]
    )
    if samples == 0:
        raise DataError("the loader gave an optimizer step without a sample")
    # Gradients are of (sum / full); the factor makes them those of the mean.
    factor = parts.full_samples * parts.ranks.world / weight
    true_norm = scaled_norm * factor
    verdict = _judge(loss_sum, true_norm, parts.scaler)
    if verdict == "applied":
        _scale(gradients, factor * _clip_factor(true_norm, parts.clip_norm))
        parts.scaler.step(parts.optimizer)
    parts.scaler.update()
    return StepOutcome(
        verdict,
        loss_sum=loss_sum,
        weight=weight,
        correct=correct,
        samples=int(samples),
        gradient_norm=true_norm,
        sample_ids=tuple(sample_ids),
        stop_asked=stops > 0,
    )


def gradient_hold(module: nn.Module) -> Callable[[], AbstractContextManager[object]]:
    """What keeps gradients on their rank in DDP and FSDP; without effect for one process."""
    if isinstance(module, FSDPModule):
        return gradient_sync_hold(module)
    return module.no_sync if isinstance(module, DistributedDataParallel) else nullcontext


def own_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each parameter a gradient of zeros to add to.

    The first gradient of a recorded CUDA graph (`compile_mode` other than default) lies in the
    graph's memory, where the next micro-batch overwrites it: accumulated gradients were those of
    the last micro-batch alone (pytorch issue 169545).
    """
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)


def _seed_generators(seed: int, device: torch.device) -> None:
    # torch.manual_seed seeds every kind of device that torch knows: 0.1 ms of each step on a CPU.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _accumulate_gradients(
    parts: StepParts, batches: Iterator[Batch], micro_batches: int, mixer: StepMixer | None
) -> tuple[torch.Tensor, list[str]]:
    """Gradients of (sum of losses / full_samples); this rank's sums of loss, weight and correct
    samples, float64 [3]; its sample ids."""
    sums = torch.zeros(3, dtype=torch.float64, device=parts.preparation.device)
    sample_ids: list[str] = []
    for number in range(1, micro_batches + 1):
        batch = next(batches, None)
        if batch is None:
            raise DataError(
                f"the loader ended {micro_batches - number + 1} micro-batches too early"
            )
        # Exchanging gradients only at the last micro-batch sends them once per step.
        with parts.hold_gradients() if number < micro_batches else nullcontext():
            result = _forward_loss(parts, batch, mixer)
            parts.scaler.scale(result.loss / parts.full_samples).backward()
        sums += torch.stack([result.loss.detach(), result.weight, result.correct])
        sample_ids += batch.sample_ids
    return sums, sample_ids


def _forward_loss(parts: StepParts, batch: Batch, mixer: StepMixer | None) -> BatchLoss:
    """The summed loss of one micro-batch; zero, but with a graph, when it has no rows.

    DDP waits for a backward pass of every rank, so a rank without rows sends zeros.
    """
    prepare = parts.preparation
    empty = len(batch.labels) == 0
    rows = batch.inputs.new_zeros((1, *batch.inputs.shape[1:])) if empty else batch.inputs
    inputs, labels = prepare.inputs(rows), batch.labels.to(prepare.device, non_blocking=True)
    if mixer is not None and not empty:
        inputs, labels = mixer.mix(inputs, labels)
    if parts.keeps_gradients and inputs.is_cuda:
        torch.compiler.cudagraph_mark_step_begin()
    with prepare.precision.autocast():
        logits_BK = parts.module(inputs)
    if empty:
        nothing = logits_BK.float().sum() * 0.0
        return BatchLoss(nothing, nothing.detach(), nothing.detach())
    return parts.loss.of(logits_BK, labels)


def _clip_factor(norm: float, limit: float | None) -> float:
    return 1.0 if limit is None else min(1.0, limit / (norm + 1e-6))


def _scale(gradients: list[torch.Tensor], factor: float) -> None:
    if factor != 1.0:
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]


def _judge(loss_sum: float, norm: float, scaler: torch.amp.GradScaler) -> Verdict:
    """The same on every rank: the loss is a sum over ranks, the gradient was exchanged."""
    if math.isfinite(loss_sum) and math.isfinite(norm):
        return "applied"
    # A gradient that overflows even at scale 1 is not the scaler's doing.
    if math.isfinite(loss_sum) and scaler.is_enabled() and scaler.get_scale() > 1.0:
        return "scaler_backoff"
    return "nonfinite"
