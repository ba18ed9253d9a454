"""Faults at a real study: it ends by name, and the same command then equals a clean study."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import RunFolder
from regatta.records.status import Status, read_status
from regatta.records.submission import read_submission
from tests.disks_here import small_disk
from tests.orchestrate.clock_here import Clock
from tests.orchestrate.slurm_here import need_slurm
from tests.orchestrate.toy import wait_until
from tests.soak.conftest import SIZE
from tests.soak.race import Race

FIGURES = {"REGATTA_FIGURE_FORMATS": "svg"}


def the_run(race: Race) -> RunFolder:
    (run,) = race.runs()
    return run


def wait_for_steps(race: Race, count: int) -> None:
    def trained() -> bool:
        return (
            race.folder.study_yaml.is_file() and len(read_metrics(the_run(race).metrics)) >= count
        )

    wait_until(trained, f"{count} steps are logged", seconds=120)


def said_of(race: Race) -> Status:
    return read_status(the_run(race).status)


def finish(race: Race, clean: Race) -> None:
    finished = race.call(env=FIGURES)
    assert finished.code == 0, finished.output
    assert race.facts() == clean.facts()


@pytest.mark.fault(8)
@pytest.mark.soak
def test_a_disk_that_fills_while_training_and_while_judging_costs_nothing(
    tmp_path: Path, clean: Race, no_leaks: None
):
    with small_disk(tmp_path / "disk", mebibytes=64) as disk:
        race = Race(disk.path / "home", **SIZE)
        child = race.start("train")
        wait_for_steps(race, 2)
        disk.fill(leave_bytes=500_000)
        assert child.wait(timeout=60) in {1, 3}
        said = said_of(race)
        assert said.state in {"failed", "interrupted"}
        assert said.cause == "environment"
        assert "disk full: need" in str(said.message)
        assert ", have " in str(said.message)
        assert said.next_step
        assert not list(the_run(race).checkpoints.glob(".*")), "nothing partial is kept"
        assert list(the_run(race).checkpoints.glob("slot-*")), "the last good one is there"
        assert not the_run(race).is_trained(), "it was cut short, or this proves nothing"
        disk.make_room()
        assert race.call("train").code == 0
        # Room for a launch's own records, not for all parts of predictions.
        disk.fill(leave_bytes=40_000)
        judged = race.call("run", env=FIGURES)
        assert judged.code in {1, 3}, judged.output
        assert "disk full: need" in judged.output
        assert "Traceback" not in judged.output
        disk.make_room()
        finish(race, clean)


@pytest.mark.fault(9)
@pytest.mark.soak
def test_a_study_moved_away_under_its_worker_goes_on_once_it_is_back(
    tmp_path: Path, clean: Race, no_leaks: None
):
    race = Race(tmp_path / "home", **SIZE)
    child = race.start("train")
    wait_for_steps(race, 2)
    race.folder.path.rename(tmp_path / "elsewhere")
    assert child.wait(timeout=30) == 3
    wait_until(lambda: not list(race.processes()), "nobody is left", seconds=15)
    assert "vanished" in (race.home / "output.txt").read_text()
    assert "Traceback" not in (race.home / "output.txt").read_text()
    assert not race.folder.path.exists()
    (tmp_path / "elsewhere").rename(race.folder.path)
    finish(race, clean)


@pytest.mark.fault(6)
@pytest.mark.soak
def test_a_killed_supervisor_takes_the_ranks_of_torchrun_along(tmp_path: Path, no_leaks: None):
    ddp = {**SIZE, "train": {"parallel": "ddp"}, "launch": {"devices": 2}}
    clean, race = (Race(tmp_path / name, **ddp) for name in ("clean", "killed"))
    assert clean.call("train").code == 0
    child = race.start("train")
    wait_for_steps(race, 2)
    ranks = [pid for pid, role in race.processes() if role == "train"]
    assert len(ranks) >= 3, "torchrun and two ranks"
    child.kill()
    killed_at = time.monotonic()
    child.wait()
    wait_until(lambda: not list(race.processes()), "no orphan is left", seconds=15)
    print(f"all gone after {time.monotonic() - killed_at:.1f} s")
    again = race.call("train")
    assert again.code == 0, again.output
    assert race.facts() == clean.facts()


@pytest.mark.fault(29)
@pytest.mark.soak
def test_a_clock_that_jumps_an_hour_changes_no_number_and_no_duration(
    tmp_path: Path, clean: Race, no_leaks: None
):
    race, clock = Race(tmp_path / "home", **SIZE), Clock(tmp_path)
    began = time.monotonic()
    child = race.start("run", env={**FIGURES, **clock.environment()})
    for steps, hours in ((2, 1), (5, -1)):
        wait_for_steps(race, steps)
        clock.jump(hours=hours)
    assert child.wait(timeout=240) == 0, (race.home / "output.txt").read_text()
    assert clock.was_read
    took = time.monotonic() - began
    rows = read_metrics(the_run(race).metrics)
    assert all(0 <= row["seconds"] < took for row in rows if "seconds" in row)
    assert race.facts() == clean.facts()


@pytest.mark.fault(6)
@pytest.mark.soak
def test_a_killed_supervisor_of_plain_workers_leaves_nobody_and_is_resumed(
    tmp_path: Path, clean: Race, no_leaks: None
):
    race = Race(tmp_path / "home", **SIZE)
    child = race.start("run")
    wait_for_steps(race, 3)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    wait_until(lambda: not list(race.processes()), "no orphan is left", seconds=15)
    finish(race, clean)


@pytest.mark.fault(24)
@pytest.mark.soak
def test_a_run_that_slurm_takes_away_and_gives_back_equals_the_clean_one(
    tmp_path: Path, clean: Race
):
    need_slurm()
    race = Race(tmp_path / "home", **SIZE, launch={"on": "slurm", "max_parallel": None})
    child = race.start("run", env=FIGURES)
    wait_for_steps(race, 3)
    run, submission = the_run(race), read_submission(race.folder.submission)
    assert submission is not None
    (job,) = submission.jobs_of(run.run_id)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait_until(lambda: said_of(race).cause == "requeued", "it waits again", seconds=60)
    assert not run.is_trained(), "it was cut short, or this proves nothing"
    assert child.wait(timeout=300) == 0, (race.home / "output.txt").read_text()
    assert race.facts() == clean.facts()
