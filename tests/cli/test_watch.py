"""Promises of `regatta watch`: it follows a study to its end and never disturbs it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from regatta.records.run_folder import StudyFolder
from regatta.records.status import Status, this_process, write_status
from tests.orchestrate.toy import HOLDING, Toy, toy_mapping, toy_study, wait_until


@pytest.fixture
def toy(tmp_path: Path, no_leaks: None) -> Iterator[Toy]:
    with toy_study(tmp_path) as study:
        yield study


def test_watching_follows_a_study_to_its_end(toy: Toy):
    toy.prepare()
    toy.order({"train:ann": ["hold"]})
    supervisor = toy.start("run")
    wait_until(lambda: toy.status("ann").step == HOLDING, "ann holds")
    watcher = toy.start("watch")
    assert watcher.stdout
    first = watcher.stdout.readline()
    assert first.startswith(f"{toy.run_id('ann')}: running train")
    toy.release()
    supervisor.communicate(timeout=30)
    output, _ = watcher.communicate(timeout=30)
    assert watcher.returncode == 0
    assert f"{toy.run_id('ann')}: done" in output
    assert output.splitlines()[-1] == "toy: 2 done; nothing is running"
    assert "\r" not in output


def test_leaving_the_watch_leaves_the_study_alone(toy: Toy):
    toy.prepare()
    toy.order({"train:ann": ["hold"]})
    supervisor = toy.start("run")
    wait_until(lambda: toy.status("ann").step == HOLDING, "ann holds")
    watcher = toy.start("watch")
    assert watcher.stdout
    watcher.stdout.readline()
    os.killpg(watcher.pid, signal.SIGINT)
    watcher.communicate(timeout=10)
    assert watcher.returncode == 130
    assert supervisor.poll() is None
    toy.release()
    supervisor.communicate(timeout=30)
    assert supervisor.returncode == 0


def test_watching_a_study_that_nobody_runs_says_so_and_ends(toy: Toy):
    toy.open()
    finished = toy.call("watch")
    assert finished.code == 0
    assert "2 pending; nothing is running" in finished.output
    assert "regatta run" in finished.output


def test_watching_what_does_not_exist_is_a_named_error(toy: Toy):
    finished = toy.call("watch", str(toy.root / "nowhere"))
    assert finished.code == 2
    assert "not a study folder" in finished.output


def test_json_is_one_object_per_change_and_ends_with_the_study(toy: Toy):
    toy.prepare()
    toy.order({"train:ann": ["hold"]})
    supervisor = toy.start("run")
    wait_until(lambda: toy.status("ann").step == HOLDING, "ann holds")
    watcher = toy.start("watch", *toy.arguments("watch"), "--json")
    assert watcher.stdout
    first = json.loads(watcher.stdout.readline())
    assert (first["study"], first["state"]) == ("toy", "running")
    toy.release()
    supervisor.communicate(timeout=30)
    output, _ = watcher.communicate(timeout=30)
    lines = [json.loads(line) for line in output.splitlines()]
    assert lines[-1]["counts"] == {"done": 2}
    last = {line["run_id"]: line["state"] for line in lines[:-1]}
    assert last[toy.run_id("ann")] == "done"


def test_once_shows_how_things_stand_and_leaves(toy: Toy):
    toy.prepare()
    toy.order({"train:ann": ["hold"]})
    supervisor = toy.start("run")
    wait_until(lambda: toy.status("ann").step == HOLDING, "ann holds")
    told = json.loads(toy.call("watch", *toy.arguments("watch"), "--json", "--once").output)
    lines = toy.call("watch", *toy.arguments("watch"), "--once").output
    toy.release()
    supervisor.communicate(timeout=30)
    assert told["studies"][0]["counts"]["running"] >= 1
    assert f"{toy.run_id('ann')}: running train" in lines


def test_without_a_name_every_running_study_is_followed(toy: Toy):
    second = Toy(toy.root, {**toy_mapping(("cyd",)), "name": "second"})
    idle = Toy(toy.root, {**toy_mapping(("dan",)), "name": "idle"})
    idle.open()
    for study, entry in ((toy, "ann"), (second, "cyd")):
        study.open()
        status = Status(state="running", phase="train", process=asdict(this_process()))
        folder = StudyFolder(toy.runs_root / study.study.name)
        write_status(folder.run(study.run_id(entry)).status, status)
    lines = toy.call("watch", "--runs", str(toy.runs_root), "--once").output
    assert f"toy/{toy.run_id('ann')}: running train" in lines
    assert f"second/{second.run_id('cyd')}: running train" in lines
    assert "idle" not in lines
