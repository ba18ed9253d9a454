"""A decoder that crashes or hangs while a run reads: the file is named, the worker gets one more
chance, then the run fails with the path; other runs are unharmed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from regatta.config.load import load_study
from regatta.records.in_hand import Board, in_hand, read_boards, remove_boards
from regatta.records.leftovers import sweep_dead_writers
from regatta.records.run_folder import StudyFolder, open_study
from regatta.records.status import Status, read_status
from tests.broken_here import broken_decoder, times_broken
from tests.fusion_here import fusion_mapping, write_pictures
from tests.test_bad_input import STUDY, write_videos

BAD = "0-train0.avi"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Torch keeps a cache among the temporary files.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch-cache"))
    study = STUDY.replace("epochs: 0", "epochs: 1, loader_threads: 2, frame_cache_gib: 0")
    (tmp_path / "s.yaml").write_text(study)
    write_videos(tmp_path / "videos", train=4)
    return tmp_path


def regatta(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regatta", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def statuses(home: Path) -> list[Status]:
    return [read_status(run.status) for _, run in StudyFolder(home / "runs" / "s").runs()]


def boards_left(home: Path) -> list[Path]:
    return list((home / "runs").rglob(".*in-hand*"))


@pytest.mark.fault(13)
@pytest.mark.slow
@pytest.mark.parametrize("what", ["segv", pytest.param("abort", marks=pytest.mark.soak)])
def test_a_crash_while_training_names_the_file_and_is_tried_once_more(
    home: Path, what: str, no_leaks: None
):
    with broken_decoder(home / "log", **{BAD: f"{what}@train"}) as log:
        told = regatta("train", "s.yaml", cwd=home)
        assert times_broken(log, BAD) == 2
    assert told.returncode == 1, told.stdout + told.stderr
    (status,) = statuses(home)
    path = str(home / "videos" / "train" / "a" / BAD)
    assert (status.state, status.cause) == ("failed", "decoder_crash")
    assert path in str(status.message)
    assert "for the second time" in str(status.message)
    assert "regatta data check" in str(status.next_step)
    assert status.attempts == 2
    said = told.stdout + told.stderr
    assert f"decoder_crash: the decoder crashed on {path}" in said
    assert boards_left(home) == []
    # Once the decoder is mended the same command trains it.
    assert regatta("train", "s.yaml", cwd=home).returncode == 0
    assert boards_left(home) == []


@pytest.mark.fault(13)
@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("what", ["hang", "spin"])
def test_a_hang_while_training_names_the_file_and_is_tried_once_more(
    home: Path, what: str, no_leaks: None
):
    # On a busy machine a start alone may be silent for long; that is another cause.
    limit = ("--set", "launch.stall_seconds=25", "--set", "launch.retries=4")
    with broken_decoder(home / "log", **{BAD: f"{what}@train"}) as log:
        told = regatta("train", "s.yaml", *limit, cwd=home)
        assert times_broken(log, BAD) == 2
    assert told.returncode == 1, told.stdout + told.stderr
    (status,) = statuses(home)
    assert (status.state, status.cause) == ("failed", "decoder_hang")
    assert "for the second time" in str(status.message)
    assert str(home / "videos" / "train" / "a" / BAD) in str(status.message)
    assert boards_left(home) == []


@pytest.mark.fault(13)
@pytest.mark.slow
@pytest.mark.soak
def test_a_crash_while_judging_fails_both_runs_by_the_path_after_one_more_try(
    home: Path, no_leaks: None
):
    study = (home / "s.yaml").read_text().replace("epochs: 1", "epochs: 0")
    one = study.split("entries: [")[1].split("]\n")[0]
    both = f"{one}, {one.replace('name: c', 'name: d')}"
    (home / "s.yaml").write_text(study.replace(one, both))
    bad = "1-test0.avi"
    with broken_decoder(home / "log", **{bad: "segv@judge"}) as log:
        told = regatta("run", "s.yaml", cwd=home)
        assert times_broken(log, bad) == 2
    assert told.returncode == 1, told.stdout + told.stderr
    found = statuses(home)
    assert [(s.state, s.cause) for s in found] == [("failed", "decoder_crash")] * 2
    assert all(str(home / "videos" / "test" / "b" / bad) in str(s.message) for s in found)
    assert regatta("run", "s.yaml", cwd=home).returncode == 0


@pytest.mark.fault(13)
@pytest.mark.slow
@pytest.mark.soak
def test_a_crash_in_the_scan_fails_or_drops_the_file_for_all_entries(home: Path, no_leaks: None):
    with broken_decoder(home / "log", **{BAD: "segv"}) as log:
        told = regatta("run", "s.yaml", cwd=home)
        assert times_broken(log, BAD) == 2
        assert told.returncode == 2
        prepared = (home / "runs" / "s" / "prepare.log").read_text()
        assert f"train/a/{BAD}: the decoder crashes on it (SIGSEGV, 2 times)" in prepared
        told = regatta("run", "s.yaml", "--set", "data.damaged=drop", cwd=home)
        assert times_broken(log, BAD) == 4
    assert told.returncode == 0, told.stdout + told.stderr
    facts = (home / "runs" / "s" / "data.json").read_text()
    assert BAD in facts
    assert "SIGSEGV" in facts


@pytest.mark.fault(13)
@pytest.mark.slow
@pytest.mark.soak
def test_a_picture_that_crashes_its_reader_is_named_after_one_more_try(
    tmp_path: Path, no_leaks: None
):
    """Pictures are read by threads of the worker, also in the scan: no dropping there."""
    root = write_pictures(tmp_path / "pictures", train=6, test=2)
    content = fusion_mapping(root, data={"damaged": "drop"})
    (tmp_path / "s.yaml").write_text(json.dumps(content))
    bad = root / "train" / "east" / "003.png"
    bad.rename(bad.with_name("bad.png"))
    with broken_decoder(tmp_path / "log", **{"bad.png": "segv@prepare"}) as log:
        told = regatta("train", "s.yaml", cwd=tmp_path)
        assert times_broken(log, "bad.png") == 2
    assert told.returncode == 1, told.stdout + told.stderr
    said = told.stdout + told.stderr
    assert f"the decoder crashed on {bad.with_name('bad.png')}" in said
    found = [read_status(run.status) for _, run in StudyFolder(tmp_path / "runs" / "small").runs()]
    assert {(status.state, status.cause) for status in found} == {("failed", "decoder_crash")}
    assert all("for the second time" in str(status.message) for status in found)
    assert boards_left(tmp_path) == []


@pytest.mark.fault(13)
def test_a_board_tells_what_threads_had_in_hand_when_their_process_was_killed(tmp_path: Path):
    code = (
        "import sys, threading; from pathlib import Path; from regatta.records.in_hand import *\n"
        "open_board()\n"
        "def hold(name):\n"
        "    with in_hand(name):\n"
        "        with in_hand('/done'): pass\n"
        "        print(name, threading.get_ident(), flush=True); threading.Event().wait()\n"
        "for name in ('/a', '/' + 600 * 'b' + '/c'):\n"
        "    threading.Thread(target=hold, args=[name]).start()\n"
    )
    prefix = tmp_path / ".log-in-hand"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={"REGATTA_IN_HAND": str(prefix), "RANK": "3"},
    )
    assert child.stdout is not None
    said = [child.stdout.readline().split() for _ in range(2)]
    child.kill()
    child.wait()
    child.stdout.close()
    held = read_boards(prefix)
    # Of a long path its end is kept.
    assert {(h.path[-2:], h.thread) for h in held} == {(n[-2:], int(i)) for n, i in said}
    assert all(0 <= h.seconds < 60 for h in held)
    remove_boards(prefix)
    assert read_boards(prefix) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(6)
@pytest.mark.fault(13)
def test_boards_of_a_killed_launch_are_swept_by_the_next(tmp_path: Path):
    (tmp_path / "s.yaml").write_text(STUDY)
    study = load_study(tmp_path / "s.yaml")
    folder = open_study(tmp_path / "runs", study)
    ((_, run),) = folder.runs()
    logs = (run.log, folder.prepare_log, folder.path / "judge-1.log")
    boards = [log.with_name(f".{log.stem}-in-hand-0-0a1b2c3d") for log in logs]
    kept = set(folder.path.rglob("*"))
    for path in boards:
        Board(path)
    assert set(folder.path.rglob("*")) == kept | set(boards)
    sweep_dead_writers(folder, study)
    assert set(folder.path.rglob("*")) == kept


@pytest.mark.fault(13)
def test_a_note_costs_microseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("regatta.records.in_hand._board", Board(tmp_path / "board"))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(1000):
            with in_hand("/some/where/a.avi"):
                pass
        times.append((time.perf_counter() - began) / 1000)
    assert min(times) < 100e-6


@pytest.mark.fault(13)
def test_more_threads_than_slots_read_all_the_same(tmp_path: Path):
    board = Board(tmp_path / "x-0-y")
    inside, leave = threading.Barrier(101), threading.Event()

    def hold() -> None:
        with board.hold("/a") as note:
            note.beat()
            inside.wait(20)
            leave.wait(20)

    threads = [threading.Thread(target=hold) for _ in range(100)]
    for thread in threads:
        thread.start()
    inside.wait(20)
    assert len(read_boards(tmp_path / "x")) == 64
    leave.set()
    for thread in threads:
        thread.join()
    assert read_boards(tmp_path / "x") == []
    board.close()
