"""Promises of the clip loader: order, resume, ranks, threads, cache and changed files."""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from regatta.core.errors import DataError, DecodeError
from regatta.data.decode import read_frames
from regatta.data.frame_plan import plan_training_clip
from regatta.data.loader import (
    map_in_threads,
    read_sample,
)
from regatta.data.manifest import Sample
from regatta.data.transforms import resize_frames
from tests.data.small_clips import HEIGHT, WIDTH, assert_same, by_id, loader, make_sample


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("clips")
    return [make_sample(folder, number) for number in range(11)]


def readers_alive() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("regatta-read")]


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_batches_do_not_depend_on_threads_cache_or_list_order(samples, augment):
    wanted = list(loader(samples, augment=augment, threads=0).batches(2))
    for changes in ({"threads": 1}, {"threads": 4}, {"threads": 2, "cache_bytes": 10**8}):
        assert_same(list(loader(samples, augment=augment, **changes).batches(2)), wanted)
    assert_same(list(loader(samples[::-1], augment=augment).batches(2)), wanted)


def test_a_warm_cache_gives_the_batches_that_a_fresh_loader_gives(samples):
    cached = loader(samples, cache_bytes=10**8, threads=2)
    for epoch in (0, 1, 2):
        assert_same(list(cached.batches(epoch)), list(loader(samples, threads=0).batches(epoch)))


def test_resume_at_every_position_gives_the_rest_of_the_epoch(samples):
    whole = list(loader(samples).batches(1))
    assert len(whole) == len(loader(samples)) == 4
    for start in range(len(whole) + 1):
        assert_same(list(loader(samples).batches(1, start=start)), whole[start:])
    assert [batch.is_last_of_epoch for batch in whole] == [False, False, False, True]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_sample_comes_exactly_once_over_all_ranks(samples, world):
    ranks = [loader(samples, batch_size=2, rank=r, world=world) for r in range(world)]
    seen: Counter[str] = Counter()
    for rank in ranks:
        batches = list(rank.batches(0))
        assert len(batches) == len(rank) == len(ranks[0])
        for batch in batches:
            assert batch.inputs.shape == (len(batch.sample_ids), 4, 3, 16, 16)
            seen.update(batch.sample_ids)
    assert seen == Counter(sample.sample_id for sample in samples)


