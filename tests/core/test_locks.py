"""Promises of locks: one process at a time, whoever waits hears a stop, and only what a dead
process left is swept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from regatta.core.errors import StopRequested
from regatta.core.locks import alone, own_folder, sweep_own_folders

HOLD = """
import sys, time
from pathlib import Path
from regatta.core.locks import alone, own_folder
path = Path(sys.argv[2])
with alone(path, wait=int) if sys.argv[1] == "alone" else own_folder(path, "a-", ".x") as held:
    print(held, flush=True)
    time.sleep(60)
"""


def start(kind: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, kind, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill(child: subprocess.Popen[str]) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_who_waits_for_a_lock_can_leave_and_gets_it_once_its_holder_is_killed(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "x"
    path.touch() if kind == "file" else path.mkdir()
    child = start("alone", path)
    assert child.stdout is not None
    child.stdout.readline()
    waited = 0

    def leave() -> None:
        nonlocal waited
        waited += 1
        if waited == 2:
            raise StopRequested("stopped while waiting")

    with pytest.raises(StopRequested), alone(path, wait=leave, every_seconds=0.01):
        pass
    kill(child)
    with alone(path, wait=lambda: pytest.fail("it is free")):
        assert waited == 2


def test_only_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    child = start("own", tmp_path)
    assert child.stdout is not None
    left = Path(child.stdout.readline().strip())
    sweep_own_folders(tmp_path, "a-", ".x")
    assert left.is_dir()
    # In another container its number says nothing here: the lock does.
    foreign = tmp_path / f"a-{2**22 + 1}-0123abcd.x"
    left.rename(foreign)
    sweep_own_folders(tmp_path, "a-", ".x")
    assert foreign.is_dir()
    kill(child)
    for other in ("a-b-1-0123abcd.x", f"a-{2**22 + 1}.y", "a-.x"):
        (tmp_path / other).mkdir()
    sweep_own_folders(tmp_path, "a-", ".x")
    assert sorted(os.listdir(tmp_path)) == ["a-.x", f"a-{2**22 + 1}.y", "a-b-1-0123abcd.x"]


def test_a_folder_of_ones_own_is_gone_afterwards_unless_it_was_moved(tmp_path: Path) -> None:
    with own_folder(tmp_path, "a-") as path:
        (path / "file").write_text("x")
    assert not path.exists()
    with own_folder(tmp_path, "a-") as path:
        path.rename(tmp_path / "kept")
    assert os.listdir(tmp_path) == ["kept"]
