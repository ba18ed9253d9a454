"""Promises of the store of images: rows fit the manifest, statistics are of the training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from regatta.config.partition import PartitionSection
from regatta.config.schema import DataSection
from regatta.core.errors import DataError, RecordError, UnknownNameError
from regatta.data.image_store import ImageStore, build_images
from tests.data.image_files import write_cifar10, write_cifar100, write_tree


def section(root: Path, source: str = "cifar100", **settings: object) -> DataSection:
    return DataSection.model_validate({"source": source, "root": str(root), **settings})


def test_saved_store_is_loaded_as_it_was(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 80, "test": 8})
    manifest, store = build_images(
        section(tmp_path), PartitionSection(experts=2, shared=0.4, unique=0.3, validation=0.1)
    )
    store.save(tmp_path / "images.safetensors")
    loaded = ImageStore.load(tmp_path / "images.safetensors")
    assert (loaded.ids, loaded.mean, loaded.std) == (store.ids, store.mean, store.std)
    assert loaded.ids == [sample.sample_id for sample in manifest.samples]
    assert torch.equal(loaded.images, store.images)
    assert loaded.image == (3, 32, 32)
    assert set(loaded.parts) == {"pool", "fusion", "expert-0", "expert-1"}
    for name, rows in store.parts.items():
        assert torch.equal(loaded.part(name), rows)
    with pytest.raises(UnknownNameError, match="expert-7"):
        loaded.part("expert-7")


def test_selected_images_are_those_of_the_samples(tmp_path: Path) -> None:
    written = write_cifar100(tmp_path, {"train": 40, "test": 8})
    manifest, store = build_images(section(tmp_path))
    test = manifest.split("test")
    np.testing.assert_array_equal(store.select(test).numpy(), written["test"])
    backwards = store.select(test[::-1]).numpy()
    np.testing.assert_array_equal(backwards, written["test"][::-1])
    assert store.select([]).shape == (0, 3, 32, 32)


def test_statistics_are_of_the_training_images_alone(tmp_path: Path) -> None:
    images = write_cifar10(tmp_path, 20)
    manifest, store = build_images(section(tmp_path, "cifar10"))
    rows = [int(sample.sample_id[-5:]) for sample in manifest.split("train")]
    assert 0 < len(rows) < 100
    levels = images[rows].astype(np.float64) / 255
    assert store.mean == pytest.approx(levels.mean(axis=(0, 2, 3)).tolist(), abs=1e-12)
    assert store.std == pytest.approx(levels.std(axis=(0, 2, 3)).tolist(), abs=1e-12)


def test_validation_is_taken_from_training_unless_the_source_has_its_own(tmp_path: Path) -> None:
    write_cifar100(tmp_path / "c", {"train": 40, "test": 8})
    manifest, store = build_images(section(tmp_path / "c", validation_fraction=0.2))
    labels = [sample.label for sample in manifest.split("validation")]
    assert sorted(labels) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not store.parts
    write_tree(tmp_path / "t", {"train": 6, "val": 2, "test": 2})
    manifest, _ = build_images(section(tmp_path / "t", "image-folder"))
    assert {s.sample_id.split("/")[0] for s in manifest.split("validation")} == {"val"}
    assert len(manifest.split("train")) == 12


def test_fewer_training_images_leave_the_test_whole(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 80, "test": 8})
    manifest, _ = build_images(section(tmp_path, max_train_samples=40, validation_fraction=0.2))
    assert len(manifest.split("train")) + len(manifest.split("validation")) == 40
    assert len(manifest.split("test")) == 8


def test_equal_pixels_in_two_splits_are_counted(tmp_path: Path) -> None:
    written = write_cifar100(tmp_path, {"train": 40, "test": 8})
    content = bytearray((tmp_path / "test.bin").read_bytes())
    content[2:3074] = written["train"][0].tobytes()
    (tmp_path / "test.bin").write_bytes(content)
    manifest, _ = build_images(section(tmp_path))
    (note,) = [note for note in manifest.notes if "two splits" in note]
    assert "1 image(s)" in note
    assert "test/00000, train/00000" in note


def test_class_without_training_images_is_named(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 40, "test": 8})
    with (tmp_path / "fine_label_names.txt").open("a") as file:
        file.write("eagle\n")
    with pytest.raises(DataError, match=r"1 class\(es\) have no train image: eagle"):
        build_images(section(tmp_path))


def test_damaged_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    for content in (b"", b"12345678 no header", None):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(RecordError, match="images cannot be read"):
            ImageStore.load(path)
