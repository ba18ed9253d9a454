"""Small disks for tests: a tmpfs of a given size that is full, read-only or gone when a test wants.

They are mounted in a mount namespace of this test process and its children, so nothing is left on
the machine when the tests end or are killed. Root and Linux only; else the test is skipped.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_CLONE_NEWNS = 0x20000
_private = False


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system of its own."""

    path: Path

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    @property
    def _filler(self) -> Path:
        return self.path / "filler"

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Take all room but about so much."""
        with open(self._filler, "ab", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self.free_bytes - leave_bytes))
        assert self.free_bytes <= leave_bytes

    def make_room(self) -> None:
        self._filler.unlink(missing_ok=True)

    def make_read_only(self) -> None:
        """From now on nothing can be opened for writing; what is open stays so, as a log does."""
        # The disk itself cannot turn while files are open for writing: another look at it can.
        _run("mount", "--bind", str(self.path), str(self.path))
        _run("mount", "-o", "remount,bind,ro", str(self.path))

    def make_writable(self) -> None:
        _run("umount", "-l", str(self.path))

    def vanish(self) -> None:
        """Unmount it under whoever works there."""
        _run("umount", "-l", str(self.path))


@contextmanager
def small_disk(path: Path, *, mebibytes: int) -> Iterator[SmallDisk]:
    """Mount a disk of that size at `path`, or skip the test where that is not allowed."""
    _need_private_mounts()
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "regatta-test", str(path))
    try:
        yield SmallDisk(path)
    finally:
        while not subprocess.run(["umount", "-l", str(path)], capture_output=True).returncode:
            continue


def _need_private_mounts() -> None:
    global _private
    if _private:
        return
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        pytest.skip(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    made = subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no private mounts: {made.stderr.decode().strip()}")
    _private = True


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
