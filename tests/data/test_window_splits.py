"""Laws of the designs: no group in two splits, every class on both sides, order is irrelevant."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regatta.config.schema import DataSection
from regatta.core.errors import DataError
from regatta.data.manifest import Manifest, Sample, SplitName
from regatta.data.window_listing import WindowRow
from regatta.data.window_splits import split_windows

CLASSES: tuple[str, ...] = ("sit", "stand", "walk")


def section(design: str = "official", **keys: object) -> DataSection:
    return DataSection.model_validate({"source": "uci-har", "design": design, **keys})


def listed(
    labels: list[str], *, subjects: list[str] | None = None, tested: set[str] | None = None
) -> tuple[list[Sample], list[WindowRow]]:
    def split(number: int) -> SplitName:
        if tested is None:
            return ""
        return "test" if subjects and subjects[number] in tested else "train"

    rows = [
        WindowRow(
            sample_id=f"w/{number:05d}",
            label_name=label,
            path=Path("w"),
            recording=f"r{number}",
            start=0,
            session="w",
            subject=subjects[number] if subjects else "",
            split=""
            if tested is None
            else "test"
            if subjects and subjects[number] in tested
            else "train",
        )
        for number, label in enumerate(labels)
    ]
    samples = [
        Sample(
            row.sample_id, "w", CLASSES.index(row.label_name), row.label_name, row.subject or "w",
            row.split, 0, 8, 8.0, 0, 0, 1.0, f"hash {number}",
        )
        for number, row in enumerate(rows)
    ]  # fmt: skip
    return samples, rows


@st.composite
def people(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Labels and subjects of 8 to 14 people who each did all activities, some more than once."""
    labels, subjects = [], []
    for person in range(draw(st.integers(8, 14))):
        for label in CLASSES:
            count = draw(st.integers(1, 3))
            labels += [label] * count
            subjects += [f"p{person}"] * count
    return labels, subjects


def folds_of(samples: list[Sample]) -> list[Manifest]:
    manifest = Manifest(samples, list(CLASSES))
    return [manifest.of_fold(fold) for fold in range(manifest.folds)] or [manifest]


def check_laws(manifest: Manifest) -> None:
    homes: dict[str, set[str]] = {}
    for sample in manifest.samples:
        if sample.split:
            homes.setdefault(sample.group, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in homes.values())
    for split in ("train", "validation"):
        assert {sample.label_name for sample in manifest.split(split)} == set(CLASSES)


@settings(max_examples=25, deadline=None)
@given(people(), st.sampled_from(["official", "loso", "subject-kfold"]), st.integers(0, 5))
def test_subjects_are_never_parted(
    data: tuple[list[str], list[str]], design: str, seed: int
) -> None:
    labels, subjects = data
    names = sorted(set(subjects))
    keys = {"folds": len(names)} if design == "loso" else {}
    samples, rows = listed(labels, subjects=subjects, tested=set(names[-2:]))
    placed, gaps, _ = split_windows(samples, rows, section(design, split_seed=seed, **keys))
    folds = folds_of(placed)
    assert gaps == []
    for manifest in folds:
        check_laws(manifest)
    if design == "official":
        assert {s.group for s in placed if s.split == "test"} == set(names[-2:])
        return
    judged = Counter(s.sample_id for manifest in folds for s in manifest.split("test"))
    assert judged == Counter(s.sample_id for s in samples)
    if design == "loso":
        assert all(len({s.group for s in m.split("test")}) == 1 for m in folds)
        expected = min(3, (len(names) - 1) // 3)
        assert all(len({s.group for s in m.split("validation")}) == expected for m in folds)


@settings(max_examples=15, deadline=None)
@given(people(), st.sampled_from(["official", "loso", "subject-kfold"]), st.randoms())
def test_order_of_the_windows_changes_no_split(
    data: tuple[list[str], list[str]], design: str, shuffler: np.random.Generator
) -> None:
    labels, subjects = data
    names = set(subjects)
    keys = section(design, **({"folds": len(names)} if design == "loso" else {}))
    samples, rows = listed(labels, subjects=subjects, tested={"p0"})
    pairs = list(zip(samples, rows, strict=True))
    shuffler.shuffle(pairs)  # pyright: ignore[reportArgumentType]
    first, _, _ = split_windows(samples, rows, keys)
    other, _, _ = split_windows([s for s, _ in pairs], [r for _, r in pairs], keys)
    assert sorted(first, key=lambda s: s.sample_id) == sorted(other, key=lambda s: s.sample_id)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(CLASSES), st.integers(1, 30)), min_size=15, max_size=30),
    st.sampled_from(["official", "subject-kfold"]),
    st.integers(0, 3),
)
def test_without_subjects_no_neighbours_stand_in_two_splits(
    runs: list[tuple[str, int]], design: str, seed: int
) -> None:
    labels = [label for label, count in runs for _ in range(count)]
    labels += [label for label in CLASSES for _ in range(40)]
    samples, rows = listed(labels, tested=set())
    placed, gaps, notes = split_windows(samples, rows, section(design, split_seed=seed))
    assert any("subjects are not known" in note for note in notes)
    assert {gap.path for gap in gaps} | {s.sample_id for s in placed} == {
        s.sample_id for s in samples
    }
    assert not any(gap.is_damage for gap in gaps)
    for manifest in folds_of(placed):
        check_laws(manifest)
        split_of = {s.sample_id: s.split for s in manifest.samples}
        for before, after in pairwise(samples):
            here = {split_of.get(before.sample_id, ""), split_of.get(after.sample_id, "")} - {""}
            assert len(here) < 2


