"""Promises of the supervisor: crashes are survived, failures stay alone, nothing is redone."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.orchestrate.devices import Machine, Memory
from regatta.orchestrate.plan import TaskKind
from regatta.orchestrate.run_states import remember_in_run_json
from regatta.orchestrate.supervise import run_study
from regatta.records.status import read_status, write_status
from tests.orchestrate.toy import (
    HOLDING,
    ORDERS_VARIABLE,
    STEPS,
    WORKER_COMMAND,
    Toy,
    toy_mapping,
    wait_until,
)


@pytest.fixture
def prepared(toy: Toy) -> Toy:
    toy.prepare()
    return toy


def test_a_study_is_finished_and_a_second_run_starts_no_process(toy: Toy):
    first = toy.call("supervise")
    assert first.code == 0, first.output
    assert toy.starts()[0]["kind"] == "prepare"
    assert {start["kind"] for start in toy.starts()} == {"prepare", "train", "judge"}
    assert all(toy.is_judged(name) and toy.status(name).state == "done" for name in ("ann", "bob"))
    before = toy.starts()
    second = toy.call("supervise")
    assert second.code == 0
    assert "nothing to do" in second.output
    assert toy.starts() == before
    assert not toy.folder.lease.exists()


def test_a_launch_sweeps_what_killed_writers_left(toy: Toy):
    toy.folder.path.mkdir(parents=True, exist_ok=True)
    # No Linux numbers a process so.
    left = toy.folder.path / f".windows.safetensors.{2**22 + 1}-0123abcd.partial"
    live = toy.folder.path / f".windows.safetensors.{os.getpid()}-0123abcd.partial"
    for path in (left, live):
        path.touch()
    assert toy.call("supervise").code == 0
    assert not left.exists()
    assert live.exists()


def test_a_killed_worker_is_restarted_from_its_checkpoint(prepared: Toy):
    prepared.order({"train:ann": ["kill", "kill"]})
    finished = prepared.call("supervise")
    assert finished.code == 0, finished.output
    ann = [start for start in prepared.starts("train") if start["names"] == ["ann"]]
    assert [(start["order"], start["begin"]) for start in ann] == [
        *(("kill", 0), ("kill", 2), ("ok", 3))
    ]
    assert read_json(prepared.run("ann").checkpoints / "step.json") == {"step": STEPS}
    assert "SIGKILL" in finished.output
    assert prepared.status("ann").state == "done"
    assert prepared.status("bob").state == "done"


@pytest.mark.fault(2)
def test_what_a_killed_worker_was_writing_is_swept_once_all_workers_are_gone(prepared: Toy):
    # Of a process that lives: what the launch itself sweeps before it starts is of dead ones.
    names = (f".part.{os.getpid()}-aa.partial", f"p/.q.{os.getpid()}-bb.partial")
    left = [prepared.run("ann").path / name for name in names]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert prepared.call("supervise").code == 0
    assert not [path for path in left if path.exists()]


def test_a_run_out_of_retries_fails_with_its_cause_and_harms_no_other(prepared: Toy):
    prepared.order({"train:ann": ["exit:1"] * 9})
    finished = prepared.call("supervise")
    assert finished.code == 1
    starts = [start for start in prepared.starts("train") if start["names"] == ["ann"]]
    assert len(starts) == 3  # the first start and two restarts
    ann, bob = prepared.status("ann"), prepared.status("bob")
    assert (ann.state, ann.cause, ann.attempts, ann.exit_code) == ("failed", "crash", 3, 1)
    assert ann.message == "ValueError: the toy was told to fail"
    assert ann.next_step
    assert bob.state == "done"
    assert not prepared.is_judged("ann")
    # The next launch gives it a new chance.
    prepared.order({})
    assert prepared.call("supervise").code == 0
    assert prepared.status("ann").state == "done"
    assert prepared.status("ann").cause is None


@pytest.mark.parametrize(
    ("order", "cause"),
    [("exit:2", "config"), ("exit:3", "environment"), ("fail:non_finite", "non_finite")],
)
def test_what_would_fail_again_is_not_tried_again(prepared: Toy, order: str, cause: str):
    prepared.order({"train:ann": [order] * 9})
    assert prepared.call("supervise").code == 1
    assert [start["names"] for start in prepared.starts("train")].count(["ann"]) == 1
    assert prepared.status("ann").cause == cause
    assert prepared.status("bob").state == "done"


@pytest.mark.fault(17)
def test_out_of_memory_is_tried_once_more_alone(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann", "bob", "cyd")))
    toy.prepare()
    toy.order({"train:ann": ["fail:out_of_memory"] * 9, "train:bob": ["hold"]})
    supervisor = toy.start("supervise")
    # bob holds its place all the time: cyd may use the other one, ann must not.
    wait_until(lambda: toy.run("cyd").is_trained(), "cyd is trained beside bob")
    assert toy.status("ann").state == "queued"
    assert toy.status("ann").cause == "out_of_memory"
    # Time enough for a wrong start: the supervisor looks four times a second.
    began = time.monotonic()
    wait_until(lambda: time.monotonic() > began + 1, "a second has passed")
    assert len(toy.starts("train")) == 3
    toy.release()
    supervisor.communicate(timeout=30)
    assert supervisor.returncode == 1
    starts = [start["names"] for start in toy.starts("train")]
    assert starts.count(["ann"]) == 2
    assert starts[-1] == ["ann"]
    assert (toy.status("ann").state, toy.status("ann").cause) == ("failed", "out_of_memory")


@pytest.mark.fault(19)
def test_a_silent_worker_is_dumped_killed_and_restarted(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann",), stall_seconds=1.0))
    toy.prepare()
    toy.order({"train:ann": ["hang"]})
    finished = toy.call("supervise")
    assert finished.code == 0, finished.output
    assert "no sign of life" in finished.output
    assert [start["order"] for start in toy.starts("train")] == ["hang", "ok"]
    # The dump names the line that it hung in.
    assert "in obey" in toy.run("ann").log.read_text()


def test_a_worker_that_ends_well_without_results_has_failed(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann",), retries=0))
    toy.prepare()
    toy.order({"train:ann": ["leave"]})
    assert toy.call("supervise").code == 1
    assert toy.status("ann").state == "failed"
    assert "without finishing" in str(toy.status("ann").message)


def test_data_that_cannot_be_prepared_stops_the_study_and_is_told_to_every_run(toy: Toy):
    toy.order({"prepare:data": ["exit:2"] * 9})
    finished = toy.call("supervise")
    assert finished.code == 2
    assert [start["kind"] for start in toy.starts()] == ["prepare"]
    for name in ("ann", "bob"):
        status = toy.status(name)
        assert status.state == "failed"
        assert "could not be prepared: ValueError: the toy was told to fail" in str(status.message)


def test_a_crashed_preparation_is_repeated(toy: Toy):
    toy.order({"prepare:data": ["kill"]})
    finished = toy.call("supervise")
    assert finished.code == 0, finished.output
    assert len(toy.starts("prepare")) == 2


def test_a_run_that_cannot_be_judged_harms_no_other(prepared: Toy):
    prepared.finish_training("ann", "bob")
    # Joint judging fails whoever is in it with ann, and so does ann alone.
    prepared.order({"judge:ann": ["exit:2"] * 9})
    finished = prepared.call("supervise")
    assert finished.code == 1
    assert "one by one" in finished.output
    assert prepared.status("ann").state == "failed"
    assert prepared.is_judged("bob")
    assert prepared.status("bob").state == "done"


def test_a_killed_judge_shard_is_restarted(prepared: Toy):
    prepared.finish_training("ann", "bob")
    prepared.order({"judge:ann": ["kill"]})
    finished = prepared.call("supervise")
    assert finished.code == 0, finished.output
    assert {start["shard"] for start in prepared.starts("judge")} == {"1/2", "2/2"}
    assert len(prepared.starts("judge")) == 3
    assert not prepared.starts("train")


def test_a_failed_training_is_left_out_of_judging(prepared: Toy):
    prepared.order({"train:ann": ["exit:2"]})
    prepared.call("supervise")
    assert {name for start in prepared.starts("judge") for name in start["names"]} == {"bob"}


def test_training_alone_leaves_judging_for_later_and_judging_alone_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(ORDERS_VARIABLE, str(tmp_path))
    toy = Toy(tmp_path, toy_mapping(("ann", "bob", "cyd")))
    folder = toy.prepare()
    toy.order({"train:cyd": ["exit:2"]})

    def launch(*only: TaskKind) -> int:
        return run_study(
            folder,
            toy.study,
            stop=StopFlag(),
            echo=print,
            only=only,
            machine=Machine(2, Memory(8, 8)),
            worker_command=WORKER_COMMAND,
        )

    assert launch("prepare", "train") == 1
    assert not toy.starts("judge")
    assert (toy.status("ann").state, toy.status("ann").phase) == ("pending", "judge")
    trained = len(toy.starts("train"))
    assert launch("prepare", "judge") == 0  # cyd is not trained, so there is nothing to judge of it
    assert len(toy.starts("train")) == trained
    assert toy.is_judged("ann")
    assert toy.is_judged("bob")
    assert launch("prepare", "train", "judge") == 0
    assert toy.is_judged("cyd")


def test_no_more_runs_at_once_than_places(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann", "bob", "cyd"), max_parallel=1))
    toy.prepare()
    assert toy.call("supervise").code == 0
    log = toy.folder.supervisor_log.read_text()
    events = [line.split(" ", 2)[2] for line in log.splitlines() if "train:" in line]
    # Each start is followed by its own end before the next.
    assert [("exit code" in event) for event in events] == [False, True] * 3


def test_threads_are_recorded_and_kept_once_a_run_can_be_resumed(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann", "bob"), threads_per_run=3))
    toy.prepare()
    remember_in_run_json(toy.run("ann"), threads=2)
    (toy.run("ann").checkpoints).mkdir()
    (toy.run("ann").checkpoints / "step.json").write_text('{"step": 2}')
    remember_in_run_json(toy.run("bob"), threads=2)
    assert toy.call("supervise").code == 0
    argv = {start["names"][0]: start["argv"] for start in toy.starts("train")}
    assert argv["ann"][-2:] == ["--threads", "2"]  # it has sums of two threads in its checkpoint
    assert argv["bob"][-2:] == ["--threads", "3"]  # it has nothing yet
    assert read_json(toy.run("bob").run_json)["threads"] == 3


def test_a_worker_is_told_its_place_and_nothing_of_any_gpu(prepared: Toy):
    assert prepared.call("supervise").code == 0
    start = prepared.starts("train")[0]
    assert start["argv"][-4:-1] == ["--device", "cpu", "--threads"]
    assert start["env"]["CUDA_VISIBLE_DEVICES"] == ""
    assert start["env"]["OMP_NUM_THREADS"] == start["argv"][-1]


def test_a_worker_stopped_from_outside_is_not_restarted_and_harms_no_other(prepared: Toy):
    prepared.order({"train:ann": ["hold"]})
    supervisor = prepared.start("supervise")
    wait_until(lambda: prepared.status("ann").step == HOLDING, "ann holds")
    start = wait_until(
        lambda: [s for s in prepared.starts("train") if s["names"] == ["ann"]], "ann has started"
    )[0]
    os.kill(start["pid"], signal.SIGTERM)
    output, _ = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 1
    assert "stopped from outside" in output
    assert [s["names"] for s in prepared.starts("train")].count(["ann"]) == 1
    assert prepared.status("ann").state == "interrupted"
    assert prepared.status("ann").cause == "stopped"
    assert prepared.status("bob").state == "done"


def test_a_damaged_status_file_is_no_obstacle(prepared: Toy):
    prepared.run("ann").status.write_text("{torn")
    assert prepared.call("supervise").code == 0
    assert prepared.status("ann").state == "done"


def test_a_status_that_lags_behind_the_files_is_put_right(prepared: Toy):
    prepared.finish_training("ann", "bob")
    prepared.finish_judging("ann", "bob")
    write_status(
        prepared.run("ann").status, replace(read_status(prepared.run("ann").status), state="lost")
    )
    assert prepared.call("supervise").code == 0
    assert prepared.status("ann").state == "done"
    assert prepared.starts() == []


def test_the_peak_memory_of_a_run_is_recorded_for_the_next_launch(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann",)))
    toy.prepare()
    toy.order({"train:ann": ["hold"]})
    supervisor = toy.start("supervise")
    began = wait_until(lambda: toy.status("ann").step == HOLDING and time.monotonic(), "ann holds")
    # The supervisor measures every other second.
    wait_until(lambda: time.monotonic() > began + 2.5, "ann was measured")
    toy.release()
    supervisor.communicate(timeout=30)
    assert supervisor.returncode == 0
    peak = read_json(toy.run("ann").run_json).get("peak_memory_gib")
    assert 0.005 < peak < 0.5
