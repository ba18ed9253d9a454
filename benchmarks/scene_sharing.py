"""Four runs that share the decoded pictures of scenes, beside four loaders that decode their own.

    .venv/bin/python benchmarks/scene_sharing.py [--quick] [--scenes 200] [--epochs 5]

Ours reads the videos of all cameras once (their discs are found on the way) into the file that all
runs map into memory, and then gives each of four runs its epochs. The other side does what four
training scripts do: each opens the video of its camera for every scene in every epoch. First both
must give the same pictures, then they are timed in turn, by the clock and by processor time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from scene_generation import cost_of

from regatta.config.schema import DataSection
from regatta.data.decode import read_frames
from regatta.data.scene_loader import SceneLoader
from regatta.data.scene_store import SceneStore, build_scenes
from regatta.data.scenes.scan import scan_scenes

RUNS, FRAMES, SIZE = 4, 32, 64


def main() -> None:
    options = _parser().parse_args()
    scenes, epochs = (40, 2) if options.quick else (options.scenes, options.epochs)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        settings = {"per_class": scenes // 4, "frames": FRAMES, "size": SIZE}
        data = DataSection(source="trajectories", root=str(root / "data"), options=settings)
        scan_scenes(data)
        check_equal(data, root)
        shared, alone = [], []
        for turn in range(options.repeats):
            shared.append(cost_of(lambda t=turn: share(data, root / f"shared{t}", epochs)))
            alone.append(cost_of(lambda: decode_each(data, epochs)))
        for name, column in (("clock", 0), ("processor time", 1)):
            ratios = [o[column] / s[column] for s, o in zip(shared, alone, strict=True)]
            print(
                f"  {RUNS} runs x {epochs} epochs of {scenes} scenes, {name}: four loaders "
                f"{statistics.median(o[column] for o in alone):.1f} s, one reading "
                f"{statistics.median(s[column] for s in shared):.1f} s: "
                f"{statistics.median(ratios):.1f} x ({min(ratios):.1f}-{max(ratios):.1f})"
            )


def share(data: DataSection, folder: Path, epochs: int) -> SceneStore:
    """One reading, then every batch of every run."""
    manifest, store = build_scenes(data, folder, views=(0,))
    samples = manifest.samples
    for run in range(RUNS):
        loader = SceneLoader(
            store, samples, views=(0,), targets=("forecast",), batch_size=16, seed=run
        )
        for epoch in range(epochs):
            for batch in loader.batches(epoch):
                assert len(batch.inputs)
    return store


def decode_each(data: DataSection, epochs: int) -> None:
    """Every run opens the video of its camera for every scene in every epoch."""
    for run in range(RUNS):
        for epoch in range(epochs):
            order = np.random.default_rng([run, epoch]).permutation(len(videos(data)))
            names = videos(data)
            for start in range(0, len(order), 16):
                np.stack([read_video(names[row]) for row in order[start : start + 16]])


def videos(data: DataSection) -> list[Path]:
    assert data.root is not None
    return sorted((Path(data.root) / "videos").glob("*_cam0.mkv"))


def read_video(path: Path) -> np.ndarray:
    """uint8 [T, 3, S, S]."""
    return read_frames(path, range(FRAMES)).images.transpose(0, 3, 1, 2)


def check_equal(data: DataSection, root: Path) -> None:
    """Stop unless both sides give the same pictures."""
    manifest, store = build_scenes(data, root / "check", views=(0,))
    first = manifest.samples[:16]
    ours = store.frames(store.rows(first), (0,))[:, 0].numpy()
    folder = videos(data)[0].parent
    theirs = np.stack([read_video(folder / f"{s.sample_id}_cam0.mkv") for s in first])
    if not np.array_equal(ours, theirs):
        raise SystemExit("the sides give other pictures")
    print("  equal: the pictures of 16 scenes, byte for byte")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few scenes, to see that it runs")
    return parser


if __name__ == "__main__":
    main()
