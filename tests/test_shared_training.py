"""The promise of `launch.share`, end to end: fewer decodings, the same weights, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regatta.records.clip_pool import pool_roots
from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import StudyFolder
from regatta.records.status import ProcessId, read_status
from tests.test_first_race import wait_until

STUDY = """
name: {name}
data:
  source: rotors
  root: {root}
  options: {{train_clips: 16, validation_clips: 8, test_clips: 8, frames: 32}}
entries:
  - {{name: a, model: cnn3d, size: tiny, checkpoint: none, options: {{frames: 4}}}}
  - {{name: b, model: cnn3d, size: tiny, checkpoint: none, options: {{frames: 8}}}}
  - {{name: c, model: cnn3d, size: tiny, checkpoint: none, options: {{frames: 16}}}}
train: {{epochs: {epochs}, batch_size: 4, lr: 1e-3, flip: false, frame_cache_gib: 0,
  checkpoint_every_steps: 1, temporal_probability: 0.5, temporal_box_probability: 0.5}}
launch: {{device: cpu, threads_per_run: 1, share: {share}, stall_seconds: 60}}
"""
TIMING = {"seconds", "samples_per_second", "memory_gb"}
EPOCHS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


def launch(place: Path, name: str, *, share: bool) -> subprocess.Popen[str]:
    study = place / f"{name}.yaml"
    values = {"name": name, "root": place / "data", "share": str(share).lower(), "epochs": EPOCHS}
    study.write_text(STUDY.format(**values))
    return subprocess.Popen(
        [sys.executable, "-m", "regatta", "train", study.name],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(child: subprocess.Popen[str]) -> None:
    output, _ = child.communicate(timeout=240)
    assert child.returncode == 0, output


def results(folder: StudyFolder) -> dict[str, tuple[bytes, list[dict[str, Any]]]]:
    found = {}
    for spec, run in folder.runs():
        metrics = [
            {key: value for key, value in record.items() if key not in TIMING}
            for record in read_metrics(run.metrics)
        ]
        found[spec.entry.name] = ((run.model / "model.safetensors").read_bytes(), metrics)
    return found


def left_behind(folder: StudyFolder) -> list[Path]:
    return [root for root in pool_roots(folder.path) if root.exists()]


@pytest.fixture(scope="module")
def separate(place: Path) -> dict[str, Any]:
    """What the three runs give when each decodes for itself."""
    finish(launch(place, "separate", share=False))
    return results(StudyFolder(place / "runs" / "separate"))


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        child.kill()
        child.communicate()


def test_shared_runs_give_what_separate_runs_give(place, separate):
    folder = StudyFolder(place / "runs" / "shared")
    finish(launch(place, "shared", share=True))
    assert results(folder) == separate
    logs = [run.log.read_text() for _, run in folder.runs()]
    where = pool_roots(folder.path)[0]
    assert all(f"received through {where}" in log for log in logs)
    assert any(" 0 received" not in log for log in logs)
    assert not left_behind(folder)


def worker_of(folder: StudyFolder, name: str) -> ProcessId | None:
    status = next(read_status(r.status) for s, r in folder.runs() if s.entry.name == name)
    process = ProcessId(**status.process) if status.process and status.step else None
    return process if process and process.is_alive() else None


def test_kills_change_nothing_and_leave_nothing(place, separate, processes):
    folder = StudyFolder(place / "runs" / "killed")
    processes.append(launch(place, "killed", share=True))
    wait_until(lambda: folder.study_yaml.is_file(), "the study is open")
    wait_until(lambda: worker_of(folder, "b") is not None, "b trains")
    victim = worker_of(folder, "b")
    assert victim
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(lambda: worker_of(folder, "b") not in {None, victim}, "b trains again")
    # Now all of them at once, with clips on their way: nobody is left to tidy up.
    processes[0].kill()
    processes[0].wait()
    workers = [read_status(run.status).process for _, run in folder.runs()]
    wait_until(
        lambda: not any(process and ProcessId(**process).is_alive() for process in workers),
        "the workers are gone with their supervisor",
    )
    finish(launch(place, "killed", share=True))
    assert results(folder) == separate
    assert not left_behind(folder)
