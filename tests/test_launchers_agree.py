"""The same study file gives the same results on this machine, on Slurm and on Ray.

The real command line, workers, cluster and cluster of actors; a small study of signals.
"""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from regatta.core.files import read_json
from regatta.records.run_folder import StudyFolder
from tests.orchestrate.slurm_here import need_slurm

STUDY = """
name: agree
data: {source: har-synthetic, options: {subjects: 5, windows_per_class: 3}}
entries:
  - {name: cnn1d, model: cnn1d}
  - {name: linear, model: features-linear, needs: [cnn1d]}
train: {epochs: 2, batch_size: 16, warmup_epochs: 1}
launch: {device: cpu, threads_per_run: 1, memory_gib_per_run: 1}
"""


def regatta(verb: str, home: Path, *words: str, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "regatta", verb, "study.yaml", "--set", f"name={name}", *words]
    return subprocess.run(
        command,
        cwd=home,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agree")
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.fixture(scope="module")
def local(home: Path) -> dict[str, str]:
    done = regatta("run", home, name="local")
    assert done.returncode == 0, done.stdout + done.stderr
    return results(home, "local")


def results(home: Path, name: str) -> dict[str, str]:
    """Hash of all weights and predictions, by run id and file."""
    folder = StudyFolder(home / "runs" / name)
    found = {}
    for spec, run in folder.runs():
        for place in (run.path / "model", run.path / "predictions"):
            for path in sorted(place.rglob("*")):
                if path.is_file() and path.suffix in {".safetensors", ".npz", ".parquet"}:
                    key = f"{spec.run_id}/{path.relative_to(run.path)}"
                    found[key] = sha256(path.read_bytes()).hexdigest()
    assert len({key.partition("/")[0] for key in found}) == 2
    return found


def verdict(home: Path, name: str) -> object:
    comparison = read_json(home / "runs" / name / "results" / "comparison.json")
    return {k: v for k, v in comparison.items() if k in {"verdict", "pairs"}}


def test_slurm_gives_what_this_machine_gives(home: Path, local: dict[str, str]):
    need_slurm()
    words = ("--set", "launch.on=slurm", "--set", "launch.partition=main")
    done = regatta("run", home, *words, name="slurm")
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(home, "slurm") == local
    assert verdict(home, "slurm") == verdict(home, "local")


def test_ray_gives_what_this_machine_gives(home: Path, local: dict[str, str]):
    pytest.importorskip("ray", reason="ray is not installed")
    done = regatta("run", home, "--set", "launch.on=ray", name="ray")
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(home, "ray") == local
    assert verdict(home, "ray") == verdict(home, "local")


def test_two_nodes_of_slurm_train_one_run_as_two_processes_here(home: Path):
    need_slurm()
    words = ("--set", "train.parallel=ddp", "--set", "entries.linear.needs=[]")
    here = regatta("train", home, *words, "--set", "launch.devices=2", name="here")
    assert here.returncode == 0, here.stdout + here.stderr
    nodes = ("--set", "launch.on=slurm", "--set", "launch.nodes=2")
    there = regatta("train", home, *words, *nodes, name="nodes")
    assert there.returncode == 0, there.stdout + there.stderr
    runs = [run for _, run in StudyFolder(home / "runs" / "nodes").runs()]
    assert [read_json(run.training_results)["world"] for run in runs] == [2, 2]
    assert results(home, "nodes") == results(home, "here")
