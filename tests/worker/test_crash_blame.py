"""Whom a crash is blamed on: the file of the thread that crashed, in whatever rank; no file when
the crash was elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from regatta.orchestrate.causes import Failure, diagnose
from regatta.orchestrate.local import Ended
from regatta.records.in_hand import BOARD_VARIABLE, read_boards, remove_boards

CRASH = """
import ctypes, faulthandler, sys, threading
from regatta.records.in_hand import in_hand, open_board
faulthandler.enable()
open_board()
held = threading.Barrier(3)
def read(name, crashes):
    with in_hand(name):
        held.wait()
        if crashes:
            ctypes.CDLL(None).memset(None, 0, 1)
        threading.Event().wait()
for name in ("/videos/good.avi", "/videos/bad.avi"):
    crashes = sys.argv[1] == "reading" and "bad" in name
    threading.Thread(target=read, args=(name, crashes), daemon=True).start()
held.wait()
if sys.argv[1] == "elsewhere":
    ctypes.CDLL(None).memset(None, 0, 1)
if sys.argv[1] == "killed":
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
threading.Event().wait()
"""


def crash(tmp_path: Path, where: str, *, code: int | None = None, rank: str = "0") -> Failure:
    """What is said of a process that died; `code`: what its launcher made of its exit."""
    log, prefix = tmp_path / "log.txt", tmp_path / ".log-in-hand"
    with log.open("ab") as output:
        start = output.seek(0, 2)
        done = subprocess.run(
            [sys.executable, "-c", CRASH, where],
            env={**os.environ, BOARD_VARIABLE: str(prefix), "RANK": rank},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=60,
        )
    assert done.returncode == (-9 if where == "killed" else -11), log.read_text()
    held = read_boards(prefix)
    assert {each.path for each in held} == {"/videos/good.avi", "/videos/bad.avi"}
    remove_boards(prefix)
    ended = Ended("train:a", code or done.returncode, 1.0, 0, False, "it held 1.0 GiB")
    return diagnose(ended, status=None, log=log, log_start=start, held=held)


@pytest.mark.fault(13)
@pytest.mark.parametrize(("rank", "code"), [("0", None), ("1", 1)])
def test_the_file_of_the_crashed_thread_is_named_in_whatever_rank(
    tmp_path: Path, rank: str, code: int | None
):
    """torchrun turns the death of a rank into exit code 1."""
    failure = crash(tmp_path, "reading", rank=rank, code=code)
    assert (failure.cause, failure.file) == ("decoder_crash", "/videos/bad.avi")
    assert "Segmentation fault" in failure.message
    assert failure.retry
    again = crash(tmp_path, "reading", rank=rank, code=code).after(failure)
    assert not again.retry
    assert "for the second time" in again.message


@pytest.mark.fault(13)
def test_a_crash_elsewhere_is_blamed_on_no_file(tmp_path: Path):
    # An older crash in the same log, of an attempt before, is not taken for this one.
    assert crash(tmp_path, "reading").cause == "decoder_crash"
    failure = crash(tmp_path, "elsewhere")
    assert (failure.cause, failure.file) == ("crash", None)
    assert "SIGSEGV" in failure.message
    killed = crash(tmp_path, "killed")
    assert (killed.cause, killed.file) == ("killed", None)
