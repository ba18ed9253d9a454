"""Making scenes: pictures, files and streamed clips.

    .venv/bin/python benchmarks/scene_generation.py [--quick] [--scenes 400]

Pictures: ours computes the pixels around each disc, for many scenes, cameras and frames at once.
The naive side is a loop over frames that blends a disc into the whole picture. First both must give
the same bytes, then they are timed in turn.

Files: scenes per second of `regatta data make trajectories` with four cameras, one video per camera
and all in one, lossless; read back, the pictures must be those that were made. Building: scenes per
second of reading all these videos into the file that training shares. Stream: clips per second of
one camera that a loader gets without files. Last, the peak memory of the process.

On a machine that others use too, the clock tells little: processor time stands beside it, with all
child processes, and both sides of the rendering are compared by it.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from regatta.config.schema import DataSection
from regatta.data.manifest import Sample
from regatta.data.scene_store import SceneStore, build_scenes
from regatta.data.scenes.cameras import Cameras, camera_ring, project
from regatta.data.scenes.render import RED, disc_radius, render_scenes
from regatta.data.scenes.scan import scan_scenes
from regatta.data.scenes.settings import SceneSettings
from regatta.data.scenes.world import draw_scenes

RENDER_TARGET, FILES_TARGET = 10.0, 200.0


def main() -> None:
    options = _parser().parse_args()
    scenes = 48 if options.quick else options.scenes
    processors = len(os.sched_getaffinity(0))
    print(f"scenes of 4 cameras x 32 frames of 64 x 64 pixels; {processors} processors")
    compare_rendering(min(scenes, 64), options.repeats)
    for layout in ("views", "tiled"):
        time_files(layout, scenes)
    time_stream(scenes, options.repeats)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


def render_in_a_loop(
    positions: np.ndarray, cameras: Cameras, settings: SceneSettings
) -> np.ndarray:
    """Frame by frame, every pixel of each: uint8 [n, V, T, 3, S, S]."""
    size = cameras.size
    grid = np.arange(size)
    pixels, depth = project(cameras, positions)
    radius = disc_radius(depth, settings, cameras.focal)
    pictures = np.empty((len(positions), len(cameras), positions.shape[1], 3, size, size), np.uint8)
    for scene in range(len(positions)):
        for view in range(len(cameras)):
            for frame in range(positions.shape[1]):
                x, y = pixels[view, scene, frame]
                distance = np.sqrt((grid[:, None] - y) ** 2 + (grid[None, :] - x) ** 2)
                alpha = np.clip(radius[view, scene, frame] - distance + 0.5, 0, 1)
                for channel in range(3):
                    blend = 255 + alpha * (RED[channel] - 255.0)
                    pictures[scene, view, frame, channel] = np.rint(blend)
    return pictures


def compare_rendering(scenes: int, repeats: int) -> None:
    settings, cameras, indices = SceneSettings(), camera_ring(4, 64), range(scenes)
    shown = draw_scenes(settings, indices).positions[:, : settings.frames]

    def ours() -> np.ndarray:
        return render_scenes(shown, cameras, settings, indices=indices)

    def naive() -> np.ndarray:
        return render_in_a_loop(shown, cameras, settings)

    if not np.array_equal(ours(), naive()):
        raise SystemExit("the sides make other pictures")
    print(f"  equal: all pictures of {scenes} scenes, byte for byte")
    fast, slow = [], []
    for _ in range(repeats):
        fast.append(cost_of(ours)[1])
        slow.append(cost_of(naive)[1])
    ratios = [s / f for s, f in zip(slow, fast, strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"  rendering: {scenes / statistics.median(fast):.0f} scenes per second, in a loop "
        f"{scenes / statistics.median(slow):.0f}: {ratio:.1f} x "
        f"({min(ratios):.1f}-{max(ratios):.1f}), target {RENDER_TARGET:g} x: "
        f"{met(ratio, RENDER_TARGET)}"
    )


def time_files(layout: str, scenes: int) -> None:
    options = {"per_class": -(-scenes // 4), "layout": layout}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        data = DataSection(source="trajectories", root=str(root / "data"), options=options)
        seconds, busy = cost_of(lambda: scan_scenes(data))
        count = 4 * options["per_class"]
        bytes_each = sum(f.stat().st_size for f in (root / "data").rglob("*.*")) / count
        started = time.perf_counter()
        manifest, store = build_scenes(data, root / "scenes")
        building = count / (time.perf_counter() - started)
        check_files(data, store, manifest.samples, root)
    rate, processors = count / seconds, len(os.sched_getaffinity(0))
    print(
        f"  files, {layout}: {rate:.0f} scenes per second ({bytes_each / 1024:.0f} KiB each), "
        f"target {FILES_TARGET:g}: {met(rate, FILES_TARGET)}; {1000 * busy / count:.1f} ms of "
        f"processor time each, {processors * count / busy:.0f} per second if all {processors} were "
        f"free; reading them all: {building:.0f} scenes per second"
    )


def check_files(data: DataSection, store: SceneStore, samples: list[Sample], root: Path) -> None:
    """Stop unless the videos hold the pictures of the stream."""
    streamed = data.model_copy(update={"options": {**data.options, "stream": True}})
    _, other = build_scenes(streamed, root / "none")
    rows = store.rows(samples[:32])
    views = list(store.views)
    if not np.array_equal(store.frames(rows, views), other.frames(rows, views)):
        raise SystemExit("the files hold other pictures than the stream")


def time_stream(scenes: int, repeats: int) -> None:
    options = {"per_class": -(-scenes // 4), "stream": True}
    data = DataSection(source="trajectories", options=options)
    _, store = build_scenes(data, Path("none"))
    batches = np.random.default_rng(0).permutation(len(store.ids))[: scenes // 16 * 16]

    def one_epoch() -> None:
        for rows in batches.reshape(-1, 16):
            store.frames(rows, [0])

    seconds = [cost_of(one_epoch)[0] for _ in range(repeats)]
    print(
        f"  stream: {len(batches) / statistics.median(seconds):.0f} clips of one camera per second"
    )


def cost_of(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of all processors, with child processes."""
    began, started = sum(os.times()[:4]), time.perf_counter()
    run()
    return time.perf_counter() - started, sum(os.times()[:4]) - began


def met(value: float, target: float) -> str:
    return "met" if value >= target else "MISSED"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few scenes, to see that it runs")
    return parser


if __name__ == "__main__":
    main()
