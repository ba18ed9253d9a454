"""A wall clock that can jump: in every Python process that inherits its environment.

The real functions are replaced as a process starts; what they return is moved by what stands in a
file. Durations must come from the monotonic clock, which stays as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_START_UP = """
import os, time
_offset, _seen = os.environ["REGATTA_TEST_CLOCK"], os.environ["REGATTA_TEST_CLOCK"] + ".seen"
_time, _time_ns = time.time, time.time_ns

def _moved():
    try:
        with open(_offset) as file:
            text = file.read()
    except OSError:
        return 0.0
    if text:
        open(_seen, "a").close()
    return float(text or 0)

time.time = lambda: _time() + _moved()
time.time_ns = lambda: _time_ns() + int(_moved() * 10**9)
"""


@dataclass
class Clock:
    """The clock of the processes that are started with `environment()`."""

    root: Path

    def __post_init__(self) -> None:
        self._site = self.root / "clock"
        self._site.mkdir()
        (self._site / "sitecustomize.py").write_text(_START_UP)

    @property
    def _file(self) -> Path:
        return self._site / "offset"

    def environment(self) -> dict[str, str]:
        others = os.environ.get("PYTHONPATH", "")
        path = f"{self._site}{os.pathsep}{others}".rstrip(os.pathsep)
        return {"PYTHONPATH": path, "REGATTA_TEST_CLOCK": str(self._file)}

    def jump(self, *, hours: float) -> None:
        """Set the clock so far from the true time, as an operator or a time server may."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(hours * 3600))
        fresh.replace(self._file)

    @property
    def was_read(self) -> bool:
        """Whether a process has seen the changed time."""
        return self._file.with_name("offset.seen").exists()
