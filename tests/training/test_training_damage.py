"""Damage to any file of any checkpoint is found, named, and never answered by starting over."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from regatta.core.errors import RecordError
from regatta.core.signals import StopFlag
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.training.checkpoint import list_slots, pick_slot
from regatta.training.loop import train_run
from regatta.worker.judge import judge
from regatta.worker.status_writer import StatusWriter
from regatta.worker.trained_model import load_trained
from tests.training.test_training_checkpoint import stopped_run
from tests.training.tiny_training import outcome, tiny_run
from tests.worker.small_windows import drawn, small_study, train_entry

FILES = ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def flip(path: Path, *, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(bytes(data))


def other_json(path: Path) -> None:
    path.write_text("[1, 2]\n")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "first byte flipped": lambda path: flip(path, at=0.0),
    "a byte flipped": flip,
    "last byte flipped": lambda path: flip(path, at=1.0),
    "cut to half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "removed": Path.unlink,
    "other JSON": other_json,
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two slots, stopped in its third epoch."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    stopped_run(path, after=15)
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("reference") / "run"
    train_run(**tiny_run(path))
    return outcome(path)


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.fault(10)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_any_damage_to_the_newest_slot_falls_back_says_so_and_changes_nothing(
    run: Path, reference: dict[str, Any], caplog: pytest.LogCaptureFixture, name: str, damage: str
):
    newest, older = list_slots(run / "checkpoints")
    before = hashes(newest)
    DAMAGE[damage](newest / name)
    assert hashes(newest) != before, "the fault did not fire"
    with caplog.at_level(logging.INFO, "regatta.training"):
        train_run(**tiny_run(run))
    assert f"checkpoint {newest.name} is damaged" in caplog.text
    assert f"falling back to the older {older.name}" in caplog.text
    assert outcome(run) == reference


@pytest.mark.fault(10)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_any_damage_to_all_slots_stops_asks_for_a_restart_and_touches_nothing(
    run: Path, name: str, damage: str
):
    slots = list_slots(run / "checkpoints")
    assert len(slots) == 2
    for slot in slots:
        DAMAGE[damage](slot / name)
    before = hashes(run)
    with pytest.raises(RecordError, match="every checkpoint is damaged") as caught:
        train_run(**tiny_run(run))
    for slot in slots:
        assert f"{slot.name}: " in str(caught.value)
    assert "--restart" in str(caught.value.hint)
    assert hashes(run) == before


@pytest.mark.fault(10)
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_damaged_best_weights_stop_the_run_and_ask_for_a_restart(run: Path, damage: str):
    [best] = (run / "checkpoints" / "best").iterdir()
    DAMAGE[damage](best)
    before = hashes(run)
    with pytest.raises(RecordError, match=f"best/{best.name}") as caught:
        train_run(**tiny_run(run))
    assert "--restart" in str(caught.value.hint)
    assert hashes(run) == before


@pytest.mark.fault(10)
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_trained_weights_that_were_damaged_are_not_judged(trained: RunFolder, damage: str):
    path = trained.model / "model.safetensors"
    whole = path.read_bytes()
    load_trained(trained)
    DAMAGE[damage](path)
    with pytest.raises(RecordError, match=r"the trained weights (do not match|are missing)") as e:
        load_trained(trained)
    assert f"--restart {trained.run_id}" in str(e.value)
    path.write_bytes(whole)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that real code of the worker trained."""
    folder = small_study(tmp_path_factory.mktemp("trained"), [drawn("drawn")], epochs=1)
    return train_entry(folder, "drawn")


@pytest.mark.fault(10)
def test_judging_refuses_damaged_weights_by_name(trained: RunFolder):
    path = trained.model / "model.safetensors"
    whole = path.read_bytes()
    flip(path, at=0.9)
    study = StudyFolder(trained.path.parents[1])
    with pytest.raises(RecordError, match="do not match the hash"):
        judge(
            study,
            [trained.run_id],
            shard=(0, 1),
            device=torch.device("cpu"),
            threads=1,
            stop=StopFlag(),
            status=StatusWriter([trained.status]),
        )
    assert not list(trained.path.rglob("*.parquet"))
    path.write_bytes(whole)


@pytest.mark.fault(10)
def test_a_flip_in_any_byte_of_the_records_of_a_slot_never_passes_for_other_content(
    run: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.ERROR, "regatta.training")
    root = run / "checkpoints"
    newest, older = list_slots(root)
    identity = json.loads((newest / "state.json").read_text())["identity"]
    content = {name: (newest / name).read_bytes() for name in FILES}
    kept = shutil.copytree(newest, run / "kept")
    found, flips = 0, 0
    for name, every in {"state.json": 11, "manifest.json": 1}.items():
        for place in range(0, len(content[name]), every):
            data = bytearray(content[name])
            data[place] ^= 1 << place % 7
            (newest / name).write_bytes(bytes(data))
            flips += 1
            if pick_slot(root, identity=identity) == older:
                found += 1
                shutil.copytree(kept, newest, dirs_exist_ok=True)
            else:
                # White space, or a size that nobody reads: the hashes hold, so it is whole.
                assert name == "manifest.json"
                told = json.loads(bytes(data))
                assert {n: told[n]["sha256"] for n in FILES[:3]} == {
                    n: sha256(content[n]).hexdigest() for n in FILES[:3]
                }
                (newest / name).write_bytes(content[name])
    assert flips > 500
    assert found > 0.8 * flips
