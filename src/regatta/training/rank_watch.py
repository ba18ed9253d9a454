"""Ends a training of several processes that stands still: with stacks, a cause and a next step.

A rank that hangs makes all others wait in a collective, where no error reaches them. So each rank
watches itself: every step puts its deadline off, by what steps were measured to take.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from regatta.training.distributed import Ranks


@dataclass(frozen=True)
class Patience:
    """How long a rank may stand still, in seconds.

    Before any step was measured, and where none can be (the first batch of an epoch, a save), it
    is `unmeasured`; else `factor` x the slowest step so far, and at least `least`.
    """

    least: float = 120.0
    factor: float = 20.0
    unmeasured: float = 600.0
    linger: float = 5.0
    """Between the stacks and the end: the others write theirs meanwhile."""

    def after(self, slowest_step: float) -> float:
        return max(self.least, self.factor * slowest_step)


class RankWatch:
    """Puts an end to this rank when it stands still; without effect for one process.

    with RankWatch(ranks) as watch:
        watch.begin("training")     # before what takes as long as it takes
        watch.step_done()           # after each step
    """

    def __init__(
        self,
        ranks: Ranks,
        *,
        patience: Patience | None = None,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        self._ranks, self._patience, self._leave = ranks, patience or Patience(), leave
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="rank-watch")
        self._phase, self._slowest = "the start", 0.0
        self._moved = time.monotonic()
        self._limit = self._patience.unmeasured
        self._is_measured = False
        """Whether the time since the last move is that of a step."""

    def __enter__(self) -> RankWatch:
        if self._ranks.world > 1:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._ended.set()

    def begin(self, phase: str) -> None:
        """What follows is no step, and may take long: reading the first batch, or a save."""
        self._phase, self._is_measured = phase, False
        self._put_off(max(self._patience.unmeasured, self._patience.after(self._slowest)))

    def step_done(self) -> None:
        """A step of the phase was taken; the next may take as long as the slowest, many times."""
        if self._is_measured:
            self._slowest = max(self._slowest, time.monotonic() - self._moved)
        self.go_on(self._phase)

    def go_on(self, phase: str) -> None:
        """What follows is a step of a phase that was left for a while, as for a save."""
        self._phase, self._is_measured = phase, True
        known = self._slowest > 0
        self._put_off(self._patience.after(self._slowest) if known else self._patience.unmeasured)

    def _put_off(self, limit: float) -> None:
        self._moved, self._limit = time.monotonic(), limit

    def _watch(self) -> None:
        while not self._ended.is_set():
            left = self._moved + self._limit - time.monotonic()
            if left <= 0:
                self._end()
                return
            # Limits shrink too, once a step was measured.
            self._ended.wait(min(left, self._patience.least / 4))

    def _end(self) -> None:
        failure = self._failure(time.monotonic() - self._moved)
        print(f"error: {failure['message']}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=2, all_threads=True)
        try:
            self._ranks.tell_failure(failure)
        finally:
            # The first rank leaves first: the end of another would wake it with a worse word.
            time.sleep(self._patience.linger * (1.0 if self._ranks.is_first else 1.2))
            self._leave(1)

    def _failure(self, still: float) -> dict[str, Any]:
        slowest = f", the slowest step took {self._slowest:.1f} s" if self._slowest else ""
        return {
            "cause": "stall",
            "message": f"rank {self._ranks.rank} of {self._ranks.world} stood still for "
            f"{still:.0f} s in {self._phase}{slowest}; the stacks of all ranks are in the log",
            "next_step": "see in the stacks which rank is not waiting for the others; run the "
            "same command again: it resumes from the last checkpoint",
            "exit_code": 1,
        }
