"""Promises of the Slurm launcher, against a real cluster of two nodes on this host."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regatta.core.files import read_json, write_json
from regatta.records.submission import read_submission
from tests.orchestrate.slurm_here import need_slurm
from tests.orchestrate.toy import Toy, processes_of, toy_mapping, toy_study, wait_until

SECONDS = 120.0


@pytest.fixture(scope="module")
def cluster() -> None:
    need_slurm()


def mapping(entries: tuple[str, ...] = ("ann", "bob"), **launch: Any) -> dict[str, Any]:
    """A toy study for the cluster's processors."""
    keys = {"on": "slurm", "threads_per_run": 1, "max_parallel": None, **launch}
    return toy_mapping(entries, **keys)


@pytest.fixture
def toy(cluster: None, tmp_path: Path) -> Iterator[Toy]:
    with toy_study(tmp_path) as study:
        study.mapping = mapping()
        study.write()
        # One stage less to wait for; the large test below prepares in a job.
        study.prepare()
        yield study
        _cancel(study)


def _cancel(toy: Toy) -> None:
    ids = [job["id"] for job in jobs_of(toy)]
    if ids:
        subprocess.run(["scancel", *ids], check=False)
        wait_until(lambda: not jobs_of(toy), "the queue is empty", seconds=60)


