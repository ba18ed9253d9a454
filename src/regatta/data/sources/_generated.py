"""What generated sources share: drawing a blob, and writing each clip once, whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from regatta.core.errors import DataError
from regatta.core.files import create_json, ensure_writable, plain, read_json_object
from regatta.data.manifest import SplitName
from regatta.data.video_files import write_video

Codec = Literal["h264", "xvid"]

GROUND, PEAK = 0.15, 0.90
"""Grey levels of the ground and of the blob's middle: noise of 5 % is hardly ever clipped."""
BLOB_SIGMA = 0.055
"""Width of the blob, as a share of the frame's side."""

GENERATOR_VERSION = 1
"""Raised when the same settings would give other pictures, so that old and new files never mix."""

# Near lossless on purpose: a coarser codec leaves ghosts of earlier frames, and one frame would
# then betray the direction.
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": (".mp4", {"codec": "libx264", "options": {"crf": "12", "preset": "veryfast"}}),
    "xvid": (".avi", {"codec": "mpeg4", "tag": "XVID", "options": {"qmin": "2", "qmax": "2"}}),
}
"""Codec -> file suffix and what `write_video` is told."""


def draw_blob(
    x_px: np.ndarray, y_px: np.ndarray, size_px: int, *, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """A bright Gaussian blob at (x, y) [N] in each frame, with pixel noise: uint8 [N, S, S, 3]."""
    grid, sigma = np.arange(size_px), BLOB_SIGMA * size_px
    across = np.exp(-0.5 * ((grid - x_px[:, None]) / sigma) ** 2)
    down = np.exp(-0.5 * ((grid - y_px[:, None]) / sigma) ** 2)
    light = GROUND + (PEAK - GROUND) * down[:, :, None] * across[:, None, :]
    light = light + noise * rng.standard_normal(light.shape)
    grey = np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def numbered_clips(*, train: int, validation: int, test: int) -> list[tuple[SplitName, int]]:
    """All clips of a generated source as (split, number in the split)."""
    counts: list[tuple[SplitName, int]] = [
        ("train", train),
        ("validation", validation),
        ("test", test),
    ]
    return [(split, number) for split, count in counts for number in range(count)]


def generate_clips(
    root: Path,
    source: str,
    settings: Mapping[str, Any],
    pictures: Mapping[Path, Callable[[], np.ndarray]],
    *,
    fps: int,
    codec: Codec,
) -> None:
    """Write every file of `pictures` that is missing; what is there was written whole and is kept.

    Args:
        settings: all that the pictures follow from; kept in `generated.json` and compared.
        pictures: file -> function that draws its frames, uint8 [N, H, W, 3].
    Raises:
        DataError: root holds files that were not generated, or other settings. DiskError.
    """
    claim_root(root, source, {"version": GENERATOR_VERSION, **settings})
    missing = {path: draw for path, draw in pictures.items() if not path.exists()}
    _, encoder = ENCODERS[codec]

    def write(path: Path) -> None:
        write_video(path, missing[path](), fps=fps, **encoder)

    # Encoding lets go of the interpreter lock; a second thread also hides the wait for the disk.
    with ThreadPoolExecutor(max_workers=2) as pool:
        for _ in pool.map(write, missing):
            pass


def claim_root(root: Path, source: str, settings: Mapping[str, Any]) -> None:
    """Mark root as generated with these settings, or agree that it is.

    Raises:
        DataError: it holds files of other settings or of another origin. DiskError.
    """
    marker = root / "generated.json"
    wanted = {"source": source, **plain(dict(settings))}
    if not marker.is_file():
        _refuse_strangers(root, source, marker)
        ensure_writable(root)
        # Before the first file, so that an interrupted generation is known for what it is.
        create_json(marker, wanted)
    # Also what was just written: another process may have claimed the folder first.
    found = read_json_object(marker)
    names = sorted({*wanted, *found})
    differing = [n for n in names if wanted.get(n) != found.get(n)]
    if differing:
        changes = [f"{n} is {found.get(n)}, not {wanted.get(n)}" for n in differing]
        raise DataError(
            f"the folder holds data of other settings: {'; '.join(changes)}",
            where=marker,
            hint="set data.root to another folder, or delete this one to make it anew",
        )


def _refuse_strangers(root: Path, source: str, marker: Path) -> None:
    if not root.is_dir() or all(entry.name.startswith(".") for entry in root.iterdir()):
        return
    # Its first files may have come with its mark, a moment ago.
    if not marker.is_file():
        raise DataError(
            f"the folder holds files that source '{source}' did not make",
            where=root,
            hint="set data.root to a new or empty folder",
        )
