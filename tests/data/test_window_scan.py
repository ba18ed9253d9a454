"""Promises of the scan of windows: damage by id, copies noted, unfit classes refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError
from regatta.data.manifest import Manifest
from regatta.data.splits import label_share
from regatta.data.windows import WindowStore, build_windows


def write(root: Path, **changes: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(60, 3, 8)).astype(np.float32)
    held = {
        "samples": samples,
        "labels": np.tile([0, 1], 30),
        "subjects": np.repeat(np.arange(10), 6),
        "splits": np.repeat([0] * 8 + [2] * 2, 6),
        **changes,
    }
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "w.npz", rate_hz=50, **held)  # pyright: ignore[reportArgumentType]
    return samples


def section(root: Path, **keys: object) -> DataSection:
    return DataSection.model_validate({"source": "windows-file", "root": str(root), **keys})


def damaged(root: Path) -> None:
    samples = write(root)
    samples[7, 0, 3] = np.nan
    samples[20, 1, 5] = -np.inf
    samples[33, 2] = 4.5
    write(root, samples=samples)


def test_damaged_windows_stop_the_study_by_id(tmp_path: Path) -> None:
    damaged(tmp_path)
    with pytest.raises(DataError) as caught:
        build_windows(section(tmp_path, options={"channels": ["a", "b", "c"]}))
    text = caught.value.what
    assert "3 of 60 windows cannot be used" in text
    for line in ("w/00007: NaN or infinity", "w/00020: NaN", "w/00033: constant channel: c"):
        assert line in text
    assert "data.damaged: drop" in (caught.value.hint or "")


def test_damaged_windows_are_dropped_for_all_and_listed(tmp_path: Path) -> None:
    damaged(tmp_path)
    manifest, store = build_windows(section(tmp_path, damaged="drop"))
    assert [d.path for d in manifest.dropped if d.is_damage] == ["w/00007", "w/00020", "w/00033"]
    assert len(manifest.samples) == len(store.ids) == 57
    assert torch.isfinite(store.signals).all()


def test_store_holds_each_sample_under_its_id_and_survives_the_disk(tmp_path: Path) -> None:
    samples = write(tmp_path, features=np.arange(120.0).reshape(60, 2))
    manifest, store = build_windows(section(tmp_path))
    store.save(tmp_path / "s.safetensors")
    manifest.save(tmp_path / "m.parquet")
    loaded, again = (
        WindowStore.load(tmp_path / "s.safetensors"),
        Manifest.load(tmp_path / "m.parquet"),
    )
    assert again == manifest
    for split in ("train", "validation", "test"):
        for sample, window in zip(
            again.split(split), loaded.select(again.split(split)), strict=True
        ):
            number = int(sample.sample_id[-5:])
            np.testing.assert_array_equal(window.numpy(), samples[number])
    assert loaded.features is not None
    assert loaded.features[3].tolist() == [6.0, 7.0]


def test_copies_across_splits_are_noted(tmp_path: Path) -> None:
    samples = write(tmp_path)
    samples[55] = samples[2]
    samples[3] = samples[4]
    write(tmp_path, samples=samples)
    manifest, _ = build_windows(section(tmp_path))
    notes = [note for note in manifest.notes if "copies" in note]
    assert notes == ["1 window(s) stand in two splits as equal copies: w/00002, w/00055"]


@pytest.mark.parametrize(
    ("changes", "keys", "message"),
    [
        ({"labels": np.zeros(60, int)}, {}, "only one class"),
        ({"labels": np.tile([0, 1], 30)}, {"options": {"classes": ["a", "b", "c"]}}, "c"),
        (
            {"labels": np.where(np.arange(60) < 48, 0, np.arange(60) % 2)},
            {},
            r"fewer than two subjects .* '1' \(0\)",
        ),
    ],
)
def test_classes_that_cannot_be_trained_are_refused(
    tmp_path: Path, changes: dict, keys: dict, message: str
) -> None:
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        build_windows(section(tmp_path, **keys))


def test_source_validation_without_a_class_is_refused_with_class_and_split(tmp_path: Path) -> None:
    splits = np.repeat([0] * 7 + [1] + [2] * 2, 6)
    labels = np.where(splits == 1, 0, np.tile([0, 1], 30))
    write(tmp_path, splits=splits, labels=labels)
    with pytest.raises(DataError, match=r"no window in the validation split .* '1'"):
        build_windows(section(tmp_path))


def test_max_train_samples_limits_training_alone(tmp_path: Path) -> None:
    write(tmp_path)
    manifest, store = build_windows(section(tmp_path, max_train_samples=10))
    assert len(manifest.split("train")) == 10
    assert len(manifest.split("test")) == 12
    assert len(store.ids) == len(manifest.samples)
    with pytest.raises(ConfigError, match="there are 2 classes"):
        build_windows(section(tmp_path, max_train_samples=1))


def test_label_share_keeps_every_class_and_smaller_shares_nest(tmp_path: Path) -> None:
    write(tmp_path, labels=np.where(np.arange(60) % 6 == 0, 1, 0))
    train = build_windows(section(tmp_path))[0].split("train")
    shares = [label_share(train, fraction, 42) for fraction in (0.01, 0.1, 0.5, 1.0)]
    for smaller, larger in pairwise(shares):
        assert {s.sample_id for s in smaller} <= {s.sample_id for s in larger}
    assert all({s.label for s in share} == {0, 1} for share in shares)
    assert len(shares[0]) == 2
    assert shares[-1] == train
    counts = [sum(s.label == k for s in train) for k in (0, 1)]
    assert [sum(s.label == k for s in shares[2]) for k in (0, 1)] == [round(n / 2) for n in counts]
