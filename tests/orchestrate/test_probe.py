"""Promises of the probe: it measures real steps, remembers them, and never guesses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from regatta.config.load import study_from_mapping
from regatta.config.schema import Study
from regatta.orchestrate.devices import Machine, Memory, Placement
from regatta.orchestrate.probe import (
    ProbeTarget,
    measure,
    probe_folder,
    probe_target,
    remembered,
    window_of,
)
from regatta.records.run_folder import StudyFolder

MACHINE = Machine(2, Memory(8.0, 8.0))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def small_study(**train: object) -> Study:
    return study_from_mapping(
        {
            "name": "small",
            "data": {"source": "har-synthetic", "root": "syn"},
            "entries": [{"name": "cnn", "model": "cnn1d", "checkpoint": "none"}],
            "train": {"batch_size": 8, **train},
            "protocol": {"batch_size": 4},
        }
    )


def target(study: Study, *, threads: int = 1) -> ProbeTarget:
    return probe_target(
        study,
        study.entries[0],
        machine=MACHINE,
        place=Placement("cpu"),
        threads=threads,
        folder=None,
    )


def talking(*lines: str, end: str = "") -> tuple[str, ...]:
    """A child that prints lines as the probe does, and counts how often it was started."""
    code = "import sys, pathlib, json, os, signal, time\n"
    code += "pathlib.Path(os.environ['STARTS']).open('a').write('.')\n"
    code += "".join(f"print({line!r}, flush=True)\n" for line in lines) + end
    return (sys.executable, "-c", code)


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "starts"
    path.touch()
    monkeypatch.setenv("STARTS", str(path))
    return path


def test_real_steps_and_passes_are_measured_and_then_remembered():
    said: list[str] = []
    asked = target(small_study())
    first = measure(asked, say=said.append, limit_seconds=120)
    assert first.status == "ok", first
    assert first.train_seconds is not None
    assert first.train_seconds > 0
    assert first.judge_seconds is not None
    assert (first.train_batch, first.judge_batch, first.passes_per_sample) == (8, 4, 1)
    # torch alone takes more than this, the machine has less than that
    assert first.host_gib is not None
    assert 0.1 < first.host_gib < 8
    # float32 weights, and AdamW keeps two numbers beside each
    assert first.parameters is not None
    assert first.model_bytes is not None
    assert first.checkpoint_bytes is not None
    assert first.model_bytes >= 4 * first.parameters
    assert first.checkpoint_bytes == first.model_bytes + 8 * first.parameters
    assert len(said) == 1
    assert measure(asked, say=said.append) == first
    assert len(said) == 1


def test_only_what_changes_the_cost_asks_for_a_new_measurement():
    here = target(small_study()).path
    assert target(small_study(lr=0.5, epochs=9, warmup_fraction=0)).path == here
    for changed in ({"batch_size": 9}, {"precision": "bf16"}, {"optimizer": "sgd"}):
        assert target(small_study(**changed)).path != here
    assert target(small_study(), threads=2).path != here
    other = replace(target(small_study()), device_name="another processor")
    assert other.path != here
    assert here.parent == probe_folder()


def test_a_slow_probe_is_ended_and_what_it_told_is_kept(starts: Path):
    slow = talking('{"train_seconds": 2.5, "train_batch": 2}', '{"judge_s', end="time.sleep(60)")
    probe = measure(target(small_study()), command=slow, limit_seconds=1.0)
    assert (probe.status, probe.train_seconds, probe.judge_seconds) == ("timed out", 2.5, None)
    # Memory counts once whole batches were seen, and they were not.
    assert probe.host_gib is None
    again = measure(target(small_study()), command=slow, limit_seconds=1.0)
    assert again == probe
    assert starts.read_text() == "."


@pytest.mark.parametrize(
    ("end", "status", "word"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "out of memory", ""),
        ("raise ValueError('no such thing')", "failed", "no such thing"),
    ],
)
def test_a_probe_that_dies_says_how_and_is_made_again(
    starts: Path, end: str, status: str, word: str
):
    for _ in range(2):
        probe = measure(target(small_study()), command=talking(end=end))
        assert probe.status == status
        assert word in probe.message
    assert starts.read_text() == ".."


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"status": "ok", "host_gib": "much"}'])
def test_a_damaged_file_is_measured_again(starts: Path, content: str):
    asked = target(small_study())
    asked.path.parent.mkdir(parents=True)
    asked.path.write_text(content)
    assert remembered(asked) is None
    good = talking('{"status": "ok", "train_seconds": 0.5}')
    assert measure(asked, command=good).train_seconds == 0.5
    assert json.loads(asked.path.read_text())["train_seconds"] == 0.5
    assert starts.read_text() == "."


def test_a_cache_that_cannot_be_written_costs_time_only(
    starts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said: list[str] = []
    good = talking('{"status": "ok", "train_seconds": 0.5}')
    for _ in range(2):
        probe = measure(target(small_study()), command=good, say=said.append)
        assert probe.train_seconds == 0.5
    assert any("not kept" in text for text in said)
    assert starts.read_text() == ".."


def test_the_shape_of_windows_is_read_from_the_head_of_their_file(tmp_path: Path):
    folder = StudyFolder(tmp_path)
    head = json.dumps({"signals": {"dtype": "F32", "shape": [7, 9, 128], "data_offsets": [0, 0]}})
    folder.windows.write_bytes(len(head).to_bytes(8, "little") + head.encode())
    assert window_of(folder) == (9, 128)
    folder.windows.write_bytes(b"short")
    assert window_of(folder) is None
