"""Promises of `regatta doctor`: each fault of a machine, made for real, is named with its cure."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from regatta.cli.doctor_machine import clock
from regatta.cli.doctor_packages import codec_cure, has_nvidia_card

CARD = "0, GPU-aaaa-1, NVIDIA A100, 40960, 40000"


def doctor(
    tmp_path: Path, *arguments: str, prefix: tuple[str, ...] = (), before: Any = None, **env: str
) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and findings by topic, of a doctor in a child."""
    child = subprocess.run(
        [*prefix, sys.executable, "-m", "regatta", "doctor", "--json", *arguments],
        cwd=tmp_path,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
        timeout=300,
    )
    assert "Traceback" not in child.stderr, child.stderr
    return child.returncode, {f["topic"]: f for f in json.loads(child.stdout)}


def tool(folder: Path, name: str, script: str) -> str:
    """A program of this name first on the PATH that is returned."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def package(folder: Path, name: str, code: str, number: str = "") -> str:
    """A package that stands before the installed one; returns the PYTHONPATH."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    if number:
        info = folder / f"{name}-{number}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    return str(folder)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system of its own; the test is skipped where none can be mounted."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def light(tmp_path: Path) -> str:
    """Packages that import at once, for tests that are not about packages."""
    folder = tmp_path / "light"
    torch = "__version__ = '2.13.0'\nclass version: cuda = None\n"
    for name, code in {
        "torch": torch,
        "transformers": "VideoMAEForVideoClassification = None\n",
        "torchcodec": "",
        "ray": "",
    }.items():
        package(folder, name, code)
    (folder / "torchcodec" / "decoders.py").touch()
    return str(folder)


CUDA_TORCH = """
__version__ = "2.13.0+cu130"
class version: cuda = "13.0"
class cuda:
    @staticmethod
    def init(): raise RuntimeError({message!r})
    @staticmethod
    def device_count(): return 0
"""
OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040)."


def test_faults_of_the_machine_are_named_with_their_cures(tmp_path: Path, light: str):
    path = tool(tmp_path / "bin", "nvidia-smi", f"echo '{CARD}'")
    tool(tmp_path / "bin", "sinfo", "echo 'slurm_load_partitions: Unable to contact' >&2; exit 1")
    tool(tmp_path / "bin", "sbatch", "exit 1")
    stubs = package(tmp_path / "stubs", "av", "raise ImportError('libavcodec is gone')", "18.1.0")
    package(tmp_path / "stubs", "torchcodec", "raise RuntimeError('no libnvrtc')", "0.17.0")
    package(tmp_path / "stubs", "ray", "raise ImportError('half a ray')", "2.60.0")
    (tmp_path / "file").touch()

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    code, found = doctor(
        tmp_path,
        before=few_files,
        PATH=path,
        PYTHONPATH=f"{stubs}{os.pathsep}{light}",
        HF_HUB_OFFLINE="0",
        HF_HOME=str(tmp_path / "file" / "hf"),
        XDG_CACHE_HOME=str(tmp_path / "file"),
        TMPDIR=str(tmp_path / "absent"),
    )
    assert code == 3
    bad = {
        "torch": ("CPU build beside 1 GPU(s), NVIDIA A100", "download.pytorch.org/whl/cu"),
        "av": ("libavcodec is gone", "pip install"),
        "limits": ("128 open files", "ulimit -n"),
        "temp folder": ("absent", "TMPDIR"),
    }
    notes = {
        "torchcodec": ("0.17.0 with torch", "torchcodec==0.13.0"),
        "Slurm": ("Unable to contact", "scontrol ping"),
        "Ray": ("half a ray", "pip install"),
        "weights cache": ("cannot be written", "HF_HOME"),
        "own cache": ("cannot be written", "XDG_CACHE_HOME"),
    }
    for state, expected in (("bad", bad), ("note", notes)):
        for topic, (words, cure) in expected.items():
            assert found[topic]["state"] == state, found[topic]
            assert words in found[topic]["found"], found[topic]
            assert cure in found[topic]["cure"], found[topic]


