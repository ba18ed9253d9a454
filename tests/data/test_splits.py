"""Laws of splitting: no group straddles, every class trains, order is free, seeds repeat."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.core.errors import DataError, SplitLeakError
from regatta.data.manifest import Sample, SampleRow, SplitName
from regatta.data.splits import (
    assign_group_split,
    carve_validation,
    check_no_leak,
    hold_out_groups,
    stratified_subset,
)


def sample(name: str, label: str, group: str, split: SplitName = "train") -> Sample:
    return Sample(
        sample_id=name,
        path=f"/{name}",
        label=0,
        label_name=label,
        group=group,
        split=split,
        start_frame=0,
        frames=10,
        fps=25.0,
        width=8,
        height=8,
        duration_seconds=0.4,
        content_hash=name,
    )


def even_samples(classes: int, groups: int, per_group: int) -> list[Sample]:
    return [
        sample(f"{c}/{g}/{i}", f"class{c}", f"class{c}/g{g:02d}")
        for c in range(classes)
        for g in range(groups)
        for i in range(per_group)
    ]


@st.composite
def any_samples(draw: st.DrawFn) -> list[Sample]:
    """Samples whose groups may span classes and differ in size."""
    pairs = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), min_size=1, max_size=60))
    return [sample(f"s{i}", f"class{c}", f"g{g}") for i, (c, g) in enumerate(pairs)]


def labels_of(rows: list[Sample]) -> set[str]:
    return {row.label_name for row in rows}


fractions = st.floats(0.01, 0.9)
seeds = st.integers(0, 2**31)


@given(rows=any_samples(), fraction=fractions, seed=seeds)
def test_held_out_groups_leave_every_class_in_training(
    rows: list[Sample], fraction: float, seed: int
):
    chosen = hold_out_groups(rows, fraction, seed, purpose="test")
    left = {row.label_name for row in rows if row.group not in chosen}
    assert left == labels_of(rows)


@given(rows=any_samples(), fraction=fractions, seed=seeds, shuffle=st.randoms())
def test_held_out_groups_do_not_depend_on_order(
    rows: list[Sample], fraction: float, seed: int, shuffle: random.Random
):
    shuffled = list(rows)
    shuffle.shuffle(shuffled)
    chosen = hold_out_groups(rows, fraction, seed, purpose="test")
    assert hold_out_groups(shuffled, fraction, seed, purpose="test") == chosen


@given(rows=any_samples(), fraction=fractions, seed=seeds)
def test_no_group_straddles_a_split_that_is_drawn(rows: list[Sample], fraction: float, seed: int):
    split = assign_group_split([replace(r, split="") for r in rows], seed, test_fraction=fraction)
    assert {row.split for row in split} <= {"train", "test"}
    check_no_leak(split)
    assert {row.label_name for row in split if row.split == "train"} == labels_of(rows)


@given(rows=any_samples(), fraction=fractions, seed=seeds)
def test_no_group_straddles_after_validation_is_carved(
    rows: list[Sample], fraction: float, seed: int
):
    # Two groups of a class of their own, so that there is always something to hold out.
    rows = [*rows, sample("a", "own", "own/1"), sample("b", "own", "own/2")]
    carved = carve_validation(rows, fraction, seed)
    check_no_leak(carved)
    assert {row.split for row in carved} == {"train", "validation"}
    assert {row.label_name for row in carved if row.split == "train"} == labels_of(rows)


def test_rows_of_a_source_are_split_like_samples():
    samples = even_samples(classes=3, groups=6, per_group=2)
    rows = [SampleRow(Path(s.path), s.label_name, s.group) for s in samples]
    drawn = assign_group_split(rows, 3, test_fraction=0.3)
    expected = assign_group_split([replace(s, split="") for s in samples], 3, test_fraction=0.3)
    assert [row.split for row in drawn] == [row.split for row in expected]
    assert {row.split for row in drawn} == {"train", "test"}


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_the_share_is_met_to_half_a_group_in_every_class(fraction: float):
    rows = even_samples(classes=7, groups=20, per_group=5)
    carved = carve_validation(rows, fraction, seed=1)
    for label in labels_of(rows):
        held = sum(r.label_name == label and r.split == "validation" for r in carved)
        assert abs(held - fraction * 100) <= 2.5


def test_a_class_with_two_groups_gives_one_however_small_the_share():
    carved = carve_validation(even_samples(classes=3, groups=2, per_group=4), 0.01, seed=0)
    held = Counter(r.label_name for r in carved if r.split == "validation")
    assert held == {"class0": 4, "class1": 4, "class2": 4}


def test_a_class_with_one_group_stays_whole_in_training():
    rows = [*even_samples(classes=2, groups=5, per_group=1), sample("only", "lone", "lone/g1")]
    carved = carve_validation(rows, 0.3, seed=0)
    assert [r.split for r in carved if r.label_name == "lone"] == ["train"]


def test_nothing_to_carve_is_a_named_error():
    rows = [sample("a", "x", "g1"), sample("b", "x", "g1"), sample("c", "y", "g2")]
    with pytest.raises(DataError, match="no validation set"):
        carve_validation(rows, 0.1, seed=0)


def test_seeds_repeat_and_differ():
    rows = even_samples(classes=4, groups=12, per_group=3)
    draws = [tuple(r.split for r in carve_validation(rows, 0.2, seed)) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_another_class_does_not_shift_the_draw():
    rows = even_samples(classes=3, groups=10, per_group=2)
    more = [*rows, *(sample(f"z{i}", "zebra", f"zebra/g{i}") for i in range(9))]
    alone = hold_out_groups(rows, 0.2, 5, purpose="validation")
    together = hold_out_groups(more, 0.2, 5, purpose="validation")
    assert {group for group in together if not group.startswith("zebra")} == alone


def test_only_training_rows_are_carved():
    rows = [*even_samples(2, 6, 2), sample("t", "class0", "other", "test")]
    carved = carve_validation(rows, 0.2, seed=0)
    assert carved[-1] == rows[-1]
    assert [r.sample_id for r in carved] == [r.sample_id for r in rows]


def test_given_splits_are_kept_when_the_rest_is_assigned():
    rows = [sample("a", "x", "g1", "validation"), *even_samples(2, 6, 2)]
    assert assign_group_split(rows, 0) == rows


def test_a_leak_names_groups_and_splits():
    rows = [
        sample("a", "x", "Archery/g07", "train"),
        sample("b", "x", "Archery/g07", "test"),
        sample("c", "x", "Archery/g08", "train"),
    ]
    with pytest.raises(SplitLeakError, match=r"Archery/g07 \(test, train\)") as error:
        check_no_leak(rows)
    assert "g08" not in str(error.value)
    check_no_leak(rows[1:])


def test_many_leaks_are_counted_and_cut_short():
    rows = [sample(f"{s}{i}", "x", f"g{i:02d}", s) for i in range(25) for s in ("train", "test")]
    with pytest.raises(SplitLeakError, match=r"25 group\(s\).*and 15 more"):
        check_no_leak(rows)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    share=st.floats(0, 1),
    seed=seeds,
    shuffle=st.randoms(),
)
def test_a_subset_is_exact_stratified_and_order_free(
    sizes: list[int], share: float, seed: int, shuffle: random.Random
):
    rows = [
        sample(f"{c}-{i}", f"class{c}", f"g{c}{i}") for c, n in enumerate(sizes) for i in range(n)
    ]
    limit = max(1, round(share * len(rows)))
    chosen = stratified_subset(rows, limit, seed)
    assert len(chosen) == limit
    kept = Counter(row.label_name for row in chosen)
    if limit >= len(sizes):
        assert len(kept) == len(sizes)
    for c, size in enumerate(sizes):
        assert kept[f"class{c}"] <= size
        if limit >= len(sizes):
            # One each, then in proportion: never further than one from the ideal share of the rest.
            rest = (limit - len(sizes)) * (size - 1) / max(1, len(rows) - len(sizes))
            assert abs(kept[f"class{c}"] - 1 - rest) < 1
    shuffled = list(rows)
    shuffle.shuffle(shuffled)
    again = stratified_subset(shuffled, limit, seed)
    assert {row.sample_id for row in again} == {row.sample_id for row in chosen}


def test_a_subset_keeps_order_and_grows_with_the_seed_fixed():
    rows = even_samples(classes=3, groups=8, per_group=2)
    some = stratified_subset(rows, 10, seed=4)
    assert [row.sample_id for row in rows if row in some] == [row.sample_id for row in some]
    assert stratified_subset(rows, 48, seed=4) == rows
    assert stratified_subset(rows, 10, seed=5) != some
