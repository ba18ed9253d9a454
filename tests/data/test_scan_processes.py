"""A decoder that crashes, hangs or reserves without end costs the scan one file, which is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from regatta.core.errors import DataError, DecodeError, EnvironmentFault, StopRequested
from regatta.data import scan_processes
from regatta.data.decode import Probe, probe
from regatta.data.file_scan import scan_files
from regatta.data.scan_processes import ScanProcesses
from tests.broken_here import broken_decoder, times_broken
from tests.data.stand_ins import write_clip
from tests.data.test_odd_files import build, write_class_folders


@pytest.mark.fault(12)
def test_a_process_finds_what_the_same_decoder_finds_here(shared_data: Path):
    paths = sorted(path for path in (shared_data / "video").iterdir() if path.is_file())
    processes = ScanProcesses()

    def found(look: Callable[[Path], Probe], path: Path) -> Probe | str:
        try:
            return look(path)
        except DecodeError as error:
            return error.what

    try:
        here = [found(probe, path) for path in paths]
        assert [found(processes.probe, path) for path in paths] == here
    finally:
        processes.close()
    assert {type(facts) for facts in here} == {Probe, str}


@pytest.mark.fault(13)
@pytest.mark.parametrize(("what", "told"), [("segv", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_file_that_crashes_the_decoder_is_damage_by_name(
    tmp_path: Path, what: str, told: str, no_leaks: None
):
    root = write_class_folders(tmp_path / "v", "a", "b")
    write_clip(root / "train" / "a" / "bad.avi", 50)
    with broken_decoder(tmp_path / "log", **{"bad.avi": what}) as log:
        with pytest.raises(DataError, match="1 of 9 samples cannot be used") as error:
            build(root)
        assert times_broken(log, "bad.avi") == 2
        dropped = build(root, damaged="drop")
    reason = f"the decoder crashes on it ({told}, 2 times)"
    assert f"train/a/bad.avi: {reason}" in str(error.value)
    assert [(d.path, d.reason, d.is_damage) for d in dropped.dropped] == [
        ("train/a/bad.avi", reason, True)
    ]
    # All the others are what they are without it.
    (root / "train" / "a" / "bad.avi").unlink()
    assert dropped.samples == build(root).samples


@pytest.mark.fault(12)
@pytest.mark.fault(13)
@pytest.mark.parametrize("what", ["hang", "spin"])
def test_a_file_that_holds_the_decoder_for_ever_is_damage_by_name(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, no_leaks: None
):
    monkeypatch.setattr(scan_processes, "SILENT_SECONDS", 1.0)
    paths = [write_clip(tmp_path / "v" / f"{n}.avi", n) for n in range(3)]
    with broken_decoder(tmp_path / "log", **{"1.avi": what}) as log:
        began = time.monotonic()
        found = scan_files(paths, cache_folder=tmp_path / "cache")
        assert 2.0 <= time.monotonic() - began < 60
        assert times_broken(log, "1.avi") == 2
    assert found[paths[1]] == "the decoder hangs: no frame for 1 seconds, 2 times"
    assert not isinstance(found[paths[0]], str)
    assert not isinstance(found[paths[2]], str)


@pytest.mark.fault(13)
def test_a_process_that_is_killed_from_outside_says_nothing_of_the_file(
    tmp_path: Path, no_leaks: None
):
    """Else `damaged: drop` would leave out a good file whenever memory runs out."""
    root = write_class_folders(tmp_path / "v", "a", "b")
    with broken_decoder(tmp_path / "log", **{"0.mp4": "kill"}) as log:
        with pytest.raises(EnvironmentFault, match="was killed 2 times") as error:
            build(root, damaged="drop")
        assert times_broken(log, "0.mp4") >= 2
    assert str(error.value.where).endswith("0.mp4")
    assert "memory" in str(error.value.hint)


@pytest.mark.fault(3)
@pytest.mark.fault(13)
def test_a_stop_is_heard_while_a_decoder_hangs(tmp_path: Path, no_leaks: None):
    path = write_clip(tmp_path / "v" / "0.avi", 0)
    with broken_decoder(tmp_path / "log", **{"0.avi": "hang"}) as log:
        began = time.monotonic()
        with pytest.raises(StopRequested):
            scan_files([path], cache_folder=tmp_path / "cache", stop=log.is_file)
        assert times_broken(log, "0.avi") == 1
    assert time.monotonic() - began < 15


@pytest.mark.fault(6)
@pytest.mark.fault(13)
def test_a_hanging_decoder_ends_with_the_scan_that_started_it(tmp_path: Path, no_leaks: None):
    path = write_clip(tmp_path / "v" / "0.avi", 0)
    code = (
        "import sys; from pathlib import Path; from regatta.data.file_scan import scan_files; "
        "scan_files([Path(sys.argv[1])], cache_folder=Path(sys.argv[2]))"
    )
    with broken_decoder(tmp_path / "log", **{"0.avi": "hang"}) as log:
        command = [sys.executable, "-c", code, str(path), str(tmp_path / "cache")]
        child = subprocess.Popen(command, start_new_session=True)
        deadline = time.monotonic() + 30
        while not log.is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert times_broken(log, "0.avi") == 1
        child.kill()
        child.wait()
    decoder = int(log.read_text().split()[2])
    assert decoder != child.pid
    deadline = time.monotonic() + 15
    while Path(f"/proc/{decoder}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{decoder}").exists()


@pytest.mark.fault(13)
def test_an_interrupt_of_the_terminal_does_not_blame_a_file(tmp_path: Path):
    """Ctrl-C reaches the whole foreground group; the decoding processes are not in it."""
    processes = ScanProcesses()
    path = write_clip(tmp_path / "0.avi", 0)
    try:
        expected = processes.probe(path)
        (process,) = processes._idle
        pid = process._child.pid
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert processes.probe(path) == expected
        assert processes._idle[0]._child.pid == pid
    finally:
        processes.close()


@pytest.mark.fault(12)
def test_memory_of_a_decoding_process_is_limited(tmp_path: Path):
    """Asked of the kernel: what the process may reserve is what it had and the limit."""
    processes = ScanProcesses()
    try:
        processes.probe(write_clip(tmp_path / "0.avi", 0))
        limits = Path(f"/proc/{processes._idle[0]._child.pid}/limits").read_text()
    finally:
        processes.close()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max address space")]
    most = int(line.split()[3])
    assert scan_processes.MEMORY_BYTES < most < scan_processes.MEMORY_BYTES + (8 << 30)
