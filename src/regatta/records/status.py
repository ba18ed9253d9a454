"""What a run says about itself, and what an observer may believe of it."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from regatta.core.errors import DiskError, RecordError
from regatta.core.files import overwrite_json, read_json, write_json

State = Literal[
    "pending",
    "queued",
    "starting",
    "running",
    "stopping",
    "done",
    "failed",
    "interrupted",
    "lost",
    "unknown",
    "imported",
]
"""unknown = its scheduler gives no answer; said by observers, never written.
imported = its predictions were made elsewhere; nothing is ever started for it."""
RESUME = "run the same command again: it resumes from the last checkpoint"
SEE_LOG = "see log.txt beside this file, then run the same command again"
LIVE: frozenset[str] = frozenset({"starting", "running", "stopping"})
STOPPED: frozenset[str] = frozenset({"failed", "interrupted", "lost"})
"""Over, but not as it should be."""


@dataclass(frozen=True)
class ProcessId:
    """A process that can be told from a later one with the same number."""

    host: str
    pid: int
    started: str
    """Start time in clock ticks since boot, from /proc; empty where there is no /proc."""
    boot: str
    space: str = ""
    """In which numbers of processes are counted: each container has its own."""

    @classmethod
    def parse(cls, record: Any) -> ProcessId:
        """What `asdict` wrote; ValueError for anything else."""
        wanted = {"host": str, "pid": int, "started": str, "boot": str, "space": str}
        if not isinstance(record, dict) or (
            {"space": str} | {k: type(v) for k, v in record.items()} != wanted
        ):
            raise ValueError("it names no process")
        if record["pid"] < 1:
            raise ValueError(f"there is no process {record['pid']}")
        return cls(**record)

    def is_alive(self) -> bool | None:
        """True or False where that can be seen from here; None for a process on another host or in
        another container."""
        if self.host != socket.gethostname() or not _is_visible():
            return None
        if self.boot == boot_id() and self.space not in ("", process_space()):
            return None
        return self.boot == boot_id() and self.started == process_start(self.pid) != ""


def this_process() -> ProcessId:
    return process_identity(os.getpid())


def process_identity(pid: int) -> ProcessId:
    return ProcessId(socket.gethostname(), pid, process_start(pid), boot_id(), process_space())


def process_start(pid: int) -> str:
    """Start ticks of a live process, or "" when there is none (a zombie counts as none)."""
    try:
        # Bytes: a process may call itself anything.
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    after_name = content.rpartition(b")")[2].decode("ascii").split()
    return "" if after_name[0] in "ZX" else after_name[19]


@cache
def process_space() -> str:
    """Names the set in which this process's number is counted; "" where that is not known."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


@cache
def _is_visible() -> bool:
    """Whether this machine shows its processes at all."""
    return bool(process_start(os.getpid()))


@cache
def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Status:
    """One run's state. Times are seconds; `heartbeat` is wall-clock epoch seconds."""

    state: State = "pending"
    phase: str = ""
    """scan | train | validate | judge | ... while it runs."""
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    epochs: int = 0
    samples_per_second: float | None = None
    seconds_left: float | None = None
    metric: float | None = None
    """Best validation accuracy so far, as a fraction."""
    heartbeat: float = 0.0
    attempts: int = 0
    process: dict[str, Any] | None = None
    place: str = ""
    """What it computes on, as its worker says: CPU, GPU 2, GPU 0+1."""
    cause: str | None = None
    """Why it is not done: one word such as stopped, crash, stall, data, out_of_memory,
    non_finite."""
    message: str | None = None
    next_step: str | None = None
    exit_code: int | None = None


def write_status(path: Path, status: Status) -> Status:
    """Write `status` with a fresh heartbeat and return what was written.

    Raises:
        DiskError: it cannot be written; last words are, on a full disk too, if there is a file.
    """
    stamped = replace(with_next_step(status), heartbeat=time.time())
    try:
        write_json(path, asdict(stamped), durable=False)
    except DiskError:
        if stamped.state in LIVE:
            raise
        if not _overwritten(path, stamped):
            raise
    return stamped


def with_next_step(status: Status) -> Status:
    """Every stop has a cause and a next step, whoever words it."""
    if status.state not in STOPPED:
        return status
    cause = {"failed": "crash", "interrupted": "stopped"}.get(status.state, "lost")
    step = SEE_LOG if status.state == "failed" else RESUME
    return replace(status, cause=status.cause or cause, next_step=status.next_step or step)


def _overwritten(path: Path, status: Status) -> bool:
    try:
        overwrite_json(path, asdict(status))
    except OSError:
        return False
    return True


def read_status(path: Path) -> Status:
    """The last written status; a run without a file is pending. RecordError when it is damaged."""
    if not path.is_file():
        return Status()
    content = read_json(path)
    if not isinstance(content, dict):
        raise RecordError("status file is not a mapping", where=path)
    known = {field.name for field in fields(Status)}
    try:
        return _checked(Status(**{key: value for key, value in content.items() if key in known}))
    except ValueError as error:
        raise RecordError(f"this is no status of a run: {error}", where=path) from error


_COUNTS = ("step", "total_steps", "epoch", "epochs", "attempts")
_WORDS = ("phase", "place", "cause", "message", "next_step")
_MEASURES = ("samples_per_second", "seconds_left", "metric", "heartbeat", "exit_code")


def _checked(status: Status) -> Status:
    """The status, if every field is of its kind; ValueError. Displays compute with them."""
    values = vars(status)
    wrong = [name for name in _COUNTS if type(values[name]) is not int or values[name] < 0]
    wrong += [name for name in _WORDS if not isinstance(values[name], str | None)]
    wrong += [
        name
        for name in _MEASURES
        if values[name] is not None and type(values[name]) not in (int, float)
    ]
    if status.state not in get_args(State) or wrong or status.heartbeat is None:
        raise ValueError(f"wrong {', '.join(wrong) or 'state'}")
    if status.process is not None:
        ProcessId.parse(status.process)
    return status


def observed(status: Status) -> Status:
    """`status` as an observer should see it: a live state whose process is gone becomes `lost`."""
    if status.state not in LIVE or not status.process:
        return status
    if ProcessId(**status.process).is_alive() is False:
        return replace(
            status,
            state="lost",
            cause=status.cause or "crash",
            next_step=status.next_step or RESUME,
        )
    return status
