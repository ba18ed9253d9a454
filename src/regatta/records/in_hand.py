"""Which file each reading thread of a worker has in hand, for whoever finds it dead or silent.

A decoder that crashes takes its process with it, and one that hangs says nothing. So every thread
notes the file in a small mapped file before it opens it, and strikes it out after: what stands
there when the process is gone was in hand. The kernel keeps a mapped file whatever ends the
process. A note costs a few microseconds and no call of the system.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from regatta.records.status import boot_id

BOARD_VARIABLE = "REGATTA_IN_HAND"
"""Tells a worker the beginning of its board's name; each of its ranks adds its number."""
BOARDS = ".*-in-hand-*-*"
"""What the names of boards look like."""
_SLOT = struct.Struct("<QdH")
"""Thread (0 = the slot is free), time of the last sign of life, bytes of the path."""
_SLOT_BYTES = 512
_SLOTS = 64
_TIME = struct.Struct("<d")
_THREAD = struct.Struct("<Q")
_CRASH = re.compile(
    rb"Fatal Python error: (?P<what>[^\n]+)\n.*?Current thread 0x(?P<id>[0-9a-f]+)", re.DOTALL
)
_TAIL_BYTES = 1 << 18


@dataclass(frozen=True)
class Held:
    """A file that a thread had in hand. seconds: since its last sign of life, which came at
    `since` by the clock of its machine."""

    path: str
    thread: int
    since: float
    seconds: float


class Note:
    """One thread's hold on one file."""

    def __init__(self, board: mmap.mmap | None, start: int) -> None:
        self._board, self._start = board, start

    def beat(self) -> None:
        """The decoder has come on: this file does not hang."""
        if self._board is not None:
            _TIME.pack_into(self._board, self._start + _THREAD.size, time.monotonic())


class Board:
    """The notes of one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "w+b") as handle:
            # With its blocks laid out, a full disk refuses it here and not at a note, by SIGBUS.
            os.posix_fallocate(handle.fileno(), 0, _SLOTS * _SLOT_BYTES)
            self._map = mmap.mmap(handle.fileno(), _SLOTS * _SLOT_BYTES)
        self._free = [slot * _SLOT_BYTES for slot in range(_SLOTS)]

    @contextmanager
    def hold(self, path: str | Path) -> Iterator[Note]:
        try:
            start = self._free.pop()
        except IndexError:  # More threads than slots: this one goes unnoted.
            yield Note(None, 0)
            return
        # The end of a long path tells more than its beginning.
        name = os.fsencode(os.path.abspath(path))[-(_SLOT_BYTES - _SLOT.size) :]
        first = start + _SLOT.size
        self._map[first : first + len(name)] = name
        _SLOT.pack_into(self._map, start, threading.get_ident(), time.monotonic(), len(name))
        try:
            yield Note(self._map, start)
        finally:
            _THREAD.pack_into(self._map, start, 0)
            self._free.append(start)

    def close(self) -> None:
        """Nothing is in hand any more."""
        self.path.unlink(missing_ok=True)


_board: Board | None = None


def open_board() -> None:
    """Keep notes from now on, where the environment asks for them."""
    global _board
    prefix = os.environ.get(BOARD_VARIABLE)
    if not prefix:
        return
    try:
        _board = Board(Path(f"{prefix}-{os.environ.get('RANK', '0')}-{boot_id()[:8]}"))
    except OSError as error:
        print(f"files in hand are not noted: {error}", flush=True)


def close_board() -> None:
    """Forget the notes of this process: it ends as it should."""
    global _board
    if _board is not None:
        _board.close()
        _board = None


@contextmanager
def in_hand(path: str | Path) -> Iterator[Note]:
    """Note that this thread works on a file, for the length of the block."""
    if _board is None:
        yield Note(None, 0)
        return
    with _board.hold(path) as note:
        yield note


def read_boards(prefix: Path) -> list[Held]:
    """What the processes of a task have in hand, the longest without a sign of life first.

    Of another machine only the files are known: its clock is not ours.
    """
    found = []
    for path in sorted(prefix.parent.glob(f"{prefix.name}-*")):
        is_here = path.name.endswith(f"-{boot_id()[:8]}")
        try:
            found += _read(path.read_bytes(), is_here=is_here)
        except OSError:
            continue
    return sorted(found, key=lambda held: -held.seconds)


def _read(content: bytes, *, is_here: bool) -> list[Held]:
    found, now = [], time.monotonic()
    for start in range(0, len(content) - _SLOT_BYTES + 1, _SLOT_BYTES):
        thread, since, size = _SLOT.unpack_from(content, start)
        if thread:
            name = content[start + _SLOT.size :][: min(size, _SLOT_BYTES - _SLOT.size)]
            found.append(Held(os.fsdecode(name), thread, since, now - since if is_here else 0.0))
    return found


def remove_boards(prefix: Path) -> None:
    """Remove what a dead process has left."""
    for path in prefix.parent.glob(f"{prefix.name}-*"):
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Crash:
    """A process died of a signal that it told of. what: in the interpreter's words."""

    what: str
    thread: int


def last_crash(log: Path, start: int) -> Crash | None:
    """What `faulthandler` wrote to a log since an attempt began: which thread crashed, and how."""
    try:
        with open(log, "rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(start if start <= size else 0, size - _TAIL_BYTES))
            found = list(_CRASH.finditer(handle.read()))
    except OSError:
        return None
    if not found:
        return None
    return Crash(found[-1]["what"].decode(errors="replace"), int(found[-1]["id"], 16))