@pytest.mark.parametrize(
    ("script", "message", "words", "cure"),
    [
        (f"echo '{CARD}'", OLD_DRIVER, "too old (found version 11040)", "update the NVIDIA driver"),
        (
            "echo 'Driver/library version mismatch'; exit 9",
            "No CUDA GPUs are available",
            "version mismatch",
            "driver",
        ),
    ],
)
def test_a_driver_that_does_not_fit_a_cuda_torch_is_bad(
    tmp_path: Path, light: str, script: str, message: str, words: str, cure: str
):
    path = tool(tmp_path / "bin", "nvidia-smi", script)
    stubs = package(tmp_path / "stubs", "torch", CUDA_TORCH.format(message=message))
    code, found = doctor(
        tmp_path, PATH=path, PYTHONPATH=f"{stubs}{os.pathsep}{light}", CUDA_VISIBLE_DEVICES="0"
    )
    assert code == 3
    assert found["torch"]["state"] == "bad"
    assert words in found["torch"]["found"]
    assert cure in found["torch"]["cure"]


def test_a_cuda_torch_without_driver_and_card_is_no_fault(tmp_path: Path, light: str):
    if shutil.which("nvidia-smi") or has_nvidia_card():
        pytest.skip("this machine has a GPU or its driver")
    stubs = package(tmp_path / "stubs", "torch", CUDA_TORCH.format(message="no driver"))
    _, found = doctor(tmp_path, PYTHONPATH=f"{stubs}{os.pathsep}{light}")
    assert found["torch"]["state"] == "note"
    assert "runs go to the CPU" in found["torch"]["found"]


def test_a_card_without_driver_shows_on_the_bus(tmp_path: Path):
    device = tmp_path / "0000:01:00.0"
    device.mkdir()
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")
    assert has_nvidia_card(tmp_path)
    (device / "class").write_text("0x040300\n")  # the sound of the same card
    assert not has_nvidia_card(tmp_path)
    assert not has_nvidia_card(tmp_path / "absent")


def test_a_full_disk_and_one_that_cannot_be_written_are_bad(tmp_path: Path, light: str):
    with mounted(tmp_path / "small", "size=1m") as small:
        code, found = doctor(tmp_path, "--runs", str(small / "runs"), PYTHONPATH=light)
        assert code == 3
        assert found["disk"]["state"] == "bad"
        assert "1 MiB free" in found["disk"]["found"]
    with mounted(tmp_path / "read-only", "ro") as read_only:
        code, found = doctor(tmp_path, "--runs", str(read_only / "runs"), PYTHONPATH=light)
        assert code == 3
        assert "Read-only file system" in found["disk"]["found"]
        assert "--runs" in found["disk"]["cure"]


def test_small_shared_memory_is_noted(tmp_path: Path, light: str):
    inner = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    prefix = ("unshare", "-m", "sh", "-c", inner, "sh")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a name space of mounts can be made by root only")
    code, found = doctor(tmp_path, prefix=prefix, PYTHONPATH=light)
    assert code == 0
    assert found["shared memory"]["state"] == "note"
    assert "1 MiB" in found["shared memory"]["found"]
    assert "--shm-size" in found["shared memory"]["cure"]


def test_a_clock_far_from_that_of_the_disk_is_bad(tmp_path: Path):
    assert clock(tmp_path).state == "good"
    ahead = clock(tmp_path, now=time.time() - 3600)
    assert ahead.state == "bad"
    assert "3600 s ahead" in ahead.found
    assert ahead.cure
    assert "behind" in clock(tmp_path, now=time.time() + 3600).found


@pytest.mark.parametrize(
    ("codec", "torch_number", "ffmpeg", "cure"),
    [
        ("0.17.0", "2.13.0+cpu", 5, "torchcodec==0.13.0"),
        ("0.10.0", "2.13.0+cpu", 5, "torchcodec==0.13.0"),
        ("0.12.0", "2.13.0+cpu", None, "apt-get install ffmpeg"),
        ("0.13.0", "2.13.0+cpu", 3, "apt-get install ffmpeg"),
        ("0.13.0", "2.12.0+cpu", 5, "torch==2.13.0"),
    ],
)
def test_the_cure_of_a_decoder_fits_what_is_installed(
    codec: str, torch_number: str, ffmpeg: int | None, cure: str
):
    told = codec_cure(codec, torch_number, ffmpeg)
    assert cure in told
    assert "PyAV" in told
