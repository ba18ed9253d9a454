"""Promises of what killed writers leave: it goes at the next launch, and nothing of a live one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from regatta.config.load import study_from_mapping
from regatta.config.schema import Study
from regatta.records.leftovers import QUIET_SECONDS, sweep_dead_writers
from regatta.records.run_folder import StudyFolder, open_study

WRITER = """
import os, signal, sys, time
from pathlib import Path
from regatta.core.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(bytes(1 << 20))
    print(temporary, flush=True)
    time.sleep(60)
"""


def half_written(target: Path, *, age_seconds: float = 0.0) -> Path:
    """What a process leaves that is killed while it writes `target`."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    path = Path(child.stdout.readline().strip())
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert path.is_file()
    made = path.stat().st_mtime - age_seconds
    os.utime(path, (made, made))
    return path


@pytest.fixture
def study(tmp_path: Path) -> Study:
    section = {"source": "rotors", "root": str(tmp_path / "rotors")}
    entries = [{"name": "net", "model": "cnn3d", "checkpoint": "none"}]
    return study_from_mapping({"name": "s", "data": section, "entries": entries})


@pytest.fixture
def folder(tmp_path: Path, study: Study) -> StudyFolder:
    return open_study(tmp_path / "runs", study)


@pytest.mark.fault(8)
def test_what_killed_writers_left_in_a_study_and_its_data_goes(
    folder: StudyFolder, study: Study, tmp_path: Path
) -> None:
    run = folder.runs()[0][1]
    mine = [folder.windows, run.predictions("plain") / "part-00000.parquet", run.status]
    old = [folder.results / "a.csv", tmp_path / "rotors" / "train" / "1.mp4"]
    old.append(folder.path.parent / ".scan-cache" / "x.json")
    left = [half_written(path) for path in mine]
    left += [half_written(path, age_seconds=QUIET_SECONDS + 60) for path in old]
    sweep_dead_writers(folder, study)
    assert [path for path in left if path.exists()] == []
    assert folder.study_yaml.is_file()


def test_what_may_still_be_written_stays(folder: StudyFolder, study: Study, tmp_path: Path) -> None:
    (tmp_path / "rotors").mkdir()
    live = folder.path / f".windows.safetensors.{os.getpid()}-0123abcd.partial"
    live.touch()
    elsewhere = [
        half_written(folder.results / "a.csv"),
        half_written(tmp_path / "rotors" / "2.mp4"),
    ]
    other = folder.path / "notes.partial"
    other.touch()
    sweep_dead_writers(folder, study)
    assert all(path.exists() for path in [live, *elsewhere, other])
