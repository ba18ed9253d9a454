"""A rank that stands still or raises alone ends all of them, with stacks, and a resume is exact."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from regatta.training.distributed import ONE_PROCESS, Ranks
from regatta.training.rank_watch import Patience, RankWatch
from tests.training.harness import run_module
from tests.training.hung_ranks import VICTIM, WORLD


def hung_ranks(folder: Path, mode: str) -> tuple[dict[str, Any], str]:
    done = run_module("hung_ranks", folder, mode)
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
@pytest.mark.fault(19)
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize(
    ("mode", "function", "phase"),
    [
        ("hang", "hang_here", "training"),
        pytest.param("validate", "hang_in_validation", "validation", marks=pytest.mark.soak),
    ],
)
def test_a_rank_that_hangs_ends_all_with_their_stacks_and_they_resume_to_the_same_bits(
    tmp_path: Path, mode: str, function: str, phase: str
):
    report, stderr = hung_ranks(tmp_path, mode)
    assert report["ended"] == [1] * WORLD
    # 600 s would be the patience of a collective; a step takes milliseconds.
    assert report["seconds"] < 60
    assert f"in {function}" in stderr, "the stack of the rank at fault"
    for rank in range(WORLD):
        told = report["told"][f"rank-{rank}"]
        assert told["cause"] == "stall"
        assert f"rank {rank} of {WORLD} stood still" in told["message"]
        assert f"in {phase}" in told["message"]
        assert f"error: {told['message']}" in stderr
    assert stderr.count("most recent call first") >= WORLD
    assert report["resumed"] == [0] * WORLD
    assert report["same"]


@pytest.mark.slow
@pytest.mark.fault(19)
@pytest.mark.usefixtures("no_leaks")
def test_a_rank_that_raises_before_a_collective_ends_all_at_once(tmp_path: Path):
    report, stderr = hung_ranks(tmp_path, "raise")
    assert 0 not in report["ended"]
    assert report["seconds"] < 15
    assert "ValueError: this rank alone has gone wrong" in stderr
    assert report["resumed"] == [0] * WORLD
    assert report["same"]
    assert VICTIM != 0


def watched(patience: Patience, *, world: int = 2) -> tuple[RankWatch, list[dict], list[int]]:
    told: list[dict[str, Any]] = []
    left: list[int] = []
    ranks = Ranks(1, world, ONE_PROCESS.device, told.append)
    return RankWatch(ranks, patience=patience, leave=left.append), told, left


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


@pytest.mark.fault(19)
def test_the_limit_follows_the_slowest_step_and_a_save_may_take_longer(
    capfd: pytest.CaptureFixture[str],
):
    patience = Patience(least=0.1, factor=4.0, unmeasured=30.0, linger=0.0)
    watch, told, left = watched(patience)
    with watch:
        watch.begin("training")
        watch.step_done()
        time.sleep(0.5)
        watch.step_done()
        # 4 x 0.5 s are left; the slow step before any measurement, and a save, had 30 s.
        watch.begin("a save")
        time.sleep(2.2)
        assert not left
        watch.begin("training")
        watch.step_done()
        watch.step_done()
        began = time.monotonic()
        wait_for(lambda: left)
        assert 1.5 < time.monotonic() - began < 10
    assert left == [1]
    assert told[0]["cause"] == "stall"
    assert "the slowest step took 0.5 s" in told[0]["message"]
    assert "most recent call first" in capfd.readouterr().err


@pytest.mark.fault(19)
def test_one_process_is_not_watched_and_a_finished_one_no_more():
    for world in (1, 2):
        patience = Patience(least=0.1, factor=1.0, unmeasured=0.3, linger=0.0)
        watch, told, left = watched(patience, world=world)
        with watch:
            time.sleep(0.5 if world == 1 else 0.0)
        time.sleep(0.5)
        assert (told, left) == ([], [])
