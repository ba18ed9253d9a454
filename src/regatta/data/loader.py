"""Batches of training and validation clips: seeded order, exact resume, reading in threads.

Shapes: B clips of a batch, T frames of a clip, S model input side, H and W picture sides.
What a sample looks like in an epoch depends on (seed, epoch, sample id) alone: not on threads,
ranks, cache, resume or whether other runs share the decoding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from threading import Lock
from typing import Literal, TypeVar

import numpy as np
import torch

from regatta.core.errors import DataError
from regatta.core.seeds import stream
from regatta.data.clip_recipe import ClipRecipe, make_clips
from regatta.data.decode import read_chunks, read_frames
from regatta.data.manifest import Sample
from regatta.data.shared_clips import Sharing, Stage, shared_clips

READ_BYTES = 32 << 20
"""Decoded frames that a clip in the making holds at source size."""

Decoder = Literal["pyav", "torchcodec"]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank. The last of an epoch may be short, on some ranks even empty.

    inputs: uint8 [B, T, 3, S, S]; labels: int64 [B]; sample_ids: B of them.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    sample_ids: list[str]
    epoch: int
    position: int
    """Its number in the epoch, the same on every rank; `start=position + 1` resumes after it."""
    is_last_of_epoch: bool


class ClipLoader:
    """Training clips, one epoch after the other.

    Each epoch is one seeded order of all samples. A global micro-batch is the next
    `batch_size * world` of them, dealt out like cards: rank r takes every world-th, starting at r.
    Nothing is padded, repeated or dropped.

    What a clip is, `recipe` says; validation takes one with `augment="none"`.

    `cache_bytes` bounds the decoded frames that are kept for later epochs (first come, first kept:
    an epoch reads every sample once, so throwing out old ones would only lose hits). Where a
    sample's clip is the same in every epoch the finished clip is kept. Else any frame and any part
    of the picture may be wanted next time, so all frames of the sample are kept at source size,
    and only if they fit.

    With `sharing`, runs that meet the same samples in the same order make each other's clips.

    Raises:
        DataError: no samples. While reading, DecodeError names a file that is gone, was replaced
            or cannot be decoded.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        recipe: ClipRecipe,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        threads: int = 1,
        cache_bytes: int = 0,
        decoder: Decoder = "pyav",
        sharing: Sharing | None = None,
        stage: Stage = "train",
    ) -> None:
        self._samples = _in_id_order(samples)
        self.recipe = recipe
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._world, self._threads = rank, world, threads
        self._decoder: Decoder = decoder
        self._sharing = sharing
        self._stage: Stage = stage
        self.cache = FrameCache(cache_bytes)

    def __len__(self) -> int:
        """Micro-batches of an epoch; the same on every rank."""
        return -(-len(self._samples) // (self._batch_size * self._world))

    def batches(self, epoch: int, *, start: int = 0) -> Generator[Batch]:
        """This rank's micro-batches of `epoch` from position `start` on.

        Close the generator to leave early: it then ends its threads.
        """
        order = stream(self._seed, "order", epoch).permutation(len(self._samples))
        turns = [(place, self._samples[row]) for place, row in enumerate(order)]
        deal = deal_batches(turns, self._batch_size, rank=self._rank, world=self._world)
        clips = self._clips(epoch, list(chain.from_iterable(deal[start:])))
        with closing(clips):
            for position, rows in enumerate(deal[start:], start):
                yield Batch(
                    self._stack([next(clips) for _ in rows]),
                    torch.tensor([sample.label for _, sample in rows], dtype=torch.int64),
                    [sample.sample_id for _, sample in rows],
                    epoch=epoch,
                    position=position,
                    is_last_of_epoch=position == len(deal) - 1,
                )

    def _stack(self, clips: list[torch.Tensor]) -> torch.Tensor:
        if clips:
            return torch.stack(clips)
        return torch.empty((0, *self.recipe.clip_shape), dtype=torch.uint8)

    def _clips(self, epoch: int, turns: list[tuple[int, Sample]]) -> Generator[torch.Tensor]:
        # Two batches ahead: one is trained on while the next is read.
        ahead = max(2 * self._batch_size, self._threads)
        number = self._sharing.begin(self._stage, epoch) if self._sharing else None
        if self._sharing and number is not None:
            return shared_clips(
                self,
                self._sharing,
                stage=self._stage,
                epoch=epoch,
                pass_number=number,
                turns=turns,
                threads=self._threads,
                ahead=ahead,
            )
        samples = [sample for _, sample in turns]
        return map_in_threads(
            lambda sample: self._clip(epoch, sample), samples, threads=self._threads, ahead=ahead
        )

    def _clip(self, epoch: int, sample: Sample) -> torch.Tensor:
        clip = self.kept(sample)
        return self.make(epoch, sample, [self.recipe])[0] if clip is None else clip

    def kept(self, sample: Sample) -> torch.Tensor | None:
        """The sample's finished clip, where it is the same in every epoch and was kept."""
        kept = self.cache.get(sample.sample_id) if self.recipe.is_fixed else None
        return None if kept is None else torch.from_numpy(kept)

    def keep(self, sample: Sample, clip: torch.Tensor) -> None:
        """Keep a finished clip of ours for later epochs, if it will be the same and fits."""
        if self.recipe.is_fixed:
            self.cache.offer(sample.sample_id, clip.numpy())

    def make(self, epoch: int, sample: Sample, recipes: Sequence[ClipRecipe]) -> list[torch.Tensor]:
        """The sample's clip for each recipe, ours first, from one decoding."""
        clips = make_clips(
            [recipe.begin(sample, seed=self._seed, epoch=epoch) for recipe in recipes],
            lambda ordinals: self._pieces(sample, ordinals),
        )
        self.keep(sample, clips[0])
        return clips

    def _pieces(self, sample: Sample, ordinals: Sequence[int]) -> Iterable[np.ndarray]:
        """Frames of a sample in pieces uint8 [n, H, W, 3], from the cache where it has them."""
        if self.recipe.is_fixed:
            return read_pieces(sample, ordinals, decoder=self._decoder)
        whole = self.cache.get(sample.sample_id)
        if whole is None and self.cache.has_room(sample.frames * sample.height * sample.width * 3):
            whole = read_sample(sample, range(sample.frames), decoder=self._decoder)
            self.cache.offer(sample.sample_id, whole)
        if whole is not None:
            return [whole[list(ordinals)]]
        return read_pieces(sample, ordinals, decoder=self._decoder)


def deal_batches(
    items: Sequence[Item], batch_size: int, *, rank: int, world: int
) -> list[list[Item]]:
    """One rank's rows of every global micro-batch, without padding or loss.

    The last list may be short or empty.
    """
    step = batch_size * world
    return [list(items[first : first + step][rank::world]) for first in range(0, len(items), step)]


def read_pieces(
    sample: Sample, ordinals: Sequence[int], *, decoder: Decoder = "pyav"
) -> Iterator[np.ndarray]:
    """As `read_sample`, piece by piece: frames of large pictures never all exist at once.

    Args:
        ordinals: ascending and distinct.
    """
    return read_chunks(
        sample.path,
        [sample.start_frame + int(ordinal) for ordinal in ordinals],
        chunk_bytes=READ_BYTES,
        backend=decoder,
        content_hash=sample.content_hash,
    )


def read_sample(sample: Sample, indices: Sequence[int], *, decoder: Decoder = "pyav") -> np.ndarray:
    """Frames of a sample, counted from its first one: uint8 [N, H, W, 3].

    Raises:
        DecodeError: the file is gone, cannot be decoded, or is not the one that was scanned (its
            bytes are hashed once per process, and again when its size or time changes).
    """
    places = [sample.start_frame + int(index) for index in indices]
    expected = sample.content_hash
    return read_frames(sample.path, places, backend=decoder, content_hash=expected).images


def _in_id_order(samples: Sequence[Sample]) -> list[Sample]:
    if not samples:
        raise DataError("there are no samples to load", hint="look at data.source and data.split")
    return sorted(samples, key=lambda sample: sample.sample_id)


class FrameCache:
    """Decoded uint8 frames in memory, never more than `limit_bytes`; safe with several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._kept: dict[str, np.ndarray] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> np.ndarray | None:
        return self._kept.get(key)

    def has_room(self, size_bytes: int) -> bool:
        """Whether an array of this size would be kept now."""
        return self.used_bytes + size_bytes <= self.limit_bytes

    def offer(self, key: str, array: np.ndarray) -> None:
        """Keep `array` if it fits. It must own its memory: a view would hold more than counted."""
        with self._lock:
            if key not in self._kept and self.has_room(array.nbytes):
                self._kept[key] = array
                self.used_bytes += array.nbytes


def map_in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    weigh: Callable[[Item], int] | None = None,
    weight_limit: int = 0,
) -> Generator[Result]:
    """`function` of every item, in order, computed at most `ahead` items before they are asked for.

    An exception comes up at its item's turn. Once the generator is closed or has failed, none of
    its threads is left.

    Args:
        threads: 0 = compute in the caller's thread when asked.
        weigh: bytes that an item's result takes; results ahead stay within `weight_limit`
            together, though one item is always allowed.
    """
    if threads == 0:
        yield from map(function, items)
        return
    waiting: deque[tuple[Future[Result], int]] = deque()
    held = 0
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="regatta-read")
    try:
        for item in items:
            weight = weigh(item) if weigh else 0
            while waiting and (len(waiting) >= ahead or held + weight > weight_limit > 0):
                future, done = waiting.popleft()
                yield future.result()
                held -= done
            waiting.append((pool.submit(function, item), weight))
            held += weight
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
