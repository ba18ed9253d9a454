"""Every protocol from the command line on real video files: one training, judged anew each time."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from regatta.config.expand import protocol_id
from regatta.records.run_folder import StudyFolder

STUDY = """
name: all
data:
  source: rotors
  root: rotors
  options: {train_clips: 16, validation_clips: 8, test_clips: 12, frames: 32}
entries:
  - {name: conv, model: cnn3d, size: tiny, checkpoint: none, options: {frames: 8}}
  - {name: short, model: cnn3d, size: tiny, checkpoint: none, options: {frames: 4}}
train: {epochs: 1, batch_size: 8, lr: 1e-3, flip: false, temporal_probability: 0.5,
        temporal_box_probability: 0.5}
protocol: {name: plain}
compare: {replicates: 200}
launch: {threads_per_run: 1, max_parallel: 1}
"""
CELLS = {
    "temporal-grid": 25,
    "temporal-grid-legacy": 25,
    "matched": 5,
    "span": 5,
    "antialias": 10,
    "controls": 5,
    "multi-view": 3,
    "sliding": 9,
}
LONGEST_SECONDS = 240
FEW = "protocol.options.frames=[1, 4]"


def regatta(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "regatta", *arguments],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained study in it."""
    folder = tmp_path_factory.mktemp("protocols")
    (folder / "all.yaml").write_text(STUDY)
    regatta(folder, "train", "all.yaml")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("protocol", CELLS)
def test_a_trained_study_is_judged_compared_and_reported_under(protocol, home):
    study = StudyFolder(home / "runs" / "all")
    weights = {run.run_id: run.training_results.stat().st_mtime_ns for _, run in study.runs()}
    shown = regatta(home, "evaluate", "all.yaml", "--set", f"protocol.name={protocol}")
    assert shown.strip().splitlines()[-1].endswith("report.html")
    after = {run.run_id: run.training_results.stat().st_mtime_ns for _, run in study.runs()}
    assert after == weights, "another protocol is no reason to train again"

    with (study.results / "results_multimodel.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2 * CELLS[protocol]
    assert {row["n_samples"] for row in rows} == {"12"}
    comparison = json.loads((study.results / "comparison.json").read_text())
    assert comparison["study"]["protocol"] == protocol
    assert comparison["study"]["protocol_id"] == protocol_id(study.study().protocol)
    page = (study.report / "report.html").read_text()
    assert all(condition["id"] in page for condition in comparison["conditions"])


@pytest.mark.slow
def test_a_protocol_that_was_judged_is_not_judged_again(home: Path):
    judge = ("evaluate", "all.yaml", "--set", "protocol.name=matched", "--set", FEW)
    regatta(home, *judge)
    study = StudyFolder(home / "runs" / "all")
    parts = {path: path.stat().st_mtime_ns for path in study.path.rglob("part-*.parquet")}
    assert parts
    again = regatta(home, *judge)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert again.strip().splitlines()[-1].endswith("report.html")
