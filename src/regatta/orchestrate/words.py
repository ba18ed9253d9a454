"""Statuses in words and small pictures: what tables, lines and summaries are put together from."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from regatta.orchestrate.silence import SILENT
from regatta.orchestrate.snapshot import RunView, StudyView
from regatta.records.status import LIVE, Status

_BLOCKS = "▁▂▃▄▅▆▇█"
IN_TROUBLE = frozenset({"failed", "lost", "interrupted", "unknown"})


def is_in_trouble(status: Status) -> bool:
    """Whether somebody should look at the run: it failed, was cut short, or is silent."""
    return status.state in IN_TROUBLE or status.cause == SILENT


def summary(view: StudyView) -> str:
    """One line: how many runs are in which state, and who supervises them."""
    if view.problem:
        return f"{view.name}: cannot be read: {view.problem}"
    states = ", ".join(f"{count} {state}" for state, count in view.counts.items())
    return f"{view.name}: {states}; {supervision(view)}"


def supervision(view: StudyView) -> str:
    """Who looks after the study's runs, if anybody does."""
    if view.supervisor and view.supervised is not False:
        return f"run by process {view.supervisor.pid} on {view.supervisor.host}"
    if view.jobs:
        return f"jobs of the cluster: {', '.join(view.jobs)}"
    return "nothing is running"


def describe(status: Status) -> str:
    """A status in one line of words."""
    parts = [status.state]
    if status.state != "done" and status.phase and status.phase != status.state:
        parts[0] += f" {status.phase}"
    if status.state in LIVE:
        parts.append(position(status))
        parts.append(f"{rate(status.samples_per_second)} samples/s" if rate_of(status) else "")
        left = duration(status.seconds_left)
        parts.append(f"{left} left" if left else "")
    parts.append(f"best {percent(status.metric)}" if status.metric is not None else "")
    parts.append(reason(status))
    return ", ".join(part for part in parts if part)


def reason(status: Status) -> str:
    """Cause and message of what is not as it should be; "" for what is done."""
    if not status.cause or status.state == "done":
        return ""
    return f"{status.cause}: {status.message}" if status.message else status.cause


def place(status: Status) -> str:
    """What a run's process computes on, with its host where that is another than this one."""
    host = str((status.process or {}).get("host", ""))
    if not host:
        return ""
    words = [] if host == socket.gethostname() else [host.partition(".")[0]]
    return " ".join([*words, *([status.place] if status.place else [])])


def position(status: Status) -> str:
    """Where in its work a run is."""
    # The epochs of its training are still in the record of a run that is judged.
    trains = status.epochs and status.phase != "judge"
    parts = [f"epoch {status.epoch}/{status.epochs}"] if trains else []
    parts += [f"step {status.step}/{status.total_steps}"] if status.total_steps else []
    return " ".join(parts)


def share_done(status: Status) -> float | None:
    """Share of the phase's steps that are done; None when their number is unknown."""
    if not status.total_steps or status.state == "done":
        return None
    return min(1.0, max(0.0, status.step / status.total_steps))


def bar(status: Status, *, width: int = 12) -> str:
    """Share of the phase's steps that are done; empty when their number is unknown."""
    share = share_done(status)
    if share is None:
        return ""
    full = round(width * share)
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


def rate_of(status: Status) -> float | None:
    """Samples per second of a run at work; what another phase or life had reached is none."""
    return status.samples_per_second if status.state in LIVE else None


def rate(samples_per_second: float | None) -> str:
    if not samples_per_second:
        return ""
    digits = 1 if samples_per_second < 100 else 0
    return f"{samples_per_second:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """Seconds in words that fit a table cell."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def by_urgency(runs: Sequence[RunView]) -> list[RunView]:
    """Those in trouble first, then those at work, waiting, and over; else in study order."""

    def rank(run: RunView) -> int:
        state = run.status.state
        if is_in_trouble(run.status):
            return 0
        return 1 if state in LIVE else 3 if state in {"done", "imported"} else 2

    return sorted(runs, key=rank)
