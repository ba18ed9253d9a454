"""Promises of the snapshot: no state that files or processes disprove, whatever is damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from regatta.core.files import write_json
from regatta.orchestrate.snapshot import StudyReader, StudyView, study_json
from regatta.records.metrics_stream import append_metrics, rewind_metrics
from regatta.records.status import Status, process_identity, this_process, write_status
from tests.orchestrate.toy import Toy


@pytest.fixture
def opened(toy: Toy) -> Toy:
    toy.prepare()
    return toy


def dead_process() -> dict:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    child.communicate(b"\n")
    return asdict(identity)


def seen(toy: Toy, status: Status | None = None) -> Status:
    """What an observer is told of ann."""
    if status is not None:
        write_status(toy.run("ann").status, status)
    return StudyReader(toy.folder).read().runs[0].status


def lead(toy: Toy, **changes: str) -> None:
    write_json(toy.folder.lease, asdict(replace(this_process(), **changes)))


def test_a_run_that_was_never_started_is_pending(opened: Toy):
    assert seen(opened).state == "pending"


def test_running_is_believed_while_the_process_lives(opened: Toy):
    status = Status(state="running", phase="train", step=3, process=asdict(this_process()))
    assert (seen(opened, status).state, seen(opened, status).step) == ("running", 3)


def test_running_without_its_process_is_lost_and_has_a_next_step(opened: Toy):
    told = seen(opened, Status(state="running", process=dead_process()))
    assert told.state == "lost"
    assert told.next_step


def test_a_queue_that_nobody_serves_is_no_queue(opened: Toy):
    queued = Status(state="queued", phase="train")
    assert seen(opened, queued).state == "pending"
    opened.run("ann").checkpoints.mkdir()
    (opened.run("ann").checkpoints / "slot-a").touch()
    assert seen(opened, queued).state == "interrupted"
    lead(opened)
    assert seen(opened, queued).state == "queued"
    lead(opened, host="another-host")
    assert seen(opened, queued).state == "queued"
    lead(opened, started="1")
    assert seen(opened, queued).state == "interrupted"


def test_predictions_decide_on_done(opened: Toy):
    opened.finish_training("ann")
    assert (seen(opened, Status(state="done")).state, seen(opened).phase) == ("pending", "judge")
    opened.finish_judging("ann")
    assert seen(opened, Status(state="failed", cause="crash")).state == "done"
    assert seen(opened).cause is None


def test_another_protocol_is_not_done_yet(opened: Toy):
    opened.finish_training("ann")
    opened.finish_judging("ann")
    assert seen(opened, Status(state="done")).state == "done"
    changed = Toy(opened.root, {**opened.mapping, "protocol": {"name": "toy", "sample_size": 3}})
    changed.open()
    assert (seen(changed).state, seen(changed).phase) == ("pending", "judge")


def test_a_study_is_over_when_nobody_works_on_it(opened: Toy):
    assert StudyReader(opened.folder).read().is_over
    lead(opened)
    view = StudyReader(opened.folder).read()
    assert not view.is_over
    assert view.supervisor == this_process()


def test_a_reader_follows_what_changes(opened: Toy):
    reader = StudyReader(opened.folder)
    assert [run.status.state for run in reader.read().runs] == ["pending", "pending"]
    write_status(opened.run("bob").status, Status(state="failed", cause="data"))
    assert [run.status.state for run in reader.read().runs] == ["pending", "failed"]
    assert reader.read().counts == {"pending": 1, "failed": 1}
    smaller = Toy(opened.root, {**opened.mapping, "entries": opened.mapping["entries"][:1]})
    smaller.open()
    assert [run.entry for run in reader.read().runs] == ["ann"]


def test_the_curve_grows_with_the_record_and_goes_back_with_it(opened: Toy):
    reader, path = StudyReader(opened.folder), opened.run("ann").metrics

    def curve() -> tuple[float, ...]:
        return reader.read(curves=True).runs[0].curve

    assert curve() == ()
    for step in (1, 2, 3):
        append_metrics(path, {"step": step, "split": "train", "loss": 1.0})
        append_metrics(path, {"step": step, "split": "validation", "accuracy": step / 4})
    assert curve() == (0.25, 0.5, 0.75)
    with open(path, "a") as handle:
        handle.write('{"step": 4, "split": "validation", "accu')
    assert curve() == (0.25, 0.5, 0.75)
    with open(path, "a") as handle:
        handle.write('racy": 1.0}\n')
    assert curve() == (0.25, 0.5, 0.75, 1.0)
    rewind_metrics(path, after_step=1)
    assert curve() == (0.25,)


def test_a_folder_that_is_no_study_is_a_problem_not_a_crash(tmp_path: Path, toy: Toy):
    toy.folder.path.mkdir(parents=True)
    view = StudyReader(toy.folder).read()
    assert "no study.yaml" in view.problem
    assert view.runs == ()
    assert view.is_over


def test_a_damaged_status_is_read_from_the_files(opened: Toy):
    opened.run("ann").status.write_text("{torn")
    opened.finish_training("ann")
    opened.finish_judging("ann")
    assert seen(opened).state == "done"


def test_json_holds_every_fact_of_every_run(opened: Toy):
    status = Status(state="running", phase="train", step=3, process=asdict(this_process()))
    write_status(opened.run("ann").status, status)
    lead(opened)
    content = json.loads(json.dumps(study_json(StudyReader(opened.folder).read())))
    assert set(content) == {
        *("name", "path", "supervisor", "supervised", "jobs"),
        *("counts", "report", "problem", "runs"),
    }
    assert content["supervisor"]["pid"] == this_process().pid
    ann, bob = content["runs"]
    assert {"run_id", "entry", "seed", "trained", "judged", *asdict(Status())} == set(ann)
    assert (ann["state"], ann["step"], bob["state"]) == ("running", 3, "pending")
    assert content["counts"] == {"running": 1, "pending": 1}


def test_an_empty_view_has_no_counts():
    assert StudyView("x", Path("x")).counts == {}


def test_reading_the_data_is_shown_while_it_is_at_work_and_only_then(opened: Toy):
    reading = Status(state="running", phase="scan", step=3, process=asdict(this_process()))
    write_status(opened.folder.prepare_status, reading)
    view = StudyReader(opened.folder).read()
    assert view.rows[0].run_id == "data"
    assert view.rows[0].status.step == 3
    assert sum(view.counts.values()) == len(view.runs) == len(view.rows) - 1
    for over in (replace(reading, state="done"), replace(reading, process=dead_process())):
        write_status(opened.folder.prepare_status, over)
        assert StudyReader(opened.folder).read().data is None
