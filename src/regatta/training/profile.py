"""What one model costs on one device: time and memory of its passes, and what a format changes.

Shapes: B samples of a batch; inputs are as `batches.Batch` says, logits_BK.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.data.scene_loader import SceneBatch
from regatta.data.window_loader import WindowBatch
from regatta.models.parameters import set_training_mode
from regatta.models.spec import ModelSpec
from regatta.records.profile_table import OUT_OF_MEMORY, ProfileRow
from regatta.training.batches import Batch, BatchSource
from regatta.training.distributed import ONE_PROCESS
from regatta.training.loop import build_parts
from regatta.training.motion_loss import loss_of, recipe_loss
from regatta.training.precision import choose_precision, reproducible_math
from regatta.training.profile_memory import (
    MemoryMeter,
    MemoryUse,
    is_out_of_memory,
    limit_memory,
)
from regatta.training.step import Preparation, take_step

T = TypeVar("T")
MIN_TIMED = 3
WARMUP_SHARE = 0.25
"""Of the time that a measurement may take."""
PASSES_OF_A_STEP = 3
"""A step costs about three forward passes: one forward, two backward.

Source: Kaplan et al. 2020, Scaling laws for neural language models, section 2.1."""
PUBLISHED_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bf16 and fp16 operations per second, from the makers' data sheets."""


@dataclass(frozen=True)
class Pace:
    """How often a call is made: `warmup` times untimed, then `timed` times, within `seconds`."""

    warmup: int = 10
    timed: int = 100
    seconds: float = 20.0


@dataclass(frozen=True)
class Unit:
    """One measurement."""

    stage: str
    batch: int
    precision: str
    compiled: bool = False

    def row(self, entry: str, **values: Any) -> ProfileRow:
        return ProfileRow(
            entry, self.stage, self.batch, self.precision, compiled=self.compiled, **values
        )


@dataclass(frozen=True)
class Subject:
    """A model with something to feed it.

    module: what is called, trained and timed, on any device.
    inputs, labels: at least one sample; repeated to fill a batch.
    flops: of one sample's forward pass, two per multiply-add; None = not counted.
    whole: the model that `module` is the head of, when the head alone is trained on features.
    has_scores: False when it is not fitted yet, so that its scores say nothing.
    """

    entry: str
    module: nn.Module
    spec: ModelSpec
    train: TrainSection
    device: torch.device
    inputs: torch.Tensor
    labels: torch.Tensor
    flops: int | None = None
    whole: nn.Module | None = None
    has_scores: bool = True
    targets: torch.Tensor | None = None
    """float32 [N, P, 3], for a model that says places."""

    def batch(self, size: int) -> Batch:
        """`size` samples on the device, as the loader gives them."""
        rows = torch.arange(size) % len(self.inputs)
        inputs, labels = self.inputs[rows], self.labels[rows]
        ids = [str(row) for row in rows.tolist()]
        inputs, labels = inputs.to(self.device), labels.to(self.device)
        if self.targets is not None:
            return SceneBatch(inputs, labels, self.targets[rows].to(self.device), ids)
        return WindowBatch(inputs, labels, ids)


def measure(
    subject: Subject, unit: Unit, *, pace: Pace, memory_limit: int | None = None
) -> ProfileRow:
    """Time one stage of one batch and format. Memory that runs out is a row too.

    Args:
        memory_limit: bytes that this process may hold from here on; for a CPU.
    Raises:
        ConfigError, DeviceError: the device has no such number format.
    """
    precision = choose_precision(unit.precision, subject.device)
    try:
        seconds, memory = _time_unit(subject, unit, precision.name, pace, memory_limit)
        compares = unit.stage == "forward" and subject.has_scores
        difference = _largest_difference(subject, unit) if compares else None
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        words = str(error).strip().splitlines() or [type(error).__name__]
        return unit.row(subject.entry, status=OUT_OF_MEMORY, message=words[0][:200])
    row = unit.row(subject.entry, largest_difference=difference)
    return _with_memory(_with_times(row, seconds, subject, unit), memory)


