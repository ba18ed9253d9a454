"""Promises of `regatta status`: the truth from records alone, fast, and the same for programs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from regatta.core.files import write_json
from regatta.records.status import Status, process_identity, write_status
from tests.orchestrate.toy import Toy, toy_mapping, toy_study


@pytest.fixture
def toy(tmp_path: Path, no_leaks: None) -> Iterator[Toy]:
    with toy_study(tmp_path) as study:
        yield study


def test_every_study_under_the_runs_folder_is_shown(toy: Toy):
    toy.open()
    other = Toy(toy.root, {**toy_mapping(("cyd",)), "name": "second"})
    other.open()
    finished = toy.call("status", "--runs", str(toy.runs_root))
    assert finished.code == 0
    for line in ("second: 1 pending", "toy: 2 pending", toy.run_id("ann")):
        assert line in finished.output


def test_a_failure_is_shown_with_its_cause_and_next_step(toy: Toy):
    toy.open()
    status = Status(state="failed", cause="data", message="clip x is cut", next_step="replace it")
    write_status(toy.run("ann").status, status)
    output = toy.call("status").output
    assert "failed, data: clip x is cut" in output
    assert "next: replace it" in output


def test_json_tells_lost_from_running(toy: Toy):
    toy.open()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    status = Status(state="running", phase="train", process=asdict(process_identity(child.pid)))
    write_status(toy.run("ann").status, status)
    alive = json.loads(toy.call("status", *toy.arguments("status"), "--json").output)
    child.communicate(b"\n")
    dead = json.loads(toy.call("status", *toy.arguments("status"), "--json").output)
    assert [view["studies"][0]["runs"][0]["state"] for view in (alive, dead)] == ["running", "lost"]
    assert set(alive) == {"studies"}
    assert alive["studies"][0]["name"] == "toy"


def test_nothing_run_yet_is_said_and_is_no_error(toy: Toy):
    finished = toy.call("status", "--runs", str(toy.root / "nowhere"))
    assert finished.code == 0
    assert "no study has been run" in finished.output


def test_one_damaged_study_does_not_hide_the_others(toy: Toy):
    toy.open()
    broken = toy.runs_root / "broken"
    broken.mkdir()
    (broken / "study.yaml").write_text("name: [")
    finished = toy.call("status", "--runs", str(toy.runs_root))
    assert finished.code == 0
    assert "broken: cannot be read" in finished.output
    assert "toy: 2 pending" in finished.output


def test_status_loads_neither_torch_nor_tables(tmp_path: Path):
    code = (
        "import sys; from regatta.cli.status import status; from pathlib import Path\n"
        f"status(None, Path({str(tmp_path)!r}))\n"
        "heavy = ('torch', 'pandas', 'pyarrow', 'scipy', 'matplotlib', 'rich.live')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.splitlines()[-1] == "[]"


def test_a_silent_run_of_another_host_is_said_with_a_next_step(toy: Toy):
    toy.open()
    far = {**asdict(process_identity(1)), "host": "node7.example"}
    status = Status(state="running", phase="train", process=far, heartbeat=time.time() - 1900)
    write_json(toy.run("ann").status, asdict(status))
    output = toy.call("status").output
    assert "running train, silent: no sign of life for 31 min" in output
    assert "next: look whether process 1 lives on node7.example" in output
