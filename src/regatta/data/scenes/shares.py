"""Scenes written by several processes: each takes every n-th, and the bytes are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from regatta.data.scenes.encode import write_scenes
from regatta.data.scenes.settings import SceneSettings, settings_from
from regatta.data.scenes.stored_names import Storage

WORTH_A_PROCESS = 200
"""Scenes: fewer take less time than a process needs to start."""
_STEP = 8


def write_in_shares(
    root: Path,
    ids: Sequence[str],
    indices: Sequence[int],
    settings: SceneSettings,
    storage: Storage,
    *,
    follow: Callable[[int], None],
) -> None:
    """Write these scenes, with one process per processor where that pays.

    Args:
        follow: called with about how many are written; what it raises ends all processes.
    Raises:
        DiskError: the disk is full or the folder cannot be written.
    """
    count = min(len(os.sched_getaffinity(0)), 1 + len(ids) // WORTH_A_PROCESS)
    shares = [(ids[n::count], indices[n::count]) for n in range(count)]
    children = [_start(root, share, settings, storage) for share in shares[1:]]
    try:
        for start in range(0, len(shares[0][0]), _STEP):
            # The others are about as far.
            follow(start * count)
            part = slice(start, start + _STEP)
            write_scenes(root, shares[0][0][part], shares[0][1][part], settings, storage)
        failed = [
            share for share, child in zip(shares[1:], children, strict=True) if child.wait() != 0
        ]
        for share in failed:
            # What stopped the child stops us too, and then has its name; else the share is done.
            write_scenes(root, *share, settings, storage)
    finally:
        for child in children:
            child.kill()
            child.wait()


def _start(
    root: Path,
    share: tuple[Sequence[str], Sequence[int]],
    settings: SceneSettings,
    storage: Storage,
) -> subprocess.Popen[str]:
    task = {
        "root": str(root),
        "ids": list(share[0]),
        "indices": list(share[1]),
        "settings": settings.facts(),
        "storage": asdict(storage),
        "parent": os.getpid(),
    }
    child = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(task))
        child.stdin.close()
    except BrokenPipeError:
        # It died at once; whoever waits for it sees that.
        pass
    return child


def main() -> None:
    """Write the share that standard input describes; end soon after the parent is gone."""
    # A terminal's interrupt reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task = json.load(sys.stdin)
    settings, storage = settings_from(task["settings"]), Storage(**task["storage"])
    for start in range(0, len(task["ids"]), _STEP):
        if os.getppid() != task["parent"]:
            return
        part = slice(start, start + _STEP)
        write_scenes(
            Path(task["root"]), task["ids"][part], task["indices"][part], settings, storage
        )


if __name__ == "__main__":
    main()
