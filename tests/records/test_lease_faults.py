"""Promises of a lease where it is hard to tell who lives: containers, users, many at one moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest

from regatta.config.load import study_from_mapping
from regatta.core.errors import LeaseHeldError, RegattaError
from regatta.orchestrate.run_states import discard_run
from regatta.records.lease import holder, study_lease
from regatta.records.run_folder import RunFolder, StudyFolder, held_study, open_study
from regatta.records.status import process_identity, this_process

HOLD = """
import sys
from pathlib import Path
from regatta.records.lease import study_lease
with study_lease(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
TAKE = """
import sys, time
from pathlib import Path
from regatta.core.errors import LeaseHeldError
from regatta.records.lease import study_lease
sys.stdin.readline()
try:
    with study_lease(Path(sys.argv[1])):
        began = time.monotonic()
        time.sleep(0.5)
        print(began, time.monotonic())
except LeaseHeldError:
    print("refused")
"""
APART = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@contextmanager
def held_by_another(path: Path, *before: str) -> Iterator[subprocess.Popen[str]]:
    command = [*before, sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            os.killpg(child.pid, signal.SIGKILL)


@pytest.fixture
def apart() -> None:
    if subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip("process numbers of its own need root and unshare")


@pytest.mark.fault(22)
@pytest.mark.usefixtures("apart", "no_leaks")
def test_a_lease_of_another_container_holds_while_its_process_lives(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    with held_by_another(path, *APART):
        other = holder(path)
        assert other is not None
        assert other.space != this_process().space
        assert other.is_alive() is None, "its number means nothing here"
        with pytest.raises(LeaseHeldError), study_lease(path):
            pass
        assert holder(path) == other
    # Killed: the kernel has let go of its lock, so it is provably dead.
    assert path.exists()
    deadline = time.monotonic() + 10
    while True:
        try:
            with study_lease(path):
                assert holder(path) == this_process()
            break
        except LeaseHeldError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.fault(22)
@pytest.mark.usefixtures("no_leaks")
def test_of_many_launches_at_a_dead_lease_never_two_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        dead = process_identity(child.pid)
    path.write_text(json.dumps(asdict(dead) | {"started": "1"}))
    command = [sys.executable, "-c", TAKE, str(path)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(12)
    ]
    time.sleep(1.0)
    for started in children:
        assert started.stdin is not None
        started.stdin.write("\n")
        started.stdin.flush()
    said = [started.communicate(timeout=60)[0].strip() for started in children]
    times = sorted(tuple(map(float, text.split())) for text in said if text != "refused")
    assert times, "one of them must win"
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
    assert not path.exists()


@pytest.mark.fault(22)
def test_a_lease_that_cannot_be_read_is_not_free(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.mkdir()
    with pytest.raises(LeaseHeldError, match="cannot be read"), study_lease(path):
        pass
    assert path.is_dir()


def test_a_block_inside_a_block_holds_the_same_lease(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    with study_lease(path):
        with study_lease(path):
            pass
        assert holder(path) == this_process()
    assert list(tmp_path.iterdir()) == []


def study(**train: object):
    return study_from_mapping(
        {
            "name": "one",
            "data": {"source": "rotors"},
            "entries": [{"name": "a", "model": "cnn3d", "size": "tiny", "checkpoint": "none"}],
            "train": {"epochs": 1, **train},
        }
    )


@pytest.mark.fault(22)
def test_the_launch_that_loses_changes_nothing_of_the_study(tmp_path: Path) -> None:
    folder = open_study(tmp_path, study())
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with held_by_another(folder.lease):
        held = folder.lease.read_bytes()
        with pytest.raises(LeaseHeldError), held_study(tmp_path, study(epochs=9)):
            pass
        after = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert after == {**before, folder.lease: held}


def test_settings_are_written_only_by_the_launch_that_holds_the_lease(tmp_path: Path) -> None:
    with held_study(tmp_path, study()) as folder:
        assert holder(folder.lease) == this_process()
        assert folder.study().train.epochs == 1
    assert not folder.lease.exists()


def test_a_launch_killed_at_its_first_moment_leaves_a_folder_that_is_ours(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "one")
    folder.path.mkdir()
    (folder.path / ".lease.json.4242-aaaa").write_text("{")
    folder.lease.write_text("{")
    assert open_study(tmp_path, study()).study().name == "one"


def test_a_process_may_call_itself_anything(tmp_path: Path) -> None:
    program = tmp_path / os.fsdecode(b"\xff\xfe) Z")
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([program, "30"]) as child:
        deadline = time.monotonic() + 5
        while not (identity := process_identity(child.pid)).is_alive():
            assert time.monotonic() < deadline
        assert identity.started.isdecimal()
        child.kill()
    assert identity.is_alive() is False


def test_a_restart_that_is_cut_short_never_leaves_old_predictions_as_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    complete = run.predictions("p") / "complete.json"
    complete.parent.mkdir(parents=True)
    complete.write_text("{}")
    run.training_results.write_text("{}")
    (run.path / "checkpoints").mkdir()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "rmtree", full)
    with pytest.raises(RegattaError):
        discard_run(run)
    assert not run.is_judged("p")
    assert not run.is_trained()
