"""Judge several runs on the same samples in one decode pass: part by part, resumable, sharded."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from regatta.core.errors import RunError
from regatta.core.signals import StopFlag
from regatta.data.decode import read_chunks
from regatta.data.loader import Decoder, map_in_threads
from regatta.data.manifest import Sample
from regatta.data.transforms import Resize
from regatta.evaluation.grid import (
    EntryInput,
    SampleFrames,
    SampleTask,
    Truth,
    plan_task,
    prepare_frames,
    read_task,
)
from regatta.evaluation.part_files import (
    PartCost,
    open_folder,
    part_is_whole,
    record_cost,
    split_parts,
)
from regatta.evaluation.predict import (
    BatchedForward,
    DeviceTimer,
    ForwardPool,
    JudgedEntry,
    batches_side_by_side,
)
from regatta.evaluation.progress import Progress
from regatta.evaluation.protocols import Protocol
from regatta.evaluation.view_scores import average_views
from regatta.records.predictions import TRUTH_COLUMNS, Condition, write_part

AHEAD_BYTES = 1 << 30
"""Most pictures that are read ahead of the models; one sample may be larger."""


@dataclass
class JudgeCost:
    """What one call of `judge_parts` did. Seconds are summed over the threads that spent them.

    failed: run id -> why it could not be judged. Its finished parts stay; other runs go on.
    """

    parts_done: int = 0
    parts_kept: int = 0
    """Parts of this shard that every entry had on disk already."""
    samples: int = 0
    frames_decoded: int = 0
    distinct_clips: int = 0
    decode_seconds: float = 0.0
    preprocess_seconds: float = 0.0
    forward_seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    failed: dict[str, RunError] = field(default_factory=dict)

    def keeps(self, run_id: str, step: Callable[[], None]) -> bool:
        """Do one step of one run; False, and noted, when it fails."""
        try:
            step()
        except RunError as error:
            self.failed[run_id] = error
        return run_id not in self.failed


@dataclass(frozen=True)
class Part:
    """One part with the entries that still lack it."""

    number: int
    samples: list[Sample]
    entries: list[JudgedEntry]


@dataclass(frozen=True)
class Settings:
    """What stays the same over all parts of one call."""

    protocol: Protocol
    batch_size: int
    device: torch.device
    autocast: torch.dtype | None
    resize: Resize | None
    shard: tuple[int, int]

    pool: ForwardPool | None = None

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
    settings = Settings(protocol, batch_size, device, autocast, resize, shard)
    for entry in entries:
        open_folder(
            entry.folder,
            samples=samples,
            conditions=protocol.conditions,
            part_samples=part_samples,
            fingerprint=entry.fingerprint,
        )
    own = list(enumerate(split_parts(samples, part_samples)))[shard[0] :: shard[1]]
    parts = [part for part in (_lacking(entries, n, s, protocol) for n, s in own) if part.entries]
    cost = JudgeCost(parts_kept=len(own) - len(parts))
    progress = Progress(
        [part.samples for part in parts], kept=cost.parts_kept, stop=stop, report=report
    )
    if parts:
        with ExitStack() as cleanup:
            if device.type == "cpu":
                pool = cleanup.enter_context(closing(_forward_pool(entries, batch_size)))
                settings = replace(settings, pool=pool)
            loaded = _read_ahead(parts, settings, cost, threads=decode_threads, decoder=decoder)
            cleanup.enter_context(closing(loaded))
            for part in parts:
                _judge_part(part, loaded, settings, cost, progress)
                progress.part_done()
                if len(cost.failed) == len(entries):
                    break
    cost.wall_seconds = progress.elapsed()
    return cost


def _forward_pool(entries: Sequence[JudgedEntry], batch_size: int) -> ForwardPool:
    threads = torch.get_num_threads()
    specs = [entry.spec for entry in entries]
    workers = batches_side_by_side(specs, batch_size=batch_size, threads=threads)
    return ForwardPool(workers, threads=threads)


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


def _lacking(
    entries: Sequence[JudgedEntry], number: int, samples: list[Sample], protocol: Protocol
) -> Part:
    conditions = protocol.conditions
    lacking = [e for e in entries if not part_is_whole(e.folder, number, samples, conditions)]
    return Part(number, samples, lacking)


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
    judges = [
        PartJudge(part, entry, settings, progress.poll)
        for entry in part.entries
        if entry.run_id not in cost.failed
    ]
    preprocess = DeviceTimer(settings.device)
    for frames in islice(loaded, len(part.samples)):
        progress.poll()
        with preprocess.measure():
            prepare_frames(frames, settings.device)
        decode_seconds += frames.decode_seconds
        preprocess_seconds += frames.preprocess_seconds
        cost.frames_decoded += len(frames.task.union)
        judges = [j for j in judges if cost.keeps(j.run_id, partial(j.add, frames))]
        progress.sample_done()
    judges = [j for j in judges if cost.keeps(j.run_id, j.finish)]
    preprocess_seconds += preprocess.take()
    wall_seconds = time.perf_counter() - started
    for judge in judges:
        judge.write(decode_seconds, preprocess_seconds, wall_seconds, shared_by=len(judges))
        known = cost.forward_seconds.get(judge.run_id, 0.0)
        cost.forward_seconds[judge.run_id] = known + judge.forward_seconds
        cost.distinct_clips += len(judge.scores_DK)
    cost.decode_seconds += decode_seconds
    cost.preprocess_seconds += preprocess_seconds
    cost.samples += len(part.samples)
    cost.parts_done += 1


class PartJudge:
    """One entry on one part: its clips, then its scores, then its rows on disk.

    scores_DK: float32, one row per distinct clip of the part, sample by sample.
    """

    def __init__(
        self, part: Part, entry: JudgedEntry, settings: Settings, poll: Callable[[], None]
    ) -> None:
        self.run_id = entry.run_id
        self._part, self._folder, self._settings = part, entry.folder, settings
        self._input = settings.input_of(entry)
        self._forward = BatchedForward(
            entry,
            batch_size=settings.batch_size,
            device=settings.device,
            autocast=settings.autocast,
            poll=poll,
            pool=settings.pool,
        )
        self._tasks: list[SampleTask] = []
        self.scores_DK = np.empty((0, 0), dtype=np.float32)
        self.forward_seconds = 0.0

    def add(self, frames: SampleFrames) -> None:
        """Queue the distinct clips of the part's next sample."""
        self._tasks.append(frames.task)
        for cut, rows_DT in frames.task.rows(self._input):
            self._forward.add(frames.prepared[cut], rows_DT)

    def finish(self) -> None:
        """Run what is still queued; RunError names the first clip whose scores are not finite."""
        self.scores_DK, self.forward_seconds = self._forward.finish()
        finite = [bool(np.isfinite(scores_K).all()) for scores_K in self.scores_DK]
        for sample, condition, _, rows in self._rows():
            if not all(finite[row] for row in rows):
                raise RunError(
                    f"run {self.run_id} gave scores that are not finite",
                    where=f"sample {sample.sample_id}, condition {condition.id}",
                    hint="its weights or its precision are broken: train it again or judge in fp32",
                )

    def _rows(self) -> Iterator[tuple[Sample, Condition, Truth, list[int]]]:
        """(sample, condition, truth, rows of `scores_DK`) of every prediction of the part; a row
        per view."""
        first = 0
        conditions = self._settings.protocol.conditions
        for task in self._tasks:
            clips = task.clips[self._input]
            for condition, truth, places in zip(
                conditions, clips.truths, clips.places, strict=True
            ):
                yield task.sample, condition, truth, [first + place for place in places]
            first += len(clips.distinct)

    def write(
        self,
        decode_seconds: float,
        preprocess_seconds: float,
        wall_seconds: float,
        *,
        shared_by: int,
    ) -> None:
        """Write the part, then its cost; `shared_by` entries divide the given seconds."""
        rows = list(self._rows())
        columns = {
            "sample_id": [sample.sample_id for sample, *_ in rows],
            "group": [sample.group for sample, *_ in rows],
            "condition": [condition.id for _, condition, *_ in rows],
            "label": [sample.label for sample, *_ in rows],
            **{
                name: [getattr(truth, name) for *_, truth, _ in rows]
                for name in (*TRUTH_COLUMNS, "clip_key")
            },
        }
        average = self._settings.protocol.average
        scores = np.stack([average_views(self.scores_DK[views], average) for *_, views in rows])
        write_part(self._folder, self._part.number, columns, scores)
        spent = PartCost(
            samples=len(self._part.samples),
            clips=len(rows),
            distinct_clips=len(self.scores_DK),
            decode_seconds=decode_seconds / shared_by,
            preprocess_seconds=preprocess_seconds / shared_by,
            forward_seconds=self.forward_seconds,
            wall_seconds=wall_seconds / shared_by,
            shared_by=shared_by,
        )
        record_cost(self._folder, self._settings.shard, self._part.number, spent)
