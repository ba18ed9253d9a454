"""A reading thread's process that is killed: data are read by threads, so what is killed is the
worker. It starts again from its checkpoint; killed again, it is told what takes memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from regatta.orchestrate.causes import diagnose
from regatta.orchestrate.local import Ended
from regatta.records.run_folder import StudyFolder
from regatta.records.status import RESUME, read_status
from tests.broken_here import broken_decoder, times_broken
from tests.test_bad_input import STUDY, write_videos

BAD = "1-train3.avi"
ADVICE = ("train.frame_cache_gib", "train.loader_threads", "launch.max_parallel", "fewer runs")


def train(home: Path, runs: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "regatta", "train", "s.yaml", "--runs", runs],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    return done.returncode


@pytest.mark.fault(15)
@pytest.mark.slow
@pytest.mark.soak
def test_a_worker_killed_while_reading_resumes_and_is_told_what_takes_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch-cache"))
    recipe = "epochs: 2, checkpoint_every_steps: 1, loader_threads: 2, frame_cache_gib: 0"
    study = STUDY.replace("epochs: 0", recipe).replace("launch: {", "launch: {retries: 1, ")
    (tmp_path / "s.yaml").write_text(study)
    write_videos(tmp_path / "videos", train=6)
    with broken_decoder(tmp_path / "log", **{BAD: "kill@train"}) as log:
        assert train(tmp_path, "killed") == 1
        assert times_broken(log, BAD) == 2
    ((_, run),) = StudyFolder(tmp_path / "killed" / "s").runs()
    status = read_status(run.status)
    assert (status.state, status.cause, status.attempts) == ("failed", "killed", 2)
    assert status.exit_code == -signal.SIGKILL
    assert "by SIGKILL" in str(status.message)
    assert all(word in str(status.next_step) for word in (RESUME, *ADVICE))
    assert train(tmp_path, "killed") == 0
    assert train(tmp_path, "whole") == 0
    ((_, whole),) = StudyFolder(tmp_path / "whole" / "s").runs()
    weights = [(each.model / "model.safetensors").read_bytes() for each in (run, whole)]
    assert weights[0] == weights[1]


def ended(*, low: bool) -> Ended:
    return Ended("train:a", -9, 1.5, 0, low, "it held 1.5 GiB, 0.1 of 8.0 GiB were free")


@pytest.mark.fault(15)
def test_the_second_kill_is_told_what_takes_memory(tmp_path: Path):
    log = tmp_path / "log.txt"
    log.touch()
    first, second = (
        diagnose(ended(low=False), status=None, log=log, log_start=0) for _ in range(2)
    )
    assert first.next_step == RESUME
    assert not any(word in first.after(None).next_step for word in ADVICE)
    told = second.after(first)
    assert told.retry
    assert all(word in told.next_step for word in (RESUME, *ADVICE))


@pytest.mark.fault(15)
def test_a_kill_while_memory_was_short_is_told_at_once_and_tried_alone(tmp_path: Path):
    log = tmp_path / "log.txt"
    log.touch()
    failure = diagnose(ended(low=True), status=None, log=log, log_start=0)
    assert failure.alone
    assert "possibly because host memory ran out" in failure.message
    assert all(word in failure.next_step for word in ADVICE)
