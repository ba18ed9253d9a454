"""Containers often have 64 MiB of shared memory: what needs more says so, and the rest goes on.

Regatta itself keeps two things there: clips that runs share (`launch.share`), and what the
processes of one run on several GPUs need of their library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from regatta.orchestrate.causes import diagnose
from regatta.orchestrate.local import Ended
from regatta.records.clip_pool import pool_roots
from regatta.records.run_folder import StudyFolder
from tests.test_shared_training import STUDY, results

MIB = 64
BUS_ERROR = """
import mmap, os, sys
with open("/dev/shm/other", "wb") as other:
    try:
        while True:
            other.write(bytes(1 << 16))
            other.flush()
    except OSError:
        pass
with open("/dev/shm/mine", "w+b") as mine:
    os.ftruncate(mine.fileno(), 1 << 20)
    mapped = mmap.mmap(mine.fileno(), 1 << 20)
print("mapped", flush=True)
for place in range(0, 1 << 20, 4096):
    mapped[place] = 1
"""


def in_small_memory(fill: str = "true") -> tuple[str, ...]:
    """A prefix that gives a command 64 MiB of shared memory of its own."""
    mount = f'mount -t tmpfs -o size={MIB}m none /dev/shm && {fill}; exec "$@"'
    prefix = ("unshare", "-m", "sh", "-c", mount, "sh")
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("the kernel lets this user mount nothing")
    return prefix


def train(place: Path, name: str, *settings: str, before: tuple[str, ...] = ()) -> str:
    """Train a study of two entries; what was said."""
    values = {"name": name, "root": place / "data", "share": "false", "epochs": 2}
    (place / f"{name}.yaml").write_text(STUDY.format(**values))
    keys = [part for each in settings for part in ("--set", each)]
    done = subprocess.run(
        [*before, sys.executable, "-m", "regatta", "train", f"{name}.yaml", *keys],
        cwd=place,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(place / "torch-cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def logs(folder: StudyFolder) -> list[str]:
    return [run.log.read_text() for _, run in folder.runs()]


@pytest.mark.fault(16)
@pytest.mark.slow
@pytest.mark.soak
def test_shared_clips_survive_a_small_and_a_full_shared_memory(tmp_path: Path, no_leaks: None):
    train(tmp_path, "alone")
    expected = results(StudyFolder(tmp_path / "runs" / "alone"))

    said = train(tmp_path, "small", "launch.share=true", before=in_small_memory())
    folder = StudyFolder(tmp_path / "runs" / "small")
    assert "shared memory (/dev/shm) has 64 MiB and launch.share_gib asks for 2048" in said
    assert "--shm-size" in said
    assert all(f"received through {pool_roots(folder.path)[1]}" in log for log in logs(folder))
    assert results(folder) == expected
    assert not pool_roots(folder.path)[1].exists()

    full = "dd if=/dev/zero of=/dev/shm/other bs=1M count=100 2>/dev/null"
    settings = ("launch.share=true", "launch.share_gib=0.05")
    said = train(tmp_path, "full", *settings, before=in_small_memory(full))
    folder = StudyFolder(tmp_path / "runs" / "full")
    # Large enough by its size, but nobody can put anything there: each makes its own clips.
    assert "asks for" not in said
    root = pool_roots(folder.path)[0]
    alone = (f"clips are not shared: {root} cannot be used", f" 0 received through {root}")
    assert all(any(words in log for words in alone) for log in logs(folder))
    assert results(folder) == expected


def ended(code: int) -> Ended:
    return Ended("train:a", code, 1.5, 0, False, "it held 1.5 GiB when last measured")


@pytest.mark.fault(16)
def test_a_real_bus_error_names_shared_memory_and_the_cure(tmp_path: Path):
    log = tmp_path / "log.txt"
    with log.open("wb") as output:
        done = subprocess.run(
            [*in_small_memory(), sys.executable, "-X", "faulthandler", "-c", BUS_ERROR],
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    assert "mapped" in log.read_text()
    assert done.returncode == -7, log.read_text()
    failure = diagnose(ended(done.returncode), status=None, log=log, log_start=0)
    assert "SIGBUS" in failure.message
    for word in ("/dev/shm", "MiB are free", "--shm-size=1g", "remount,size=1g"):
        assert word in failure.next_step


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "said",
    [
        # NCCL, src/misc/shmutils.cc
        "Error while creating shared memory segment /dev/shm/nccl-1a2b3c (size 9637888), "
        "error: No space left on device (28)",
        "OSError: [Errno 28] No space left on device: '/dev/shm/x'",
    ],
)
def test_a_library_that_finds_no_room_in_shared_memory_is_understood(tmp_path: Path, said: str):
    log = tmp_path / "log.txt"
    log.write_text(f"Traceback (most recent call last):\n{said}\n")
    failure: Any = diagnose(ended(1), status=None, log=log, log_start=0)
    assert said[:60] in failure.message
    assert "--shm-size=1g" in failure.next_step
