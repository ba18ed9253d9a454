"""What a run says while it works: about once a second, and at every change of phase."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

REPORT_SECONDS = 1.0
BEAT_SECONDS = 20.0


@contextmanager
def beating(beat: Callable[[], object], *, seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Call `beat` every so often from a thread: one long call of a library is no silence.

    For calls that end by themselves; nothing else may report meanwhile.
    """
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(seconds):
            beat()

    thread = threading.Thread(target=go_on, name="regatta-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass
class Progress:
    """Calls `report` with keys of a status: phase, step, total_steps, epoch, epochs,
    samples_per_second, seconds_left, metric."""

    report: Callable[[dict[str, Any]], None]
    total_steps: int
    epochs: int
    clock: Callable[[], float] = time.monotonic
    """Monotonic, so that a jump of the wall clock changes no duration."""
    _phase: str = ""
    _last_report: float = float("-inf")
    _seconds: dict[str, float] = field(default_factory=dict)
    _samples: int = 0
    _steps: int = 0

    def count_step(self, *, samples: int, seconds: float) -> None:
        """Count one optimizer step, for the speed and the time left."""
        self._samples += samples
        self._steps += 1
        self._seconds["train"] = self._seconds.get("train", 0.0) + seconds

    def validated(self, seconds: float) -> None:
        """Remember how long the last validation took, for the time left."""
        self._seconds["validate"] = seconds

    def tell(self, phase: str, *, step: int, epoch: int, metric: float | None) -> None:
        """Report unless this phase reported less than a second ago. `epoch` is counted from 1."""
        now = self.clock()
        if phase == self._phase and now - self._last_report < REPORT_SECONDS:
            return
        self._phase, self._last_report = phase, now
        train_seconds = self._seconds.get("train", 0.0)
        self.report(
            {
                "phase": phase,
                "step": step,
                "total_steps": self.total_steps,
                "epoch": epoch,
                "epochs": self.epochs,
                "samples_per_second": self._samples / train_seconds if train_seconds > 0 else None,
                "seconds_left": self._seconds_left(step, epoch),
                "metric": metric,
            }
        )

    def _seconds_left(self, step: int, epoch: int) -> float | None:
        if not self._steps:
            return None
        per_step = self._seconds["train"] / self._steps
        validations = (self.epochs - epoch + 1) * self._seconds.get("validate", 0.0)
        return (self.total_steps - step) * per_step + validations
