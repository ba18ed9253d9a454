"""Promises of `regatta check`: the graph, what it takes as far as it was measured, and no more."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_doctor import tool

STUDY = """
name: graph
data: {source: har-synthetic, root: syn, options: {subjects: 6}}
seeds: [0, 1]
entries:
  - {name: first, model: cnn1d}
  - {name: second, model: cnn1d, needs: [first]}
  - {name: rule, model: majority}
train: {epochs: 1, batch_size: 8}
launch: {device: cpu, max_parallel: 2, threads_per_run: 1}
"""


def check(tmp_path: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    if path:
        env["PATH"] = path
    return subprocess.run(
        [sys.executable, "-m", "regatta", "check", "s.yaml", *arguments],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(STUDY)
    return tmp_path


def graph_of(text: str) -> str:
    """What stands behind the study's settings."""
    return text[text.index("\ndata        ") :]


def test_the_graph_shows_what_waits_for_what(study: Path):
    child = check(study, "--no-probe")
    assert child.returncode == 0, child.stderr
    text = graph_of(child.stdout)
    first, second = (text.index(word) for word in ("training\n", "training    level 2\n"))
    assert text.index("run first-s0") in range(first, second)
    assert text.index("run second-s0") > second
    assert re.search(r"second-s1-\w+ .* needs first ", text)
    assert "1 CPU process, 1 thread" in text
    assert "not measured" in text
    assert "6 runs, 2 at a time" in text
    facts = json.loads(check(study, "--no-probe", "--json").stdout)
    levels = {run["entry"]: run["level"] for run in facts["runs"]}
    assert levels == {"first": 1, "second": 2, "rule": 1}
    assert facts["totals"]["seconds"] is None
    assert facts["entries"]["first"]["host_gib"] is None
    assert sorted(path.name for path in study.iterdir()) == ["s.yaml"]


def test_measured_figures_come_from_a_probe_that_a_second_check_does_not_repeat(study: Path):
    first = json.loads(check(study, "--json").stdout)
    entry = first["entries"]["first"]
    assert entry["epoch_seconds_per_1000"] > 0
    assert 0.1 < entry["host_gib"] < 8
    assert first["totals"]["host_gib"] == pytest.approx(
        sum(sorted((e["host_gib"] for e in first["entries"].values()), reverse=True)[:2]), rel=0.5
    )
    # Nothing was written beside the study, and the data do not exist.
    assert sorted(path.name for path in study.iterdir()) == ["cache", "s.yaml"]
    began = time.monotonic()
    again = json.loads(check(study, "--json").stdout)
    assert again["probes"] == first["probes"]
    assert len(list((study / "cache/regatta/probes").glob("*.json"))) == 2
    text = graph_of(check(study).stdout)
    assert "an epoch of 1,000 samples about" in text
    assert "not known before the data are read" in text
    assert time.monotonic() - began < 60


def test_two_hundred_runs_stay_readable(study: Path):
    seeds = f"seeds=[{','.join(map(str, range(100)))}]"
    child = check(study, "--no-probe", "--set", seeds)
    text = graph_of(child.stdout)
    assert "first x 100 seeds" in text
    assert "300 runs, 2 at a time" in text
    assert len(text.splitlines()) < 25


def test_a_cluster_is_shown_what_its_jobs_ask_for_and_not_this_machine(study: Path):
    rows = "main*|30:00|1-00:00:00|gpu:2|8|4\\nlong|1:00:00|infinite|(null)|16|2"
    path = tool(study / "bin", "sinfo", f"printf '{rows}\\n'")
    tool(study / "bin", "sbatch", "exit 1")
    ask = ("--no-probe", "--set", "launch.on=slurm", "--set", "launch.time='2:00:00'")
    child = check(study, *ask, "--set", "launch.memory_gib_per_run=6", path=path)
    assert child.returncode == 0, child.stderr
    text = graph_of(child.stdout)
    assert "a job: 1 CPU, 6 GiB, 2 h 00 min at most" in text
    assert "6 runs on slurm, at most 2 at a time" in text
    assert "CPU process" not in text
    for override, words in (
        ("launch.partition=mian", ["mian", "did you mean 'main'"]),
        ("launch.time=3-00:00:00", ["4320 minutes", "allows 1440"]),
        ("launch.device=cuda", ["long shows no GPUs"]),
    ):
        more = ("--set", "launch.partition=long") if "cuda" in override else ()
        child = check(study, *ask, *more, "--set", override, path=path)
        assert child.returncode == 2, child.stdout
        assert [word for word in words if word not in child.stderr] == []


def test_a_cluster_that_is_not_there_is_an_error_with_a_cure(study: Path, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    child = check(study, "--no-probe", "--set", "launch.on=slurm", path=str(empty))
    assert child.returncode == 3
    assert "no sbatch" in child.stderr
    assert "launch.on=local" in child.stderr
    path = tool(study / "bin", "sinfo", "echo 'Unable to contact slurm controller' >&2; exit 1")
    tool(study / "bin", "sbatch", "exit 1")
    child = check(study, "--no-probe", "--set", "launch.on=slurm", path=path)
    assert child.returncode == 3
    assert "Unable to contact slurm controller" in child.stderr
    assert "next:" in child.stderr
