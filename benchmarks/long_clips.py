"""Long and large videos on the 75-cell grid: time, what a sparse read should do, and memory.

    .venv/bin/python benchmarks/long_clips.py [--clips 1] [--repeats 1]
    .venv/bin/python benchmarks/long_clips.py --frames 300 --large-frames 40      # a quick look

Three parts, on generated files:

  grid    1,800 frames of 320x240 (XviD and H.264) and 1080p H.264, three tiny models x 25 cells:
          the engine beside a loop that decodes the whole video to RGB for every cell, picks the
          frames and resizes them. All 75 cells are really run on both sides; the prepared pictures
          of every cell of one model must be equal first.
  sparse  16 and 4 frames spread over a long video: decoding through, as our reader does, beside
          seeking to the key frame before each of them. With a key frame every 250 frames (the
          encoder's default) and every 12. The frames must be equal first.
  memory  peak memory of whole processes that judge 1080p videos of growing length, and 10x3 views
          at 224 pixels.

Nothing is scaled up from fewer cells. About fifteen minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch
from clips import CODECS, describe, make_clips
from sides import CPU, make_entries, one_torch_thread, read_needed, read_whole, report, time_in_turn

from regatta.config.schema import ProtocolSection
from regatta.data.decode import read_chunks
from regatta.data.frame_plan import spread_evenly
from regatta.data.manifest import Manifest, Sample
from regatta.data.transforms import resize_frames
from regatta.evaluation.grid import EntryInput, SampleFrames, SampleTask, plan_task, read_task
from regatta.evaluation.judge import judge_parts
from regatta.evaluation.protocols import Protocol, resolve_protocol

INPUTS = [EntryInput(frames, 32, "crop") for frames in (8, 16, 32)]
LARGE = (1080, 1920)


def design(name: str, **options: object) -> Protocol:
    return resolve_protocol(ProtocolSection.model_validate({"name": name, "options": options}))


GRID = design("temporal-grid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=1, help="per kind of file")
    parser.add_argument("--frames", type=int, default=1800)
    parser.add_argument("--large-frames", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--views", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        judge_for_memory(options.memory_of, options.frames, views=options.views)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made: dict[str, list[Sample]] = {}
        for codec in CODECS:
            made[codec] = make_clips(root / codec, codec, options.clips, frames=options.frames)
        count = options.large_frames
        made["h264 1080p"] = make_clips(
            root / "large", "h264", options.clips, frames=count, size=LARGE
        )
        for title, samples in made.items():
            describe(title, samples)
            compare_grid(samples, options.repeats)
        print("\nsparse reads of one video")
        for codec in CODECS:
            compare_sparse(made[codec][0], codec, options.repeats)
        dense = root / "dense"
        CODECS["h264, a key frame every 12"] = (
            *CODECS["h264"][:3],
            {**CODECS["h264"][3], "g": "12"},
        )
        title = "h264, a key frame every 12"
        (sample,) = make_clips(dense, title, 1, frames=options.frames)
        compare_sparse(sample, title, options.repeats)
        compare_memory(root / "manifest.parquet", made["h264 1080p"][0])


def engine_pictures(task: SampleTask) -> SampleFrames:
    """What the engine's reading thread does with one video."""
    return read_task(
        task,
        lambda sample, indices, limit: read_chunks(sample.path, indices, chunk_bytes=limit),
        device=CPU,
    )


def naive_pictures(task: SampleTask, *, check: SampleFrames | None = None) -> None:
    """Every cell of every model for itself, from a decode of the whole video."""
    for entry, clips in task.clips.items():
        rows = {} if check is None else dict(task.rows(entry))
        for (place,) in clips.places:
            plan, cut = clips.distinct[place]
            images = torch.from_numpy(read_whole(task.sample, plan.indices))
            cell = resize_frames(images, size=entry.image_size, resize=entry.resize)
            if check and not torch.equal(cell, check.prepared[cut][rows[cut][place]]):
                raise SystemExit(f"the sides prepare other pictures of {task.sample.sample_id}")


def compare_grid(samples: list[Sample], repeats: int) -> None:
    tasks = [plan_task(sample, GRID, INPUTS) for sample in samples]
    for task in tasks:
        # One model's cells: the whole loop is timed below, and takes minutes.
        one = plan_task(task.sample, GRID, INPUTS[:1])
        naive_pictures(one, check=engine_pictures(one))
    print("  equal: both sides prepare the same pictures")
    sides = {
        "whole": lambda: [naive_pictures(task) for task in tasks],
        "once": lambda: [engine_pictures(task) for task in tasks],
    }
    with one_torch_thread():
        seconds = time_in_turn(sides, repeats, {"once": 3})
    report("grid", seconds, per=len(samples), base="once")


def seek_frames(sample: Sample, indices: Sequence[int]) -> np.ndarray:
    """Go to the key frame before each wanted frame and decode from there, by time stamp.

    Right for files of constant rate whose stamps are in order, such as these; not for XviD with
    B-frames, which no library seeks right.
    """
    images = []
    with av.open(sample.path) as container:
        stream = container.streams.video[0]
        context, base = stream.codec_context, stream.time_base
        context.thread_count, context.thread_type = 1, "NONE"
        assert base is not None
        start = stream.start_time or 0
        for index in indices:
            wanted = start + round(index / sample.fps / base)
            container.seek(wanted, stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= wanted:
                    images.append(frame.to_ndarray(format="rgb24"))
                    break
    return np.stack(images)


def compare_sparse(sample: Sample, title: str, repeats: int) -> None:
    for count in (16, 4):
        indices = spread_evenly(sample.frames, count)
        if not np.array_equal(seek_frames(sample, indices), read_needed(sample, indices)):
            print(f"  {title}: seeking gives other frames")
            return
        sides = {
            "seek": lambda indices=indices: seek_frames(sample, indices),
            "through": lambda indices=indices: read_needed(sample, indices),
        }
        seconds = time_in_turn(sides, max(3, repeats))
        report(f"{title}, {count} of {sample.frames}", seconds, per=1, base="through")


def compare_memory(manifest: Path, sample: Sample) -> None:
    Manifest([sample], []).save(manifest)
    print("\npeak memory of a process that judges one 1080p video")
    command = [sys.executable, __file__, "--memory-of", str(manifest)]
    for frames in (sample.frames // 4, sample.frames // 2, sample.frames):
        child = subprocess.run(
            [*command, "--frames", str(frames)], capture_output=True, text=True, check=True
        )
        whole = frames * LARGE[0] * LARGE[1] * 3 / 2**20
        print(f"  {frames:5d} frames ({whole:5.0f} MiB decoded), grid: {child.stdout.strip()}")
    child = subprocess.run(
        [*command, "--frames", str(sample.frames), "--views"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    print(f"  {sample.frames:5d} frames, 10x3 views at 224 pixels: {child.stdout.strip()}")


def judge_for_memory(manifest: Path, frames: int, *, views: bool) -> None:
    (sample,) = Manifest.load(manifest).samples
    sample = replace(sample, frames=frames)
    protocol = design("multi-view", views=["10x3"]) if views else GRID
    side = 224 if views else 32
    with tempfile.TemporaryDirectory() as root:
        entries = make_entries(Path(root), ["videomae"], image_size=side)
        judge_parts(entries, [sample], protocol, batch_size=4, part_samples=16, device=CPU)
    # Not getrusage: its peak is handed down from the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(f"{peak / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
