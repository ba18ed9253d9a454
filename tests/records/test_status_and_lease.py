"""Promises of status and lease: truthful about dead processes, one launcher at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from regatta.core.errors import LeaseHeldError
from regatta.records.lease import holder, study_lease
from regatta.records.status import (
    ProcessId,
    Status,
    observed,
    process_identity,
    read_status,
    this_process,
    write_status,
)


@pytest.fixture
def living_child():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.communicate(b"\n")


@pytest.fixture
def dead_process() -> ProcessId:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    child.communicate(b"\n")
    return identity


def test_status_reads_back_and_missing_is_pending(tmp_path: Path):
    path = tmp_path / "status.json"
    assert read_status(path).state == "pending"
    written = write_status(path, Status(state="running", step=3, process=asdict(this_process())))
    assert read_status(path) == written
    assert written.heartbeat > 0


def test_running_with_a_dead_process_is_seen_as_lost(dead_process: ProcessId):
    status = Status(state="running", process=asdict(dead_process))
    seen = observed(status)
    assert seen.state == "lost"
    assert seen.next_step


def test_running_with_a_live_process_stays_running(living_child):
    status = Status(state="running", process=asdict(process_identity(living_child.pid)))
    assert observed(status) == status


@pytest.mark.fault(22)
def test_a_reused_pid_is_not_the_old_process(living_child):
    old = replace(process_identity(living_child.pid), started="1")
    assert observed(Status(state="running", process=asdict(old))).state == "lost"


def test_done_stays_done_when_its_process_is_gone(dead_process: ProcessId):
    status = Status(state="done", process=asdict(dead_process))
    assert observed(status) == status


def test_a_process_on_another_host_is_not_judged(dead_process: ProcessId):
    elsewhere = replace(dead_process, host="other-host")
    assert elsewhere.is_alive() is None


def test_a_zombie_counts_as_dead():
    child = subprocess.Popen([sys.executable, "-c", ""])
    identity = process_identity(child.pid)
    # Wait without reaping: the child ends and stays a zombie until we ask for its code.
    import os

    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identity.is_alive() is False
    child.wait()


def test_lease_is_held_inside_and_free_after(tmp_path: Path):
    path = tmp_path / "lease.json"
    with study_lease(path):
        assert holder(path) == this_process()
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(22)
def test_second_launch_is_told_who_holds_the_lease(tmp_path: Path, living_child):
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(asdict(process_identity(living_child.pid))))
    with pytest.raises(LeaseHeldError, match=str(living_child.pid)), study_lease(path):
        pass
    assert path.exists()


@pytest.mark.fault(22)
def test_lease_of_a_dead_process_is_reclaimed(tmp_path: Path, dead_process: ProcessId):
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(asdict(dead_process)))
    with study_lease(path):
        assert holder(path) == this_process()


@pytest.mark.fault(22)
def test_lease_before_a_reboot_is_reclaimed(tmp_path: Path, living_child):
    path = tmp_path / "lease.json"
    before = replace(process_identity(living_child.pid), boot="earlier")
    path.write_text(json.dumps(asdict(before)))
    with study_lease(path):
        assert holder(path) == this_process()


@pytest.mark.fault(22)
def test_lease_from_another_host_is_respected_with_a_cure(tmp_path: Path):
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(asdict(ProcessId("elsewhere", 1, "1", "b"))))
    with pytest.raises(LeaseHeldError) as caught, study_lease(path):
        pass
    assert "delete the lease file" in str(caught.value)


@pytest.mark.fault(22)
def test_torn_lease_file_is_reclaimed(tmp_path: Path):
    path = tmp_path / "lease.json"
    path.write_text('{"host": "x", "pi')
    with study_lease(path):
        assert holder(path) == this_process()
