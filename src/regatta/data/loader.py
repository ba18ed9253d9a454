"""Batches of training and validation clips: seeded order, exact resume, reading in threads.

Shapes: B clips of a batch, T frames of a clip, S model input side, H and W picture sides.
What a sample looks like in an epoch depends on (seed, epoch, sample id) alone: not on threads,
ranks, cache or resume.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
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
from regatta.data.augment import augment_clip, draw_augmentation
from regatta.data.decode import read_frames
from regatta.data.frame_plan import plan_training_clip
from regatta.data.manifest import Sample
from regatta.data.transforms import Resize, resize_frames

Decoder = Literal["pyav", "torchcodec"]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank. The last of an epoch may be short, on some ranks even empty.

    videos: uint8 [B, T, 3, S, S]; labels: int64 [B]; sample_ids: B of them.
    """

    videos: torch.Tensor
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

    With `augment="none"`, also right for validation, a clip is the fixed uniform plan of its
    sample, resized as `resize` says; with "standard" the plan is jittered in time and every clip
    gets its own random resized crop and, if `flip` allows, mirror.

    `cache_bytes` bounds the decoded frames that are kept for later epochs (first come, first kept:
    an epoch reads every sample once, so throwing out old ones would only lose hits). With "none"
    the finished clip is kept. With "standard" any frame and any part of the picture may be wanted
    next time, so all frames of the sample are kept at source size, and only if they fit.

    Raises:
        DataError: no samples. While reading, DecodeError names a file that is gone, was replaced
            or cannot be decoded.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        frames: int,
        image_size: int,
        resize: Resize,
        batch_size: int,
        seed: int,
        augment: Literal["none", "standard"] = "standard",
        flip: bool = True,
        crop_scale_min: float = 0.5,
        rank: int = 0,
        world: int = 1,
        threads: int = 1,
        cache_bytes: int = 0,
        decoder: Decoder = "pyav",
    ) -> None:
        self._samples = _in_id_order(samples)
        self._frames, self._image_size = frames, image_size
        self._resize: Resize = resize
        self._batch_size, self._seed = batch_size, seed
        self._augment, self._flip, self._crop_scale_min = augment, flip, crop_scale_min
        self._rank, self._world, self._threads = rank, world, threads
        self._decoder: Decoder = decoder
        self.cache = FrameCache(cache_bytes)

    def __len__(self) -> int:
        """Micro-batches of an epoch; the same on every rank."""
        return -(-len(self._samples) // (self._batch_size * self._world))

    def batches(self, epoch: int, *, start: int = 0) -> Generator[Batch]:
        """This rank's micro-batches of `epoch` from position `start` on.

        Close the generator to leave early: it then ends its threads.
        """
        order = stream(self._seed, "order", epoch).permutation(len(self._samples))
        ordered = [self._samples[place] for place in order]
        deal = deal_batches(ordered, self._batch_size, rank=self._rank, world=self._world)
        clips = map_in_threads(
            lambda sample: self._clip(epoch, sample),
            chain.from_iterable(deal[start:]),
            threads=self._threads,
            # Two batches ahead: one is trained on while the next is read.
            ahead=max(2 * self._batch_size, self._threads),
        )
        with closing(clips):
            for position, rows in enumerate(deal[start:], start):
                yield Batch(
                    self._stack([next(clips) for _ in rows]),
                    torch.tensor([sample.label for sample in rows], dtype=torch.int64),
                    [sample.sample_id for sample in rows],
                    epoch=epoch,
                    position=position,
                    is_last_of_epoch=position == len(deal) - 1,
                )

    def _stack(self, clips: list[torch.Tensor]) -> torch.Tensor:
        if clips:
            return torch.stack(clips)
        shape = (0, self._frames, 3, self._image_size, self._image_size)
        return torch.empty(shape, dtype=torch.uint8)

    def _clip(self, epoch: int, sample: Sample) -> torch.Tensor:
        if self._augment == "none":
            return self._uniform_clip(sample)
        rng = stream(self._seed, "sample", epoch, sample.sample_id)
        indices = plan_training_clip(sample.frames, self._frames, rng)
        images = torch.from_numpy(self._source_frames(sample, indices))
        height, width = images.shape[1:3]
        augmentation = draw_augmentation(
            rng, height, width, scale_min=self._crop_scale_min, flip=self._flip
        )
        return augment_clip(images, augmentation, size=self._image_size)

    def _uniform_clip(self, sample: Sample) -> torch.Tensor:
        kept = self.cache.get(sample.sample_id)
        if kept is None:
            indices = plan_training_clip(sample.frames, self._frames, None)
            images = torch.from_numpy(read_sample(sample, indices, decoder=self._decoder))
            kept = resize_frames(images, size=self._image_size, resize=self._resize).numpy()
            self.cache.offer(sample.sample_id, kept)
        return torch.from_numpy(kept)

    def _source_frames(self, sample: Sample, indices: Sequence[int]) -> np.ndarray:
        whole = self.cache.get(sample.sample_id)
        if whole is None and self.cache.has_room(sample.frames * sample.height * sample.width * 3):
            whole = read_sample(sample, range(sample.frames), decoder=self._decoder)
            self.cache.offer(sample.sample_id, whole)
        if whole is not None:
            return whole[list(indices)]
        return read_sample(sample, indices, decoder=self._decoder)


def deal_batches(
    samples: Sequence[Sample], batch_size: int, *, rank: int, world: int
) -> list[list[Sample]]:
    """One rank's rows of every global micro-batch, without padding or loss.

    The last list may be short or empty.
    """
    step = batch_size * world
    return [
        list(samples[first : first + step][rank::world]) for first in range(0, len(samples), step)
    ]


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