def test_official_validation_is_four_of_twenty_one_subjects() -> None:
    people_ = [f"subject-{n:02d}" for n in range(1, 31) for _ in CLASSES]
    tested = {f"subject-{n:02d}" for n in range(22, 31)}
    samples, rows = listed(list(CLASSES) * 30, subjects=people_, tested=tested)
    placed, _, _ = split_windows(samples, rows, section())
    count = {
        split: len({s.group for s in placed if s.split == split})
        for split in ("train", "validation", "test")
    }
    assert count == {"train": 17, "validation": 4, "test": 9}
    wider, _, _ = split_windows(samples, rows, section(validation_groups=7))
    assert len({s.group for s in wider if s.split == "validation"}) == 7


def test_validation_is_redrawn_until_a_rare_class_is_on_both_sides() -> None:
    """Only 2 of 12 subjects sit: one of them must train and the other must select."""
    people_ = [f"p{n}" for n in range(12) for _ in range(2)] + ["p0", "p1"]
    labels = ["stand", "walk"] * 12 + ["sit", "sit"]
    samples, rows = listed(labels, subjects=people_, tested={"p11"})
    for seed in range(5):
        placed, _, _ = split_windows(samples, rows, section(split_seed=seed))
        check_laws(Manifest(placed, list(CLASSES)))


def test_class_of_one_subject_is_refused_by_name() -> None:
    people_ = [f"p{n}" for n in range(10) for _ in range(2)] + ["p0"]
    samples, rows = listed(["stand", "walk"] * 10 + ["sit"], subjects=people_, tested={"p9"})
    with pytest.raises(DataError, match="'sit' \\(1\\)") as caught:
        split_windows(samples, rows, section())
    assert "train and validation" in caught.value.what


def test_loso_asks_for_the_true_number_of_folds_and_for_subjects() -> None:
    people_ = [f"p{n}" for n in range(7) for _ in CLASSES]
    samples, rows = listed(list(CLASSES) * 7, subjects=people_)
    with pytest.raises(DataError, match=r"there are 7 subjects, but data\.folds is 30") as caught:
        split_windows(samples, rows, section("loso", folds=30))
    assert caught.value.hint == "set data.folds: 7"
    samples, rows = listed(list(CLASSES) * 30)
    with pytest.raises(DataError, match="subjects of these windows are not known"):
        split_windows(samples, rows, section("loso", folds=30))


def test_window_random_says_leaky_and_parts_subjects() -> None:
    people_ = [f"p{n}" for n in range(4) for _ in range(30)]
    samples, rows = listed(list(CLASSES) * 40, subjects=people_, tested={"p3"})
    placed, gaps, notes = split_windows(samples, rows, section("window-random"))
    assert any("leaky" in note for note in notes)
    counts = Counter((s.split, s.label_name) for s in placed)
    # A quarter judged, as the source has it; a tenth of the other 30 of each class selects.
    assert counts == {
        (split, label): n
        for label in CLASSES
        for split, n in (("test", 10), ("validation", 3), ("train", 27))
    }
    assert not gaps
    parted = {s.group for s in placed if s.split == "test"}
    assert parted == {"p0", "p1", "p2", "p3"}


def test_too_many_folds_or_groups_are_refused_with_the_number_there_is() -> None:
    people_ = [f"p{n}" for n in range(4) for _ in CLASSES]
    samples, rows = listed(list(CLASSES) * 4, subjects=people_, tested={"p3"})
    with pytest.raises(DataError, match="there are 4 subjects, but this needs 6"):
        split_windows(samples, rows, section("subject-kfold", folds=6))
    with pytest.raises(DataError, match="there are 3 subjects, but this needs 6"):
        split_windows(samples, rows, section(validation_groups=5))


def test_some_windows_without_subject_are_refused() -> None:
    samples, rows = listed(list(CLASSES) * 4, subjects=["p1"] * 11 + [""])
    with pytest.raises(DataError, match="1 of 12 windows have no subject"):
        split_windows(samples, rows, section())
