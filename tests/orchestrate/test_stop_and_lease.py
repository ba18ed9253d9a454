"""Promises of stopping: saved work, nothing left behind; and one supervisor per study."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from regatta.core.files import read_json
from regatta.records.status import (
    Status,
    observed,
    process_identity,
    read_status,
    this_process,
    write_status,
)
from tests.orchestrate.toy import HOLDING, STEPS, Toy, lives, processes_of, toy_mapping, wait_until


@pytest.fixture
def holding(toy: Toy):
    """A supervisor whose two workers hold at step 2."""
    toy.prepare()
    toy.order({"train:ann": ["hold"], "train:bob": ["hold"]})
    supervisor = toy.start("supervise")
    wait_until(lambda: all(toy.status(n).step == HOLDING for n in ("ann", "bob")), "both hold")
    return toy, supervisor


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_saves_says_so_once_and_leaves_nothing(holding, number: int, code: int):
    toy, supervisor = holding
    supervisor.send_signal(number)
    output, _ = supervisor.communicate(timeout=15)
    assert supervisor.returncode == code
    assert output.count("stopping:") == 1
    for name in ("ann", "bob"):
        status = toy.status(name)
        assert (status.state, status.cause) == ("interrupted", "stopped")
        assert status.next_step
        assert status.process is None
    assert processes_of(toy.root) == []
    assert not toy.folder.lease.exists()
    toy.order({})
    assert toy.call("supervise").code == 0
    assert all(start["begin"] == 2 for start in toy.starts("train")[2:])


def test_runs_that_had_not_begun_are_pending_after_a_stop(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann", "bob"), max_parallel=1))
    toy.prepare()
    toy.order({"train:ann": ["hold"]})
    supervisor = toy.start("supervise")
    wait_until(lambda: toy.status("ann").step == HOLDING, "ann holds")
    assert toy.status("bob").state == "queued"
    supervisor.send_signal(signal.SIGINT)
    supervisor.communicate(timeout=15)
    assert (toy.status("ann").state, toy.status("bob").state) == ("interrupted", "pending")
    assert toy.status("bob").cause == "stopped"


def deaf_study(root: Path, grace_seconds: float) -> tuple[Toy, subprocess.Popen[str]]:
    toy = Toy(root, toy_mapping(("ann",), grace_seconds=grace_seconds))
    toy.prepare()
    toy.order({"train:ann": ["deaf"]})
    supervisor = toy.start("supervise")
    wait_until(lambda: toy.status("ann").step > STEPS, "ann no longer listens")
    return toy, supervisor


def test_a_worker_that_does_not_listen_is_killed_after_the_grace_time(tmp_path: Path):
    toy, supervisor = deaf_study(tmp_path, grace_seconds=0.5)
    supervisor.send_signal(signal.SIGTERM)
    supervisor.communicate(timeout=10)
    assert supervisor.returncode == 143
    assert toy.status("ann").state == "interrupted"
    assert processes_of(toy.root) == []


def test_a_second_request_does_not_wait_for_the_grace_time(tmp_path: Path):
    toy, supervisor = deaf_study(tmp_path, grace_seconds=600)
    assert supervisor.stdout
    supervisor.send_signal(signal.SIGINT)
    while "stopping:" not in supervisor.stdout.readline():
        continue
    supervisor.send_signal(signal.SIGINT)
    supervisor.communicate(timeout=10)
    assert supervisor.returncode == 130
    assert toy.status("ann").state == "interrupted"


@pytest.mark.fault(6)
def test_a_killed_supervisor_takes_its_workers_along_and_the_next_one_resumes(holding):
    toy, supervisor = holding
    workers = toy.starts("train")
    assert all(lives(worker) for worker in workers)
    supervisor.kill()
    supervisor.communicate()
    wait_until(lambda: not any(map(lives, workers)), "the workers are gone", seconds=5)
    assert observed(toy.status("ann")).state == "lost"
    assert toy.folder.lease.exists()
    toy.order({})
    finished = toy.call("supervise")
    assert finished.code == 0, finished.output
    assert [start["begin"] for start in toy.starts("train")[2:]] == [2, 2]
    assert not toy.folder.lease.exists()


@pytest.mark.fault(22)
def test_of_two_launches_one_wins_and_the_other_names_it(holding):
    toy, supervisor = holding
    before = toy.starts()
    second = toy.call("supervise")
    assert second.code == 3
    assert f"process {supervisor.pid} " in second.output
    assert toy.starts() == before
    toy.release()
    supervisor.communicate(timeout=30)
    assert supervisor.returncode == 0


@pytest.mark.fault(22)
def test_many_launches_at_once_do_the_work_once(toy: Toy):
    toy.prepare()
    launches = [toy.start("supervise") for _ in range(4)]
    outputs = [launch.communicate(timeout=60)[0] for launch in launches]
    codes = [launch.returncode for launch in launches]
    assert codes.count(0) >= 1, outputs
    assert set(codes) <= {0, 3}
    assert sorted(start["names"] for start in toy.starts("train")) == [["ann"], ["bob"]]


@pytest.mark.fault(22)
@pytest.mark.parametrize("reused", [False, True])
def test_the_lease_of_a_dead_process_is_reclaimed(toy: Toy, reused: bool):
    toy.prepare()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = process_identity(child.pid)
    child.communicate(b"\n")
    # A number that was given to somebody else since is as dead as one that is free.
    holder = replace(this_process(), started="1") if reused else dead
    toy.folder.lease.write_text(json.dumps(asdict(holder)))
    assert toy.call("supervise").code == 0


@pytest.mark.fault(22)
def test_the_lease_of_another_host_is_respected(toy: Toy):
    toy.prepare()
    holder = replace(this_process(), host="another-host")
    toy.folder.lease.write_text(json.dumps(asdict(holder)))
    finished = toy.call("supervise")
    assert finished.code == 3
    assert "another-host" in finished.output
    assert toy.starts() == []


@pytest.mark.fault(6)
def test_a_strangers_process_on_a_run_is_left_alone_and_named(toy: Toy):
    toy.prepare()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    status = Status(state="running", phase="train", process=asdict(identity))
    write_status(toy.run("ann").status, status)
    finished = toy.call("supervise")
    assert finished.code == 3
    assert f"process {child.pid} " in finished.output
    assert child.poll() is None
    child.communicate(b"\n")
    assert toy.call("supervise").code == 0


@pytest.mark.fault(6)
def test_a_worker_left_over_from_an_earlier_launch_is_ended_first(toy: Toy):
    """It cannot exist where the kernel ends orphans; elsewhere two would write one run."""
    folder = toy.prepare()
    code = "import time\nwhile True: time.sleep(60)"
    marked = {**os.environ, "REGATTA_SUPERVISED": str(folder.path.resolve())}
    child = subprocess.Popen([sys.executable, "-c", code], env=marked, start_new_session=True)
    status = Status(state="running", phase="train", process=asdict(process_identity(child.pid)))
    write_status(toy.run("ann").status, status)
    finished = toy.call("supervise")
    assert child.wait(timeout=10) == -9
    assert finished.code == 0, finished.output
    assert f"ending process {child.pid}" in finished.output


@pytest.mark.fault(9)
def test_a_supervisor_that_runs_into_an_error_ends_its_workers(holding):
    """Its folder vanishes under it: it cannot write, so it must not leave anybody working."""
    toy, supervisor = holding
    toy.folder.supervisor_log.unlink()
    toy.folder.supervisor_log.mkdir()
    toy.release()
    output, _ = supervisor.communicate(timeout=15)
    assert supervisor.returncode == 3
    assert "cannot write" in output
    assert processes_of(toy.root) == []


def test_a_stop_while_judging_keeps_what_is_judged(toy: Toy):
    toy.prepare()
    toy.finish_training("ann", "bob")
    # Either shard may start first.
    toy.order({"judge:ann": ["hold", "hold"]})
    supervisor = toy.start("supervise")
    wait_until(lambda: toy.status("ann").step == HOLDING, "a shard holds")
    supervisor.send_signal(signal.SIGTERM)
    supervisor.communicate(timeout=15)
    assert supervisor.returncode == 143
    assert read_status(toy.run("ann").status).state == "interrupted"
    toy.order({})
    assert toy.call("supervise").code == 0
    assert not toy.starts("train")


def test_restart_discards_a_run_and_only_that_run(toy: Toy):
    toy.prepare()
    toy.finish_training("bob")
    toy.finish_judging("bob")
    ann = toy.run("ann")
    ann.checkpoints.mkdir()
    (ann.checkpoints / "step.json").write_text('{"step": 4}')
    ann.log.write_text("old words\n")
    finished = toy.call("run", *toy.arguments("run"), "--restart", toy.run_id("ann"))
    assert finished.code == 0, finished.output
    assert [(s["names"], s["begin"]) for s in toy.starts("train")] == [(["ann"], 0)]
    assert ann.log.read_text().startswith("old words")
    assert read_json(ann.run_json)["run_id"] == toy.run_id("ann")


def test_restarting_a_run_that_does_not_exist_names_those_that_do(toy: Toy):
    finished = toy.call("run", *toy.arguments("run"), "--restart", "ann-s0-deadbeef")
    assert finished.code == 2
    assert toy.run_id("ann") in finished.output
    assert toy.starts() == []
