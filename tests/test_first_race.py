"""The main promise, end to end on real video files: one command, one report, and killing it
anywhere changes nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from regatta.config.expand import protocol_id
from regatta.records.metrics_stream import read_metrics
from regatta.records.predictions import RunPredictions, read_run_predictions
from regatta.records.run_folder import StudyFolder
from regatta.records.status import ProcessId, read_status
from regatta.report.formats import VARIABLE

STUDY = """
name: tiny
data:
  source: rotors
  root: {root}
  options: {{train_clips: 32, validation_clips: 16, test_clips: 20, frames: 32}}
entries:
  - {{name: vmae, model: videomae, size: tiny, checkpoint: none}}
  - {{name: conv, model: cnn3d, size: tiny, checkpoint: none}}
train: {{epochs: 2, batch_size: 8, lr: 1e-3, flip: false, checkpoint_every_steps: 1,
log_every_steps: 1}}
protocol:
  name: temporal-grid
  part_samples: 4
  options: {{coverage: [50, 100], stride: [1, 4]}}
launch: {{threads_per_run: 1, max_parallel: 2}}
"""
LONGEST_SECONDS = 240


def write_study(folder: Path, data_root: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(STUDY.format(root=data_root))
    return path


def launch(cwd: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "regatta", "run", "tiny.yaml", *arguments],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(cwd: Path, *, env: dict[str, str] | None = None) -> str:
    child = launch(cwd, env=env)
    output, _ = child.communicate(timeout=LONGEST_SECONDS)
    assert child.returncode == 0, output
    return output


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


def predictions(folder: StudyFolder) -> dict[str, RunPredictions]:
    protocol = protocol_id(folder.study().protocol)
    return {
        spec.entry.name: read_run_predictions(
            run.predictions(protocol), run_id=spec.run_id, entry=spec.entry.name, seed=spec.seed
        )
        for spec, run in folder.runs()
    }


def assert_same_predictions(found: StudyFolder, expected: StudyFolder) -> None:
    clean, resumed = predictions(expected), predictions(found)
    assert set(clean) == set(resumed)
    for entry, reference in clean.items():
        assert resumed[entry].sample_ids.tolist() == reference.sample_ids.tolist()
        assert resumed[entry].scores.tobytes() == reference.scores.tobytes()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as handle:
        return list(csv.DictReader(handle))


def steps_logged(folder: StudyFolder) -> int:
    return sum(len(read_metrics(run.metrics)) for _, run in folder.runs())


def live_workers(folder: StudyFolder) -> list[int]:
    pids = []
    for _, run in folder.runs():
        status = read_status(run.status)
        if status.process and ProcessId(**status.process).is_alive():
            pids.append(status.process["pid"])
    return pids


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, str]:
    """An uninterrupted study and what it printed."""
    home = tmp_path_factory.mktemp("clean")
    write_study(home, home / "rotors")
    as_a_user = {name: text for name, text in os.environ.items() if name != VARIABLE}
    output = finish(home, env=as_a_user)
    return StudyFolder(home / "runs" / "tiny"), output


@pytest.fixture
def home(tmp_path: Path, clean: tuple[StudyFolder, str]) -> Path:
    """A fresh folder with the same study over the same generated videos."""
    write_study(tmp_path, clean[0].path.parents[1] / "rotors")
    return tmp_path


def test_one_command_ends_with_the_path_of_a_report(clean):
    folder, output = clean
    last = output.strip().splitlines()[-1]
    assert Path(last.split()[-1]).name == "report.html"
    assert (folder.report / "report.html").stat().st_size > 10_000
    assert "\r" not in output


def test_every_figure_is_there_in_three_formats_unless_fewer_were_asked_for(clean):
    folder, _ = clean
    found = [path for path in (folder.report / "figures").rglob("*") if path.is_file()]
    names = {path.with_suffix("") for path in found}
    assert len(names) > 10
    assert {str(path) for path in found} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "pdf", "png")
    }


def test_tables_have_one_row_per_model_and_condition(clean):
    folder, _ = clean
    for entry in ("vmae", "conv"):
        rows = read_csv(folder.results / f"results_{entry}.csv")
        assert sorted((int(r["coverage"]), int(r["stride"])) for r in rows) == [
            (50, 1),
            (50, 4),
            (100, 1),
            (100, 4),
        ]
        assert {r["n_samples"] for r in rows} == {"20"}
    combined = read_csv(folder.results / "results_multimodel.csv")
    assert len(combined) == 8
    first = (
        "model,coverage,stride,accuracy,n_samples,elapsed_time,correct,top5,"
        "distinct_frames,span_seconds,rate_hz,pad_share,identical_to"
    )
    assert ",".join(combined[0]).startswith(first)


def test_accuracy_in_the_table_is_the_accuracy_of_the_predictions(clean):
    folder, _ = clean
    judged = predictions(folder)["vmae"]
    rows = {
        f"c{r['coverage']}s{r['stride']}": float(r["accuracy"])
        for r in read_csv(folder.results / "results_vmae.csv")
    }
    expected = dict(
        zip([c.id for c in judged.conditions], judged.correct().mean(axis=1), strict=True)
    )
    assert rows == pytest.approx(expected)


def test_running_again_redoes_nothing(clean):
    folder, _ = clean
    before = {
        path: path.stat().st_mtime_ns
        for path in folder.path.rglob("*")
        if path.is_file() and "runs" in path.relative_to(folder.path).parts
    }
    output = finish(folder.path.parents[1])
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    assert output.strip().splitlines()[-1].endswith("report.html")


def test_identical_clips_get_identical_scores(clean):
    folder, _ = clean
    judged = predictions(folder)["conv"]
    for sample in range(len(judged.sample_ids)):
        by_key: dict[str, bytes] = {}
        for cell, key in enumerate(judged.clip_keys[:, sample]):
            scores = judged.scores[cell, sample].tobytes()
            assert by_key.setdefault(key, scores) == scores


@pytest.mark.fault(1)
def test_killed_worker_is_restarted_and_changes_nothing(home: Path, clean):
    child = launch(home)
    folder = StudyFolder(home / "runs" / "tiny")
    wait_until(lambda: folder.study_yaml.exists() and steps_logged(folder) >= 2, "two steps logged")
    victims = live_workers(folder)
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    output, _ = child.communicate(timeout=LONGEST_SECONDS)
    assert child.returncode == 0, output
    assert "starting again" in output
    assert_same_predictions(folder, clean[0])


@pytest.mark.fault(6)
def test_killed_supervisor_leaves_no_worker_and_the_next_run_finishes(home: Path, clean):
    child = launch(home)
    folder = StudyFolder(home / "runs" / "tiny")
    wait_until(
        lambda: folder.study_yaml.exists() and steps_logged(folder) >= 3, "three steps logged"
    )
    workers = live_workers(folder)
    assert workers
    child.kill()
    child.communicate(timeout=30)
    wait_until(lambda: not live_workers(folder), "workers ended with their supervisor", 15)
    finish(home)
    assert_same_predictions(folder, clean[0])


def test_ctrl_c_stops_gracefully_and_the_next_run_finishes(home: Path, clean):
    child = launch(home)
    folder = StudyFolder(home / "runs" / "tiny")
    wait_until(
        lambda: folder.study_yaml.exists() and steps_logged(folder) >= 3, "three steps logged"
    )
    os.kill(child.pid, signal.SIGINT)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 130, output
    assert not live_workers(folder)
    assert not folder.lease.exists()
    states = {read_status(run.status).state for _, run in folder.runs()}
    assert states <= {"interrupted", "queued", "pending"}
    finish(home)
    assert_same_predictions(folder, clean[0])


def test_a_damaged_prediction_part_is_named_and_only_it_is_redone(home: Path, clean):
    finish(home)
    folder = StudyFolder(home / "runs" / "tiny")
    _spec, run = folder.runs()[0]
    target = run.predictions(protocol_id(folder.study().protocol))
    parts = sorted(target.glob("part-*.parquet"))
    kept = {part: part.stat().st_mtime_ns for part in parts[1:]}
    parts[0].write_bytes(parts[0].read_bytes()[:-20])
    compared = subprocess.run(
        [sys.executable, "-m", "regatta", "compare", str(folder.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compared.returncode == 1
    assert parts[0].name in compared.stderr
    parts[0].unlink()
    (target / "complete.json").unlink()
    finish(home)
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert_same_predictions(folder, clean[0])


def test_status_as_json_is_truthful(clean):
    folder, _ = clean
    child = subprocess.run(
        [sys.executable, "-m", "regatta", "status", str(folder.path), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    text = json.dumps(json.loads(child.stdout))
    assert re.findall(r'"state": "(\w+)"', text).count("done") >= 2


def test_every_number_of_training_was_recorded(clean):
    folder, _ = clean
    for _, run in folder.runs():
        results = json.loads(run.training_results.read_text())
        assert results["history"]["epoch"] == [1, 2]
        assert results["steps"] == 8
        assert results["samples_seen"] == 64
        assert np.isfinite(results["history"]["val_loss"]).all()


def test_one_run_over_two_processes_trains_and_is_judged(tmp_path: Path, clean):
    text = (clean[0].path.parents[1] / "tiny.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text(text)
    changes = (
        "entries=[conv]",
        "train={epochs: 1, batch_size: 4, parallel: ddp}",
        "launch={devices: 2}",
        "protocol={name: plain}",
    )
    child = launch(tmp_path, *(part for change in changes for part in ("--set", change)))
    output, _ = child.communicate(timeout=LONGEST_SECONDS)
    assert child.returncode == 0, output
    ((_, run),) = StudyFolder(tmp_path / "runs" / "tiny").runs()
    results = json.loads(run.training_results.read_text())
    assert (results["world"], results["steps"], results["samples_seen"]) == (2, 4, 32)
