"""Video files that the benchmarks of judging read: generated, textured, moving, and noisy."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np

from regatta.data.manifest import Sample
from regatta.data.video_files import write_video

FPS, CLASSES = 25, 101
CODECS = {
    "xvid": (".avi", "mpeg4", "XVID", {"b": "600000", "g": "250"}),
    "h264": (".mp4", "libx264", None, {"preset": "veryfast", "crf": "23"}),
}


def make_clips(
    folder: Path,
    codec: str,
    count: int,
    *,
    frames: int | None = None,
    size: tuple[int, int] = (240, 320),
) -> list[Sample]:
    """Write `count` clips of height x width `size`; of 150 to 222 frames unless `frames` says."""
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        return list(
            pool.map(
                lambda number: make_clip(folder, codec, number, frames=frames, size=size),
                range(count),
            )
        )


def make_clip(
    folder: Path, codec: str, number: int, *, frames: int | None, size: tuple[int, int]
) -> Sample:
    """A textured background that drifts, two textured discs that circle, and camera noise."""
    suffix, encoder, tag, options = CODECS[codec]
    rng, (height, width) = np.random.default_rng(number), size
    drawn = int(rng.integers(150, 223))
    count = frames or drawn
    images = np.empty((count, height, width, 3), dtype=np.uint8)
    background, discs = texture(rng, 2 * height, 2 * width), texture(rng, 64, 64)
    rows, columns = np.mgrid[-32:32, -32:32]
    inside = (np.hypot(rows, columns) < 30)[..., None]
    noise = rng.normal(0, 1.5, (4, height, width, 3)).astype(np.int16)
    speed, turn = rng.uniform(0.5, 2.0), rng.uniform(-0.2, 0.2)
    for k in range(count):
        top, left = int(k * speed) % height, int(k * speed * 0.7) % width
        image = background[top : top + height, left : left + width].copy()
        for phase in (0.0, np.pi):
            y = int(height / 2 + 70 * np.sin(turn * k + phase)) - 32
            x = int(width / 2 + 90 * np.cos(turn * k + phase)) - 32
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
        frames=count,
        fps=FPS,
        width=width,
        height=height,
        duration_seconds=count / FPS,
        content_hash=sha256(path.read_bytes()).hexdigest(),
    )


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Coarse and fine random detail, uint8 [height, width, 3]."""
    picture = np.full((height, width, 3), 128.0)
    for cell, strength in ((32, 40), (8, 20), (2, 5)):
        grid = rng.normal(0, strength, (height // cell + 1, width // cell + 1, 3))
        picture += np.kron(grid, np.ones((cell, cell, 1)))[:height, :width]
    return np.clip(picture, 0, 255).astype(np.uint8)


def describe(title: str, samples: Sequence[Sample]) -> None:
    frames = sum(sample.frames for sample in samples) / len(samples)
    size = sum(Path(sample.path).stat().st_size for sample in samples) / len(samples) / 1024
    place = f"{samples[0].width}x{samples[0].height}"
    print(f"\n{title}: {len(samples)} clips of {place}, {frames:.0f} frames and {size:.0f} KiB")
