"""One optimizer step: mix, accumulate, agree over ranks, unscale, weigh and clip, step.

Inputs are as `batches.Batch` says, scores as `loss.TrainingLoss.of` takes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from regatta.core.errors import DataError
from regatta.data.transforms import normalise
from regatta.training.batches import Batch
from regatta.training.components import Component, SystemParts
from regatta.training.distributed import Ranks
from regatta.training.gradient_conflict import ConflictRule
from regatta.training.loss import BatchLoss, TrainingLoss
from regatta.training.mix import Mixing, StepMixer
from regatta.training.motion_loss import MotionLoss, loss_of
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
    loss: TrainingLoss | MotionLoss
    mixing: Mixing | None
    clip_norm: float | None
    full_samples: int
    """Samples of a full step on one rank: batch size x accumulate."""
    keeps_gradients: bool = False
    """Gradients are set to zero in their memory, and not given back; see `own_gradients`."""
    clipped: tuple[Component, ...] = ()
    """All parameters, where some are clipped apart; empty = `clip_norm` is for all as one."""
    system: SystemParts | None = None
    """Of a model with several heads."""
    conflict: ConflictRule | None = None
    group_is_experts: tuple[bool, ...] = ()
    """Of each parameter group, whether it is of experts, whose rates may restart."""


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
    part_sums: dict[str, float] = field(default_factory=dict)
    """Of a loss of two parts: column -> sum of the part, see `loss.BatchLoss`."""
    component_norms: dict[str, float] | None = None
    """Of several heads: norms before clipping, under the names of their columns."""

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
    resting: Sequence[nn.Parameter] = (),
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
        resting: parameters that get no update in this step, nor weight decay.
    """
    _seed_generators(seed, parts.preparation.device)
    parts.optimizer.zero_grad(set_to_none=not parts.keeps_gradients)
    mixer = parts.mixing.begin_step(seed) if parts.mixing else None
    conflict = None if resting else parts.conflict
    local, sample_ids = _accumulate_gradients(parts, batches, micro_batches, mixer, conflict)
    with _gradients_aside(resting, put_back=parts.keeps_gradients):
        parts.scaler.unscale_(parts.optimizer)
        gradients = _gradients(parts.parameters)
        norms = _norms(parts, gradients)
        # One transfer for all: each would wait for the device.
        found = torch.cat([local, norms.double()]).tolist()
        local_sums, scaled_norms = found[: len(local)], found[len(local) :]
        loss_sum, weight, correct, *part_sums, samples, stops = parts.ranks.sum(
            [*local_sums, len(sample_ids), stop_asked()]
        )
        if samples == 0:
            raise DataError("the loader gave an optimizer step without a sample")
        # Gradients are of (sum / full); the factor makes them those of the mean.
        factor = parts.full_samples * parts.ranks.world / weight
        true_norm, *true_norms = (norm * factor for norm in scaled_norms)
        verdict = _judge(loss_sum, true_norm, parts.scaler)
        if verdict == "applied":
            _weigh_and_clip(parts, gradients, factor, true_norm, true_norms)
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
        part_sums=dict(zip(parts.loss.part_columns, part_sums, strict=False)),
        component_norms=_named_norms(parts, true_norms[len(parts.clipped) :]),
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


@contextmanager
def _gradients_aside(resting: Sequence[nn.Parameter], *, put_back: bool) -> Iterator[None]:
    """The parameters have no gradient in the block, so that an optimizer passes them over."""
    kept = [parameter.grad for parameter in resting]
    for parameter in resting:
        parameter.grad = None
    yield
    if put_back:
        for parameter, gradient in zip(resting, kept, strict=True):
            parameter.grad = gradient


def _accumulate_gradients(
    parts: StepParts,
    batches: Iterator[Batch],
    micro_batches: int,
    mixer: StepMixer | None,
    conflict: ConflictRule | None,
) -> tuple[torch.Tensor, list[str]]:
    """Gradients of (sum of losses / full_samples); this rank's `BatchLoss.sums`, float64; its
    sample ids."""
    sums = torch.zeros((), dtype=torch.float64, device=parts.preparation.device)
    sample_ids: list[str] = []
    tasks = None if conflict is None else conflict.begin_step()
    for number in range(1, micro_batches + 1):
        batch = next(batches, None)
        if batch is None:
            raise DataError(
                f"the loader ended {micro_batches - number + 1} micro-batches too early"
            )
        # Exchanging gradients only at the last micro-batch sends them once per step.
        with parts.hold_gradients() if number < micro_batches else nullcontext():
            result = _forward_loss(parts, batch, mixer)
            if tasks is None:
                parts.scaler.scale(result.loss / parts.full_samples).backward()
            else:
                tasks.backward(result, parts.scaler, samples=parts.full_samples)
        sums = sums + result.sums().double()
        sample_ids += batch.sample_ids
    if tasks is not None:
        tasks.join()
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
        logits = parts.module(inputs)
    if empty:
        return parts.loss.nothing(logits)
    return loss_of(parts.loss, logits, labels, batch)


def _gradients(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _watched(parts: StepParts) -> tuple[Component, ...]:
    return parts.system.watched if parts.system else ()


def _norms(parts: StepParts, gradients: list[torch.Tensor]) -> torch.Tensor:
    """Norms of all gradients, of each component that is clipped, of each that is watched: [1 + n]
    on the device."""
    components = (*parts.clipped, *_watched(parts))
    of_each = [gradients, *(_gradients(component.parameters) for component in components)]
    device = parts.preparation.device
    norms = [whole_tensor(nn.utils.get_total_norm(held)) for held in of_each]
    return torch.stack([norm.to(device) for norm in norms])


def _named_norms(parts: StepParts, norms: Sequence[float]) -> dict[str, float] | None:
    if parts.system is None:
        return None
    names = [component.name for component in parts.system.watched]
    return dict(zip(names, norms, strict=True))


def _weigh_and_clip(
    parts: StepParts,
    gradients: list[torch.Tensor],
    factor: float,
    norm: float,
    norms: Sequence[float],
) -> None:
    """Scale by `factor`, and each component to its limit.

    Args:
        norm, norms: after the factor; of all gradients, and of `parts.clipped` first.
    """
    if not parts.clipped:
        _scale(gradients, factor * _clip_factor(norm, parts.clip_norm))
    for component, own_norm in zip(parts.clipped, norms, strict=False):
        own = _gradients(component.parameters)
        _scale(own, factor * _clip_factor(own_norm, component.limit))


def _clip_factor(norm: float, limit: float | None) -> float:
    return 1.0 if limit is None else min(1.0, limit / (norm + 1e-6))


def _scale(gradients: list[torch.Tensor], factor: float) -> None:
    if gradients and factor != 1.0:
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]


def _judge(loss_sum: float, norm: float, scaler: torch.amp.GradScaler) -> Verdict:
    """The same on every rank: the loss is a sum over ranks, the gradient was exchanged."""
    if math.isfinite(loss_sum) and math.isfinite(norm):
        return "applied"
    # A gradient that overflows even at scale 1 is not the scaler's doing.
    if math.isfinite(loss_sum) and scaler.is_enabled() and scaler.get_scale() > 1.0:
        return "scaler_backoff"
    return "nonfinite"
