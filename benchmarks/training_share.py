"""Three runs that share their clips (`launch.share`), beside the same three without.

    .venv/bin/python benchmarks/training_share.py [--clips 24] [--epochs 6] [--repeats 3]

Training that waits for decoding: generated 1080p H.264 clips of 100 frames, three tiny models, no
frame cache, one loader thread each. Both sides are the product itself: one supervisor, three worker
processes at the same time. Two cases:
  same clips    three models that take the same clips (8 frames): one decoding and one augmentation
  other clips   models with 8, 16 and 32 frames: one decoding, three augmentations

First every weight and every recorded loss of both sides must be equal; then the sides are timed in
turn. Three ratios are printed: the whole training from the first process's start to the last one's
end (with three times loading torch and building models), the longest run's own seconds of training,
and the processor time of the whole, which a busy machine disturbs least. About half an hour on 2
cores.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regatta.config.expand import expand_study
from regatta.config.schema import Study
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.data.video_files import write_video
from regatta.orchestrate.supervise import run_study
from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import open_study

FRAMES, FPS, TARGET = 100, 25, 2.5
SIZES = {"1080p": (1080, 1920), "720p": (720, 1280)}
TIMING = {"seconds", "samples_per_second", "memory_gb"}
CASES: dict[str, list[dict[str, Any]]] = {
    "same clips": [
        {"model": "cnn3d", "options": {"frames": 8, "image_size": 32}},
        {"model": "timesformer", "options": {"frames": 8, "image_size": 32}},
        {"model": "videomae", "options": {"frames": 8, "image_size": 32}},
    ],
    "other clips": [
        {"model": "timesformer", "options": {"frames": 8, "image_size": 32}},
        {"model": "videomae", "options": {"frames": 16, "image_size": 32}},
        {"model": "vivit", "options": {"frames": 32, "image_size": 32}},
    ],
}


@dataclass(frozen=True)
class Outcome:
    """What one side gave: the bytes of all weights, all metrics without times, and its times."""

    weights: list[bytes]
    metrics: list[list[dict[str, Any]]]
    seconds: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=24, help="training clips")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", choices=[*SIZES], default="1080p")
    parser.add_argument("--case", choices=[*CASES], action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = time.perf_counter()
        make_clips(root / "data", *SIZES[options.size], train=options.clips)
        sizes = [path.stat().st_size for path in (root / "data").rglob("*.mp4")]
        rate = statistics.mean(sizes) * 8 / (FRAMES / FPS) / 1e6
        print(
            f"{options.clips} training clips of {options.size}, {FRAMES} frames, {rate:.1f} Mbit/s"
        )
        print(f"made in {time.perf_counter() - started:.0f} s", flush=True)
        for case in options.case or CASES:
            compare(root, case, options.epochs, options.repeats)


def make_clips(root: Path, height: int, width: int, *, train: int) -> None:
    """Two classes: a textured square moves to the right or to the left; 4 clips to validate on."""
    places = [("train", n) for n in range(train)] + [("validation", n) for n in range(4)]
    places += [("test", n) for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(make_clip, root, height, width, *place) for place in places]:
            done.result()


def make_clip(root: Path, height: int, width: int, split: str, number: int) -> None:
    rng = np.random.default_rng([len(split), number])
    cells = rng.integers(60, 196, (height // 8 + 1, 2 * width // 8 + 1, 3), dtype=np.uint8)
    scene = np.kron(cells, np.ones((8, 8, 1), dtype=np.uint8))[:height]
    images = np.empty((FRAMES, height, width, 3), dtype=np.uint8)
    # Grain as of a camera: without it a 1080p file has a tenth of the usual bit rate.
    noise = rng.integers(0, 36, (height, width, 3), dtype=np.uint8)
    side = height // 3
    for frame in range(FRAMES):
        left = 2 * frame
        images[frame] = scene[:, left : left + width] + np.roll(noise, 7 * frame, axis=1)
        place = (width - side) * frame // FRAMES
        place = width - side - place if number % 2 else place
        images[frame, side : 2 * side, place : place + side] = 240
    path = root / split / ("left" if number % 2 else "right") / f"{split}{number:03d}.mp4"
    write_video(path, images, fps=FPS, options={"preset": "veryfast", "crf": "23"})


def compare(root: Path, case: str, epochs: int, repeats: int) -> None:
    ratios: dict[str, list[float]] = {}
    for repeat in range(repeats):
        apart = train(root, case, epochs, share=False, repeat=repeat)
        shared = train(root, case, epochs, share=True, repeat=repeat)
        if apart.weights != shared.weights or apart.metrics != shared.metrics:
            raise SystemExit(f"{case}: the two sides give different results")
        for name, seconds in apart.seconds.items():
            ratios.setdefault(name, []).append(seconds / shared.seconds[name])
            print(f"  {name}: separate {seconds:.1f} s, shared {shared.seconds[name]:.1f} s")
    print(f"{case}: weights and metrics equal; target {TARGET}x")
    for name, found in ratios.items():
        print(f"  {name}: {statistics.median(found):.2f}x ({min(found):.2f}-{max(found):.2f})")
    sys.stdout.flush()


def train(root: Path, case: str, epochs: int, *, share: bool, repeat: int) -> Outcome:
    name = f"{case.replace(' ', '-')}-{'shared' if share else 'apart'}-{repeat}"
    study = Study.model_validate(
        {
            "name": name,
            "data": {"source": "folder", "root": str(root / "data")},
            "entries": [
                {**entry, "name": f"e{number}", "size": "tiny", "checkpoint": "none"}
                for number, entry in enumerate(CASES[case])
            ],
            "train": {
                "epochs": epochs,
                "batch_size": 4,
                "lr": 1e-3,
                "flip": False,
                "frame_cache_gib": 0,
                "log_every_steps": 1,
            },
            "launch": {
                "device": "cpu",
                "share": share,
                "max_parallel": 3,
                "threads_per_run": 1,
            },
        }
    )
    folder = open_study(root / "runs", study)
    # The code of the first launch says that runs are left, which they are.
    run_study(folder, study, stop=StopFlag(), echo=print_nothing, only=("prepare",))
    started, said, used = time.perf_counter(), [], processor_seconds()
    if run_study(folder, study, stop=StopFlag(), echo=said.append, only=("train",)):
        raise SystemExit("\n".join(said))
    wall, used = time.perf_counter() - started, processor_seconds() - used
    runs = [folder.run(spec.run_id) for spec in expand_study(study)]
    return Outcome(
        [(run.model / "model.safetensors").read_bytes() for run in runs],
        [
            [{k: v for k, v in record.items() if k not in TIMING} for record in records]
            for records in (read_metrics(run.metrics) for run in runs)
        ],
        {
            "whole": wall,
            "training alone": max(read_json(r.training_results)["train_seconds"] for r in runs),
            "processor time": used,
        },
    )


def processor_seconds() -> float:
    """Of all workers that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def print_nothing(_line: str) -> None:
    """The sides are told apart by what they print here, not by what the product says."""


if __name__ == "__main__":
    main()
