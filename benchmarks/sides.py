"""What the benchmarks of judging share: tiny models, the engine, its scores, sides in turn."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from clips import CLASSES

from regatta.config.schema import EntrySection
from regatta.data.decode import read_chunks, read_frames
from regatta.data.manifest import Sample
from regatta.evaluation.grid import CHUNK_BYTES, SampleTask
from regatta.evaluation.judge import judge_parts
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.protocols import Protocol
from regatta.models.spec import resolve_model
from regatta.records.predictions import read_part

MODELS = ("timesformer", "videomae", "vivit")
CPU = torch.device("cpu")
Scores = dict[tuple[str, str, str], np.ndarray]
"""(run, sample, condition) -> float32 [K]."""


def make_entries(
    root: Path, models: Sequence[str] = MODELS, **options: object
) -> list[JudgedEntry]:
    """Tiny models with random weights; `options` are those of the models."""
    entries = []
    for model in models:
        section = EntrySection.model_validate(
            {"model": model, "size": "tiny", "checkpoint": "none", "options": options}
        )
        spec = resolve_model(section, CLASSES, seed=0)
        folder = Path(tempfile.mkdtemp(prefix=f"{model}-", dir=root))
        entries.append(JudgedEntry(model, spec.build(CLASSES).eval(), spec, folder))
    return entries


def judge_fresh(
    entries: Sequence[JudgedEntry], samples: list[Sample], protocol: Protocol, *, batch_size: int
) -> Scores:
    """The engine with one reading thread, into empty folders; the scores that it stored."""
    root = entries[0].folder.parent
    fresh = [replace(entry, folder=Path(tempfile.mkdtemp(dir=root))) for entry in entries]
    judge_parts(fresh, samples, protocol, batch_size=batch_size, part_samples=16, device=CPU)
    scores: Scores = {}
    for entry in fresh:
        for path in sorted(entry.folder.glob("part-*.parquet")):
            table, rows = read_part(path)
            keys = zip(table["sample_id"], table["condition"], strict=True)
            scores.update({(entry.run_id, *key): row for key, row in zip(keys, rows, strict=True)})
    return scores


def read_whole(sample: Sample, indices: Sequence[int]) -> np.ndarray:
    """Decode the whole video to RGB, then pick."""
    return read_frames(sample.path, range(sample.frames)).images[list(indices)]


def read_needed(sample: Sample, indices: Sequence[int]) -> np.ndarray:
    """Our reader: converts these frames only and stops behind the last one."""
    return read_frames(sample.path, indices).images


def read_once(task: SampleTask) -> None:
    """The engine's reading of one sample."""
    for _ in read_chunks(task.sample.path, task.union, chunk_bytes=CHUNK_BYTES):
        pass


def check_frames(tasks: Sequence[SampleTask]) -> None:
    """Stop unless the engine's one pass gives the frames that each clip reads for itself."""
    for task in tasks:
        pieces = read_chunks(task.sample.path, task.union, chunk_bytes=CHUNK_BYTES)
        images = dict(zip(task.union, np.concatenate(list(pieces)), strict=True))
        for clips in task.clips.values():
            for plan in {clip.plan.unique_key: clip.plan for clip in clips.distinct}.values():
                wanted = read_needed(task.sample, plan.indices)
                if not np.array_equal(wanted, [images[index] for index in plan.indices]):
                    raise SystemExit(f"the sides read other frames of {task.sample.sample_id}")
    print("  equal: both sides read the same frames")


def check_scores(ours: Scores, theirs: Scores) -> None:
    """Stop unless every score agrees bit for bit."""
    if ours.keys() != theirs.keys():
        raise SystemExit("the sides judged different clips")
    differing = [key for key in theirs if not np.array_equal(ours[key], theirs[key])]
    if differing:
        raise SystemExit(f"{len(differing)} of {len(theirs)} scores differ, first {differing[0]}")
    print(f"  equal: {len(theirs)} scores agree bit for bit")


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Both sides resize in the thread that reads, as the engine's reading threads do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def time_in_turn(
    sides: Mapping[str, Callable[[], object]],
    repeats: int,
    passes: Mapping[str, int] | None = None,
) -> dict[str, list[float]]:
    """Seconds of one pass of each side, per turn; a quick side may take several passes a turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            count = (passes or {}).get(name, 1)
            started = time.perf_counter()
            for _ in range(count):
                run()
            seconds[name].append((time.perf_counter() - started) / count)
    return seconds


def report(
    title: str,
    seconds: dict[str, list[float]],
    *,
    per: int,
    base: str,
    targets: Mapping[str, float] | None = None,
) -> None:
    """Milliseconds per clip of each side, and how many times the base is faster, turn by turn."""
    for name, values in seconds.items():
        median = statistics.median(values) / per * 1000
        print(f"  {title}, {name:<8} {median:9.1f} ms per clip", end="")
        if name != base:
            ratios = [slow / fast for slow, fast in zip(values, seconds[base], strict=True)]
            middle = statistics.median(ratios)
            print(f"   {middle:6.1f} x  ({min(ratios):.1f}-{max(ratios):.1f})", end="")
            if targets and name in targets:
                met = "met" if middle >= targets[name] else "MISSED"
                print(f"   target {targets[name]:g} x: {met}", end="")
        print()
