"""One decode pass for all entries and conditions, beside one decode per clip, entry and condition.

    .venv/bin/python benchmarks/judging.py [--clips 60] [--repeats 3] [--codec both]

Three tiny models (TimeSformer 8 frames, VideoMAE 16, ViViT 32; random weights) are judged on the 25
cells of the temporal grid, on generated 320x240 clips of about 186 frames: XviD in AVI and H.264.

The naive loop judges each entry and condition in its own pass: it opens every video, reads frames,
resizes the planned ones and runs them in batches of the same size. It comes in two forms:
  whole   decodes the whole video to RGB, then picks frames (what the reference evaluation does);
  needed  converts the planned frames only and stops behind the last one (our reader, 75 times).
Both use our reader's fast settings, and the same torch threads as the engine.

All sides judge the same clips, and their scores must agree bit for bit before any time counts. The
naive loop is slow, so decoding alone is compared on 3 clips per codec and the whole way on 12, in
batches of 12 on every side; smaller batches would make every side's forward pass slower and hide
the decoding. Then the engine alone on all clips, and its peak memory with three numbers of clips.
About eight minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from regatta.config.schema import EntrySection, ProtocolSection
from regatta.data.decode import read_frames
from regatta.data.manifest import Manifest, Sample
from regatta.data.transforms import normalise, resize_frames
from regatta.data.video_files import write_video
from regatta.evaluation.grid import InputShape, plan_task
from regatta.evaluation.judge import judge_parts
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.protocols import resolve_protocol
from regatta.models.spec import resolve_model
from regatta.records.predictions import read_part

HEIGHT, WIDTH, FPS, CLASSES = 240, 320, 25, 101
MODELS = ("timesformer", "videomae", "vivit")
CODECS = {
    "xvid": (".avi", "mpeg4", "XVID", {"b": "600000", "g": "250"}),
    "h264": (".mp4", "libx264", None, {"preset": "veryfast", "crf": "23"}),
}
CPU = torch.device("cpu")
GRID = resolve_protocol(ProtocolSection.model_validate({"name": "temporal-grid"}))
TARGETS = {"decode": 40, "end to end": 10}
Scores = dict[tuple[str, str, str], np.ndarray]
"""(run, sample, condition) -> float32 [K]."""


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
        samples = {c: make_clips(root / c, c, options.clips // len(codecs)) for c in codecs}
        print(
            f"{options.threads} torch threads; clips made in {time.perf_counter() - started:.0f} s"
        )
        for codec, made in samples.items():
            describe(codec, made)
            compare_decoding(made[: options.decoded], options.repeats)
            compare_end_to_end(root, made[: options.judged], max(1, options.repeats - 1))
            judge_all(root, made)
        compare_memory(root / "manifest.parquet", samples[codecs[0]])


def make_clips(folder: Path, codec: str, count: int) -> list[Sample]:
    folder.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda number: make_clip(folder, codec, number), range(count)))


def make_clip(folder: Path, codec: str, number: int) -> Sample:
    """A textured background that drifts, two textured discs that circle, and camera noise."""
    suffix, encoder, tag, options = CODECS[codec]
    rng = np.random.default_rng(number)
    frames = int(rng.integers(150, 223))
    images = np.empty((frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    background, discs = texture(rng, 2 * HEIGHT, 2 * WIDTH), texture(rng, 64, 64)
    rows, columns = np.mgrid[-32:32, -32:32]
    inside = (np.hypot(rows, columns) < 30)[..., None]
    noise = rng.normal(0, 1.5, (4, HEIGHT, WIDTH, 3)).astype(np.int16)
    speed, turn = rng.uniform(0.5, 2.0), rng.uniform(-0.2, 0.2)
    for k in range(frames):
        top, left = int(k * speed) % HEIGHT, int(k * speed * 0.7) % WIDTH
        image = background[top : top + HEIGHT, left : left + WIDTH].copy()
        for phase in (0.0, np.pi):
            y = int(HEIGHT / 2 + 70 * np.sin(turn * k + phase)) - 32
            x = int(WIDTH / 2 + 90 * np.cos(turn * k + phase)) - 32
            np.copyto(image[y : y + 64, x : x + 64], discs, where=inside)
        images[k] = np.clip(image.astype(np.int16) + noise[k % 4], 0, 255)
    path = write_video(
        folder / f"clip{number:03d}{suffix}",
        images,
        fps=FPS,
        codec=encoder,
        tag=tag,
        options=options,
    )
    return Sample(
        sample_id=path.name,
        path=str(path),
        label=number % CLASSES,
        label_name=f"class{number % CLASSES}",
        group=f"g{number}",
        split="test",
        start_frame=0,
        frames=frames,
        fps=FPS,
        width=WIDTH,
        height=HEIGHT,
        duration_seconds=frames / FPS,
        content_hash=sha256(path.read_bytes()).hexdigest(),
    )


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Coarse and fine random detail, uint8 [height, width, 3]."""
    picture = np.full((height, width, 3), 128.0)
    for cell, strength in ((32, 40), (8, 20), (2, 5)):
        grid = rng.normal(0, strength, (height // cell + 1, width // cell + 1, 3))
        picture += np.kron(grid, np.ones((cell, cell, 1)))[:height, :width]
    return np.clip(picture, 0, 255).astype(np.uint8)


def make_entries(root: Path, models: Sequence[str] = MODELS) -> list[JudgedEntry]:
    entries = []
    for model in models:
        section = EntrySection.model_validate(
            {"model": model, "size": "tiny", "checkpoint": "none"}
        )
        spec = resolve_model(section, CLASSES, seed=0)
        folder = Path(tempfile.mkdtemp(prefix=f"{model}-", dir=root))
        entries.append(JudgedEntry(model, spec.build(CLASSES).eval(), spec, folder))
    return entries


def describe(codec: str, samples: list[Sample]) -> None:
    frames = statistics.mean(sample.frames for sample in samples)
    kilobytes = statistics.mean(Path(sample.path).stat().st_size for sample in samples) / 1024
    print(
        f"\n{codec}: {len(samples)} clips, {frames:.0f} frames and {kilobytes:.0f} KiB on average"
    )


def read_whole(sample: Sample, indices: Sequence[int]) -> np.ndarray:
    return read_frames(sample.path, range(sample.frames)).images[list(indices)]


def read_needed(sample: Sample, indices: Sequence[int]) -> np.ndarray:
    return read_frames(sample.path, indices).images


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


def one_pass(entries: list[JudgedEntry], samples: list[Sample], *, batch_size: int) -> None:
    judge_parts(
        entries, samples, GRID, batch_size=batch_size, part_samples=16, device=CPU, decode_threads=1
    )


def compare_decoding(samples: list[Sample], repeats: int) -> None:
    """Decoding alone: 75 reads of each clip against one, one reading thread on each side."""
    lengths = (8, 16, 32)
    tasks = [
        plan_task(sample, GRID, [(frames, InputShape(32, "crop")) for frames in lengths])
        for sample in samples
    ]

    def naive(read: Callable[[Sample, Sequence[int]], np.ndarray]) -> None:
        for task in tasks:
            for clips in task.clips.values():
                for plan in clips.plans:
                    read(task.sample, plan.indices)

    sides = {
        "whole": lambda: naive(read_whole),
        "needed": lambda: naive(read_needed),
        "once": lambda: [read_needed(task.sample, task.union) for task in tasks],
    }
    # A single pass takes a tenth of a second, within which fresh memory alone can double it.
    passes = {"once": 10}
    report("decode", time_in_turn(sides, repeats, passes), per=len(samples), base="once")


def compare_end_to_end(root: Path, samples: list[Sample], repeats: int) -> None:
    """Everything: decode, resize, three models. The scores of all sides must be equal."""
    found: dict[str, Scores] = {}
    batch_size = len(samples)

    entries = make_entries(root)

    def engine() -> None:
        fresh = [replace(entry, folder=Path(tempfile.mkdtemp(dir=root))) for entry in entries]
        one_pass(fresh, samples, batch_size=batch_size)
        found["once"] = stored_scores(fresh)

    def naive(name: str, read: Callable[[Sample, Sequence[int]], np.ndarray]) -> None:
        found[name] = naive_loop(entries, samples, read)

    sides = {
        "whole": lambda: naive("whole", read_whole),
        "needed": lambda: naive("needed", read_needed),
        "once": engine,
    }
    check_equal(sides, found)
    report("end to end", time_in_turn(sides, repeats), per=len(samples), base="once")


def check_equal(sides: dict[str, Callable[[], None]], found: dict[str, Scores]) -> None:
    """Run each side once, which also warms it up, and compare every score bit for bit."""
    sides["needed"]()
    sides["once"]()
    ours, theirs = found["once"], found["needed"]
    if ours.keys() != theirs.keys():
        raise SystemExit("the sides judged different clips")
    differing = [key for key in theirs if not np.array_equal(ours[key], theirs[key])]
    if differing:
        raise SystemExit(f"{len(differing)} of {len(theirs)} scores differ, first {differing[0]}")
    print(f"  equal: {len(theirs)} scores agree bit for bit")


def stored_scores(entries: list[JudgedEntry]) -> Scores:
    scores: Scores = {}
    for entry in entries:
        for path in sorted(entry.folder.glob("part-*.parquet")):
            table, rows = read_part(path)
            for sample, condition, row in zip(
                table["sample_id"], table["condition"], rows, strict=True
            ):
                scores[entry.run_id, sample, condition] = row
    return scores


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


def report(title: str, seconds: dict[str, list[float]], *, per: int, base: str) -> None:
    """Milliseconds per clip of each side, and how many times the base is faster, turn by turn."""
    for name, values in seconds.items():
        median = statistics.median(values) / per * 1000
        print(f"  {title}, {name:<7} {median:9.1f} ms per clip", end="")
        if name != base:
            ratios = [slow / fast for slow, fast in zip(values, seconds[base], strict=True)]
            middle = statistics.median(ratios)
            print(f"   {middle:6.1f} x  ({min(ratios):.1f}-{max(ratios):.1f})", end="")
            if name == "whole":
                met = "met" if middle >= TARGETS[title] else "MISSED"
                print(f"   target {TARGETS[title]} x: {met}", end="")
        print()


def judge_all(root: Path, samples: list[Sample]) -> None:
    """The engine on every clip, with the batch size that studies use by default."""
    entries = make_entries(root)
    started = time.perf_counter()
    cost = judge_parts(
        entries, samples, GRID, batch_size=16, part_samples=16, device=CPU, decode_threads=1
    )
    wall = time.perf_counter() - started
    forward = sum(cost.forward_seconds.values())
    print(
        f"  all {len(samples)} clips x {len(MODELS)} x {len(GRID.conditions)}: {wall:.1f} s, "
        f"{len(samples) / wall:.1f} clips/s (decode {cost.decode_seconds:.1f} s, "
        f"resize {cost.preprocess_seconds:.1f} s, forward {forward:.1f} s)"
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
        one_pass(make_entries(Path(root), ["timesformer"]), samples, batch_size=16)
    # Not getrusage: its peak is handed down from the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


if __name__ == "__main__":
    main()
