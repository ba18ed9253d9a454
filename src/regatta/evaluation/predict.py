"""Samples through one model in batches of one fixed size, so that scores never depend on company.

A matrix product of another size may add up in another order. A batch that is short is therefore
filled up by repeating its last clip; then every row is bit-equal to that clip alone in its own
filled-up batch. A window of signals takes the place of a clip where the model reads signals, an
image where it reads images.

Shapes: B clips of a batch, T frames, S input side, P pictures of a sample, D clips of a sample,
K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from regatta.core.errors import RunError
from regatta.data.transforms import normalise
from regatta.models.contracts import HasHeads, HasPositions
from regatta.models.spec import ModelSpec
from regatta.records.predictions import HEADS_FOLDER

Result = TypeVar("Result")

SIDE_BY_SIDE_BYTES = 128 << 20
"""Most float input of batches that run at the same time on a CPU."""


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

    @property
    def folders(self) -> list[Path]:
        """Where the scores of each head, or of each target, go; the answer of the whole system
        stands first."""
        names = self.module.head_names[1:] if isinstance(self.module, HasHeads) else ()
        if isinstance(self.module, HasPositions):
            names = self.module.position_names[1:]
        return [self.folder, *(self.folder / HEADS_FOLDER / name for name in names)]


class DeviceTimer:
    """Seconds of work on a device, summed over the threads that measure.

    On an accelerator it is timed by events, so that measuring never waits.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._lock = device, Lock()
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
            with self._lock:
                self._seconds += time.perf_counter() - started

    def take(self) -> float:
        """Seconds measured since the last call; waits for the device."""
        for first, last in self._events:
            last.synchronize()
            self._seconds += first.elapsed_time(last) / 1000
        seconds, self._seconds, self._events = self._seconds, 0.0, []
        return seconds


class ForwardPool:
    """Runs batches side by side on a CPU, every batch within `threads // workers` threads.

    Two batches in a thread each are done sooner than one after the other in two threads: nothing
    waits at the end of every small kernel. Close it to end its threads.

    Args:
        workers: batches that run at once.
        threads: cores that they share.
    """

    def __init__(self, workers: int, *, threads: int) -> None:
        self._before = torch.get_num_threads()
        self._share = threads // workers
        self._executor = ThreadPoolExecutor(
            workers, thread_name_prefix="regatta-forward", initializer=self._enter
        )
        # One batch more than run at once, so that none waits for the next to be gathered.
        self._free = Semaphore(workers + 1)
        # torch keeps threads per calling thread; those of this one would only get in the way.
        torch.set_num_threads(1)

    def _enter(self) -> None:
        torch.set_num_threads(self._share)

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Queue one batch; waits while enough are queued, so that clips do not pile up."""
        self._free.acquire()
        future = self._executor.submit(work)
        future.add_done_callback(lambda _: self._free.release())
        return future

    def close(self) -> None:
        """End the threads; batches that have not begun are dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._before)


