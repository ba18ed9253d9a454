"""Mirrors of the training records hold what metrics.jsonl holds, and never harm a run."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import RunFolder
from regatta.worker.trackers import values_of
from tests.training.tiny_training import outcome
from tests.worker.tracked_run import attempt, main, mirrors_of

REPOSITORY = Path(__file__).parents[2]
OTHERS = [name for name in ("wandb", "trackio", "mlflow") if find_spec(name)]
Curves = dict[str, dict[int, float]]


def truth(path: Path) -> Curves:
    """Tag -> step -> value, from metrics.jsonl."""
    curves: Curves = {}
    for record in read_metrics(RunFolder(path).metrics):
        for tag, value in values_of(record).items():
            assert record["step"] not in curves.setdefault(tag, {})
            curves[tag][record["step"]] = value
    return curves


def events(path: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run."""
    reader = EventAccumulator(str(path / "logs"))
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def test_tensorboard_shows_every_record_once_also_after_a_death_beyond_the_checkpoint(
    tmp_path: Path,
):
    main(tmp_path / "run", ["tensorboard"])
    shown, expected = events(tmp_path / "run"), truth(tmp_path / "run")
    needed = {"Loss/train", "Loss/val", "Accuracy/train", "Accuracy/val", "LR", "Throughput"}
    assert needed <= shown.keys()
    assert shown.keys() == expected.keys()
    for tag, curve in expected.items():
        assert [step for step, _ in shown[tag]] == sorted(curve), tag
        for step, value in shown[tag]:
            assert value == pytest.approx(curve[step], rel=1e-6), (tag, step)
    assert sorted(expected["Loss/train"]) == [1, 2, 3, 4, 5, 6]


def test_a_mirror_that_is_switched_on_late_gets_what_was_before(tmp_path: Path):
    attempt(tmp_path, mirrors_of(tmp_path), dies_before=(1, 2))
    attempt(tmp_path, mirrors_of(tmp_path, "tensorboard"))
    expected = {tag: sorted(curve) for tag, curve in truth(tmp_path).items()}
    assert {tag: [s for s, _ in points] for tag, points in events(tmp_path).items()} == expected


@pytest.mark.fault(26)
@pytest.mark.parametrize("call", [1, 6])
def test_a_mirror_that_fails_is_named_once_and_the_run_is_what_it_is_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: int
):
    attempt(tmp_path / "alone", mirrors_of(tmp_path / "alone"))
    calls = iter(range(1, 10**6))
    write = SummaryWriter.add_scalar

    def fail(*args: object) -> None:
        if next(calls) >= call:
            raise OSError("the disk of the tracker is full")
        write(*args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    with caplog.at_level(logging.WARNING):
        attempt(tmp_path / "mirrored", mirrors_of(tmp_path / "mirrored", "tensorboard"))
    said = [r.getMessage() for r in caplog.records if "tensorboard" in r.getMessage()]
    assert len(said) == 1
    assert "left alone" in said[0]
    assert "disk of the tracker is full" in said[0]
    assert outcome(tmp_path / "mirrored") == outcome(tmp_path / "alone")


def offline() -> list[str]:
    """A prefix that takes the network away, where the kernel lets us."""
    if shutil.which("unshare") is None:
        return []
    done = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    return [] if done.returncode else ["unshare", "-rn"]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that all other installed trackers mirrored, in a process that has no network."""
    path = tmp_path_factory.mktemp("mirrored") / "run"
    home = path.parent / "home"
    home.mkdir()
    ours = ("WANDB", "TRACKIO", "MLFLOW")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    command = [sys.executable, "-m", "tests.worker.tracked_run", str(path), ",".join(OTHERS)]
    done = subprocess.run(
        [*offline(), *command],
        cwd=REPOSITORY,
        env={**clean, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "left alone" not in done.stderr
    return path


def wandb_records(file: Path) -> list[bytes]:
    """The records of a .wandb file: blocks of 32 KiB, chunks of crc, length, type, bytes."""
    content, records, part = file.read_bytes(), [], b""
    place = 7  # ":W&B", a magic number and a version.
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # Whole, or the last chunk.
            records.append(part)
            part = b""
    return records


@pytest.mark.slow
@pytest.mark.skipif("wandb" not in OTHERS, reason="wandb is not installed")
def test_wandb_offline_holds_every_step_once_under_one_id(mirrored: Path):
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    sent: dict[str, list[int]] = {}
    ids: set[str] = set()
    files = sorted((mirrored / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2, "one of each attempt"
    for file in files:
        for raw in wandb_records(file):
            record = Record.FromString(raw)
            if record.run.run_id:
                ids.add(record.run.run_id)
                assert record.run.project == "study"
                assert record.run.host != socket.gethostname()
            if record.HasField("history"):
                step = record.history.step.num
                for item in record.history.item:
                    sent.setdefault(item.key or "/".join(item.nested_key), []).append(step)
    (only_id,) = ids
    assert only_id.startswith("run-")
    expected = truth(mirrored)
    assert {tag: sorted(sent[tag]) for tag in expected} == {
        t: sorted(c) for t, c in expected.items()
    }


@pytest.mark.slow
@pytest.mark.skipif("trackio" not in OTHERS, reason="trackio is not installed")
def test_trackio_holds_every_step_once_in_one_run(mirrored: Path):
    database = mirrored.parent / "trackio" / "study.db"
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    connection.close()
    assert len({name for name, _, _ in rows}) == 1
    sent: Curves = {}
    for _, step, text in rows:
        for tag, value in json.loads(text).items():
            assert step not in sent.setdefault(tag, {})
            sent[tag][step] = value
    check_curves(sent, mirrored)


@pytest.mark.slow
@pytest.mark.skipif("mlflow" not in OTHERS, reason="mlflow is not installed")
def test_mlflow_holds_every_step_once_in_one_run(mirrored: Path):
    root = mirrored.parent / "mlflow"
    files = [path for path in root.glob("*/*/metrics/**/*") if path.is_file()]
    assert len({file.relative_to(root).parts[1] for file in files}) == 1
    sent: Curves = {}
    for file in files:
        tag = "/".join(file.parts[file.parts.index("metrics") + 1 :])
        lines = [line.split() for line in file.read_text().splitlines()]
        assert len({step for _, _, step, *_ in lines}) == len(lines)
        sent[tag] = {int(step): float(value) for _, value, step, *_ in lines}
    check_curves(sent, mirrored)


def check_curves(sent: Curves, path: Path) -> None:
    """What was sent before the death is not sent again: times differ there, results do not."""
    expected = truth(path)
    assert {tag: sorted(curve) for tag, curve in sent.items()} == {
        tag: sorted(curve) for tag, curve in expected.items()
    }
    for tag in expected.keys() - {"Throughput"}:
        assert sent[tag] == pytest.approx(expected[tag], rel=1e-6), tag
