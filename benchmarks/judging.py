"""One decode pass for all entries and conditions, beside one decode per clip, entry and condition.

    .venv/bin/python benchmarks/judging.py [--clips 60] [--repeats 3] [--codec both]

Three tiny models (TimeSformer 8 frames, VideoMAE 16, ViViT 32; random weights) are judged on the 25
cells of the temporal grid, on generated 320x240 clips of about 186 frames: XviD in AVI and H.264.

The naive loop judges each entry and condition in its own pass: it opens every video, reads frames,
resizes the planned ones and runs them in batches of the same size. It comes in two forms:
  whole   decodes the whole video to RGB, then picks frames (what the reference evaluation does);
  needed  converts the planned frames only and stops behind the last one (our reader, 75 times).
Both use our reader's fast settings. All sides have the same number of torch threads; the naive loop
gives them to one batch after the other, the engine to batches side by side.

All sides judge the same clips, and their scores must agree bit for bit before any time counts. The
naive loop is slow, so decoding alone is compared on 3 clips per codec and the whole way on 12, in
batches of 12 on every side; smaller batches would make every side's forward pass slower and hide
the decoding. Then the engine alone on all clips, and its peak memory with three numbers of clips.
About eight minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from clips import CODECS, describe, make_clips
from sides import (
    CPU,
    MODELS,
    Scores,
    check_frames,
    check_scores,
    judge_fresh,
    make_entries,
    read_needed,
    read_once,
    read_whole,
    report,
    time_in_turn,
)

from regatta.config.schema import ProtocolSection
from regatta.data.manifest import Manifest, Sample
from regatta.data.transforms import normalise, resize_frames
from regatta.evaluation.grid import EntryInput, plan_task
from regatta.evaluation.judge import judge_parts
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.protocols import resolve_protocol

GRID = resolve_protocol(ProtocolSection.model_validate({"name": "temporal-grid"}))
TARGETS = {"decode": {"whole": 60}, "end to end": {"whole": 20}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--codec", choices=[*CODECS, "both"], default="both")
    parser.add_argument("--decoded", type=int, default=3, help="clips per codec, decoding alone")
    parser.add_argument("--judged", type=int, default=12, help="clips per codec, end to end")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        judge_for_memory(options.memory_of, options.clips)
        return
    codecs = list(CODECS) if options.codec == "both" else [options.codec]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = time.perf_counter()
        each = options.clips // len(codecs)
        samples = {codec: make_clips(root / codec, codec, each) for codec in codecs}
        print(
            f"{options.threads} torch threads; clips made in {time.perf_counter() - started:.0f} s"
        )
        for codec, made in samples.items():
            describe(codec, made)
            compare_decoding(made[: options.decoded], options.repeats)
            compare_end_to_end(root, made[: options.judged], max(1, options.repeats - 1))
            judge_all(root, made)
        compare_memory(root / "manifest.parquet", samples[codecs[0]])


def naive_loop(
    entries: list[JudgedEntry],
    samples: list[Sample],
    read: Callable[[Sample, Sequence[int]], np.ndarray],
) -> Scores:
    scores: Scores = {}
    for entry in entries:
        spec = entry.spec
        for condition in GRID.conditions:
            clips = []
            for sample in samples:
                plan = GRID.plan(sample.frames, sample.fps, condition, spec.frames)
                images = torch.from_numpy(read(sample, plan.indices))
                clips.append(resize_frames(images, size=spec.image_size, resize=spec.resize))
            with torch.inference_mode():
                logits = entry.module(normalise(torch.stack(clips), spec.mean, spec.std))
            for sample, row in zip(samples, logits.numpy(), strict=True):
                scores[entry.run_id, sample.sample_id, condition.id] = row
    return scores


def compare_decoding(samples: list[Sample], repeats: int) -> None:
    """Decoding alone: 75 reads of each clip against one, one reading thread on each side."""
    inputs = [EntryInput(frames, 32, "crop") for frames in (8, 16, 32)]
    tasks = [plan_task(sample, GRID, inputs) for sample in samples]

    def naive(read: Callable[[Sample, Sequence[int]], np.ndarray]) -> None:
        for task in tasks:
            for clips in task.clips.values():
                for (place,) in clips.places:
                    read(task.sample, clips.distinct[place].plan.indices)

    check_frames(tasks)
    sides = {
        "whole": lambda: naive(read_whole),
        "needed": lambda: naive(read_needed),
        "once": lambda: [read_once(task) for task in tasks],
    }
    # A single pass takes a tenth of a second, too little to time.
    seconds = time_in_turn(sides, repeats, {"once": 10})
    report("decode", seconds, per=len(samples), base="once", targets=TARGETS["decode"])


def compare_end_to_end(root: Path, samples: list[Sample], repeats: int) -> None:
    """Everything: decode, resize, three models. The scores of all sides must be equal."""
    entries = make_entries(root)

    def engine() -> Scores:
        return judge_fresh(entries, samples, GRID, batch_size=len(samples))

    # This also warms both sides up.
    check_scores(engine(), naive_loop(entries, samples, read_needed))
    sides = {
        "whole": lambda: naive_loop(entries, samples, read_whole),
        "needed": lambda: naive_loop(entries, samples, read_needed),
        "once": engine,
    }
    seconds = time_in_turn(sides, repeats)
    report("end to end", seconds, per=len(samples), base="once", targets=TARGETS["end to end"])


def judge_all(root: Path, samples: list[Sample]) -> None:
    """The engine on every clip, with the batch size that studies use by default."""
    entries = make_entries(root)
    started = time.perf_counter()
    cost = judge_parts(entries, samples, GRID, batch_size=16, part_samples=16, device=CPU)
    wall = time.perf_counter() - started
    forward = sum(cost.forward_seconds.values())
    print(
        f"  all {len(samples)} clips x {len(MODELS)} x {len(GRID.conditions)}: {wall:.1f} s, "
        f"{len(samples) / wall:.1f} clips/s (thread seconds: decode "
        f"{cost.decode_seconds:.1f}, resize {cost.preprocess_seconds:.1f}, forward {forward:.1f})"
    )


def compare_memory(manifest: Path, samples: list[Sample]) -> None:
    """Peak memory of whole processes that judge few and many samples."""
    Manifest(samples, []).save(manifest)
    print("\npeak memory of a process that judges")
    peaks = {}
    for count in (10, 30, 90):
        command = [sys.executable, __file__, "--memory-of", str(manifest), "--clips", str(count)]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[count] = int(child.stdout) / 1024
        print(f"  {count:4d} samples: {peaks[count]:.0f} MiB")
    growth = max(peaks.values()) / min(peaks.values()) - 1
    verdict = "met" if growth < 0.1 else "MISSED"
    print(f"  target under 10 % apart: {verdict} ({100 * growth:.1f} %)")


def judge_for_memory(manifest: Path, count: int) -> None:
    """Judge `count` samples over the files of a manifest, each used as often as needed."""
    made = Manifest.load(manifest).samples
    samples = [
        replace(made[number % len(made)], sample_id=f"{number:05d}") for number in range(count)
    ]
    with tempfile.TemporaryDirectory() as root:
        entries = make_entries(Path(root), ["timesformer"])
        judge_parts(entries, samples, GRID, batch_size=16, part_samples=16, device=CPU)
    # Not getrusage: its peak is handed down from the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


if __name__ == "__main__":
    main()
