"""Promises on a cluster whose scheduler takes jobs away, falls silent or loses its answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from regatta.core.files import read_json
from regatta.records.status import read_status, write_status
from regatta.records.submission import read_submission
from tests.orchestrate.slurm_here import need_slurm
from tests.orchestrate.test_slurm import SECONDS, _cancel, is_holding, job_of, jobs_of, mapping
from tests.orchestrate.toy import Toy, toy_study, wait_until


@pytest.fixture(scope="module")
def cluster() -> None:
    need_slurm()


@pytest.fixture
def toy(cluster: None, tmp_path: Path) -> Iterator[Toy]:
    with toy_study(tmp_path) as study:
        study.mapping = mapping()
        study.write()
        study.prepare()
        yield study
        _cancel(study)


class Stub:
    """A command of Slurm's that comes before the real one on PATH and spoils it for a while."""

    def __init__(self, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.real = shutil.which(name)
        assert self.real
        self._file, self._calls = folder / "bin" / name, folder / f"{name}.calls"
        self._file.parent.mkdir(exist_ok=True)
        if not os.environ["PATH"].startswith(str(self._file.parent)):
            monkeypatch.setenv("PATH", f"{self._file.parent}:{os.environ['PATH']}")

    def does(self, script: str) -> None:
        """Each call does this; $REAL is the real command."""
        text = f"#!/bin/sh\nREAL={self.real}\necho x >> {self._calls}\n{script}\n"
        self._file.write_text(text)
        self._file.chmod(0o755)

    def is_well(self) -> None:
        self._file.unlink()

    @property
    def calls(self) -> int:
        return len(self._calls.read_text().split()) if self._calls.is_file() else 0


SILENT = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"
ANSWER_LOST = '"$REAL" "$@" > /dev/null; echo "sbatch: error: Socket timed out" >&2; exit 1'


def restarts(job: str) -> int:
    """How often Slurm itself has counted that the job was queued again."""
    text = subprocess.run(
        ["scontrol", "-o", "show", "job", job], capture_output=True, text=True, check=True
    ).stdout
    return int(next(w for w in text.split() if w.startswith("Restarts=")).partition("=")[2])


def take_away(toy: Toy, entry: str, job: str) -> None:
    """Slurm's warning of the time limit."""
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait_until(lambda: toy.status(entry).cause == "requeued", f"{entry} waits", seconds=60)


@pytest.mark.fault(24)
@pytest.mark.slow
@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(("ann",), id="job"),
        pytest.param(("ann", "bob"), id="array", marks=pytest.mark.soak),
    ],
)
def test_a_job_taken_away_twice_keeps_its_number_its_count_and_its_steps(
    toy: Toy, entries: tuple[str, ...]
):
    toy.mapping = mapping(entries)
    toy.write()
    toy.order({f"train:{name}": ["hold"] * 2 for name in entries})
    assert toy.call("run", *toy.arguments("run"), "--detach").code == 0
    jobs = {name: job_of(toy, name) for name in entries}
    for times, step in enumerate((2, 3), 1):
        for name in entries:
            saved = toy.run(name).checkpoints / "step.json"
            wait_until(
                lambda n=name, s=saved, d=step: is_holding(toy, n) and read_json(s)["step"] == d,
                f"{name} holds",
                seconds=SECONDS,
            )
            assert toy.status(name).attempts == times
            take_away(toy, name, jobs[name])
            wait_until(lambda n=name, t=times: restarts(jobs[n]) == t, "Slurm counts", seconds=60)
    wait_until(lambda: not jobs_of(toy), "all is done", seconds=SECONDS)
    for name in entries:
        begun = [s["begin"] for s in toy.starts("train") if s["names"] == [name]]
        assert begun == [0, 2, 3]
        assert toy.status(name).state == "done"
        assert job_of(toy, name) == jobs[name]
        lines = [json.loads(line) for line in toy.run(name).metrics.read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5], "every step once"


