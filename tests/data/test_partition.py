"""Promises of the partition: exact counts, nothing shared that must not be, lists that can be given
back."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from regatta.config.partition import PartitionSection, class_blocks
from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError
from regatta.data.image_scan import scan_images
from regatta.data.manifest import Manifest, Sample
from regatta.data.partition import TRAIN_INDEX, Dealt, deal_out, write_partition
from tests.data.image_files import write_cifar100


def samples(count: int, classes: int, *, validation: int = 0) -> list[Sample]:
    """Training images of all classes in turn, the last ones for validation, and one test image."""
    made = []
    for n in range(count + validation + 1):
        split = "train" if n < count else "validation" if n < count + validation else "test"
        label = n % classes
        made.append(
            Sample(
                sample_id=f"{split}/{n:05d}",
                path="images.bin",
                label=label,
                label_name=f"class-{label:02d}",
                group=f"{split}/{n:05d}",
                split=split,
                start_frame=n,
                frames=1,
                fps=0.0,
                width=32,
                height=32,
                duration_seconds=0.0,
                content_hash=str(n),
                extra={TRAIN_INDEX: n} if split == "train" else {},
            )
        )
    return made


def names(classes: int) -> list[str]:
    return [f"class-{label:02d}" for label in range(classes)]


def deal(count: int, classes: int, **settings: object) -> Dealt:
    section = PartitionSection.model_validate(settings)
    return deal_out(samples(count, classes), names(classes), section)


def split_ids(dealt: Dealt, split: str) -> set[str]:
    return {sample.sample_id for sample in dealt.samples if sample.split == split}


@pytest.mark.parametrize("stratified", [True, False])
def test_fifty_thousand_images_are_dealt_out_in_the_published_counts(stratified: bool) -> None:
    dealt = deal(50_000, 100, stratified=stratified)
    pool, fusion = set(dealt.parts["pool"]), set(dealt.parts["fusion"])
    validation = split_ids(dealt, "validation")
    assert (len(pool), len(fusion), len(validation)) == (40_000, 8_000, 2_000)
    assert len(pool | fusion | validation) == 50_000
    assert split_ids(dealt, "train") == pool | fusion
    experts = [set(dealt.parts[f"expert-{k}"]) for k in range(4)]
    assert [len(part) for part in experts] == [22_000] * 4
    shared = set.intersection(*experts)
    assert len(shared) == 16_000
    assert all(len(a & b) == 16_000 for a in experts for b in experts if a is not b)
    assert set.union(*experts) == pool
    labels = Counter(s.label for s in dealt.samples if s.sample_id in validation)
    assert (set(labels.values()) == {20}) is stratified


def test_class_blocks_are_contiguous_and_own_all_their_images() -> None:
    dealt = deal(5_000, 100, kind="noniid")
    label_of = {sample.sample_id: sample.label for sample in dealt.samples}
    for k in range(4):
        part = dealt.parts[f"expert-{k}"]
        assert {label_of[name] for name in part} == set(range(25 * k, 25 * k + 25))
        assert len(part) == 1_000
    assert sum(len(dealt.parts[f"expert-{k}"]) for k in range(4)) == len(dealt.parts["pool"])


def test_blocks_differ_by_one_class_at_most() -> None:
    assert [len(block) for block in class_blocks(10, 4)] == [3, 3, 2, 2]
    assert [label for block in class_blocks(10, 4) for label in block] == list(range(10))


def test_deal_depends_on_the_seed_and_not_on_the_order() -> None:
    section = PartitionSection(validation=0.05)
    rows = samples(800, 8)
    first, turned = (deal_out(order, names(8), section) for order in (rows, rows[::-1]))
    assert first.parts == turned.parts
    assert split_ids(first, "validation") == split_ids(turned, "validation")
    other = deal_out(rows, names(8), PartitionSection(validation=0.05, seed=43))
    assert first.parts["pool"] != other.parts["pool"]
    assert first.parts["expert-0"] != other.parts["expert-0"]


def test_shares_that_leave_images_over_say_so() -> None:
    dealt = deal(1_000, 8, experts=2, shared=0.3, unique=0.2, validation=0.05)
    assert "240 of 800 images of the pool are in no expert's part" in dealt.notes


@pytest.mark.parametrize(
    "settings", [{"shared": 0.5, "unique": 0.2}, {"validation": 0.2}, {"experts": 0}]
)
def test_impossible_shares_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PartitionSection.model_validate(settings)


@pytest.mark.parametrize(
    ("count", "classes", "settings", "named"),
    [
        (100, 4, {"kind": "noniid", "experts": 5}, "5 experts"),
        (
            200,
            20,
            {"validation": 0.05, "kind": "noniid"},
            r"validation \(10 images\) has no image of 10 class",
        ),
        (100, 8, {"holdout": 0.14, "validation": 0.08}, r"fusion \(6 images\)"),
        (60, 12, {"shared": 0.0, "unique": 0.1, "validation": 0.2, "holdout": 0.4}, "expert-0"),
    ],
)
def test_part_that_lacks_a_class_is_named(
    count: int, classes: int, settings: dict[str, object], named: str
) -> None:
    with pytest.raises(DataError, match=named):
        deal(count, classes, **settings)


def test_own_validation_split_is_kept_and_the_whole_holdout_is_for_the_fusion() -> None:
    rows = samples(1_000, 8, validation=80)
    dealt = deal_out(rows, names(8), PartitionSection())
    assert (len(dealt.parts["pool"]), len(dealt.parts["fusion"])) == (800, 200)
    own = {sample.sample_id for sample in rows if sample.split == "validation"}
    assert split_ids(dealt, "validation") == own


def test_existing_lists_are_loaded_as_they_are(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(800)
    np.save(tmp_path / "pool.npy", order[:600])
    np.save(tmp_path / "holdout.npy", order[600:])
    files = {"pool_file": str(tmp_path / "pool.npy"), "validation": 0.05}
    both = deal(800, 8, holdout_file=str(tmp_path / "holdout.npy"), **files)
    assert set(both.parts["pool"]) == {f"train/{n:05d}" for n in order[:600]}
    held = set(both.parts["fusion"]) | split_ids(both, "validation")
    assert held == {f"train/{n:05d}" for n in order[600:]}
    # Without a hold-out list all others are held out.
    assert deal(800, 8, **files).parts == both.parts


def test_images_in_neither_list_are_listed_as_left_out(tmp_path: Path) -> None:
    np.save(tmp_path / "pool.npy", np.arange(0, 600))
    np.save(tmp_path / "holdout.npy", np.arange(610, 800))
    dealt = deal(
        800,
        8,
        validation=0.05,
        pool_file=str(tmp_path / "pool.npy"),
        holdout_file=str(tmp_path / "holdout.npy"),
    )
    assert [item.path for item in dealt.dropped] == [f"train/{n:05d}" for n in range(600, 610)]
    kept = split_ids(dealt, "train") | split_ids(dealt, "validation")
    assert kept.isdisjoint(item.path for item in dealt.dropped)


@pytest.mark.parametrize(
    ("pool", "holdout", "named"),
    [
        (np.array([0, 1, 800, -1]), None, r"2 of 4 indices are outside 0\.\.799: 800, -1"),
        (np.array([0, 1, 1, 2, 2]), None, "2 of 5 indices stand there more than once: 1, 2"),
        (np.array([0, "a", None], dtype=object), None, "Python objects"),
        (np.array([0.0, 1.0]), None, "not a list of whole numbers but float64"),
        (np.array([], dtype=int), None, "empty"),
        (np.arange(0, 600), np.arange(590, 800), "10 of 210 hold-out indices are in the pool"),
    ],
)
def test_wrong_lists_are_refused_with_counts(
    tmp_path: Path, pool: np.ndarray, holdout: np.ndarray | None, named: str
) -> None:
    settings: dict[str, object] = {"pool_file": str(tmp_path / "pool.npy")}
    np.save(tmp_path / "pool.npy", pool, allow_pickle=True)
    if holdout is not None:
        settings["holdout_file"] = str(tmp_path / "holdout.npy")
        np.save(tmp_path / "holdout.npy", holdout)
    with pytest.raises(DataError, match=named):
        deal(800, 8, **settings)


def test_written_lists_give_the_same_partition_back(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 400, "test": 8})
    data = DataSection(source="cifar100", root=str(tmp_path))
    section = PartitionSection(validation=0.05)
    scanned = scan_images(data, section)
    folder = tmp_path / "splits"
    write_partition(folder, scanned.manifest, scanned.parts, section)
    numbers = {path.stem: np.load(path, allow_pickle=False) for path in folder.glob("*.npy")}
    sizes = {name: len(found) for name, found in numbers.items()}
    assert sizes == {
        "expert_train_indices": 320,
        "fusion_holdout_indices": 80,
        "fusion_train_indices": 60,
        "validation_indices": 20,
        **{f"expert_{k}_indices": 176 for k in range(4)},
    }
    again = scan_images(
        data,
        PartitionSection(
            validation=0.05,
            pool_file=str(folder / "expert_train_indices.npy"),
            holdout_file=str(folder / "fusion_holdout_indices.npy"),
        ),
    )
    assert again.manifest.hash() == scanned.manifest.hash()
    for name, rows in scanned.parts.items():
        np.testing.assert_array_equal(again.parts[name], rows)
    record = json.loads((folder / "partition.json").read_text())
    ids = [scanned.manifest.samples[row].sample_id for row in scanned.parts["expert-2"]]
    assert record["parts"]["expert-2"]["hash"] == sha256("\n".join(ids).encode()).hexdigest()
    assert record["parts"]["validation"]["samples"] == 20


def test_lists_and_fewer_training_images_exclude_each_other(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 400, "test": 8})
    data = DataSection(source="cifar100", root=str(tmp_path), max_train_samples=200)
    with pytest.raises(ConfigError, match="max_train_samples"):
        scan_images(data, PartitionSection(pool_file="pool.npy"))
    assert len(scan_images(data, PartitionSection(validation=0.1)).parts["pool"]) == 160


def test_index_of_a_sample_is_its_place_in_the_official_list(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 400, "test": 8})
    data = DataSection(source="cifar100", root=str(tmp_path), max_train_samples=200)
    manifest: Manifest = scan_images(data, PartitionSection(validation=0.1)).manifest
    for sample in manifest.split("train"):
        assert sample.extra[TRAIN_INDEX] == int(sample.sample_id.partition("/")[2])
