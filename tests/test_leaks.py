"""The leak fixture itself: it must see what is left behind, or it proves nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from tests.leaks import nothing_left_behind

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def _unheld_memory() -> SharedMemory:
    memory = SharedMemory(create=True, size=4096)
    memory.close()
    return memory


def test_an_orphan_in_a_session_of_its_own_is_seen(tmp_path: Path):
    child = None
    try:
        with (
            pytest.raises(AssertionError, match=r"process \d+ .*time\.sleep"),
            nothing_left_behind(tmp_path, seconds=0.3),
        ):
            child = subprocess.Popen(SLEEPER, start_new_session=True)
    finally:
        assert child is not None
        child.kill()
        child.wait()


def test_shared_memory_that_nobody_holds_is_seen(tmp_path: Path):
    with (
        pytest.raises(AssertionError, match="/dev/shm/"),
        nothing_left_behind(tmp_path, seconds=0.3),
    ):
        memory = _unheld_memory()
    memory.unlink()


def test_a_temporary_file_is_seen(tmp_path: Path):
    with (
        pytest.raises(AssertionError, match="temporary file"),
        nothing_left_behind(tmp_path, seconds=0.3),
    ):
        tempfile.mkstemp()


def test_an_open_socket_is_seen(tmp_path: Path):
    with (
        pytest.raises(AssertionError, match="socket"),
        nothing_left_behind(tmp_path, seconds=0.3),
    ):
        listener = socket.create_server(("127.0.0.1", 0))
    listener.close()


def test_what_ends_in_time_is_no_leak(tmp_path: Path):
    with nothing_left_behind(tmp_path, seconds=10):
        subprocess.run([sys.executable, "-c", "pass"], check=True)