def _time_unit(
    subject: Subject, unit: Unit, precision: str, pace: Pace, memory_limit: int | None
) -> tuple[list[float], MemoryUse]:
    """Seconds of each timed call, and the memory of all of them."""
    meter = MemoryMeter(subject.device)
    with _switches(subject), _held(subject, unit, precision) as (ready, call):
        # A first small call makes thread pools, libraries and optimizer state: none of them
        # belongs to the batch, and the limit must not count them.
        call(ready(subject.batch(unit.batch if unit.compiled else min(2, unit.batch))))
        if memory_limit is not None:
            limit_memory(memory_limit)
        meter.begin()
        batch = subject.batch(unit.batch)
        seconds = time_calls(lambda: ready(batch), call, device=subject.device, pace=pace)
        return seconds, meter.use()


def time_calls(
    ready: Callable[[], T],
    call: Callable[[T], object],
    *,
    device: torch.device,
    pace: Pace,
) -> list[float]:
    """Seconds of `call(ready())`, without `ready`, synchronised on both sides.

    Warm-up ends early when it takes more than its share of `pace.seconds`; then calls are timed
    until `pace.timed` or `pace.seconds` is reached, but at least `MIN_TIMED` (or `timed`, if less).
    """
    began = time.perf_counter()
    for _ in range(pace.warmup):
        call(ready())
        synchronise(device)
        if time.perf_counter() - began > WARMUP_SHARE * pace.seconds:
            break
    began, seconds = time.perf_counter(), []
    while len(seconds) < pace.timed:
        if len(seconds) >= MIN_TIMED and time.perf_counter() - began > pace.seconds:
            break
        state = ready()
        synchronise(device)
        started = time.perf_counter()
        call(state)
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_loader(
    loader: BatchSource, *, entry: str, batch: int, device: torch.device, pace: Pace
) -> ProfileRow:
    """Rate of the training loader over its first epoch, ready on the device.

    The first tenth of the epoch, at most `pace.warmup` batches, is untimed: threads start there.
    """
    unit = Unit("load", batch, "")
    skipped = min(pace.warmup, len(loader) // 10)
    meter, seconds, samples = MemoryMeter(device), [], 0
    meter.begin()
    batches = loader.batches(0)
    try:
        began = started = time.perf_counter()
        for number, item in enumerate(batches):
            item.inputs.to(device, non_blocking=True)
            synchronise(device)
            now = time.perf_counter()
            if number < skipped:
                began = started = now
                continue
            seconds.append(now - started)
            samples, started = samples + len(item.labels), now
            if len(seconds) >= pace.timed or now - began > pace.seconds:
                break
        whole = started - began
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
    row = replace(_with_quantiles(unit.row(entry), seconds), windows_per_second=samples / whole)
    return _with_memory(row, meter.use())


Ready = Callable[[Batch], Any]
Call = Callable[[Any], object]


@contextmanager
def _held(subject: Subject, unit: Unit, precision: str) -> Iterator[tuple[Ready, Call]]:
    """What makes a batch ready (untimed) and what is then timed, for a stage."""
    make = {"forward": _forward, "encode": _forward, "backward": _backward}.get(unit.stage, _step)
    try:
        yield make(subject, unit, precision)
    finally:
        # The next measurement in this process must not find these gradients.
        for parameter in subject.module.parameters():
            parameter.grad = None


def _forward(subject: Subject, unit: Unit, precision: str) -> tuple[Ready, Call]:
    module = subject.module.to(subject.device).eval()
    called = _compiled(module, subject.train) if unit.compiled else module
    prepare = _preparation(subject, precision)

    def call(batch: Batch) -> torch.Tensor:
        with torch.inference_mode(), prepare.precision.autocast():
            return called(prepare.inputs(batch.inputs))

    return lambda batch: batch, call


def _backward(subject: Subject, _unit: Unit, precision: str) -> tuple[Ready, Call]:
    """The backward pass alone: the loss and its graph are made untimed."""
    module = subject.module.to(subject.device)
    _set_mode(subject)
    prepare, loss = _preparation(subject, precision), recipe_loss(subject.train, module)

    def ready(batch: Batch) -> torch.Tensor:
        module.zero_grad(set_to_none=True)
        with prepare.precision.autocast():
            logits = module(prepare.inputs(batch.inputs))
        return loss_of(loss, logits, batch.labels, batch).loss / len(batch.labels)

    return ready, lambda loss: loss.backward()


def _step(subject: Subject, unit: Unit, precision: str) -> tuple[Ready, Call]:
    """The trainer's own optimizer step."""
    recipe = subject.train.model_copy(
        update={
            "precision": precision,
            "batch_size": unit.batch,
            "accumulate": 1,
            "compile": unit.compiled,
        }
    )
    parts = build_parts(
        subject.module,
        subject.spec,
        recipe,
        device=subject.device,
        ranks=ONE_PROCESS,
        whole=subject.whole,
    )
    _set_mode(subject)

    def call(batch: Batch) -> object:
        return take_step(parts, iter([batch]), micro_batches=1, stop_asked=lambda: False, seed=0)

    return lambda batch: batch, call


def _set_mode(subject: Subject) -> None:
    frozen = subject.train.freeze_encoder and subject.whole is None
    set_training_mode(subject.module, subject.spec, frozen=frozen)


def _compiled(module: nn.Module, train: TrainSection) -> Callable[..., torch.Tensor]:
    return torch.compile(module, mode=train.compile_mode)


def _preparation(subject: Subject, precision: str) -> Preparation:
    chosen = choose_precision(precision, subject.device)
    return Preparation(subject.device, chosen, subject.spec.mean, subject.spec.std)


@contextmanager
def _switches(subject: Subject) -> Iterator[None]:
    """Arithmetic as the recipe has it; torch's generators as they were."""
    with (
        reproducible_math(subject.device, deterministic=subject.train.deterministic),
        torch.random.fork_rng(devices=[]),
    ):
        yield


def _largest_difference(subject: Subject, unit: Unit) -> float:
    """Largest absolute difference of the scores of one batch from those in fp32."""
    batch = subject.batch(unit.batch)
    with _switches(subject):
        plain, other = (
            _forward(subject, replace(unit, compiled=compiled), precision)[1](batch)
            for precision, compiled in (("fp32", False), (unit.precision, unit.compiled))
        )
    assert isinstance(plain, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    return (plain.double() - other.double()).abs().max().item()


def _with_times(row: ProfileRow, seconds: list[float], subject: Subject, unit: Unit) -> ProfileRow:
    row = _with_quantiles(row, seconds)
    assert row.median_ms is not None
    median = row.median_ms / 1000
    return replace(
        row,
        windows_per_second=unit.batch / median,
        share_of_peak=_share_of_peak(subject, unit, median),
    )


def _with_quantiles(row: ProfileRow, seconds: list[float]) -> ProfileRow:
    p10, median, p90 = (1000 * float(q) for q in np.percentile(seconds, [10, 50, 90]))
    return replace(row, calls=len(seconds), median_ms=median, p10_ms=p10, p90_ms=p90)


def _with_memory(row: ProfileRow, memory: MemoryUse) -> ProfileRow:
    return replace(
        row,
        peak_gb=memory.peak / 1e9,
        allocated_gb=memory.at_rest / 1e9,
        reserved_gb=None if memory.reserved is None else memory.reserved / 1e9,
        mb_per_window=max(0, memory.peak - memory.at_rest) / 1e6 / row.batch,
    )


def published_peak(device: torch.device) -> float | None:
    """Published dense bf16 operations per second of this device; None where unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for key, value in PUBLISHED_PEAKS.items() if key in name), None)


def _share_of_peak(subject: Subject, unit: Unit, seconds: float) -> float | None:
    peak = published_peak(subject.device)
    if peak is None or subject.flops is None or unit.precision == "fp32":
        return None
    of_step = 1 if subject.train.freeze_encoder else PASSES_OF_A_STEP
    passes = {"forward": 1, "encode": 1, "step": of_step, "sweep": of_step}
    if unit.stage not in passes:
        return None
    return passes[unit.stage] * subject.flops * unit.batch / seconds / peak
