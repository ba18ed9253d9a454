"""Laws of the orders that training reads in: whatever the number of ranks, the batch size and the
position that is resumed from, every sample comes exactly once, in one global order."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regatta.data.loader import deal_batches
from regatta.data.manifest import Sample
from regatta.data.splits import assign_group_split, carve_validation
from regatta.data.window_loader import AUGMENT_BLOCK, WindowLoader
from tests.data.test_splits import any_samples, sample

CPU = torch.device("cpu")
counts, sizes, worlds = st.integers(1, 700), st.integers(1, 40), st.integers(1, 9)


def dealt(count: int, batch_size: int, world: int) -> list[list[list[int]]]:
    """Per rank, its lists of places."""
    places = range(count)
    return [deal_batches(places, batch_size, rank=r, world=world) for r in range(world)]


@given(count=st.integers(0, 700), batch_size=sizes, world=worlds)
def test_cards_are_dealt_once_evenly_and_in_order(count: int, batch_size: int, world: int):
    ranks = dealt(count, batch_size, world)
    assert len({len(rank) for rank in ranks}) == 1
    together = [sorted(x for part in step for x in part) for step in zip(*ranks, strict=True)]
    # One after the other, the global micro-batches are the whole in its order.
    assert [x for step in together for x in step] == list(range(count))
    for step in zip(*ranks, strict=True):
        lengths = [len(part) for part in step]
        assert max(lengths) <= batch_size
        assert max(lengths) - min(lengths) <= 1


@given(count=st.integers(1, 700), global_batch=st.integers(1, 60), epoch=st.integers(0, 3))
def test_ranks_only_divide_what_one_process_takes(count: int, global_batch: int, epoch: int):
    loaders = {
        world: [loader_of(count, global_batch // world, rank=r, world=world) for r in range(world)]
        for world in range(1, global_batch + 1)
        if global_batch % world == 0
    }
    alone = [batch.sample_ids for batch in loaders[1][0].batches(epoch)]
    for ranks in loaders.values():
        shares = zip(*(rank.batches(epoch) for rank in ranks), strict=True)
        for whole, share in zip(alone, shares, strict=True):
            assert Counter(i for batch in share for i in batch.sample_ids) == Counter(whole)


def loader_of(
    count: int, batch_size: int, *, rank: int = 0, world: int = 1, augmented: bool = False
) -> WindowLoader:
    def shift(inputs: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        return inputs + torch.rand(inputs.shape, generator=generator)

    return WindowLoader(
        torch.arange(count, dtype=torch.float32)[:, None],
        [n % 7 for n in range(count)],
        [f"s{n}" for n in range(count)],
        batch_size=batch_size,
        seed=11,
        device=CPU,
        rank=rank,
        world=world,
        augment=shift if augmented else None,
    )


@settings(max_examples=60)
@given(
    count=st.one_of(counts, st.integers(AUGMENT_BLOCK - 2, 2 * AUGMENT_BLOCK + 2)),
    batch_size=sizes,
    world=worlds,
    epoch=st.integers(0, 5),
    data=st.data(),
)
def test_every_id_comes_once_with_its_label_from_any_position_on(
    count: int, batch_size: int, world: int, epoch: int, data: st.DataObject
):
    start = data.draw(st.integers(0, -(-count // (batch_size * world))), label="start")
    seen: Counter[str] = Counter()
    for rank in range(world):
        fresh = loader_of(count, batch_size, rank=rank, world=world, augmented=True)
        whole = list(fresh.batches(epoch))
        assert len(whole) == len(fresh)
        other = loader_of(count, batch_size, rank=rank, world=world, augmented=True)
        rest = list(other.batches(epoch, start=start))
        for ours, theirs in zip(rest, whole[start:], strict=True):
            assert ours.sample_ids == theirs.sample_ids
            # Also what augmentation made of them: it goes by place, not by what was read before.
            assert torch.equal(ours.inputs, theirs.inputs)
        for batch in whole:
            numbers = [int(name[1:]) for name in batch.sample_ids]
            assert batch.labels.tolist() == [n % 7 for n in numbers]
            assert batch.inputs[:, 0].floor().tolist() == numbers
            seen.update(batch.sample_ids)
    assert seen == Counter(f"s{n}" for n in range(count))


@given(rows=any_samples(), seed=st.integers(0, 2**31), shuffle=st.randoms())
def test_splits_are_the_same_in_any_order_and_again_from_the_same_seed(
    rows: list[Sample], seed: int, shuffle: random.Random
):
    rows = [*rows, *(sample(f"own{n}", "own", f"own/{n}") for n in range(4))]
    shuffled = list(rows)
    shuffle.shuffle(shuffled)

    def split_of(listed: list[Sample]) -> dict[str, str]:
        blank = [replace(row, split="") for row in listed]
        drawn = carve_validation(assign_group_split(blank, seed), 0.2, seed)
        return {row.sample_id: row.split for row in drawn}

    first = split_of(rows)
    assert split_of(shuffled) == first
    assert split_of(rows) == first
    assert set(first) == {row.sample_id for row in rows}
