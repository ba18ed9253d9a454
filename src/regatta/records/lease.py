"""One launcher per study: a lease file with host, process and boot, reclaimed only when provably
dead.

Its holder also keeps the file locked, which the kernel ends with the process: that tells the
living from the dead across containers of one machine, whose numbers of processes mean nothing to
each other.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from secrets import token_hex

from regatta.core.errors import LeaseHeldError
from regatta.core.files import disk_error
from regatta.core.json_text import parse_json
from regatta.core.locks import alone, try_lock
from regatta.records.status import ProcessId, boot_id, this_process

GATE_SECONDS = 10.0
"""Longest wait for launches that look at the same lease; each takes milliseconds."""


def holder(path: Path) -> ProcessId | None:
    """Who holds the lease, or None when it is free or its file is torn.

    Raises:
        LeaseHeldError: there is a lease, and it cannot be read.
    """
    try:
        return ProcessId.parse(parse_json(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise LeaseHeldError(
            f"the lease of this study cannot be read: {error.strerror or error}",
            where=path,
            hint="another user may be running it; make the file readable, or use another --runs",
        ) from error


def refuse_if_held(path: Path) -> None:
    """Raise LeaseHeldError when another process holds the lease, alive as far as can be told."""
    other = holder(path)
    if other != this_process():
        _refuse_unless_dead(other, path)


@contextmanager
def study_lease(path: Path) -> Iterator[None]:
    """Hold the lease at `path` for the length of the block; a block inside one holds it too.

    Raises:
        LeaseHeldError: a live process, or one of which that cannot be told, holds it.
        DiskError: it cannot be written.
    """
    if holder(path) == this_process():
        yield
        return
    lock = _acquire(path)
    try:
        yield
    finally:
        # On a disk that lets nothing be removed any more, it is free once this process has ended.
        with suppress(OSError, LeaseHeldError):
            if holder(path) == this_process():
                path.unlink(missing_ok=True)
        os.close(lock)


def _acquire(path: Path) -> int:
    """Take the lease; the descriptor that keeps it locked."""
    mine = json.dumps(asdict(this_process()))
    own_file = _own_name(path)
    try:
        own_file.write_text(mine, encoding="utf-8")
        lock = os.open(own_file, os.O_RDWR | os.O_CLOEXEC)
        try:
            try_lock(lock)
            with _one_at_a_time(path.parent):
                _link(own_file, path)
        except BaseException:
            os.close(lock)
            raise
        return lock
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        own_file.unlink(missing_ok=True)


def _link(own_file: Path, path: Path) -> None:
    for _ in range(2):
        try:
            # A link is created whole or not at all, so a reader never sees a half-written lease.
            os.link(own_file, path)
            return
        except FileExistsError:
            _bury(path)
    raise _same_moment(path)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Of launches on machines whose disk knows locks, one looks at a lease and takes it."""
    deadline = time.monotonic() + GATE_SECONDS

    def wait() -> None:
        if time.monotonic() > deadline:
            raise _same_moment(folder)

    with alone(folder, wait=wait, every_seconds=0.02):
        yield


def _own_name(path: Path, mark: str = "") -> Path:
    """A name beside the lease that no other process has, on whatever host."""
    # Hosts and containers may share their names, and number their processes alike.
    return path.with_name(f".{path.name}.{os.getpid()}-{token_hex(6)}{mark}")


def _bury(path: Path) -> None:
    """Take a lease away whose holder is dead; refuse for any other."""
    dead = holder(path)
    _refuse_unless_dead(dead, path)
    grave = _own_name(path, ".dead")
    try:
        # Another launch may bury it too and then take the lease: look at what was taken away.
        os.rename(path, grave)
    except FileNotFoundError:
        return
    taken = holder(grave)
    if taken != dead:
        with suppress(FileExistsError):
            os.link(grave, path)
    grave.unlink(missing_ok=True)
    if taken != dead:
        raise _same_moment(path)


def _same_moment(path: Path) -> LeaseHeldError:
    return LeaseHeldError("another launch of this study started at the same moment", where=path)


def _refuse_unless_dead(other: ProcessId | None, path: Path) -> None:
    if other is None or _is_alive(other, path) is False:
        return
    raise LeaseHeldError(
        f"this study is being run by process {other.pid} on {other.host}",
        where=path,
        hint="watch it with: regatta watch; stop it with: regatta stop"
        + ("" if other.is_alive() else "; if that host is gone, delete the lease file"),
    )


def _is_alive(other: ProcessId, path: Path) -> bool | None:
    """As `ProcessId.is_alive`; of a process in another container of this machine the lock on its
    lease tells."""
    seen = other.is_alive()
    same_kernel = other.host == socket.gethostname() and other.boot == boot_id() != ""
    return seen if seen is not None or not same_kernel else _is_locked(path)


def _is_locked(path: Path) -> bool | None:
    """None where that cannot be asked."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False
