"""How far a judging is, told about once a second, and its way out when a stop is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from regatta.core.errors import StopRequested
from regatta.core.signals import StopFlag
from regatta.data.manifest import Sample

REPORT_SECONDS = 1.0


class Progress:
    """Tells how far the call is, and leaves when a stop was asked for.

    Args:
        parts: the samples of each part that is to be judged.
        kept: parts that were there already.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[Sample]],
        *,
        kept: int,
        stop: StopFlag | None,
        report: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._stop, self._report = stop, report
        self._parts_done, self._total_parts = kept, kept + len(parts)
        self._samples_done, self._total_samples = 0, sum(map(len, parts))
        self._started = self._told = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the start of the call."""
        return time.monotonic() - self._started

    def poll(self) -> None:
        """Report when it is time; StopRequested when a stop was asked for."""
        if self._stop is not None and self._stop.requested:
            hint = "run the same command again: finished parts are kept"
            raise StopRequested("stopped while judging", hint=hint)
        if time.monotonic() - self._told >= REPORT_SECONDS:
            self._tell()

    def sample_done(self) -> None:
        self._samples_done += 1

    def part_done(self) -> None:
        self._parts_done += 1
        self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        if self._report is None:
            return
        rate = self._samples_done / max(self.elapsed(), 1e-9)
        left = self._total_samples - self._samples_done
        self._report(
            {
                "phase": "judge",
                "step": self._parts_done,
                "total_steps": self._total_parts,
                "samples": self._samples_done,
                "samples_per_second": rate,
                "seconds_left": left / rate if rate else None,
            }
        )
