"""Locks that end with the process that holds them, and folders that are known by theirs.

The kernel ends a lock (flock) with its process. That also tells the living from the dead across
containers that share a disk, whose numbers of processes mean nothing to each other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

POLL_SECONDS = 0.2
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF)
"""What disks answer that have no locks, or none on folders."""


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed.

    Returns:
        False when another has it locked; None where the disk knows no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


@contextmanager
def alone(
    path: Path, *, wait: Callable[[], object], every_seconds: float = POLL_SECONDS
) -> Iterator[None]:
    """Hold the lock on a file or folder for the length of the block, as one process at a time.

    Args:
        wait: called again and again while another has it: hear a stop there, and give a sign of
            life. It may raise to leave.
    """
    descriptor = os.open(path, _mode(path) | os.O_CLOEXEC)
    try:
        while try_lock(descriptor) is False:
            wait()
            time.sleep(every_seconds)
        yield
    finally:
        os.close(descriptor)


def _mode(path: Path) -> int:
    # Network disks lock only what is open for writing.
    return os.O_RDWR if path.is_file() and os.access(path, os.W_OK) else os.O_RDONLY


@contextmanager
def own_folder(parent: Path, prefix: str, suffix: str = "") -> Iterator[Path]:
    """A new folder `<prefix><number><suffix>` that this process alone fills; gone afterwards,
    unless it was moved to another name."""
    path, lock = _make_own(parent, prefix, suffix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _make_own(parent: Path, prefix: str, suffix: str) -> tuple[Path, int]:
    while True:
        path = parent / f"{prefix}{os.getpid()}-{token_hex(4)}{suffix}"
        path.mkdir(parents=True)
        # Who sweeps from another container may meet it before it is locked.
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if try_lock(lock) is not False and path.exists():
                return path, lock
            os.close(lock)


def sweep_own_folders(parent: Path, prefix: str, suffix: str = "") -> None:
    """Remove what killed processes left of `own_folder` with these words; never that of a live
    one, nor where no lock can tell."""
    name = re.compile(rf"{re.escape(prefix)}(\d+)(-[0-9a-f]{{8}})?{re.escape(suffix)}")
    if not parent.is_dir():
        return
    for path in parent.iterdir():
        found = name.fullmatch(path.name)
        if found is None or path.is_symlink() or number_is_taken(int(found[1])):
            continue
        with suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if try_lock(lock):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def number_is_taken(pid: int) -> bool:
    """Whether a process has this number here; it may be another one."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # Another user's.
    return True
