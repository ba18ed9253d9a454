"""Judge several runs on the same samples in one decode pass: part by part, resumable, sharded."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from regatta.core.signals import StopFlag
from regatta.data.decode import read_chunks
from regatta.data.loader import Decoder, map_in_threads
from regatta.data.manifest import Sample
from regatta.data.transforms import Resize
from regatta.evaluation.grid import (
    EntryInput,
    SampleFrames,
    SampleTask,
    plan_task,
    prepare_frames,
    read_task,
)
from regatta.evaluation.judged_parts import (
    Forwarding,
    JudgeCost,
    Part,
    PartJudge,
    Row,
    Spent,
    close_judges,
    open_judges,
    open_parts,
    open_pool,
)
from regatta.evaluation.predict import DeviceTimer, JudgedEntry
from regatta.evaluation.progress import Progress
from regatta.evaluation.protocols import Protocol

AHEAD_BYTES = 1 << 30
"""Most pictures that are read ahead of the models; one sample may be larger."""


@dataclass(frozen=True)
class Settings:
    """What stays the same over all parts of one call."""

    protocol: Protocol
    resize: Resize | None
    forwarding: Forwarding

    @property
    def device(self) -> torch.device:
        return self.forwarding.device

    def input_of(self, entry: JudgedEntry) -> EntryInput:
        spec = entry.spec
        return EntryInput(spec.frames, spec.image_size, self.resize or spec.resize)


def judge_parts(
    entries: Sequence[JudgedEntry],
    samples: Sequence[Sample],
    protocol: Protocol,
    *,
    batch_size: int,
    part_samples: int,
    device: torch.device,
    shard: tuple[int, int] = (0, 1),
    resize: Resize | None = None,
    autocast: torch.dtype | None = None,
    decode_threads: int = 1,
    decoder: Decoder = "pyav",
    stop: StopFlag | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> JudgeCost:
    """Write the missing prediction parts i, i + n, i + 2n ... of shard (i, n) for all entries.

    Each sample is opened and decoded once, its frames are resized once per distinct size, identical
    clips of an entry run once, and clips of all conditions, views and samples of a part share
    batches of exactly `batch_size`. On a CPU small batches run side by side on the cores that torch
    is set to use, and the scores are bit-equal to running every clip alone in its own filled-up
    batch. Memory holds a few samples at a time, however many there are.

    Args:
        entries: their modules are called from several threads at once on a CPU.
        samples: all samples of the judging, the same for every shard.
        resize: the same for all entries; None = each entry's own.
        autocast: None = float32.
        decode_threads: 0 = decode between batches, in this thread.
        report: told phase, step, total_steps (parts), samples, samples_per_second and
            seconds_left, at every part and about once a second.

    Raises:
        StopRequested: `stop` was set; finished parts are kept, the part in hand is dropped.
        DecodeError: a sample cannot be read any more. What fails for one run alone is told in
            `JudgeCost.failed` instead.
    """
    parts, kept = open_parts(
        entries, samples, protocol.conditions, part_samples=part_samples, shard=shard
    )
    cost = JudgeCost(parts_kept=kept)
    progress = Progress([part.samples for part in parts], kept=kept, stop=stop, report=report)
    forwarding = Forwarding(batch_size, device, autocast, shard, protocol.average)
    if parts:
        with ExitStack() as cleanup:
            if device.type == "cpu":
                pool = cleanup.enter_context(closing(open_pool(entries, batch_size)))
                forwarding = replace(forwarding, pool=pool)
            settings = Settings(protocol, resize, forwarding)
            loaded = _read_ahead(parts, settings, cost, threads=decode_threads, decoder=decoder)
            cleanup.enter_context(closing(loaded))
            for part in parts:
                _judge_part(part, loaded, settings, cost, progress)
                progress.part_done()
                if len(cost.failed) == len(entries):
                    break
    cost.wall_seconds = progress.elapsed()
    return cost


def _read_ahead(
    parts: list[Part], settings: Settings, cost: JudgeCost, *, threads: int, decoder: Decoder
) -> Generator[SampleFrames]:
    """The pictures of every sample of `parts` in turn, read in `threads` threads."""
    device = settings.device

    def read(sample: Sample, indices: Sequence[int], chunk_bytes: int) -> Iterator[np.ndarray]:
        places = [sample.start_frame + index for index in indices]
        return read_chunks(
            sample.path,
            places,
            chunk_bytes=chunk_bytes,
            backend=decoder,
            content_hash=sample.content_hash,
        )

    def load(task: SampleTask) -> SampleFrames:
        if device.type == "cpu":
            # The batches have the cores; more threads inside a reading one only get in their way.
            torch.set_num_threads(1)
        return read_task(task, read, device=device)

    def weigh(task: SampleTask) -> int:
        return task.prepared_bytes if device.type == "cpu" else task.source_bytes

    return map_in_threads(
        load,
        _plan_all(parts, settings, cost),
        threads=threads,
        ahead=2 * threads,
        weigh=weigh,
        weight_limit=AHEAD_BYTES,
    )


def _plan_all(parts: list[Part], settings: Settings, cost: JudgeCost) -> Iterator[SampleTask]:
    for part in parts:
        for sample in part.samples:
            # A run that failed is planned no more; a part keeps its number of tasks all the same.
            alive = [entry for entry in part.entries if entry.run_id not in cost.failed]
            inputs = [settings.input_of(entry) for entry in alive or part.entries]
            yield plan_task(sample, settings.protocol, inputs)


def _judge_part(
    part: Part,
    loaded: Iterator[SampleFrames],
    settings: Settings,
    cost: JudgeCost,
    progress: Progress,
) -> None:
    started, decode_seconds, preprocess_seconds = time.perf_counter(), 0.0, 0.0
    judges = open_judges(part, settings.forwarding, cost, progress.poll)
    preprocess = DeviceTimer(settings.device)
    for frames in islice(loaded, len(part.samples)):
        progress.poll()
        with preprocess.measure():
            prepare_frames(frames, settings.device)
        decode_seconds += frames.decode_seconds
        preprocess_seconds += frames.preprocess_seconds
        cost.frames_decoded += len(frames.task.union)
        add = partial(_add_clips, frames=frames, settings=settings)
        judges = [j for j in judges if cost.keeps(j.run_id, partial(add, j))]
        progress.sample_done()

    def spent() -> Spent:
        prepared = preprocess_seconds + preprocess.take()
        return Spent(decode_seconds, prepared, time.perf_counter() - started)

    close_judges(judges, spent, cost, samples=len(part.samples))


def _add_clips(judge: PartJudge, *, frames: SampleFrames, settings: Settings) -> None:
    """Queue the distinct clips of the part's next sample, and note a row per condition."""
    entry_input = settings.input_of(judge.entry)
    for cut, rows_DT in frames.task.rows(entry_input):
        judge.forward.add(frames.prepared[cut], rows_DT)
    clips, sample = frames.task.clips[entry_input], frames.task.sample
    shown = zip(settings.protocol.conditions, clips.truths, clips.places, strict=True)
    judge.expect([Row(sample, *each) for each in shown], distinct=len(clips.distinct))
