"""Checkpoints are whole or absent, and a damaged or foreign one is never taken for good."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from regatta.core.errors import DiskError, RecordError, StopRequested
from regatta.core.signals import StopFlag
from regatta.training import checkpoint
from regatta.training.checkpoint import (
    SavedRun,
    keep_slot,
    list_slots,
    pick_slot,
    read_slot,
    write_slot,
)
from regatta.training.loop import train_run
from tests.training.tiny_training import (
    CLASSES,
    outcome,
    tiny_clips,
    tiny_net,
    tiny_run,
    tiny_spec,
)

IDENTITY = {"content_hash": "abc", "classes": ["a", "b"]}


def content(number: float = 0.0) -> SavedRun:
    record = {"identity": IDENTITY, "progress": {"best": None, "step": number}}
    return SavedRun({"w": torch.full((3,), number)}, {"w/exp_avg": torch.zeros(3)}, record)


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def stopped_run(path: Path, *, after: int, **changes: Any) -> dict[str, Any]:
    """A run that was asked to stop once `after` micro-batches were handed out; its arguments."""
    stop, handed = StopFlag(), []

    def count(epoch: int, position: int) -> None:
        handed.append(position)
        if len(handed) == after:
            stop.request()

    run = tiny_run(path, train_loader=tiny_clips(22, before_batch=count), stop=stop, **changes)
    with pytest.raises(StopRequested):
        train_run(**run)
    return run


@pytest.fixture
def reference(tmp_path: Path) -> dict[str, Any]:
    train_run(**tiny_run(tmp_path / "reference"))
    return outcome(tmp_path / "reference")


def test_a_slot_gives_back_what_was_written(tmp_path: Path):
    slot = write_slot(tmp_path, content(0.1))
    assert pick_slot(tmp_path, identity=IDENTITY) == slot
    saved = read_slot(slot)
    assert torch.equal(saved.weights["w"], torch.full((3,), 0.1))
    assert saved.record["progress"]["step"] == 0.1


def test_only_two_slots_stay_and_the_newest_is_taken(tmp_path: Path):
    for number in range(5):
        newest = write_slot(tmp_path, content(float(number)))
    assert len(list_slots(tmp_path)) == 2
    assert pick_slot(tmp_path, identity=IDENTITY) == newest
    assert read_slot(newest).record["progress"]["step"] == 4


def test_no_file_can_run_code(tmp_path: Path):
    train_run(**tiny_run(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jsonl", ".txt"}
    assert [path.name for path in files if path.suffix == ".txt"] == ["PROGRESS.txt"]


def test_tied_weights_are_saved_and_come_back_tied(tmp_path: Path):
    module = tiny_net()
    module.register_module("tied", module.head)
    slot = write_slot(tmp_path, SavedRun(checkpoint.plain_weights(module), {}, content().record))
    with torch.no_grad():
        module.head.weight.zero_()
    module.load_state_dict(read_slot(slot).weights)
    assert torch.equal(module.head.weight, tiny_net().head.weight)


@pytest.mark.fault(10)
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_newest_slot_falls_back_to_the_older_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reference: dict, name: str, damage: str
):
    run = stopped_run(tmp_path / "run", after=15)
    newest, older = list_slots(run["folder"].checkpoints)
    if damage == "flip":
        flip_bit(newest / name)
    elif damage == "cut":
        os.truncate(newest / name, 10)
    else:
        (newest / name).unlink()
    with caplog.at_level(logging.WARNING, "regatta.training"):
        train_run(**tiny_run(tmp_path / "run"))
    assert newest.name in caplog.text
    assert older.name in caplog.text
    assert name in caplog.text or "state" in caplog.text
    assert outcome(tmp_path / "run") == reference


@pytest.mark.fault(10)
def test_when_all_slots_are_damaged_it_asks_for_a_restart_and_keeps_everything(tmp_path: Path):
    run = stopped_run(tmp_path, after=15)
    for slot in list_slots(run["folder"].checkpoints):
        flip_bit(slot / "weights.safetensors")
    before = sorted(run["folder"].checkpoints.rglob("*"))
    with pytest.raises(RecordError, match="every checkpoint is damaged") as caught:
        train_run(**tiny_run(tmp_path))
    assert "--restart" in str(caught.value.hint)
    assert sorted(run["folder"].checkpoints.rglob("*")) == before
    assert not run["folder"].is_trained()


def test_damaged_best_weights_damage_the_slots_that_name_them(tmp_path: Path):
    run = stopped_run(tmp_path, after=8)
    [best] = (run["folder"].checkpoints / "best").iterdir()
    flip_bit(best)
    with pytest.raises(RecordError, match=f"best/{best.name} does not match its hash"):
        train_run(**tiny_run(tmp_path))


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("content_hash", {"content_hash": "def"}),
        ("classes", {"classes": [*CLASSES[::-1]]}),
        ("seed", {"seed": 8}),
        ("micro_batches_per_epoch", {"train_loader": tiny_clips(30)}),
        ("precision", {"precision": "bf16"}),
    ],
)
def test_a_foreign_checkpoint_is_refused_with_the_differing_field(
    tmp_path: Path, field: str, changes: dict[str, Any]
):
    stopped_run(tmp_path, after=3)
    with pytest.raises(RecordError, match=f"'{field}' is"):
        train_run(**tiny_run(tmp_path, **changes))


@pytest.mark.fault(11)
def test_a_checkpoint_of_another_model_or_recipe_names_the_settings_that_differ(tmp_path: Path):
    stopped_run(tmp_path, after=3)
    other = tiny_spec(config={"name": "other", "size": "tiny", "options": {}})
    with pytest.raises(RecordError, match="'content_hash' is 'abc' there and 'def' here") as caught:
        train_run(**tiny_run(tmp_path, content_hash="def", spec=other, lr=0.02))
    assert "model 'tiny' there, 'other' here" in str(caught.value)
    assert "train.lr 0.01 there, 0.02 here" in str(caught.value)
    assert "--restart" in str(caught.value.hint)


@pytest.mark.fault(2)
def test_leftovers_of_killed_writers_are_swept(tmp_path: Path):
    write_slot(tmp_path, content())
    (tmp_path / ".slot-000009.partial").mkdir()
    (tmp_path / ".slot-000009.partial" / "weights.safetensors").write_bytes(b"half")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / ".epoch-0001.partial").write_bytes(b"half")
    (tmp_path / "best" / "epoch-0001-00000000.safetensors").write_bytes(b"of no slot")
    assert pick_slot(tmp_path, identity=IDENTITY) is not None
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"slot-000001", "best"}
    assert not list((tmp_path / "best").iterdir())


def test_best_weights_that_a_slot_names_stay(tmp_path: Path):
    train_run(**tiny_run(tmp_path))
    root = tmp_path / "checkpoints"
    named = {
        json.loads((slot / "state.json").read_text())["progress"]["best"]["file"]
        for slot in list_slots(root)
    }
    assert {path.name for path in (root / "best").iterdir()} == named


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1.5 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_too_small_is_found_before_training(small_disk: Path):
    (small_disk / "other").write_bytes(b"0" * 2**20)
    with pytest.raises(DiskError, match=r"need 1\.0 MiB for checkpoints, have 0\.5 MiB") as caught:
        train_run(**tiny_run(small_disk / "run"))
    assert "free space" in str(caught.value.hint)
    assert not (small_disk / "run" / "metrics.jsonl").exists()


def test_a_full_disk_leaves_the_last_good_checkpoint(small_disk: Path, reference: dict):
    path = small_disk / "run"
    filler = small_disk / "filler"

    def fill(epoch: int, position: int) -> None:
        if epoch == 1 and position == 0:
            room = shutil.disk_usage(small_disk).free
            filler.write_bytes(b"0" * (room - 8192))

    with pytest.raises(DiskError, match="disk full: need"):
        train_run(**tiny_run(path, train_loader=tiny_clips(22, before_batch=fill)))
    assert filler.exists(), "the fault did not fire"
    slots = list_slots(path / "checkpoints")
    assert len(slots) == 1
    assert not list((path / "checkpoints").glob(".*"))
    filler.unlink()
    train_run(**tiny_run(path))
    assert outcome(path) == reference


@pytest.mark.parametrize("has_links", [True, False])
def test_a_kept_slot_outlives_those_that_come_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
):
    if not has_links:

        def refuse(*_: object) -> None:
            raise OSError("this disk has no links")

        monkeypatch.setattr(os, "link", refuse)
    keep_slot(write_slot(tmp_path, content(1.0)), "epoch_02")
    for number in (2.0, 3.0, 4.0):
        write_slot(tmp_path, content(number))
    kept = read_slot(tmp_path / "epoch_02")
    assert torch.equal(kept.weights["w"], content(1.0).weights["w"])
    newest = pick_slot(tmp_path, identity=IDENTITY)
    assert newest is not None
    assert newest.name == "slot-000004"
    # Kept anew, as after a kill between the slot and its record.
    keep_slot(newest, "epoch_02")
    again = read_slot(tmp_path / "epoch_02")
    assert torch.equal(again.weights["w"], content(4.0).weights["w"])
