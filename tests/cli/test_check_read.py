"""Promises of `regatta check --read`: the study is held while its data are read, and the process
that reads them goes with the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from regatta.core.errors import RecordError
from regatta.records.run_folder import StudyFolder
from regatta.records.status import ProcessId, Status, read_status
from tests.test_bad_input import assert_told, regatta

STUDY = """
name: s
data:
  source: trajectories
  root: scenes
  options: {per_class: 4000, cameras: 2, frames: 8, size: 32}
entries: [{name: net, model: trajectory, size: tiny, options: {frames: 8, image_size: 32}}]
"""
CHECK = ("check", "s.yaml", "--read", "--no-probe")


@contextmanager
def reading(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], ProcessId]]:
    """The command, and its process that reads the data."""
    command = subprocess.Popen([sys.executable, "-m", "regatta", *CHECK], cwd=home)
    try:
        yield command, ProcessId(**(wait_for_reader(home, command).process or {}))
    finally:
        command.kill()
        command.wait()


def wait_for_reader(home: Path, command: subprocess.Popen[bytes]) -> Status:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and command.poll() is None:
        try:
            status = read_status(StudyFolder(home / "runs" / "s").prepare_status)
        except RecordError:
            continue
        if status.process is not None and ProcessId(**status.process).is_alive():
            return status
        time.sleep(0.05)
    raise AssertionError(f"nothing reads the data; exit code {command.poll()}")


def assert_gone(process: ProcessId) -> None:
    deadline = time.monotonic() + 15
    while process.is_alive():
        assert time.monotonic() < deadline, "it still reads the data"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.fault(6)
@pytest.mark.fault(22)
@pytest.mark.usefixtures("no_leaks")
def test_reading_holds_the_study_and_ends_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A cache that torch keeps on purpose.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "s.yaml").write_text(STUDY)
    with reading(tmp_path) as (command, reader):
        assert reader.pid != command.pid
        assert_told(regatta(*CHECK, cwd=tmp_path), 3, "this study is being run by process")
        os.kill(command.pid, signal.SIGKILL)
        assert_gone(reader)
    with reading(tmp_path) as (command, reader):
        os.kill(command.pid, signal.SIGTERM)
        assert command.wait(30) == 143
        assert_gone(reader)
    assert not StudyFolder(tmp_path / "runs" / "s").lease.exists()


@pytest.mark.slow
def test_what_is_wrong_with_the_data_is_said_as_a_run_would(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "photo.jpg").touch()
    assert_told(
        regatta(*CHECK, cwd=tmp_path), 2, "holds files that source 'trajectories' did not make"
    )
