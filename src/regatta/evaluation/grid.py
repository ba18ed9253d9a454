"""One decode per sample for all conditions, views and entries: plan clips, read frames, resize.

A sample's pictures are the distinct source frames that any clip shows, then the distinct blends of
them. They are prepared once per cut (input size and place of the square); a clip is a cut and T
rows of its pictures.

Shapes: U distinct source frames of a sample (union over entries, conditions and views), P pictures
(U frames, then blends), C conditions, D distinct clips of one entry, T frames of a clip, S input
side, H and W picture height and width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from regatta.core.errors import DecodeError
from regatta.data.frame_plan import FramePlan, plan_from_indices
from regatta.data.manifest import Sample
from regatta.data.splits import stratified_subset
from regatta.data.transforms import Cut, Resize, mean_frame, plan_cut, resample
from regatta.evaluation.judged_parts import Truth
from regatta.evaluation.protocols import Protocol, View

ReadFrames = Callable[[Sample, Sequence[int], int], Iterable[np.ndarray]]
"""(sample, ascending indices from its first frame, most bytes of a piece) -> its frames in pieces,
uint8 [n, H, W, 3]."""

CHUNK_BYTES = 4 << 20
"""Source pictures decoded before they are resized on a CPU: what the processor's cache holds."""
WAITING_BYTES = 512 << 20
"""Most source pictures of one sample that wait as a whole for an accelerator."""


class EntryInput(NamedTuple):
    """What an entry asks of a sample; entries that agree share the clips."""

    model_frames: int
    image_size: int
    resize: Resize


class Clip(NamedTuple):
    """One pass through a model."""

    plan: FramePlan
    cut: Cut


@dataclass(frozen=True)
class SampleClips:
    """All clips of one sample for one kind of entry.

    distinct: D clips without repeats, those of one cut together. places: per condition, in the
    protocol's order, the place in `distinct` of each of its views. truths: one per condition.
    """

    distinct: list[Clip]
    places: list[tuple[int, ...]]
    truths: list[Truth]


def plan_clips(sample: Sample, protocol: Protocol, entry: EntryInput) -> SampleClips:
    """Plan a sample under every condition; views that show the same pixels share one clip."""
    per_condition: list[list[tuple[str, Cut]]] = []
    clips: dict[tuple[str, Cut], Clip] = {}
    truths = []
    centre = _cut(sample, entry, 0.5)
    for condition in protocol.conditions:
        views = protocol.plan_views(
            sample.frames, sample.fps, condition, entry.model_frames, sample_id=sample.sample_id
        )
        cuts = [centre if view.crop == 0.5 else _cut(sample, entry, view.crop) for view in views]
        keys = [(view.plan.unique_key, cut) for view, cut in zip(views, cuts, strict=True)]
        for key, view in zip(keys, views, strict=True):
            clips.setdefault(key, Clip(view.plan, key[1]))
        per_condition.append(keys)
        truths.append(_truth(sample.fps, views, keys, centre))
    order = sorted(clips, key=lambda key: key[1])
    place = {key: number for number, key in enumerate(order)}
    places = [tuple(place[key] for key in keys) for keys in per_condition]
    return SampleClips([clips[key] for key in order], places, truths)


def _cut(sample: Sample, entry: EntryInput, crop: float) -> Cut:
    return plan_cut(
        sample.height, sample.width, size=entry.image_size, resize=entry.resize, crop=crop
    )


def _truth(
    fps: float, views: Sequence[View], keys: Sequence[tuple[str, Cut]], centre: Cut
) -> Truth:
    """Frames, span and rate over the union of all views, padding their mean; equal keys mean that
    the model saw the identical clips."""
    plan = views[0].plan
    if len(views) == 1:
        whole, key = plan, plan.unique_key
        if keys[0][1] != centre:
            key = _digest([f"{key}@{keys[0][1].offset}"])
    else:
        whole = plan_from_indices([index for view in views for index in view.plan.indices], fps)
        key = _digest([f"{unique_key}@{cut.offset}" for unique_key, cut in keys])
    pad_share = sum(view.plan.pad_share for view in views) / len(views)
    return Truth(whole.distinct_frames, whole.span_seconds, whole.rate_hz, pad_share, key)


def _digest(parts: Sequence[str]) -> str:
    return sha256(";".join(parts).encode("ascii")).hexdigest()[:32]


