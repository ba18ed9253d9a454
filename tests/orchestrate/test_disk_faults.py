"""Promises on disks that are full, read-only or gone: named, nothing half, and the same command
goes on once the disk is well."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from regatta.records.status import read_status
from tests.disks_here import SmallDisk, small_disk
from tests.orchestrate.toy import HOLDING, STEPS, Toy, processes_of, toy_mapping, wait_until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", mebibytes=8) as mounted:
        yield mounted


@pytest.fixture
def toy(tmp_path: Path, disk: SmallDisk) -> Toy:
    """A toy whose study folder lies on the small disk; its orders lie beside."""
    toy = Toy(tmp_path, toy_mapping(("ann",)))
    (tmp_path / "runs").symlink_to(disk.path)
    return toy


def start_holding(toy: Toy) -> subprocess.Popen[str]:
    toy.prepare()
    toy.order({"train:ann": ["hold"]})
    supervisor = toy.start("supervise")
    wait_until(lambda: toy.status("ann").step == HOLDING, "ann holds")
    return supervisor


def ended(supervisor: subprocess.Popen[str], toy: Toy) -> str:
    """What a supervisor said that has ended by itself, without a trace and without a process."""
    output, _ = supervisor.communicate(timeout=20)
    assert supervisor.returncode == 3, output
    assert "Traceback" not in output
    assert "next:" in output
    wait_until(lambda: not processes_of(toy.root), "no process is left", seconds=15)
    return output


@pytest.mark.fault(9)
def test_a_read_only_folder_is_named_before_any_work(toy: Toy, disk: SmallDisk, no_leaks: None):
    disk.make_read_only()
    finished = toy.call("run")
    assert finished.code == 3, finished.output
    assert "Read-only file system" in finished.output
    assert "--runs" in finished.output
    assert "Traceback" not in finished.output
    assert toy.starts() == []


@pytest.mark.fault(9)
def test_a_disk_that_turns_read_only_ends_the_study_with_the_cause(
    toy: Toy, disk: SmallDisk, no_leaks: None
):
    supervisor = start_holding(toy)
    disk.make_read_only()
    assert "Read-only file system" in ended(supervisor, toy)
    disk.make_writable()
    toy.order({})
    finished = toy.call("supervise")
    assert finished.code == 0, finished.output
    assert [start["begin"] for start in toy.starts("train")] == [0, 2]


@pytest.mark.fault(9)
@pytest.mark.parametrize("how", ["moved", "removed", "unmounted"])
def test_a_folder_that_vanishes_ends_the_study_and_is_not_made_anew(
    toy: Toy, disk: SmallDisk, how: str, no_leaks: None
):
    supervisor = start_holding(toy)
    if how == "moved":
        toy.folder.path.rename(disk.path / "elsewhere")
    elif how == "removed":
        # What was just written may be in the way of the first try.
        while toy.folder.path.exists():
            shutil.rmtree(toy.folder.path, ignore_errors=True)
    else:
        disk.vanish()
    assert "vanished" in ended(supervisor, toy)
    assert not toy.folder.path.exists(), "half a study would be worse than none"
    if how == "moved":
        (disk.path / "elsewhere").rename(toy.folder.path)
        toy.order({})
        finished = toy.call("supervise")
        assert finished.code == 0, finished.output
        assert [start["begin"] for start in toy.starts("train")] == [0, 2]


@pytest.mark.fault(9)
def test_the_folder_of_one_run_that_vanishes_is_not_made_anew(
    toy: Toy, disk: SmallDisk, no_leaks: None
):
    supervisor = start_holding(toy)
    toy.run("ann").path.rename(disk.path / "elsewhere")
    assert "vanished" in ended(supervisor, toy)
    assert not toy.run("ann").path.exists()


@pytest.mark.fault(8)
def test_a_full_disk_ends_the_study_with_need_and_rest_and_keeps_what_was_saved(
    toy: Toy, disk: SmallDisk, no_leaks: None
):
    supervisor = start_holding(toy)
    saved = toy.run("ann").checkpoints / "step.json"
    before = saved.read_bytes()
    disk.fill()
    output = ended(supervisor, toy)
    assert "disk full: need" in output
    assert "have 0 bytes" in output
    assert disk.free_bytes < 10_000, "the disk is full to the end, or this proves nothing"
    assert saved.read_bytes() == before
    # Last words need no room.
    status = toy.status("ann")
    assert status.cause == "environment", status
    assert status.state in {"failed", "interrupted"}
    assert "disk full" in str(status.message)
    assert status.next_step
    assert status.exit_code == 3
    disk.make_room()
    toy.order({})
    finished = toy.call("supervise")
    assert finished.code == 0, finished.output
    assert [start["begin"] for start in toy.starts("train")] == [0, 2]
    assert json.loads(saved.read_text()) == {"step": STEPS}
    assert read_status(toy.run("ann").status).state == "done"


@pytest.mark.fault(8)
def test_a_full_disk_is_named_before_any_work(toy: Toy, disk: SmallDisk, no_leaks: None):
    disk.fill()
    finished = toy.call("run")
    assert finished.code == 3, finished.output
    assert "disk full: need" in finished.output
    assert "Traceback" not in finished.output
    assert toy.starts() == []
