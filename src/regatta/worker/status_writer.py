"""A run's word on itself while a worker process has it."""

from __future__ import annotations

import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from regatta.core.errors import RecordError
from regatta.records.status import Status, read_status, this_process, write_status

_FIELDS = {field.name for field in fields(Status)}
STATUS_SECONDS = 1.0
"""A heartbeat is written at most this often."""


class StatusWriter:
    """Keeps `status.json` of one or several runs truthful while this process works on them."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._status = {path: _read(path) for path in paths}
        self._written = 0.0

    def start(self, phase: str, *, place: str = "") -> None:
        """The first word of this process; `place` is what it computes on."""
        for path, before in self._status.items():
            self._status[path] = replace(
                before,
                state="running",
                phase=phase,
                step=0,
                total_steps=0,
                process=asdict(this_process()),
                place=place,
                cause=None,
                message=None,
                next_step=None,
                exit_code=None,
            )
        self._write()

    def update(self, progress: dict[str, Any]) -> None:
        """Take over what a status knows of `progress`; written on a new phase and once a second."""
        progress = {key: value for key, value in progress.items() if key in _FIELDS}
        changed = any(progress.get("phase", s.phase) != s.phase for s in self._status.values())
        self._status = {path: replace(s, **progress) for path, s in self._status.items()}
        if changed or time.monotonic() - self._written >= STATUS_SECONDS:
            self._write()

    def end(self, **fields: Any) -> None:
        """Write the last word of this process."""
        self._status = {
            path: replace(s, **{"process": None, "seconds_left": None, **fields})
            for path, s in self._status.items()
        }
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        for path, status in self._status.items():
            self._status[path] = write_status(path, status)


def _read(path: Path) -> Status:
    """A damaged file says nothing: what comes next is written over it."""
    try:
        return read_status(path)
    except (RecordError, TypeError):
        return Status()
