"""A rank that is frozen from outside: its neighbours find out, the study restarts and ends well."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from regatta.core.files import read_json
from tests.cli.torchrun_home import RECIPE, WHAT, Home, open_home, sets
from tests.orchestrate.toy import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with open_home(tmp_path) as opened:
        yield opened


@pytest.mark.soak
@pytest.mark.fault(19)
@pytest.mark.usefixtures("no_leaks")
def test_a_frozen_rank_is_named_by_its_neighbour_and_the_training_is_started_again(home: Home):
    words = ["--name", "frozen", "--model", "videomae", "--epochs", "60", "--devices", "2"]
    child = home.start("train", *words, *WHAT, *RECIPE, *sets(), ranks=0)
    study = home.study("frozen")
    wait_until(
        lambda: study.study_yaml.is_file() and home.status("frozen").step > 5,
        "the training is under way",
        seconds=180,
    )
    (victim,) = home.processes(rank="1", worker=True)
    os.kill(victim, signal.SIGSTOP)
    output, _ = child.communicate(timeout=600)
    assert child.returncode == 0, output
    assert "stall: rank 0 of 2 stood still for" in output
    assert "starting again" in output
    log = home.run("frozen").log.read_text()
    assert "error: rank 0 of 2 stood still for" in log
    assert "most recent call first" in log
    results = read_json(home.run("frozen").training_results)
    assert results["history"]["epoch"] == list(range(1, 61))
