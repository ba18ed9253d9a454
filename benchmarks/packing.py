"""Several small training runs on two cores: packed as processes, beside one after the other.

    .venv/bin/python benchmarks/packing.py [--runs 4] [--repeats 3] [--quick]

The same study (one tiny video model, K seeds, generated rotor clips) is trained by `regatta train`
three ways, its data being prepared: `packed` = two runs at once with one thread each, `sequential`
= one at a time with one thread, and `two threads` = one at a time with both cores, which is the
fairer rival. Packed and sequential must end with the same weights, bit for bit; with two threads
sums round differently, so there only the number of steps is compared. All sides are timed in turn,
starts of the processes included, on two cores. The target is for packed over sequential.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from regatta.config.load import study_from_mapping
from regatta.core.files import read_json
from regatta.records.run_folder import StudyFolder, open_study

CORES = 2
TARGET = 1.4
NAME = "packed"


@dataclass(frozen=True)
class Side:
    """How one side launches the study."""

    max_parallel: int
    threads: int


SIDES = {"packed": Side(2, 1), "sequential": Side(1, 1), "two threads": Side(1, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="one turn, 64 clips, one epoch")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.clips, options.epochs = 1, 64, 1
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as root:
        prepared = prepare(Path(root), options.runs, options.clips, options.epochs)
        seconds: dict[str, list[float]] = {name: [] for name in SIDES}
        for turn in range(options.repeats):
            folders = {}
            for name, side in SIDES.items():
                folders[name] = Path(root) / f"{name}-{turn}"
                shutil.copytree(prepared, folders[name])
                seconds[name].append(train(folders[name], side))
            check(folders)
    show(seconds)


def mapping(root: Path, runs: int, clips: int, epochs: int) -> dict[str, Any]:
    return {
        "name": NAME,
        "data": {
            "source": "rotors",
            "root": str(root / "rotors"),
            "options": {"train_clips": clips, "validation_clips": 32, "test_clips": 32},
        },
        "entries": [{"model": "videomae", "size": "tiny", "checkpoint": "none"}],
        "seeds": list(range(runs)),
        "train": {"epochs": epochs, "batch_size": 16},
        "protocol": {"name": "plain"},
        "launch": {"device": "cpu", "memory_gib_per_run": 0.5},
    }


def prepare(root: Path, runs: int, clips: int, epochs: int) -> Path:
    """A runs folder whose study has its data, and no run begun."""
    content = mapping(root, runs, clips, epochs)
    (root / "study.yaml").write_text(json.dumps(content))
    folder = open_study(root / "prepared", study_from_mapping(content))
    command = [sys.executable, "-m", "regatta.worker", "prepare", "--study", str(folder.path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder.path.parent


def train(runs_root: Path, side: Side) -> float:
    """Seconds of the whole command."""
    keys = {"max_parallel": side.max_parallel, "threads_per_run": side.threads}
    settings = [word for key, value in keys.items() for word in ("--set", f"launch.{key}={value}")]
    study = runs_root.parent / "study.yaml"
    command = [sys.executable, "-m", "regatta", "train", str(study), "--runs", str(runs_root)]
    started = time.perf_counter()
    done = subprocess.run([*command, *settings], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"training ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def weights_of(runs_root: Path) -> dict[str, str]:
    """Run id -> hash of its weights."""
    found = {}
    for spec, run in StudyFolder(runs_root / NAME).runs():
        digest = sha256()
        for path in sorted(run.model.rglob("*.safetensors")):
            digest.update(path.read_bytes())
        found[spec.run_id] = digest.hexdigest()
    return found


def steps_of(runs_root: Path) -> list[Any]:
    runs = StudyFolder(runs_root / NAME).runs()
    return [read_json(run.training_results).get("steps") for _, run in runs]


def check(folders: dict[str, Path]) -> None:
    """Stop unless packed and sequential agree in every weight, and all sides in their steps."""
    packed, sequential = weights_of(folders["packed"]), weights_of(folders["sequential"])
    if packed != sequential or len(set(packed.values())) < len(packed):
        differing = [run for run in packed if packed[run] != sequential[run]]
        raise SystemExit(f"weights differ, or runs are alike: {differing}")
    if len({str(steps_of(folder)) for folder in folders.values()}) > 1:
        raise SystemExit("the sides trained for other numbers of steps")
    print(f"  equal: weights of {len(packed)} runs, packed and sequential, bit for bit")


def show(seconds: dict[str, list[float]]) -> None:
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds["packed"], strict=True)]
        line = f"  {name:<12} {statistics.median(values):6.1f} s"
        if name != "packed":
            line += f"   packed is {statistics.median(ratios):.2f} x as fast"
            line += f" ({min(ratios):.2f}-{max(ratios):.2f})"
        print(line)
    pairs = zip(seconds["sequential"], seconds["packed"], strict=True)
    ratio = statistics.median(slow / fast for slow, fast in pairs)
    print(f"target {TARGET} x sequential: {'PASSED' if ratio >= TARGET else 'MISSED'}")
    if ratio < TARGET:
        sys.exit(1)


if __name__ == "__main__":
    main()
