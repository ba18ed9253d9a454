"""What a test may leave behind: nothing. No process, shared memory, temporary file or open socket.

Everything that is started inside the block inherits a mark in its environment, so a process is
found in whatever session, group or orphanage it ended up. Temporary files go to a folder of the
block's own.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = "REGATTA_TEST_MARK"
SECONDS = 15.0
"""Within which all of a stopped or crashed study must be gone."""
SHARED_MEMORY = Path("/dev/shm")
OF_OTHERS = ("fuzz-",)
"""Beginnings of names of plain files that tests beside this one keep there."""


@contextmanager
def nothing_left_behind(folder: Path, *, seconds: float = SECONDS) -> Iterator[None]:
    """Fail unless all that was started or made inside the block is gone soon after it.

    Args:
        folder: for temporary files (TMPDIR) meanwhile; must be empty or absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex
    before = {"sockets": _own_sockets(), "memory": _shared_memory()}
    changed = {MARK: mark, "TMPDIR": str(folder)}
    old = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    tempfile.tempdir = None
    try:
        yield
        leaks = _wait_for_none(mark, before, folder, seconds)
    finally:
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        tempfile.tempdir = None
    assert not leaks, f"{seconds:.0f} s later there is still: " + "; ".join(leaks)


def marked_processes(mark: str) -> list[str]:
    """Living processes that carry the mark, as 'pid command line'; this one is not among them."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found.append(f"process {entry.name} {command.strip()}")
    return found


def _wait_for_none(
    mark: str, before: dict[str, set[str]], folder: Path, seconds: float
) -> list[str]:
    end = time.monotonic() + seconds
    while leaks := _leaks(mark, before, folder):
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return leaks


def _leaks(mark: str, before: dict[str, set[str]], folder: Path) -> list[str]:
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()]
    return [
        *marked_processes(mark),
        *(f"socket {name}" for name in _own_sockets() - before["sockets"]),
        *(f"/dev/shm/{name}" for name in _unheld(_shared_memory() - before["memory"])),
        *(f"temporary file {name}" for name in files),
        *(f"temporary folder {path.name}" for path in folder.iterdir() if path.is_dir()),
    ]


def _own_sockets() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def _shared_memory() -> set[str]:
    if not SHARED_MEMORY.is_dir():
        return set()
    return {p.name for p in SHARED_MEMORY.iterdir() if not p.name.startswith(OF_OTHERS)}


def _unheld(names: set[str]) -> set[str]:
    """Those that no living process has mapped: tests beside this one have theirs in use."""
    if not names:
        return names
    held: set[str] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            text = (entry / "maps").read_text(errors="replace")
        except OSError:
            continue
        held |= {name for name in names if f"{SHARED_MEMORY}/{name}" in text}
    return names - held
