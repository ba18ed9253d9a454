"""Promises of `regatta data import`: tensors only, equal values, and files that a study reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from regatta.core.errors import DataError
from regatta.data.import_tensors import import_file
from regatta.data.sources.windows_file import windows_file


def save(path: Path, **tensors: object) -> Path:
    torch.save(tensors, path)
    return path


def windows(count: int = 6) -> dict[str, torch.Tensor]:
    return {"samples": torch.randn(count, 9, 16), "labels": torch.arange(count) % 3}


def test_three_files_become_one_data_set_with_their_splits(tmp_path: Path) -> None:
    held = {name: windows() for name in ("train", "val", "test")}
    for name, tensors in held.items():
        import_file(save(tmp_path / f"{name}.pt", **tensors), tmp_path / "out", rate_hz=50)
    listing = windows_file(tmp_path / "out")
    assert listing.rate_hz == 50
    assert {row.split for row in listing.rows} == {"train", "validation", "test"}
    for name, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = [n for n, row in enumerate(listing.rows) if row.split == split]
        np.testing.assert_array_equal(listing.signals[rows], held[name]["samples"].numpy())
        labels = [int(listing.rows[n].label_name) for n in rows]
        assert labels == held[name]["labels"].tolist()


class Bomb:
    """Runs a command when it is unpickled by a loader that trusts its file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_file_with_anything_but_tensors_is_refused_and_not_run(tmp_path: Path) -> None:
    path = save(tmp_path / "train.pt", **windows(), extra=Bomb(tmp_path / "hit"))
    with pytest.raises(DataError, match="Python objects") as caught:
        import_file(path, tmp_path / "out")
    assert "torch.save" in (caught.value.hint or "")
    assert not (tmp_path / "hit").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"samples": torch.zeros(4, 9, 16)}, "the file holds samples: Tensor"),
        ({"samples": [1.0, 2.0], "labels": torch.zeros(2)}, "samples: list"),
        (torch.zeros(3), "the file holds a Tensor"),
        ({"samples": torch.zeros(4, 9, 16), "labels": torch.zeros(3)}, "with 3 labels"),
        ({"samples": torch.zeros(4, 9), "labels": torch.zeros(4)}, r"samples is \[4, 9\]"),
        ({"samples": torch.zeros(2, 9, 16), "labels": torch.tensor([0.5, 1])}, "not one whole"),
        ({"images": torch.full((2, 9, 3, 4, 4), -1.7), "labels": torch.zeros(2)}, "run from -1.7"),
    ],
)
def test_tensors_that_do_not_fit_are_described(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "train.pt")
    with pytest.raises(DataError, match=message):
        import_file(tmp_path / "train.pt", tmp_path / "out")


def test_cut_and_missing_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "train.pt", **windows())
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match="not a whole tensor file"):
        import_file(path, tmp_path / "out")
    with pytest.raises(DataError, match="no such file"):
        import_file(tmp_path / "val.pt", tmp_path / "out")


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_pictures_are_kept_as_uint8(tmp_path: Path, kind: torch.dtype) -> None:
    bytes_ = torch.randint(0, 256, (70, 2, 3, 5, 5), dtype=torch.uint8)
    images = bytes_ if kind == torch.uint8 else bytes_.float() / 255
    labels = torch.arange(70) % 6
    path = save(tmp_path / "test_multichannel_images.pt", images=images, labels=labels)
    done = import_file(path, tmp_path / "out")
    assert (done.kind, done.split, done.classes) == ("pictures", "test", 6)
    held = load_file(tmp_path / "out" / "test_images.safetensors")
    np.testing.assert_array_equal(held["images"], bytes_.numpy())
    assert held["labels"].tolist() == labels.tolist()
