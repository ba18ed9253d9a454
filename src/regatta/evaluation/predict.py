"""Clips through one model in batches of one fixed size, so that scores never depend on company.

A matrix product of another size may add up in another order. A batch that is short is therefore
filled up by repeating its last clip; then every row is bit-equal to that clip alone in its own
filled-up batch.

Shapes: B clips of a batch, T frames, S input side, U frames of a sample, D clips of a sample,
K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from regatta.core.errors import RunError
from regatta.data.transforms import normalise
from regatta.models.spec import ModelSpec


@dataclass(frozen=True)
class JudgedEntry:
    """One trained run that is to be judged.

    module: in eval mode, on the judging device. folder: `RunFolder.predictions(protocol id)`.
    fingerprint: JSON facts that make predictions comparable (weights, code, manifest ...); parts
    on disk with another one are judged again, so nothing that changes by itself belongs in it.
    """

    run_id: str
    module: nn.Module
    spec: ModelSpec
    folder: Path
    fingerprint: dict[str, Any] = field(default_factory=dict)


class DeviceTimer:
    """Seconds of work on a device; on an accelerator by events, so that measuring never waits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self) -> Iterator[None]:
        if self._device.type == "cuda":
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            yield
            pair[1].record()
            self._events.append(pair)
        else:
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started

    def take(self) -> float:
        """Seconds measured since the last call; waits for the device."""
        for first, last in self._events:
            last.synchronize()
            self._seconds += first.elapsed_time(last) / 1000
        seconds, self._seconds, self._events = self._seconds, 0.0, []
        return seconds


class BatchedForward:
    """Collects clips of one entry and runs them in batches of exactly `batch_size`.

    Args:
        poll: called before each batch; may raise to leave.
    """

    def __init__(
        self,
        entry: JudgedEntry,
        *,
        batch_size: int,
        device: torch.device,
        autocast: torch.dtype | None,
        poll: Callable[[], None],
    ) -> None:
        frames, side = entry.spec.frames, entry.spec.image_size
        shape = (batch_size, frames, 3, side, side)
        self._clips_BTCHW = torch.empty(shape, dtype=torch.uint8, device=device)
        self._entry, self._device, self._autocast, self._poll = entry, device, autocast, poll
        self._filled = 0
        self._total = 0
        self._scores: list[torch.Tensor] = []
        self._timer = DeviceTimer(device)

    def add(self, frames_UCHW: torch.Tensor, rows_DT: torch.Tensor) -> None:
        """Queue D clips, each given by its T rows of `frames_UCHW` (uint8 [U, 3, S, S]).

        Raises:
            RunError: the model fails on a batch.
        """
        rows_DT = rows_DT.to(self._device, non_blocking=True)
        while len(rows_DT):
            free = len(self._clips_BTCHW) - self._filled
            taken_DT, rows_DT = rows_DT[:free], rows_DT[free:]
            room = self._clips_BTCHW[self._filled : self._filled + len(taken_DT)]
            with self._timer.measure():
                torch.index_select(frames_UCHW, 0, taken_DT.flatten(), out=room.flatten(0, 1))
            self._filled += len(taken_DT)
            self._total += len(taken_DT)
            if len(taken_DT) == free:
                self._run()

    def finish(self) -> tuple[np.ndarray, float]:
        """Run what is left.

        Returns:
            Scores float32 [all queued clips, K] in the order they came, and the seconds spent.
        """
        if self._filled:
            self._clips_BTCHW[self._filled :] = self._clips_BTCHW[self._filled - 1]
            self._run()
        with self._timer.measure():
            scores_DK = torch.cat(self._scores)[: self._total].cpu().numpy()
        self._scores, self._total = [], 0
        return scores_DK, self._timer.take()

    def _run(self) -> None:
        self._poll()
        try:
            with self._timer.measure():
                self._scores.append(self._forward())
        except RuntimeError as error:
            raise self._failure(error) from error
        self._filled = 0

    @torch.inference_mode()
    def _forward(self) -> torch.Tensor:
        spec, use_autocast = self._entry.spec, self._autocast is not None
        video_BTCHW = normalise(self._clips_BTCHW, spec.mean, spec.std)
        with torch.autocast(self._device.type, dtype=self._autocast, enabled=use_autocast):
            return self._entry.module(video_BTCHW).float()

    def _failure(self, error: RuntimeError) -> RunError:
        batch, frames, *_ = self._clips_BTCHW.shape
        work = f"judging {batch} clips of {frames} frames"
        if isinstance(error, torch.OutOfMemoryError):
            return RunError(
                f"out of device memory while {work}: {error}",
                where=self._entry.run_id,
                hint="set a smaller protocol.batch_size",
            )
        return RunError(
            f"the model failed while {work}: {error}",
            where=self._entry.run_id,
            hint="check the entry's options against its weights",
        )