def test_ranks_share_the_global_batches_of_one_process_and_its_clips(samples):
    alone = list(loader(samples, batch_size=8).batches(3))
    for world in (2, 4):
        ranks = [
            list(loader(samples, batch_size=8 // world, rank=r, world=world).batches(3))
            for r in range(world)
        ]
        for position, batch in enumerate(alone):
            parts = [rank[position] for rank in ranks]
            assert sorted(i for part in parts for i in part.sample_ids) == sorted(batch.sample_ids)
            sizes = [len(part.sample_ids) for part in parts]
            assert max(sizes) - min(sizes) <= 1
        clips = by_id(alone)
        for rank in ranks:
            for sample_id, clip in by_id(rank).items():
                assert torch.equal(clip, clips[sample_id])


def test_epochs_and_seeds_differ_in_order_and_clips(samples):
    first, second = (list(loader(samples).batches(epoch)) for epoch in (0, 1))
    other = list(loader(samples, seed=6).batches(0))
    orders = [[i for batch in run for i in batch.sample_ids] for run in (first, second, other)]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
    clips, later = by_id(first), by_id(second)
    assert sum(not torch.equal(clips[i], later[i]) for i in clips) == len(samples)


def test_without_augmentation_a_clip_is_the_resized_uniform_plan(samples):
    clips = by_id(list(loader(samples, augment="none").batches(0)))
    labels = {
        sample_id: int(label)
        for batch in loader(samples, augment="none").batches(0)
        for sample_id, label in zip(batch.sample_ids, batch.labels, strict=True)
    }
    for sample in samples:
        images = read_frames(sample.path, plan_training_clip(sample.frames, 4, None)).images
        wanted = resize_frames(torch.from_numpy(images), size=16, resize="crop")
        assert torch.equal(clips[sample.sample_id], wanted)
        assert labels[sample.sample_id] == sample.label


def test_a_segment_is_read_from_its_own_start(samples):
    whole = samples[3]
    segment = replace(whole, sample_id="part", start_frame=5, frames=3)
    wanted = read_frames(whole.path, [5, 7, 6]).images
    assert np.array_equal(read_sample(segment, [0, 2, 1]), wanted)
    clips = by_id(list(loader([segment], augment="none", frames=3).batches(0)))
    plan = [5 + index for index in plan_training_clip(3, 3, None)]
    images = torch.from_numpy(read_frames(whole.path, plan).images)
    assert torch.equal(clips["part"], resize_frames(images, size=16, resize="crop"))


def test_mirror_happens_only_where_it_is_allowed(samples):
    def mirrored(flip: bool) -> set[bool]:
        batches = [b for epoch in range(3) for b in loader(samples, flip=flip).batches(epoch)]
        clips = torch.cat([batch.inputs for batch in batches]).float()
        return set(
            (clips[..., :4].mean((1, 2, 3, 4)) > clips[..., -4:].mean((1, 2, 3, 4))).tolist()
        )

    # The right half of every picture is the bright one.
    assert mirrored(False) == {False}
    assert mirrored(True) == {False, True}


@pytest.mark.parametrize("augment", ["none", "standard"])
@pytest.mark.parametrize("room_for", [0, 1, 4, 100])
def test_cache_never_holds_more_than_its_limit(samples, augment, room_for):
    clip_bytes = 4 * 3 * 16 * 16 if augment == "none" else 12 * HEIGHT * WIDTH * 3
    limit = room_for * clip_bytes
    cached = loader(samples, augment=augment, cache_bytes=limit, threads=3)
    for epoch in (0, 1):
        list(cached.batches(epoch))
    kept = list(cached.cache._kept.values())
    assert sum(array.nbytes for array in kept) == cached.cache.used_bytes <= limit
    assert all(array.base is None or array.base.nbytes == array.nbytes for array in kept)
    assert len(cached.cache) >= min(room_for, len(samples))


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_a_cached_sample_needs_its_file_no_more(samples, augment, tmp_path):
    own = [make_sample(tmp_path, number) for number in range(3)]
    cached = loader(own, augment=augment, cache_bytes=10**8)
    list(cached.batches(0))
    for sample in own:
        os.unlink(sample.path)
    assert sum(len(batch.sample_ids) for batch in cached.batches(1)) == 3


@pytest.mark.fault(14)
@pytest.mark.parametrize("threads", [0, 2])
def test_a_removed_file_is_an_error_with_its_path(tmp_path, threads):
    own = [make_sample(tmp_path, number) for number in range(4)]
    os.unlink(own[2].path)
    with pytest.raises(DecodeError) as caught:
        list(loader(own, threads=threads).batches(0))
    assert caught.value.where == own[2].path
    assert not readers_alive()


@pytest.mark.fault(14)
def test_a_replaced_file_is_an_error_with_its_path_even_between_epochs(tmp_path):
    own = [make_sample(tmp_path, number) for number in range(4)]
    used = loader(own)
    list(used.batches(0))
    # Same length and size of picture: only its bytes tell that it is another clip.
    other = make_sample(tmp_path / "other", 5)
    os.replace(other.path, own[1].path)
    with pytest.raises(DecodeError) as caught:
        list(used.batches(1))
    assert caught.value.where == own[1].path


def test_fewer_frames_than_the_manifest_says_is_an_error_with_the_path(samples):
    wrong = replace(samples[0], frames=samples[0].frames + 30)
    with pytest.raises(DecodeError) as caught:
        list(loader([wrong]).batches(0))
    assert caught.value.where == wrong.path


def test_no_reading_thread_is_left_behind(samples):
    running = loader(samples, threads=3).batches(0)
    next(running)
    assert readers_alive()
    running.close()
    assert not readers_alive()
    list(loader(samples, threads=3).batches(0))
    assert not readers_alive()


def test_no_samples_is_a_named_error():
    with pytest.raises(DataError, match="no samples"):
        loader([])


def test_results_come_in_order_and_at_most_so_many_are_started_ahead():
    pulled: list[int] = []

    def items():
        for number in range(20):
            pulled.append(number)
            yield number

    results = map_in_threads(lambda n: n * n, items(), threads=3, ahead=4)
    for number, result in enumerate(results):
        assert result == number * number
        assert len(pulled) <= number + 1 + 4


def test_weight_ahead_stays_within_the_limit_but_one_item_always_passes():
    weights = [5, 1, 1, 50, 1, 1, 1, 1, 7, 2]
    pulled: list[int] = []

    def items():
        for weight in weights:
            pulled.append(weight)
            yield weight

    results = map_in_threads(
        lambda w: w, items(), threads=2, ahead=100, weigh=lambda w: w, weight_limit=10
    )
    for number, result in enumerate(results):
        assert result == weights[number]
        # The last one pulled waits for room outside the pool.
        assert sum(pulled[number:-1]) <= 10 or len(pulled[number:-1]) == 1


def test_room_for_weight_is_given_back():
    pulled: list[int] = []

    def items():
        for number in range(30):
            pulled.append(number)
            yield number

    results = map_in_threads(
        lambda n: n, items(), threads=2, ahead=100, weigh=lambda _: 1, weight_limit=5
    )
    assert [len(pulled) for _ in results] == [min(number + 6, 30) for number in range(30)]


def test_what_was_not_begun_when_it_is_closed_is_never_done():
    begun: list[int] = []
    never = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        never.wait(timeout=0.05 if number else 0)
        return number

    results = map_in_threads(work, range(50), threads=1, ahead=50)
    assert next(results) == 0
    results.close()
    assert len(begun) < 10


def test_an_exception_comes_up_at_its_turn_and_ends_the_threads():
    def fail_at_three(number: int) -> int:
        if number == 3:
            raise DecodeError("broken", where="file-3")
        return number

    results = map_in_threads(fail_at_three, range(100), threads=2, ahead=6)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DecodeError, match="broken"):
        next(results)
    assert not readers_alive()
