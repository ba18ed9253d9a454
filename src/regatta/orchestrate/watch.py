"""Show progress of studies: a live table on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Protocol, TextIO

from regatta.orchestrate.machine_use import MachineGauge
from regatta.orchestrate.snapshot import StudyView
from regatta.orchestrate.words import describe

PROGRESS_SECONDS = 5.0
"""A run's plain progress line is repeated at most this often."""


class Display(Protocol):
    """Where progress goes. `show` takes every study that is followed, each time."""

    def show(self, *views: StudyView) -> None: ...
    def message(self, text: str) -> None: ...
    def close(self) -> None: ...


def open_display(stream: TextIO | None = None) -> Display:
    """A live table when `stream` (standard output) is a terminal, else plain lines."""
    shown_on: TextIO = sys.stdout if stream is None else stream
    return LiveDisplay(shown_on) if shown_on.isatty() else PlainDisplay(shown_on)


class PlainDisplay:
    """One line per change, with the run id; a reader that went away is no reason to stop."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._said: dict[str, tuple[str, str, str | None]] = {}
        self._said_at: dict[str, float] = {}
        self._said_text: dict[str, str] = {}

    def show(self, *views: StudyView) -> None:
        for view in views:
            self._show(view, f"{view.name}/" if len(views) > 1 else "")

    def _show(self, view: StudyView, before: str) -> None:
        now = time.monotonic()
        for run in view.rows:
            status, name = run.status, before + run.run_id
            told = status.state, status.phase, status.cause
            is_news = self._said.get(name) != told
            is_due = now - self._said_at.get(name, now) >= PROGRESS_SECONDS
            if is_news or (is_due and status.state == "running"):
                self._said[name], self._said_at[name] = told, now
                text = f"{name}: {describe(status)}"
                if text != self._said_text.get(name):
                    self.message(text)
                self._said_text[name] = text

    def message(self, text: str) -> None:
        try:
            print(text, file=self._stream, flush=True)
        except OSError:
            # `regatta run ... | head` must not end hours of training with the pipe, nor fail
            # when Python flushes the rest at its end.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def close(self) -> None:
        return


class LiveDisplay:
    """Tables that are redrawn in place; messages scroll by above them."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream)
        self._gauge = MachineGauge()
        # Drawn only when told: a drawing thread would fork half-held locks into workers.
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def show(self, *views: StudyView) -> None:
        from regatta.orchestrate.watch_table import draw

        width, height = self._console.size
        drawn = draw(views, width=width, height=height - 1, machine=self._gauge.read())
        # Here and below: a terminal that was closed is no reason to lose work.
        with suppress(OSError):
            self._live.update(drawn, refresh=True)

    def message(self, text: str) -> None:
        with suppress(OSError):
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._gauge.close()
        with suppress(OSError):
            self._live.stop()
