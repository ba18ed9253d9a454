"""Promises of `regatta watch`: it follows a study to its end and never disturbs it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orchestrate.toy import HOLDING, Toy, toy_study, wait_until


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
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
