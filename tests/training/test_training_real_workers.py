"""Real workers on tiny studies of every kind of data: killed or stopped anywhere, then the same
weights, metrics and predictions as undisturbed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.training.harness import run_module

KINDS = ["video", "image", "signal", "scene", "fusion"]


def real_workers(folder: Path, kind: str, mode: str) -> dict[str, Any]:
    done = run_module("real_workers", folder, kind, mode, seconds=1500)
    return json.loads(done.stdout.splitlines()[-1])


def check_kills(report: dict[str, Any]) -> None:
    assert report["reference"]["predictions"]
    assert report["faults"]
    for name, fault in report["faults"].items():
        assert fault["ended"] == -signal.SIGKILL, f"{name} did not fire"
        assert set(fault["finished"]) == {0}, name
        assert fault["outcome"] == report["reference"], name
        assert fault["left"] == [], name


def check_terms(report: dict[str, Any]) -> None:
    for name, fault in report["faults"].items():
        assert fault["ended"] == 143, f"{name} did not end as stopped"
        # In its own time: beside other work on few cores the clock on the wall runs faster.
        assert fault["cpu"] <= 5, name
        assert fault["wall"] <= 60, name
        assert (fault["status"]["state"], fault["status"]["cause"]) == ("interrupted", "stopped")
        assert set(fault["finished"]) == {0}, name
        assert fault["outcome"] == report["reference"], name
        assert fault["left"] == [], name


@pytest.mark.slow
@pytest.mark.fault(1)
@pytest.mark.usefixtures("no_leaks")
def test_a_killed_worker_leaves_weights_metrics_and_predictions_as_undisturbed(tmp_path: Path):
    report = real_workers(tmp_path, "signal", "kill")
    assert len(report["faults"]) == 2
    check_kills(report)


@pytest.mark.soak
@pytest.mark.fault(1)
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_killed_at_any_step_leaves_weights_metrics_and_predictions_as_undisturbed(
    tmp_path: Path, kind: str
):
    report = real_workers(tmp_path, kind, "kill-all")
    at_steps = [name for name in report["faults"] if name.startswith("step")]
    assert len(at_steps) == report["reference"]["steps"] >= 4
    assert len(report["faults"]) - len(at_steps) >= 5
    check_kills(report)


@pytest.mark.slow
@pytest.mark.fault(3)
@pytest.mark.usefixtures("no_leaks")
def test_term_in_any_phase_of_a_worker_saves_and_leaves_within_5_s_and_resumes_exactly(
    tmp_path: Path,
):
    report = real_workers(tmp_path, "image", "term")
    assert list(report["faults"]) == ["scan", "warm-up", "train", "validate", "judge"]
    check_terms(report)


@pytest.mark.soak
@pytest.mark.fault(3)
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("kind", ["video", "signal", "scene", "fusion"])
def test_term_in_any_phase_on_any_kind_of_data_saves_and_leaves_within_5_s_and_resumes_exactly(
    tmp_path: Path, kind: str
):
    report = real_workers(tmp_path, kind, "term")
    assert len(report["faults"]) >= 4
    check_terms(report)