def batches_side_by_side(specs: Sequence[ModelSpec], *, batch_size: int, threads: int) -> int:
    """How many batches to run at once on `threads` cores: a divisor of it.

    Small ones run in a thread each. Of large ones a few fill all cores and, as activations take
    many times the input, all memory too: their inputs together stay within SIDE_BY_SIDE_BYTES.
    """
    floats = max(batch_size * math.prod(spec.input_shape) for spec in specs)
    most = max(1, SIDE_BY_SIDE_BYTES // (4 * floats))
    return max(n for n in range(1, threads + 1) if threads % n == 0 and n <= most)


class BatchedForward:
    """Collects clips of one entry and runs them in batches of exactly `batch_size`.

    Args:
        pool: runs the batches; None = here and now, as is right for an accelerator, which works on
            while the next batch is gathered.
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
        pool: ForwardPool | None = None,
    ) -> None:
        # Pictures wait as uint8, a quarter of the memory; signals come in units of their own.
        self._takes_pictures = entry.spec.kind != "signal"
        self._dtype = torch.uint8 if self._takes_pictures else torch.float32
        self._shape = (batch_size, *entry.spec.input_shape)
        self._batch: torch.Tensor | None = None
        self._entry, self._device, self._autocast = entry, device, autocast
        self._poll, self._pool = poll, pool
        self._filled = 0
        self._total = 0
        self._scores: list[torch.Tensor | Future[torch.Tensor]] = []
        self._timer = DeviceTimer(device)

    def add(self, frames_PCHW: torch.Tensor, rows_DT: torch.Tensor) -> None:
        """Queue D clips, each given by its T rows of `frames_PCHW` (uint8 [P, 3, S, S]).

        Raises:
            RunError: the model fails on a batch.
        """
        rows_DT = rows_DT.to(self._device, non_blocking=True)
        while len(rows_DT):
            room = self._room(len(rows_DT))
            taken_DT, rows_DT = rows_DT[: len(room)], rows_DT[len(room) :]
            with self._timer.measure():
                torch.index_select(frames_PCHW, 0, taken_DT.flatten(), out=room.flatten(0, 1))
            self._take(len(room))

    def add_inputs(self, inputs: torch.Tensor) -> None:
        """Queue samples of the model's input shape: float32 [D, ...] signals, or uint8 images.

        Raises:
            RunError: the model fails on a batch, or takes inputs of another shape.
        """
        if inputs.shape[1:] != self._shape[1:]:
            raise RunError(
                f"the model takes {list(self._shape[1:])}, not {list(inputs.shape[1:])}",
                where=self._entry.run_id,
                hint="judge it on the data that it was trained on",
            )
        while len(inputs):
            room = self._room(len(inputs))
            with self._timer.measure():
                room.copy_(inputs[: len(room)], non_blocking=True)
            inputs = inputs[len(room) :]
            self._take(len(room))

    def _room(self, wanted: int) -> torch.Tensor:
        """Free rows of the batch in hand, at most `wanted`."""
        if self._batch is None:
            self._batch = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        return self._batch[self._filled : self._filled + wanted]

    def _take(self, count: int) -> None:
        """The next `count` rows are filled; a full batch runs."""
        assert self._batch is not None
        self._filled += count
        self._total += count
        if self._filled == len(self._batch):
            self._run(self._batch)

    def finish(self) -> tuple[np.ndarray, float]:
        """Run what is left.

        Returns:
            Scores float32 [all queued clips, K], or [.., H, K] of a model with heads, in the order
            they came, and the seconds spent, summed over batches that ran side by side.
        """
        if self._batch is not None and self._filled:
            self._batch[self._filled :] = self._batch[self._filled - 1]
            self._run(self._batch)
        scores = [self._collect(item) for item in self._scores]
        with self._timer.measure():
            scores_DK = torch.cat(scores)[: self._total].cpu().numpy()
        self._scores, self._total = [], 0
        return scores_DK, self._timer.take()

    def _run(self, batch: torch.Tensor) -> None:
        self._poll()
        self._filled = 0
        if self._pool is None:
            with self._naming_failures():
                self._scores.append(self._forward(batch))
            return
        self._scores.append(self._pool.submit(lambda: self._forward(batch)))
        # The batch keeps its clips until it has run; the next one gets memory of its own.
        self._batch = None

    def _collect(self, scores_BK: torch.Tensor | Future[torch.Tensor]) -> torch.Tensor:
        if isinstance(scores_BK, torch.Tensor):
            return scores_BK
        with self._naming_failures():
            return scores_BK.result()

    @contextmanager
    def _naming_failures(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._failure(error) from error

    @torch.inference_mode()
    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        spec, use_autocast = self._entry.spec, self._autocast is not None
        with self._timer.measure():
            inputs = normalise(batch, spec.mean, spec.std) if self._takes_pictures else batch
            with torch.autocast(self._device.type, dtype=self._autocast, enabled=use_autocast):
                return self._entry.module(inputs).float()

    def _failure(self, error: RuntimeError) -> RunError:
        batch, spec = self._shape[0], self._entry.spec
        clips = f"clips of {spec.frames} frames"
        what = {"signal": "windows of signals", "image": "images"}.get(spec.kind, clips)
        work = f"judging {batch} {what}"
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