def jobs_of(toy: Toy) -> list[dict[str, str]]:
    """What the queue holds of the study, asked of Slurm itself."""
    submission = read_submission(toy.folder.submission)
    if submission is None:
        return []
    text = subprocess.run(
        ["squeue", "-h", "-r", "-o", "%i|%T|%j"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split("|") for line in text.splitlines()]
    return [
        {"id": job, "state": state}
        for job, state, name in rows
        if name.startswith(submission.token)
    ]


def job_of(toy: Toy, entry: str) -> str:
    """The job that trains an entry, as Slurm numbers it."""
    submission = read_submission(toy.folder.submission)
    assert submission is not None
    return next(iter(submission.jobs_of(toy.run_id(entry))))


def is_holding(toy: Toy, entry: str) -> bool:
    status = toy.status(entry)
    return status.state == "running" and status.step == 99


def with_needs(count: int, **launch: Any) -> dict[str, Any]:
    """Entries in two levels: the second half needs the first, one each."""
    names = [f"e{number}" for number in range(count)]
    content = mapping(tuple(names), **launch)
    for number in range(count // 2, count):
        content["entries"][number]["needs"] = [names[number - count // 2]]
    return content


def test_sixteen_runs_in_two_levels_complete_also_when_one_fails(toy: Toy):
    toy.mapping = with_needs(16, max_parallel=6)
    toy.write()
    toy.folder.manifest.unlink()
    toy.order({"train:e3": ["exit:2"]})
    finished = toy.call("run", seconds=SECONDS)
    assert finished.code == 1, finished.output
    states = {spec.entry.name: toy.status(spec.entry.name).state for spec in toy.specs}
    assert {name for name, state in states.items() if state != "done"} == {"e3", "e11"}
    assert toy.status("e11").cause == "needs"
    assert toy.run_id("e3") in (toy.status("e11").message or "")
    assert f"{toy.run_id('e3')}: failed: config" in finished.output
    trained = [start["names"][0] for start in toy.starts("train")]
    assert sorted(trained) == sorted(f"e{n}" for n in range(16) if n != 11)
    assert all(trained.index(f"e{n}") < trained.index(f"e{n + 8}") for n in range(8) if n != 3)
    assert (toy.folder.report / "report.html").is_file()
    again = toy.call("run", seconds=SECONDS)
    assert again.code == 0, again.output
    assert all(toy.is_judged(spec.entry.name) for spec in toy.specs)
    assert len(toy.starts("train")) == 15 + 2
    assert [start["shard"] for start in toy.starts("judge")][:3] != ["1/1"] * 3
    submitted = read_json(toy.folder.submission)
    assert submitted["state"] == "closed"
    third = toy.call("run")
    assert third.code == 0
    assert "nothing to do" in third.output
    assert read_json(toy.folder.submission) == submitted


@pytest.mark.fault(24)
def test_jobs_whose_time_is_up_queue_again_and_resume(toy: Toy):
    toy.order({"train:ann": ["hold"], "train:bob": ["hold"]})
    launch = toy.start("run")
    wait_until(lambda: is_holding(toy, "ann") and is_holding(toy, "bob"), "held", seconds=SECONDS)
    token = read_json(toy.folder.submission)["token"]
    # What Slurm sends when the time limit is near; bob's job has the number of the whole array.
    for name in ("bob", "ann"):
        subprocess.run(["scancel", "--signal=USR2", job_of(toy, name)], check=True)
        wait_until(lambda n=name: toy.status(n).cause == "requeued", f"{name} waits", seconds=60)
    output, _ = launch.communicate(timeout=SECONDS)
    assert launch.returncode == 0, output
    for name in ("ann", "bob"):
        starts = [start for start in toy.starts("train") if start["names"] == [name]]
        assert [start["begin"] for start in starts] == [0, 2]
        assert toy.status(name).state == "done"
    assert read_json(toy.folder.submission)["token"] == token


@pytest.mark.fault(24)
def test_a_job_that_has_saved_nothing_new_is_not_queued_again(toy: Toy):
    toy.order({"prepare:data": ["hold"]})
    toy.folder.manifest.unlink()
    launch = toy.start("run")
    wait_until(lambda: toy.starts("prepare"), "the data are read", seconds=SECONDS)
    (job,) = (job["id"] for job in jobs_of(toy) if job["state"] == "RUNNING")
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    output, _ = launch.communicate(timeout=SECONDS)
    assert launch.returncode == 1, output
    for name in ("ann", "bob"):
        assert toy.status(name).cause == "timed_out"
        assert "launch.time" in (toy.status(name).next_step or "")
    assert len(toy.starts("prepare")) == 1


@pytest.mark.fault(24)
def test_a_job_that_is_pre_empted_without_warning_is_resumed_by_slurm(toy: Toy):
    toy.order({"train:ann": ["hold"]})
    launch = toy.start("run")
    wait_until(lambda: is_holding(toy, "ann"), "ann is held", seconds=SECONDS)
    subprocess.run(["scontrol", "requeue", job_of(toy, "ann")], check=True)
    output, _ = launch.communicate(timeout=SECONDS)
    assert launch.returncode == 0, output
    starts = [start for start in toy.starts("train") if start["names"] == ["ann"]]
    assert [start["begin"] for start in starts] == [0, 2]


@pytest.mark.fault(25)
def test_jobs_survive_the_death_of_the_launch_and_the_next_one_adopts_them(toy: Toy):
    toy.order({"train:ann": ["hold"]})
    launch = toy.start("run")
    wait_until(lambda: is_holding(toy, "ann"), "ann is held", seconds=SECONDS)
    os.killpg(launch.pid, signal.SIGKILL)
    launch.communicate()
    before = read_json(toy.folder.submission)
    other = toy.call("supervise")
    assert other.code == 3, "a local launch may not work on what the cluster has"
    assert "Slurm jobs" in other.output
    second = toy.start("run")
    wait_until(lambda: toy.folder.lease.is_file(), "the second launch looks on")
    toy.release()
    output, _ = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, output
    assert "nothing is submitted" in output
    after = read_json(toy.folder.submission)
    assert {**after, "state": ""} == {**before, "state": ""}
    assert len(toy.starts("train")) == 2


def test_detached_jobs_end_the_study_alone_and_their_state_stands_in_the_records(toy: Toy):
    detached = toy.call("run", *toy.arguments("run"), "--detach")
    assert detached.code == 0, detached.output
    shown = toy.call("status", *toy.arguments("status"), "--json")
    assert '"jobs": [' in shown.output
    watched = toy.call("watch", seconds=SECONDS)
    assert watched.code == 0, watched.output
    assert all(toy.is_judged(name) for name in ("ann", "bob"))
    assert (toy.folder.report / "report.html").is_file()


def test_stop_saves_and_leaves_no_job_and_the_next_launch_goes_on(toy: Toy):
    toy.order({"train:ann": ["hold"], "train:bob": ["hold"]})
    assert toy.call("run", *toy.arguments("run"), "--detach").code == 0
    wait_until(lambda: is_holding(toy, "ann") and is_holding(toy, "bob"), "held", seconds=SECONDS)
    stopped = toy.call("stop", seconds=SECONDS)
    assert stopped.code == 0, stopped.output
    assert jobs_of(toy) == []
    assert toy.status("ann").state == toy.status("bob").state == "interrupted"
    assert toy.call("run", seconds=SECONDS).code == 0
    assert sorted(start["begin"] for start in toy.starts("train")) == [0, 0, 2, 2]


def test_one_run_is_stopped_and_the_others_go_on(toy: Toy):
    toy.order({"train:ann": ["hold"]})
    launch = toy.start("run")
    wait_until(lambda: is_holding(toy, "ann"), "ann is held", seconds=SECONDS)
    stopped = toy.call("stop", toy.run_id("ann"), "--runs", str(toy.runs_root))
    assert stopped.code == 0, stopped.output
    output, _ = launch.communicate(timeout=SECONDS)
    assert launch.returncode == 1, output
    assert (toy.status("ann").state, toy.status("bob").state) == ("interrupted", "done")


def test_a_need_that_is_stopped_ends_nothing_else(toy: Toy):
    toy.mapping["entries"][1]["needs"] = ["ann"]
    toy.write()
    toy.order({"train:ann": ["hold"]})
    launch = toy.start("run")
    wait_until(lambda: is_holding(toy, "ann"), "ann is held", seconds=SECONDS)
    stopped = toy.call("stop", toy.run_id("bob"), "--runs", str(toy.runs_root))
    assert stopped.code == 0, stopped.output
    assert {job["state"] for job in jobs_of(toy)} == {"RUNNING", "PENDING"}
    toy.release()
    output, _ = launch.communicate(timeout=SECONDS)
    assert launch.returncode == 1, output
    assert (toy.status("ann").state, toy.status("bob").state) == ("done", "pending")
    assert len(toy.starts("train")) == 1


@pytest.mark.fault(25)
def test_stop_that_cannot_ask_the_queue_closes_nothing(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    toy.order({"train:ann": ["hold"]})
    assert toy.call("run", *toy.arguments("run"), "--detach").code == 0
    broken = tmp_path / "bin" / "squeue"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2\nexit 1\n")
    broken.chmod(0o755)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{broken.parent}:{path}")
    stopped = toy.call("stop")
    assert stopped.code == 3
    assert "Unable to contact" in stopped.output
    assert read_json(toy.folder.submission)["state"] == "submitted"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("SQUEUE_PARTITION", "short")
    assert toy.call("stop", seconds=SECONDS).code == 0
    assert jobs_of(toy) == []


def test_other_settings_are_refused_before_they_reach_the_jobs(toy: Toy):
    toy.order({"train:ann": ["hold"]})
    assert toy.call("run", *toy.arguments("run"), "--detach").code == 0
    before = toy.folder.study_yaml.read_text()
    other = toy.call("run", *toy.arguments("run"), "--set", "train.epochs=2")
    assert other.code == 3, other.output
    assert "other settings" in other.output
    assert toy.folder.study_yaml.read_text() == before
    assert toy.call("stop", seconds=SECONDS).code == 0


def test_watch_notices_that_all_jobs_were_cancelled_by_hand(toy: Toy):
    toy.order({"train:ann": ["hold"]})
    assert toy.call("run", *toy.arguments("run"), "--detach").code == 0
    wait_until(lambda: is_holding(toy, "ann"), "ann is held", seconds=SECONDS)
    _cancel(toy)
    watched = toy.call("watch", seconds=SECONDS)
    assert watched.code == 0, watched.output
    assert "nothing is running" in watched.output
    assert toy.call("run", seconds=SECONDS).code == 0


def test_a_worker_killed_with_its_job_is_lost_and_not_running_for_ever(toy: Toy):
    toy.order({"train:ann": ["hold"]})
    assert toy.call("run", *toy.arguments("run"), "--detach").code == 0
    wait_until(lambda: is_holding(toy, "ann"), "ann is held", seconds=SECONDS)
    (worker,) = (start["pid"] for start in toy.starts("train") if start["names"] == ["ann"])
    # As a control group does whose memory is used up; the worker ends with its parent.
    parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not jobs_of(toy), "the last job has ended", seconds=SECONDS)
    assert (toy.status("ann").state, toy.status("bob").state) == ("lost", "done")
    assert read_json(toy.folder.submission)["state"] == "closed"


def test_an_interrupt_of_the_launch_stops_its_jobs(toy: Toy):
    toy.order({"train:ann": ["hold"]})
    launch = toy.start("run")
    wait_until(lambda: is_holding(toy, "ann"), "ann is held", seconds=SECONDS)
    launch.send_signal(signal.SIGINT)
    output, _ = launch.communicate(timeout=SECONDS)
    assert launch.returncode == 130, output
    assert jobs_of(toy) == []
    assert toy.status("ann").state == "interrupted"


@pytest.mark.fault(25)
def test_jobs_that_a_dead_launch_had_not_recorded_never_start(toy: Toy):
    toy.order({"train:ann": ["hold"]})
    assert toy.call("run", *toy.arguments("run"), "--detach").code == 0
    lost = read_json(toy.folder.submission)
    held = [stage["job_id"] for stage in lost["stages"]]
    write_json(toy.folder.submission, {**lost, "state": "submitting", "stages": []})
    toy.release()
    again = toy.call("run", seconds=SECONDS)
    assert again.code == 0, again.output
    now = read_json(toy.folder.submission)
    assert now["token"] != lost["token"]
    states = subprocess.run(
        ["scontrol", "show", "job", held[-1]], capture_output=True, text=True, check=True
    ).stdout
    assert "JobState=CANCELLED" in states


def test_a_job_that_a_person_cancels_is_not_called_done(toy: Toy):
    toy.order({"train:ann": ["hold"]})
    launch = toy.start("run")
    wait_until(lambda: is_holding(toy, "ann"), "ann is held", seconds=SECONDS)
    subprocess.run(["scancel", job_of(toy, "ann")], check=True)
    output, _ = launch.communicate(timeout=SECONDS)
    assert launch.returncode == 1, output
    assert toy.status("ann").state == "interrupted"
    assert toy.status("bob").state == "done"
    assert f"{toy.run_id('ann')}: interrupted" in output
    assert not processes_of(toy.root)


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ({"partition": "mian"}, ("no partition named 'mian'", "did you mean 'main'")),
        ({"partition": "short", "time": "1:00:00"}, ("60 minutes", "allows 10", "launch.time")),
        ({"device": "cuda", "devices": 3}, ("3 GPUs", "has 2", "launch.nodes")),
        ({"device_ids": [0], "device": "cuda"}, ("device_ids", "Slurm")),
        ({"slurm_options": {"reservation": "nobody"}}, ("Slurm refuses", "eservation")),
        ({"nodes": 2}, ("ddp",)),
    ],
)
def test_what_the_cluster_lacks_is_named_and_nothing_is_queued(
    toy: Toy, launch: dict[str, Any], words: tuple[str, ...]
):
    toy.mapping = mapping(**launch)
    if "nodes" in launch:
        toy.mapping["train"]["parallel"] = "none"
    toy.write()
    finished = toy.call("run")
    assert finished.code in {2, 3}, finished.output
    assert all(word in finished.output for word in words), finished.output
    assert "next:" in finished.output
    assert jobs_of(toy) == []
    assert toy.starts() == []


def test_without_sbatch_the_cure_is_named(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    finished = toy.call("run")
    assert finished.code == 3
    assert "no sbatch" in finished.output
    assert "launch.on=local" in finished.output
