"""Show a study's progress: a live table on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TextIO

from regatta.orchestrate.snapshot import RunView, StudyView
from regatta.records.status import LIVE, Status

if TYPE_CHECKING:
    from rich.table import Table

PROGRESS_SECONDS = 5.0
"""A run's plain progress line is repeated at most this often."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_COLOURS = {
    "done": "green",
    "imported": "green",
    "failed": "red",
    "lost": "red",
    "running": "cyan",
    "starting": "cyan",
    "stopping": "yellow",
    "interrupted": "yellow",
}


class Display(Protocol):
    """Where progress goes."""

    def show(self, view: StudyView) -> None: ...
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
        self._said: dict[str, tuple[str, str]] = {}
        self._said_at: dict[str, float] = {}
        self._said_text: dict[str, str] = {}

    def show(self, view: StudyView) -> None:
        now = time.monotonic()
        for run in view.rows:
            status, run_id = run.status, run.run_id
            is_news = self._said.get(run_id) != (status.state, status.phase)
            is_due = now - self._said_at.get(run_id, now) >= PROGRESS_SECONDS
            if is_news or (is_due and status.state == "running"):
                self._said[run_id], self._said_at[run_id] = (status.state, status.phase), now
                text = f"{run_id}: {describe(status)}"
                if text != self._said_text.get(run_id):
                    self.message(text)
                self._said_text[run_id] = text

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
    """A table that is redrawn in place; messages scroll by above it."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream)
        # Drawn only when told: a drawing thread would fork half-held locks into workers.
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def show(self, view: StudyView) -> None:
        width, height = self._console.size
        table = _table(view, width=width, rows=height - 5)
        # Here and below: a terminal that was closed is no reason to lose work.
        with suppress(OSError):
            self._live.update(table, refresh=True)

    def message(self, text: str) -> None:
        with suppress(OSError):
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        with suppress(OSError):
            self._live.stop()


_GAP = 2
_DROPPED_FIRST = ("bar", "samples/s", "validation", "left", "phase", "best")
"""Columns that a narrow terminal does without, in this order."""


def _cells(run: RunView) -> dict[str, str]:
    status = run.status
    return {
        "run": run.run_id,
        "state": status.state,
        "phase": status.phase,
        "bar": bar(status),
        "progress": position(status),
        "samples/s": f"{status.samples_per_second:.1f}" if status.samples_per_second else "",
        "left": duration(status.seconds_left),
        "best": percent(status.metric),
        "validation": sparkline(run.curve),
    }


def _fitting_columns(rows: Sequence[dict[str, str]], width: int) -> list[str]:
    """Columns that have something to show and fit side by side, whole."""
    columns = {
        name: max(len(name), *(len(row[name]) for row in rows))
        for name in (rows[0] if rows else ())
        if name in {"run", "state"} or any(row[name] for row in rows)
    }
    for name in _DROPPED_FIRST:
        if sum(columns.values()) + _GAP * len(columns) <= width:
            break
        columns.pop(name, None)
    return list(columns)


def _table(view: StudyView, *, width: int, rows: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        caption=summary(view),
        caption_justify="left",
    )
    shown = [_cells(run) for run in _most_telling(view.rows, rows)]
    columns = _fitting_columns(shown, width)
    for name in columns:
        table.add_column("" if name == "bar" else name, no_wrap=True)
    for cells in shown:
        colour = _COLOURS.get(cells["state"], "")
        table.add_row(*(Text(cells[n], style=colour if n == "state" else "") for n in columns))
    return table


def _most_telling(runs: Sequence[RunView], rows: int) -> list[RunView]:
    """As many runs as fit, in study order; those that work or failed come before others."""
    if len(runs) <= rows:
        return list(runs)

    def rank(run: RunView) -> int:
        state = run.status.state
        return 0 if state in LIVE else 1 if state in {"failed", "lost", "interrupted"} else 2

    chosen = sorted(runs, key=rank)[: max(1, rows)]
    return [run for run in runs if run in chosen]


def summary(view: StudyView) -> str:
    """One line: how many runs are in which state, and who supervises them."""
    if view.problem:
        return f"{view.name}: cannot be read: {view.problem}"
    states = ", ".join(f"{count} {state}" for state, count in view.counts.items())
    if view.supervisor and view.supervised is not False:
        who = view.supervisor
        return f"{view.name}: {states}; run by process {who.pid} on {who.host}"
    return f"{view.name}: {states}; nothing is running"


def describe(status: Status) -> str:
    """A status in one line of words."""
    parts = [status.state]
    if status.state != "done" and status.phase and status.phase != status.state:
        parts[0] += f" {status.phase}"
    if status.state in LIVE:
        parts.append(position(status))
        parts.append(
            f"{status.samples_per_second:.1f} samples/s" if status.samples_per_second else ""
        )
        left = duration(status.seconds_left)
        parts.append(f"{left} left" if left else "")
    parts.append(f"best {percent(status.metric)}" if status.metric is not None else "")
    if status.cause and status.state != "done":
        parts.append(f"{status.cause}: {status.message}" if status.message else status.cause)
    return ", ".join(part for part in parts if part)


def position(status: Status) -> str:
    """Where in its work a run is."""
    # The epochs of its training are still in the record of a run that is judged.
    trains = status.epochs and status.phase != "judge"
    parts = [f"epoch {status.epoch}/{status.epochs}"] if trains else []
    parts += [f"step {status.step}/{status.total_steps}"] if status.total_steps else []
    return " ".join(parts)


def bar(status: Status, *, width: int = 12) -> str:
    """Share of the phase's steps that are done; empty when their number is unknown."""
    if not status.total_steps or status.state == "done":
        return ""
    full = round(width * min(1.0, max(0.0, status.step / status.total_steps)))
    return "━" * full + "╌" * (width - full)


def sparkline(values: Sequence[float], *, width: int = 12) -> str:
    """The last `width` values as blocks between their own lowest and highest."""
    shown = list(values)[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    top = len(_BLOCKS) - 1
    if high == low:
        return _BLOCKS[top // 2] * len(shown)
    return "".join(_BLOCKS[round((value - low) / (high - low) * top)] for value in shown)


def percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f} %"


def duration(seconds: float | None) -> str:
    """Seconds in words that fit a table cell."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
