"""Promises of tasks' temporary folders: one for each process, gone with it or with its owner."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from regatta.orchestrate.bound_process import start_bound
from regatta.orchestrate.task_folders import make_task_folder, sweep_task_folders

LONGEST_SOCKET = 108
MAKES_FILES = "import sys, tempfile; tempfile.mkdtemp(); print(tempfile.gettempdir())"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of this process."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_what_a_process_leaves_in_its_folder_goes_with_it(place: Path, tmp_path: Path):
    log = tmp_path / "log.txt"
    children = [start_bound([sys.executable, "-c", MAKES_FILES], log=log, env={}) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    folders = {Path(line) for line in log.read_text().splitlines()}
    assert len(folders) == 2, "each has its own"
    assert {folder.parent for folder in folders} == {place}
    assert list(place.iterdir()) == []


def test_a_folder_can_be_entered_by_its_user_alone_and_leaves_room_for_sockets(place: Path):
    folder = make_task_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    # As multiprocessing names its sockets, under the usual folder for temporary files.
    assert len(f"/tmp/{folder.name}/pymp-abcdefgh/listener-abcdefgh") < LONGEST_SOCKET - 30


def test_folders_of_a_killed_owner_are_swept_and_those_of_a_living_one_stay(place: Path):
    code = (
        "import os\nfrom regatta.orchestrate.task_folders import make_task_folder\n"
        "(make_task_folder() / 'left').touch()\nprint(flush=True)\ninput()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout
    owner.stdout.readline()
    mine = make_task_folder()
    assert len(list(place.iterdir())) == 2
    owner.kill()
    owner.communicate()
    sweep_task_folders()
    assert list(place.iterdir()) == [mine]


def test_folders_that_may_be_in_use_elsewhere_or_are_no_folders_of_ours_stay(
    place: Path, tmp_path: Path
):
    mine = make_task_folder()
    _, host, boot, _, _, _ = mine.name.split("-")
    other_host = place / f"rg-{'0' * len(host)}-{boot}-1-1-1"
    other_name = place / "rg-notes"
    kept = tmp_path / "kept"
    for folder in (other_host, other_name, kept):
        folder.mkdir()
    link = place / f"rg-{host}-{boot}-999999-1-1"
    link.symlink_to(kept)
    earlier_boot = place / f"rg-{host}-{'0' * len(boot)}-{os.getpid()}-1-1"
    earlier_boot.mkdir()
    sweep_task_folders()
    assert set(place.iterdir()) == {mine, other_host, other_name, link}
    assert kept.is_dir()


@pytest.mark.slow
def test_torchrun_leaves_nothing_behind(place: Path, tmp_path: Path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    code = "import os, tempfile; print(os.listdir(tempfile.gettempdir()))"
    ranks = ["--nproc_per_node=2", "--", sys.executable, "-c", code]
    log = tmp_path / "log.txt"
    assert start_bound([*command, *ranks], log=log, env={}).wait() == 0, log.read_text()
    assert log.read_text().count("torchelastic_") == 2, "it makes folders, or this proves nothing"
    assert list(place.iterdir()) == []
