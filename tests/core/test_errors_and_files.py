"""Promises of core.files and core.errors: whole or absent, named when impossible."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.core import files
from regatta.core.errors import DataError, DiskError, RecordError, RegattaError


def test_error_text_gives_what_where_and_next_step():
    error = RegattaError("the wheel fell off", where="cart.yaml", hint="put it back")
    assert str(error).splitlines() == [
        "the wheel fell off",
        "  where: cart.yaml",
        "  next:  put it back",
    ]


def test_failed_write_keeps_old_content_and_leaves_no_partial(tmp_path: Path):
    target = tmp_path / "a.json"
    files.write_json(target, {"old": 1})

    def fail_halfway() -> None:
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert files.read_json(target) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_kill_during_write_keeps_old_content(tmp_path: Path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from regatta.core.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as t:\n"
        "    t.write_text('new'); os.kill(os.getpid(), 9)\n"
    )
    child = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert child.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


@pytest.mark.fault(8)
def test_a_file_beyond_its_limit_is_named_and_old_content_stays(tmp_path: Path):
    target = tmp_path / "a.bin"
    files.write_bytes(target, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            DiskError, match=r"file too large: need 4.9 KiB, the limit is 1000 bytes"
        ):
            files.write_bytes(target, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.fault(9)
def test_unwritable_folder_is_a_disk_error_with_next_step(tmp_path: Path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DiskError) as caught:
        files.ensure_writable(blocker / "runs")
    assert caught.value.hint
    assert str(blocker) in str(caught.value)


def test_a_file_in_place_of_a_folder_is_a_disk_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot write"):
        files.write_text(tmp_path / "file" / "a.txt", "x")


def test_json_never_holds_nan(tmp_path: Path):
    files.write_json(tmp_path / "a.json", {"x": float("nan"), "y": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [None, 1.5]}


@pytest.mark.fault(8)
def test_torn_last_line_is_left_out_but_torn_middle_is_an_error(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    files.append_json_line(path, {"step": 1})
    files.append_json_line(path, {"step": 2})
    with path.open("a") as handle:
        handle.write('{"step": 3, "lo')
    assert files.read_json_lines(path) == [{"step": 1}, {"step": 2}]
    files.append_json_line(path, {"step": 3})
    assert files.read_json_lines(path) == [{"step": 1}, {"step": 2}, {"step": 3}]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RecordError, match="line is not JSON"):
        files.read_json_lines(path)


@given(st.text(min_size=0, max_size=80))
def test_slug_is_a_safe_file_name_for_any_text(name: str):
    safe = files.slug(name)
    assert safe
    assert len(safe) <= 80
    assert not safe.startswith((".", "-"))
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in safe)


@given(st.sets(st.text(max_size=20), min_size=2, max_size=2))
def test_different_names_get_different_slugs(names: set[str]):
    first, second = names
    assert files.slug(first) != files.slug(second)


@pytest.mark.parametrize("bad", ["../x", "a/../../x", "/etc/passwd", "a/b/../../../y"])
def test_paths_that_leave_the_root_are_refused(tmp_path: Path, bad: str):
    with pytest.raises(DataError, match="leaves the data folder"):
        files.path_under(tmp_path, bad)


def test_paths_below_the_root_pass(tmp_path: Path):
    assert files.path_under(tmp_path, "a/./b.avi") == tmp_path / "a" / "b.avi"


def test_every_error_class_is_drawn_in_the_tree():
    from regatta.core import errors

    drawn = errors.__doc__ or ""
    classes = [v for v in vars(errors).values() if isinstance(v, type)]
    assert len(classes) > 10
    assert [c.__name__ for c in classes if c.__name__ not in drawn] == []


@pytest.mark.fault(9)
@pytest.mark.parametrize("then", ["nothing", "another folder"])
def test_below_a_folder_that_has_vanished_nothing_is_made(tmp_path: Path, then: str):
    study, run = tmp_path / "study", tmp_path / "study" / "runs" / "a"
    run.mkdir(parents=True)
    files.keep_in_place(study)
    files.keep_in_place(run)
    files.write_text(run / "deep" / "er" / "a.txt", "x")
    study.rename(tmp_path / "moved")
    if then == "another folder":
        study.mkdir()
    for write in (
        lambda: files.write_text(run / "new" / "a.txt", "x"),
        lambda: files.append_json_line(run / "a.jsonl", {}),
        lambda: files.ensure_writable(study / "results"),
        lambda: files.require_in_place(study),
    ):
        with pytest.raises(DiskError, match="vanished"):
            write()
    assert not run.exists()
    named = files.disk_fault(ValueError("of any library"), study)
    assert named is not None
    assert "vanished" in named.what
    if then == "another folder":
        study.rmdir()
    (tmp_path / "moved").rename(study)
    files.write_text(run / "new" / "a.txt", "x")
    assert (run / "new" / "a.txt").read_text() == "x"
