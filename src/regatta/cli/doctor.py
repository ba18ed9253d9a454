"""`regatta doctor`: what this machine has, what is wrong with it, and the cure for each."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import typer

from regatta.cli.arguments import RUNS, AsJson, Runs
from regatta.core.files import existing_parent

TORCH_FACTS = """
import json, torch
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices}))
"""
TRACKERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow-skinny",
}
"""What launch.track may name, and the package of each."""
VIDEO_MODELS = "from transformers import VideoMAEForVideoClassification"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, how it is, and the cure when it is not good."""

    topic: str
    state: Literal["good", "note", "bad"]
    found: str
    cure: str = ""


def doctor(runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Look at Python, torch, decoders, trackers, disk, memory, schedulers; name the cure for each
    problem."""
    findings = [
        _python(),
        _torch(),
        _video_models(),
        _torchvision(),
        _package("av", "pip install av", needed=True),
        _torchcodec(),
        _trackers(),
        _memory(),
        _shared_memory(),
        _disk(runs),
        _command("nvidia-smi", "GPU tools", "needed on GPU machines only"),
        _command("sbatch", "Slurm", "needed for clusters only"),
    ]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            typer.echo(f"{finding.state:<5} {finding.topic:<15} {finding.found}")
            if finding.cure:
                typer.echo(f"{'':<21} next: {finding.cure}")
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(3)


def _python() -> Finding:
    good = sys.version_info[:2] >= (3, 11)
    cure = "" if good else "use Python 3.11 or newer"
    return Finding("python", "good" if good else "bad", platform.python_version(), cure)


def _child(code: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines in a child, so that a broken library breaks the child only and torch stays
    out of here."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _torch() -> Finding:
    child = _child(TORCH_FACTS)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no output"])[-1]
        return Finding(
            "torch", "bad", f"does not import: {last}", "pip install -c constraints.txt -e ."
        )
    facts = json.loads(child.stdout)
    devices = ", ".join(facts["devices"]) or "no GPU seen, runs go to the CPU"
    return Finding(
        "torch", "good", f"{facts['version']}, CUDA {facts['cuda'] or 'none'}; {devices}"
    )


def _video_models() -> Finding:
    child = _child(VIDEO_MODELS)
    if child.returncode == 0:
        return Finding("transformers", "good", _version("transformers") or "?")
    last = (child.stderr.strip().splitlines() or ["no output"])[-1]
    return Finding(
        "transformers", "bad", f"video models do not import: {last}", "see the torchvision line"
    )


def _torchvision() -> Finding:
    found = _version("torchvision")
    if found is None:
        return Finding("torchvision", "good", "not installed; Regatta does not use it")
    child = _child("import torchvision")
    if child.returncode == 0:
        return Finding("torchvision", "note", f"{found}; Regatta does not use it")
    return Finding(
        "torchvision",
        "bad",
        f"{found} does not fit this torch and breaks the video models",
        "pip uninstall torchvision",
    )


def _torchcodec() -> Finding:
    found = _version("torchcodec")
    if found is None:
        return Finding("torchcodec", "note", "not installed; PyAV decodes (the default)")
    if _child("import torchcodec").returncode == 0:
        return Finding("torchcodec", "good", found)
    cure = "beside CPU torch 2.13: torchcodec==0.13.0 and the system's ffmpeg; or stay with PyAV"
    return Finding("torchcodec", "note", f"{found} does not load", cure)


def _trackers() -> Finding:
    found = {name: _version(package) for name, package in TRACKERS.items()}
    there = [f"{name} {number}" for name, number in found.items() if number]
    lacking = [name for name, number in found.items() if not number]
    return Finding(
        "trackers",
        "good" if there else "note",
        ", ".join(there) or "none installed; metrics.jsonl holds everything",
        "" if there else f"for launch.track: pip install 'regatta[{','.join(lacking)}]'",
    )


def _package(name: str, cure: str, *, needed: bool) -> Finding:
    found = _version(name) if importlib.util.find_spec(name) else None
    if found:
        return Finding(name, "good", found)
    return Finding(name, "bad" if needed else "note", "not installed", cure)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> Finding:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("cores, memory", "good", f"{cores} cores, {pages:.0f} GiB")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")  # noqa: S108 - looked at, not written
    if not folder.is_dir():
        return Finding(
            "shared memory", "note", "no /dev/shm; only launch.share and multi-GPU runs use it"
        )
    size = shutil.disk_usage(folder).total / 2**20
    state = "good" if size >= 64 else "note"
    return Finding("shared memory", state, f"{size:.0f} MiB; for launch.share and multi-GPU runs")


def _disk(runs: Path) -> Finding:
    place = existing_parent(runs)
    free = shutil.disk_usage(place).free / 2**30
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding(
            "disk", "bad", f"{place} cannot be written: {error.strerror}", "choose another --runs"
        )
    cure = "" if free >= 2 else "free some space: base-size checkpoints take about 1 GiB each"
    return Finding(
        "disk", "good" if free >= 2 else "bad", f"{free:.0f} GiB free under {place}", cure
    )


def _command(name: str, topic: str, why: str) -> Finding:
    path = shutil.which(name)
    return Finding(topic, "good" if path else "note", path or f"no {name}; {why}")
