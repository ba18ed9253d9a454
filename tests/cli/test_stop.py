"""Promises of `regatta stop`: it asks who works on the study, waits, and says what happened."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from regatta.records.status import process_identity, this_process
from tests.orchestrate.toy import HOLDING, Toy, processes_of, toy_mapping, toy_study, wait_until


@pytest.fixture
def toy(tmp_path: Path, no_leaks: None) -> Iterator[Toy]:
    with toy_study(tmp_path) as study:
        yield study


def start_holding(toy: Toy, *names: str) -> subprocess.Popen[str]:
    toy.prepare()
    toy.order({f"train:{name}": ["hold"] for name in names})
    supervisor = toy.start("run")
    wait_until(lambda: all(toy.status(n).step == HOLDING for n in names), "the runs hold")
    return supervisor


def test_a_running_study_is_stopped_and_its_end_awaited(toy: Toy):
    supervisor = start_holding(toy, "ann", "bob")
    finished = toy.call("stop", "--runs", str(toy.runs_root))
    assert finished.code == 0, finished.output
    assert f"asked process {supervisor.pid} to stop" in finished.output
    assert "toy: stopped; 2 interrupted" in finished.output
    assert processes_of(toy.root) == []
    supervisor.communicate(timeout=10)
    assert supervisor.returncode == 143


def test_one_run_is_stopped_and_the_others_go_on(toy: Toy):
    supervisor = start_holding(toy, "ann", "bob")
    finished = toy.call("stop", toy.run_id("ann"), "--runs", str(toy.runs_root))
    assert finished.code == 0, finished.output
    assert f"{toy.run_id('ann')}: stopped" in finished.output
    assert supervisor.poll() is None
    toy.release()
    supervisor.communicate(timeout=30)
    assert supervisor.returncode == 1
    assert (toy.status("ann").state, toy.status("bob").state) == ("interrupted", "done")


def test_runs_that_are_judged_together_cannot_be_stopped_alone(tmp_path: Path, toy: Toy):
    toy = Toy(tmp_path, toy_mapping(max_parallel=1))
    toy.prepare()
    toy.finish_training("ann", "bob")
    toy.order({"judge:ann": ["hold"]})
    supervisor = toy.start("run")
    wait_until(lambda: toy.status("ann").step == HOLDING, "the judge holds")
    finished = toy.call("stop", toy.run_id("ann"), "--runs", str(toy.runs_root))
    assert finished.code == 2
    assert "shares its process" in finished.output
    assert "regatta stop" in finished.output
    toy.release()
    supervisor.communicate(timeout=30)
    assert supervisor.returncode == 0


def test_nothing_running_is_said_and_is_no_error(toy: Toy):
    toy.open()
    for arguments in (["--runs", str(toy.runs_root)], [str(toy.folder.path)], [toy.run_id("ann")]):
        finished = toy.call("stop", *arguments, "--runs", str(toy.runs_root))
        assert finished.code == 0, finished.output
        assert "running" in finished.output


@pytest.mark.fault(22)
def test_a_process_that_only_has_the_same_number_is_not_signalled(toy: Toy):
    toy.open()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    reused = replace(process_identity(child.pid), started="1")
    toy.folder.lease.write_text(json.dumps(asdict(reused)))
    finished = toy.call("stop", "--runs", str(toy.runs_root))
    assert finished.code == 0
    assert "nothing is running" in finished.output
    assert child.poll() is None
    child.communicate(b"\n")


def test_a_study_on_another_host_is_not_stopped_from_here(toy: Toy):
    toy.open()
    elsewhere = replace(this_process(), host="another-host")
    toy.folder.lease.write_text(json.dumps(asdict(elsewhere)))
    finished = toy.call("stop", str(toy.folder.path))
    assert finished.code == 2
    assert "another-host" in finished.output


def test_of_several_running_studies_one_must_be_named(toy: Toy):
    other = Toy(toy.root, {**toy_mapping(("cyd",)), "name": "second"})
    for folder in (toy.open(), other.open()):
        folder.lease.write_text(json.dumps(asdict(this_process())))
    finished = toy.call("stop", "--runs", str(toy.runs_root))
    assert finished.code == 2
    assert "second" in finished.output
    assert "toy" in finished.output


def test_a_name_that_leaves_the_runs_folder_is_refused(toy: Toy):
    toy.open()
    finished = toy.call("stop", "../../../etc", "--runs", str(toy.runs_root))
    assert finished.code != 0
    assert "not a study folder" in finished.output
