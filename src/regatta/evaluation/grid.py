"""One decode per sample for all conditions and entries: plan the clips, read their union, resize.

Shapes: U distinct frames of a sample (union over entries and conditions), C conditions, D distinct
clips of one entry, T frames of a clip, S input side, H and W picture height and width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from regatta.data.frame_plan import FramePlan
from regatta.data.manifest import Sample
from regatta.data.splits import stratified_subset
from regatta.data.transforms import Resize, resize_frames
from regatta.evaluation.protocols import Protocol

ReadFrames = Callable[[Sample, Sequence[int]], np.ndarray]
"""(sample, indices from its first frame) -> uint8 [N, H, W, 3]."""


class InputShape(NamedTuple):
    """How an entry's frames are prepared; entries that agree share the prepared frames."""

    image_size: int
    resize: Resize


@dataclass(frozen=True)
class SampleClips:
    """All clips of one sample for models that take T frames.

    plans: one per condition, in the protocol's order; distinct: D index tuples without repeats;
    clip_of_condition: C places in `distinct`.
    """

    plans: list[FramePlan]
    distinct: list[tuple[int, ...]]
    clip_of_condition: list[int]


def plan_clips(sample: Sample, protocol: Protocol, model_frames: int) -> SampleClips:
    """Plan a sample under every condition; conditions with equal indices share one clip."""
    plans = [
        protocol.plan(
            sample.frames, sample.fps, condition, model_frames, sample_id=sample.sample_id
        )
        for condition in protocol.conditions
    ]
    place: dict[tuple[int, ...], int] = {}
    clip_of_condition = [place.setdefault(plan.indices, len(place)) for plan in plans]
    return SampleClips(plans, list(place), clip_of_condition)


@dataclass(frozen=True)
class SampleTask:
    """What one decode of one sample must serve.

    clips: model frames T -> the clips of that length; shapes: distinct ones; union: every frame
    that any clip shows, ascending.
    """

    sample: Sample
    clips: dict[int, SampleClips]
    shapes: tuple[InputShape, ...]
    union: tuple[int, ...]

    @property
    def source_bytes(self) -> int:
        """Size of the decoded frames."""
        return len(self.union) * self.sample.height * self.sample.width * 3

    def rows(self, model_frames: int) -> torch.Tensor:
        """int64 [D, T]: place in the union of every frame of every distinct clip."""
        place = {index: row for row, index in enumerate(self.union)}
        distinct = self.clips[model_frames].distinct
        return torch.tensor([[place[index] for index in clip] for clip in distinct])


def plan_task(
    sample: Sample, protocol: Protocol, inputs: Sequence[tuple[int, InputShape]]
) -> SampleTask:
    """Plan one sample for entries that take `inputs`: (model frames, input shape) of each."""
    lengths = dict.fromkeys(frames for frames, _ in inputs)
    clips = {frames: plan_clips(sample, protocol, frames) for frames in lengths}
    union = sorted({index for each in clips.values() for clip in each.distinct for index in clip})
    shapes = tuple(dict.fromkeys(shape for _, shape in inputs))
    return SampleTask(sample, clips, shapes, tuple(union))


@dataclass
class SampleFrames:
    """The decoded union of a task, on its way to the models.

    source: uint8 [U, H, W, 3], let go once resized; prepared: uint8 [U, 3, S, S] per input shape.
    """

    task: SampleTask
    source: torch.Tensor | None
    decode_seconds: float
    preprocess_seconds: float = 0.0
    prepared: dict[InputShape, torch.Tensor] = field(default_factory=dict)


def read_task(task: SampleTask, read: ReadFrames, *, device: torch.device) -> SampleFrames:
    """Decode a task; run by the reading threads.

    On a CPU the frames are resized here too, so that no big source pictures wait in memory. For an
    accelerator they are only put where it can fetch them.
    """
    started = time.perf_counter()
    source = torch.from_numpy(read(task.sample, task.union))
    frames = SampleFrames(task, source, time.perf_counter() - started)
    if device.type == "cpu":
        started = time.perf_counter()
        prepare_frames(frames, device)
        frames.preprocess_seconds = time.perf_counter() - started
    else:
        frames.source = source.pin_memory()
    return frames


def prepare_frames(frames: SampleFrames, device: torch.device) -> None:
    """Resize once per distinct input shape on `device`, unless that is done already."""
    if frames.source is None:
        return
    source = frames.source.to(device, non_blocking=True)
    for shape in frames.task.shapes:
        frames.prepared[shape] = resize_frames(source, size=shape.image_size, resize=shape.resize)
    frames.source = None


def choose_samples(samples: Sequence[Sample], count: int | None, seed: int) -> list[Sample]:
    """A seeded, class-stratified choice of `count` samples in id order; all of them for None."""
    ordered = sorted(samples, key=lambda sample: sample.sample_id)
    return ordered if count is None else stratified_subset(ordered, count, seed)