@dataclass(frozen=True)
class SampleTask:
    """What one decode of one sample must serve.

    clips: of each kind of entry. union: every source frame that any clip shows, ascending.
    blends: every distinct mean of several of them.
    """

    sample: Sample
    clips: dict[EntryInput, SampleClips]
    union: tuple[int, ...]
    blends: tuple[tuple[int, ...], ...]

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Every distinct cut that any clip asks for."""
        found = (clip.cut for clips in self.clips.values() for clip in clips.distinct)
        return tuple(sorted(set(found)))

    @property
    def source_bytes(self) -> int:
        """Size of the decoded frames."""
        return len(self.union) * self.sample.height * self.sample.width * 3

    @property
    def prepared_bytes(self) -> int:
        """Size of the pictures that the models are given."""
        pictures = len(self.union) + len(self.blends)
        return sum(pictures * 3 * cut.size**2 for cut in self.cuts)

    def rows(self, entry: EntryInput) -> Iterator[tuple[Cut, torch.Tensor]]:
        """Of each cut its clips, as int64 [d, T]: the row of every picture. In the order of
        `distinct`."""
        frame_row = {index: row for row, index in enumerate(self.union)}
        blend_row = {blend: row for row, blend in enumerate(self.blends, len(self.union))}
        for cut, clips in groupby(self.clips[entry].distinct, key=lambda clip: clip.cut):
            rows = [
                [frame_row[index] for index in plan.indices]
                if plan.blends is None
                else [
                    frame_row[blend[0]] if len(blend) == 1 else blend_row[blend]
                    for blend in plan.blends
                ]
                for plan, _ in clips
            ]
            yield cut, torch.tensor(rows)


def plan_task(sample: Sample, protocol: Protocol, entries: Iterable[EntryInput]) -> SampleTask:
    """Plan one sample for all kinds of entries that are to be judged on it."""
    clips = {entry: plan_clips(sample, protocol, entry) for entry in dict.fromkeys(entries)}
    union: set[int] = set()
    blends: dict[tuple[int, ...], None] = {}
    for plan in (clip.plan for each in clips.values() for clip in each.distinct):
        if plan.blends is None:
            union.update(plan.indices)
        else:
            union.update(index for blend in plan.blends for index in blend)
            blends.update((blend, None) for blend in plan.blends if len(blend) > 1)
    return SampleTask(sample, clips, tuple(sorted(union)), tuple(blends))


@dataclass
class SampleFrames:
    """The pictures of a task, on their way to the models.

    source: uint8 pieces [n, H, W, 3], U frames together, let go once prepared; prepared: uint8
    [P, 3, S, S] per cut.
    """

    task: SampleTask
    source: list[torch.Tensor] = field(default_factory=list)
    decode_seconds: float = 0.0
    preprocess_seconds: float = 0.0
    prepared: dict[Cut, torch.Tensor] = field(default_factory=dict)


def read_task(task: SampleTask, read: ReadFrames, *, device: torch.device) -> SampleFrames:
    """Decode a task; run by the reading threads.

    On a CPU the frames are resized here too, piece by piece, so that no big source pictures wait
    in memory. For an accelerator they are only put where it can fetch them; a sample too large for
    that is sent there piece by piece.
    """
    frames = SampleFrames(task)
    waits = device.type != "cpu" and task.source_bytes <= WAITING_BYTES
    chunk_bytes = CHUNK_BYTES if device.type == "cpu" else WAITING_BYTES
    started, filled = time.perf_counter(), 0
    for images in read(task.sample, task.union, chunk_bytes):
        _check_size(task.sample, images)
        decoded = time.perf_counter()
        frames.decode_seconds += decoded - started
        if waits:
            frames.source.append(torch.from_numpy(images).pin_memory())
        else:
            _prepare(frames, torch.from_numpy(images).to(device), filled)
            filled += len(images)
        started = time.perf_counter()
        frames.preprocess_seconds += started - decoded
    if not waits:
        started = time.perf_counter()
        _blend(frames)
        frames.preprocess_seconds += time.perf_counter() - started
    return frames


def prepare_frames(frames: SampleFrames, device: torch.device) -> None:
    """Prepare what still waits in `source`, on `device`; nothing is left to do for a CPU."""
    filled = 0
    for piece in frames.source:
        _prepare(frames, piece.to(device, non_blocking=True), filled)
        filled += len(piece)
    if frames.source:
        _blend(frames)
        frames.source = []


def _check_size(sample: Sample, images: np.ndarray) -> None:
    # Crops were planned on the manifest's size: on another they would be cut elsewhere.
    if images.shape[1:3] != (sample.height, sample.width):
        raise DecodeError(
            f"its pictures are {images.shape[2]}x{images.shape[1]}, but the manifest says "
            f"{sample.width}x{sample.height}",
            where=sample.path,
            hint="the manifest does not belong to these files: start the study anew",
        )


def _prepare(frames: SampleFrames, images_NHWC: torch.Tensor, first: int) -> None:
    """Resize a piece once per distinct size, then cut its squares into rows `first` and on."""
    task = frames.task
    pictures = len(task.union) + len(task.blends)
    for (height, width), cuts in groupby(task.cuts, key=lambda cut: (cut.height, cut.width)):
        scaled = resample(images_NHWC, height, width)
        for cut in cuts:
            if cut not in frames.prepared:
                shape = (pictures, 3, cut.size, cut.size)
                frames.prepared[cut] = scaled.new_empty(shape)
            frames.prepared[cut][first : first + len(scaled)] = cut.apply(scaled)


def _blend(frames: SampleFrames) -> None:
    """Fill the rows of the blends from those of the frames."""
    task = frames.task
    row_of = {index: row for row, index in enumerate(task.union)}
    for row, blend in enumerate(task.blends, len(task.union)):
        rows = [row_of[index] for index in blend]
        for pictures in frames.prepared.values():
            pictures[row] = mean_frame(pictures[rows])


def choose_samples(samples: Sequence[Sample], count: int | None, seed: int) -> list[Sample]:
    """A seeded, class-stratified choice of `count` samples in id order; all of them for None."""
    ordered = sorted(samples, key=lambda sample: sample.sample_id)
    return ordered if count is None else stratified_subset(ordered, count, seed)