@pytest.mark.fault(25)
@pytest.mark.slow
def test_a_scheduler_that_is_silent_for_a_while_fails_nothing(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    toy.order({"train:ann": ["hold"]})
    squeue = Stub(tmp_path, "squeue", monkeypatch)
    launch = toy.start("run")
    wait_until(lambda: is_holding(toy, "ann"), "ann holds", seconds=SECONDS)
    squeue.does(SILENT)
    wait_until(lambda: squeue.calls >= 1, "it was asked in vain", seconds=30)
    squeue.is_well()
    toy.release()
    output, _ = launch.communicate(timeout=SECONDS)
    assert launch.returncode == 0, output
    assert output.count("is unknown, asking again") == 1
    assert "answers again" in output
    assert sorted(s["names"] for s in toy.starts("train")) == [["ann"], ["bob"]]


@pytest.mark.fault(25)
@pytest.mark.slow
def test_runs_of_which_a_silent_scheduler_alone_could_tell_are_shown_as_unknown(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    toy.order({"train:ann": ["hold"], "train:bob": ["hold"]})
    assert toy.call("run", *toy.arguments("run"), "--detach").code == 0
    wait_until(lambda: is_holding(toy, "ann") and is_holding(toy, "bob"), "held", seconds=SECONDS)
    subprocess.run(["scontrol", "requeuehold", job_of(toy, "bob")], check=True)
    held = {"id": job_of(toy, "bob"), "state": "PENDING"}
    # Nothing of it is left then that could still write.
    wait_until(lambda: held in jobs_of(toy), "bob's job is held", seconds=60)
    silent = replace(read_status(toy.run("bob").status), state="queued", process=None)
    write_status(toy.run("bob").status, silent)
    squeue = Stub(tmp_path, "squeue", monkeypatch)
    squeue.does(SILENT)
    watched = toy.call("watch", str(toy.folder.path), "--once", "--json")
    shown = {run["entry"]: run for run in json.loads(watched.output)["studies"][0]["runs"]}
    assert squeue.calls == 1
    assert shown["ann"]["state"] == "running", "its heartbeat is fresh"
    assert shown["bob"]["state"] == "unknown"
    assert "Unable to contact" in shown["bob"]["message"]
    assert shown["bob"]["next_step"]
    assert toy.status("bob").state == "queued", "nothing is written on hearsay"
    squeue.is_well()
    assert toy.call("stop", seconds=SECONDS).code == 0


@pytest.mark.fault(25)
@pytest.mark.soak
def test_a_scheduler_that_stays_silent_is_named_and_the_jobs_go_on(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    toy.order({"train:ann": ["hold"]})
    squeue = Stub(tmp_path, "squeue", monkeypatch)
    launch = toy.start("run")
    wait_until(lambda: is_holding(toy, "ann"), "ann holds", seconds=SECONDS)
    # No answer at all, rather than an error.
    squeue.does("exec sleep 600")
    output, _ = launch.communicate(timeout=600)
    assert launch.returncode == 3, output
    assert "stand is unknown" in output
    assert "submits nothing twice" in output
    assert squeue.calls == 6
    squeue.is_well()
    assert toy.status("ann").state == "running"
    toy.release()
    finished = toy.call("run", seconds=SECONDS)
    assert finished.code == 0, finished.output
    assert len(toy.starts("train")) == 2


@pytest.mark.fault(25)
@pytest.mark.slow
def test_jobs_whose_numbers_were_lost_are_taken_back_and_submitted_once(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sbatch = Stub(tmp_path, "sbatch", monkeypatch)
    sbatch.does(ANSWER_LOST)
    finished = toy.call("run")
    assert finished.code == 3, finished.output
    assert "Socket timed out" in finished.output
    assert sbatch.calls == 1
    submission = read_submission(toy.folder.submission)
    assert submission
    assert submission.state == "closed"
    known = subprocess.run(
        ["squeue", "-h", "-t", "all", "-o", "%T|%j"], capture_output=True, text=True, check=True
    ).stdout
    assert [row.partition("|")[0] for row in known.splitlines() if submission.token in row] == [
        "CANCELLED"
    ], "it was accepted, or this proves nothing"
    sbatch.is_well()
    finished = toy.call("run", seconds=SECONDS)
    assert finished.code == 0, finished.output
    assert sorted(s["names"] for s in toy.starts("train")) == [["ann"], ["bob"]]


@pytest.mark.fault(25)
@pytest.mark.slow
def test_jobs_that_cannot_even_be_taken_back_do_not_start_and_the_next_launch_does_it(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sbatch, squeue = (Stub(tmp_path, name, monkeypatch) for name in ("sbatch", "squeue"))
    sbatch.does(ANSWER_LOST)
    squeue.does(SILENT)
    finished = toy.call("run")
    assert finished.code == 3, finished.output
    assert "Traceback" not in finished.output
    again = toy.call("run")
    assert again.code == 3, again.output
    assert "Unable to contact" in again.output
    assert sbatch.calls == 1, "nothing more is submitted before the first is known to be gone"
    for stub in (sbatch, squeue):
        stub.is_well()
    assert {job["state"] for job in jobs_of(toy)} == {"PENDING"}
    assert toy.starts() == []
    finished = toy.call("run", seconds=SECONDS)
    assert finished.code == 0, finished.output
    assert sorted(s["names"] for s in toy.starts("train")) == [["ann"], ["bob"]]
