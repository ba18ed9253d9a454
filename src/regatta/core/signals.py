"""A stop request is a flag that work polls at safe points, never an exception in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from regatta.core.errors import StopRequested

_INSTALLED: list[StopFlag] = []
"""The flag of this process, once one is installed."""


def leave_if_asked(doing: str) -> None:
    """StopRequested when this process was asked to stop: for long reading that keeps nothing.

    Args:
        doing: what is left undone, as in "reading the images".
    """
    if any(flag.requested for flag in _INSTALLED):
        hint = "run the same command again: it begins anew"
        raise StopRequested(f"stopped while {doing}", hint=hint)


class StopFlag:
    """Set by TERM or INT: the first asks for a save at a safe point, the third leaves at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._count = 0

    @property
    def requested(self) -> bool:
        return self._count > 0

    @property
    def is_urgent(self) -> bool:
        """Asked for twice: save nothing more, leave now."""
        return self._count > 1

    @property
    def exit_code(self) -> int:
        return 130 if self.signal_name == "SIGINT" else 143

    def install(self) -> StopFlag:
        """Handle TERM and INT of this process from now on; call it in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        _INSTALLED[:] = [self]
        return self

    @contextmanager
    def handling(self) -> Iterator[StopFlag]:
        """`install` for the length of the block."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        flags = list(_INSTALLED)
        self.install()
        try:
            yield self
        finally:
            _INSTALLED[:] = flags
            for number, handler in before.items():
                signal.signal(number, handler)

    def request(self, name: str = "SIGTERM") -> None:
        """Ask for a stop from code, as a signal would."""
        self._count += 1
        self.signal_name = self.signal_name or name

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.request(signal.Signals(number).name)
        if self._count >= 3:
            os._exit(self.exit_code)
