"""Runs that should speak and do not: what an observer on any host can tell of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from regatta.config.launch import LaunchSection
from regatta.core.errors import RegattaError
from regatta.orchestrate.snapshot import RunView, StudyView
from regatta.records.run_folder import StudyFolder
from regatta.records.status import LIVE, ProcessId

SILENT = "silent"
"""The cause that an observer gives to a live run without a heartbeat."""
_FRESH_SECONDS = 10.0


@dataclass
class SilenceWatch:
    """Marks live runs of one study whose heartbeat is older than `limit` seconds.

    A heartbeat carries the clock of the host that wrote it, which may be wrong. Once one has
    changed while we looked, its age is counted by our own clock.
    """

    limit: float
    _seen: dict[str, tuple[float, float, bool]] = field(default_factory=dict)

    def mark(self, view: StudyView) -> StudyView:
        """The view with cause, message and next step of its silent runs."""
        data = self._marked(view.data) if view.data else None
        return replace(view, runs=tuple(map(self._marked, view.runs)), data=data)

    def _marked(self, run: RunView) -> RunView:
        status = run.status
        if status.state not in LIVE or not status.heartbeat:
            return run
        age = self._age(run.run_id, status.heartbeat)
        if age < self.limit:
            return run
        told = replace(
            status,
            cause=SILENT,
            message=f"no sign of life for {minutes(age)}",
            next_step=_next_step(status.process),
            samples_per_second=None,
            seconds_left=None,
        )
        return replace(run, status=told)

    def _age(self, run_id: str, heartbeat: float) -> float:
        now = time.monotonic()
        known = self._seen.get(run_id)
        if known is None or known[0] != heartbeat:
            known = self._seen[run_id] = (heartbeat, now, known is not None)
        _, since, moved = known
        return now - since if moved else max(now - since, time.time() - heartbeat)


def stall_seconds(folder: StudyFolder) -> float:
    """The study's limit; the default of one that cannot be read, which the display tells."""
    try:
        return folder.study().launch.stall_seconds
    except RegattaError:
        return LaunchSection().stall_seconds


def mark_silent(view: StudyView) -> StudyView:
    """`view`, read once, with its silent runs marked by the wall clock."""
    now = time.time()
    beats = [run.status.heartbeat for run in view.rows if run.status.state in LIVE]
    # Reading the study costs more than all its runs: not for those that have just spoken.
    if all(now - beat < _FRESH_SECONDS for beat in beats):
        return view
    return SilenceWatch(stall_seconds(StudyFolder(view.path))).mark(view)


def minutes(seconds: float) -> str:
    """A silence in words: whole minutes, hours beyond two."""
    whole = int(seconds // 60)
    if whole < 1:
        return f"{int(seconds)} s"
    return f"{whole} min" if whole < 120 else f"{whole // 60} h"


def _next_step(process: dict[str, object] | None) -> str:
    who = ProcessId(**process) if process else None  # pyright: ignore[reportArgumentType]
    if who and who.is_alive() is None:
        return f"look whether process {who.pid} lives on {who.host}; if not, run the study again"
    return "its supervisor restarts it; without one: regatta stop, then run again"
