"""One launcher per study: a lease file with host, process and boot, reclaimed only when provably
dead."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from regatta.core.errors import LeaseHeldError
from regatta.core.files import disk_error
from regatta.core.json_text import parse_json
from regatta.records.status import ProcessId, this_process


def holder(path: Path) -> ProcessId | None:
    """Who holds the lease, or None when it is free or its file is torn."""
    try:
        return ProcessId.parse(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def refuse_if_held(path: Path) -> None:
    """Raise LeaseHeldError when another process holds the lease, alive as far as can be told."""
    other = holder(path)
    if other != this_process():
        _refuse_unless_dead(other, path)


@contextmanager
def study_lease(path: Path) -> Iterator[None]:
    """Hold the lease at `path` for the length of the block.

    Raises:
        LeaseHeldError: a live process, or one on another host, holds it.
    """
    _acquire(path)
    try:
        yield
    finally:
        if holder(path) == this_process():
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> None:
    mine = json.dumps(asdict(this_process()))
    own_file = _own_name(path)
    try:
        own_file.write_text(mine, encoding="utf-8")
        for _ in range(2):
            try:
                # A link is created whole or not at all, so a reader never sees a half-written
                # lease.
                os.link(own_file, path)
                return
            except FileExistsError:
                _bury(path)
        raise _same_moment(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        own_file.unlink(missing_ok=True)


def _own_name(path: Path, mark: str = "") -> Path:
    """A name beside the lease that no other process has, on whatever host."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{mark}")


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
    if other is not None and other.is_alive() is not False:
        raise LeaseHeldError(
            f"this study is being run by process {other.pid} on {other.host}",
            where=path,
            hint="watch it with: regatta watch; stop it with: regatta stop"
            + ("" if other.is_alive() else "; if that host is gone, delete the lease file"),
        )
