"""Five or ten clips x three crops per video from one decode, beside one open per view.

    .venv/bin/python benchmarks/multi_view.py [--clips 6] [--repeats 5] [--codec both]

The test protocols of published video models: 5x3 and 10x3 views of 16 frames, 4 apart, scores
averaged, on generated 320x240 clips of about 186 frames: XviD in AVI and H.264.

The naive loop does for each view what a data set class does: it opens the video, reads the view's
frames with our own reader (converts these frames only, stops behind the last one), resizes them,
cuts the crop, and runs the view. The engine opens and decodes each video once, resizes each frame
once, and cuts all crops from it. Three comparisons per protocol:
  decode      opening, decoding and converting alone: the promise;
  pictures    the same with resize and crop;
  end to end  with a tiny VideoMAE, batches of one video's views on both sides.
Frames, and then every score, must agree bit for bit before any time counts. One reading thread on
each side, the same number of torch threads. About three minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from clips import CODECS, describe, make_clips
from sides import (
    CPU,
    Scores,
    check_frames,
    check_scores,
    judge_fresh,
    make_entries,
    one_torch_thread,
    read_needed,
    read_once,
    report,
    time_in_turn,
)

from regatta.config.schema import ProtocolSection
from regatta.data.decode import read_chunks
from regatta.data.manifest import Sample
from regatta.data.transforms import normalise, resize_frames
from regatta.evaluation.grid import EntryInput, SampleTask, plan_task, read_task
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.protocols import Protocol, View, resolve_protocol
from regatta.evaluation.view_scores import average_views

FRAMES, SIDE = 16, 32
TARGETS = {"5x3": 8, "10x3": 15}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=6, help="per codec")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--codec", choices=[*CODECS, "both"], default="both")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} torch threads")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for codec in CODECS if options.codec == "both" else [options.codec]:
            samples = make_clips(root / codec, codec, options.clips)
            for views, target in TARGETS.items():
                describe(f"{codec}, {views} views", samples)
                section = {"name": "multi-view", "options": {"views": [views], "stride": 4}}
                protocol = resolve_protocol(ProtocolSection.model_validate(section))
                compare_reading(samples, protocol, target, options.repeats)
                compare_end_to_end(root, samples, protocol, options.repeats)


def views_of(sample: Sample, protocol: Protocol) -> tuple[View, ...]:
    (condition,) = protocol.conditions
    return protocol.plan_views(sample.frames, sample.fps, condition, FRAMES)


def naive_pictures(sample: Sample, view: View) -> torch.Tensor:
    """One view: open, read, resize, crop."""
    images = torch.from_numpy(read_needed(sample, view.plan.indices))
    return resize_frames(images, size=SIDE, resize="crop", crop=view.crop)


def engine_pictures(task: SampleTask) -> None:
    read_task(
        task,
        lambda sample, indices, limit: read_chunks(sample.path, indices, chunk_bytes=limit),
        device=CPU,
    )


def compare_reading(samples: list[Sample], protocol: Protocol, target: float, repeats: int) -> None:
    entry = EntryInput(FRAMES, SIDE, "crop")
    tasks = [plan_task(sample, protocol, [entry]) for sample in samples]
    views = [(sample, view) for sample in samples for view in views_of(sample, protocol)]
    check_frames(tasks)
    passes = {"once": 10}
    decode = {
        "per view": lambda: [read_needed(sample, view.plan.indices) for sample, view in views],
        "once": lambda: [read_once(task) for task in tasks],
    }
    pictures = {
        "per view": lambda: [naive_pictures(sample, view) for sample, view in views],
        "once": lambda: [engine_pictures(task) for task in tasks],
    }
    targets = {"per view": target}
    seconds = time_in_turn(decode, repeats, passes)
    report("decode", seconds, per=len(samples), base="once", targets=targets)
    with one_torch_thread():
        seconds = time_in_turn(pictures, repeats, passes)
    report("pictures", seconds, per=len(samples), base="once")


def naive_loop(entry: JudgedEntry, samples: list[Sample], protocol: Protocol) -> Scores:
    scores: Scores = {}
    (condition,) = protocol.conditions
    for sample in samples:
        clips = [naive_pictures(sample, view) for view in views_of(sample, protocol)]
        with torch.inference_mode():
            batch = normalise(torch.stack(clips), entry.spec.mean, entry.spec.std)
            logits = entry.module(batch).numpy()
        row = average_views(logits, protocol.average)
        scores[entry.run_id, sample.sample_id, condition.id] = np.asarray(row)
    return scores


def compare_end_to_end(root: Path, samples: list[Sample], protocol: Protocol, repeats: int) -> None:
    entries = make_entries(root, ["videomae"])
    batch_size = len(views_of(samples[0], protocol))

    def engine() -> Scores:
        return judge_fresh(entries, samples, protocol, batch_size=batch_size)

    def naive() -> Scores:
        return naive_loop(entries[0], samples, protocol)

    check_scores(engine(), naive())
    seconds = time_in_turn({"per view": naive, "once": engine}, repeats)
    report("end to end", seconds, per=len(samples), base="once")


if __name__ == "__main__":
    main()
