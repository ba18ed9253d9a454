"""Generated source `paths`: one bright blob on one of four kinds of path, one camera.

All classes share one range of path lengths, and so of mean speeds; a path is turned to any
direction and lies anywhere in the frame. Only the form of the path names the class.

| class | form, before it is scaled and turned |
|---|---|
| linear | a straight line, even speed |
| parabolic | y = 4 h (x - 1/2)^2 with depth h 0.6 to 1.2 of its width, even speed across |
| circular | 0.6 to 0.95 turns of a circle, either sense, even speed |
| zigzag | 3 to 5 equal straight pieces, turning back and forth by 80 to 120 degrees, even speed |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from regatta.core.errors import ConfigError
from regatta.core.registry import SOURCES
from regatta.core.seeds import stream
from regatta.data.manifest import SampleRow, SplitName
from regatta.data.sources import only_split_one
from regatta.data.sources._generated import (
    ENCODERS,
    Codec,
    draw_blob,
    generate_clips,
    numbered_clips,
)

Family = Literal["linear", "parabolic", "circular", "zigzag"]
FAMILIES: tuple[Family, ...] = get_args(Family)

PATH_LENGTH, MARGIN = (0.45, 0.70), 0.12
"""Shares of the frame's side: range of path lengths; what the path keeps clear of the border."""

_OUTLINE_POINTS = 1024


@dataclass(frozen=True)
class PathSettings:
    """Everything the pictures follow from. Raises ConfigError for values out of range."""

    families: Sequence[Family] = FAMILIES
    frames: int = 32
    fps: int = 16
    size_px: int = 64
    train_clips: int = 600
    validation_clips: int = 100
    test_clips: int = 100
    noise: float = 0.05
    codec: Codec = "h264"
    generator_seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", tuple(self.families))
        classes = len(self.families)
        checks = {
            "families": classes >= 2
            and len(set(self.families)) == classes
            and set(self.families) <= set(FAMILIES),
            "codec": self.codec in ENCODERS,
            "frames": self.frames >= 2,
            "fps": self.fps >= 1,
            "size_px": self.size_px >= 16 and self.size_px % 2 == 0,
            "noise": 0 <= self.noise <= 1,
            "train_clips": self.train_clips >= classes,
            "validation_clips": self.validation_clips == 0 or self.validation_clips >= classes,
            "test_clips": self.test_clips >= classes,
        }
        wrong = [f"{name} = {getattr(self, name)}" for name, holds in checks.items() if not holds]
        if wrong:
            raise ConfigError(
                f"paths cannot be made with {', '.join(wrong)}",
                where="data.options",
                hint=f"families: two or more of {', '.join(FAMILIES)}; size_px: even, from 16; "
                "clips: at least one per class",
            )


def plan_path(settings: PathSettings, split: str, number: int) -> np.ndarray:
    """Positions of clip `number` of a split: float64 [N, 2], x right and y down, in pixels.

    Depends on settings, split and number only. Classes alternate, so every split is balanced.
    """
    rng = stream(settings.generator_seed or 0, "paths", split, number)
    family = settings.families[number % len(settings.families)]
    outline = _OUTLINES[family](np.linspace(0, 1, _OUTLINE_POINTS), rng)
    steps = np.hypot(*np.diff(outline, axis=0).T)
    heading = rng.uniform(0, 2 * math.pi)
    turn = np.array(
        [[math.cos(heading), -math.sin(heading)], [math.sin(heading), math.cos(heading)]]
    )
    path = outline @ turn.T * (rng.uniform(*PATH_LENGTH) / steps.sum())
    # A path is nowhere wider than it is long, so it fits between the margins in any direction.
    low, high = MARGIN - path.min(axis=0), 1 - MARGIN - path.max(axis=0)
    path = path + rng.uniform(low, high)
    shown = np.linspace(0, _OUTLINE_POINTS - 1, settings.frames)
    places = np.stack(
        [np.interp(shown, np.arange(_OUTLINE_POINTS), path[:, axis]) for axis in (0, 1)], axis=1
    )
    return places * (settings.size_px - 1)


def _linear(share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    _ = rng
    return np.stack([share, np.zeros_like(share)], axis=1)


def _parabolic(share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.stack([share, 4 * rng.uniform(0.6, 1.2) * (share - 0.5) ** 2], axis=1)


def _circular(share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle = 2 * math.pi * rng.uniform(0.6, 0.95) * rng.choice([-1, 1]) * share
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _zigzag(share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pieces = int(rng.integers(3, 6))
    half = math.radians(rng.uniform(80, 120)) / 2
    across = share * pieces
    # Distance to the nearest even number: a triangle wave with straight sides of equal length.
    wave = np.abs(across - 2 * np.rint(across / 2))
    return np.stack([across * math.cos(half), wave * math.sin(half)], axis=1)


_OUTLINES = {
    "linear": _linear,
    "parabolic": _parabolic,
    "circular": _circular,
    "zigzag": _zigzag,
}


def render_path(settings: PathSettings, split: str, number: int) -> np.ndarray:
    """Pictures of one clip, uint8 [N, S, S, 3], grey."""
    places = plan_path(settings, split, number)
    rng = stream(settings.generator_seed or 0, "paths", split, number, "noise")
    return draw_blob(places[:, 0], places[:, 1], settings.size_px, noise=settings.noise, rng=rng)


_DEFAULT = PathSettings()


@SOURCES.register("paths", generates=True)
def read_paths(
    root: Path,
    *,
    split: int,
    seed: int,
    families: Sequence[Family] = _DEFAULT.families,
    frames: int = _DEFAULT.frames,
    fps: int = _DEFAULT.fps,
    size_px: int = _DEFAULT.size_px,
    train_clips: int = _DEFAULT.train_clips,
    validation_clips: int = _DEFAULT.validation_clips,
    test_clips: int = _DEFAULT.test_clips,
    noise: float = _DEFAULT.noise,
    codec: Codec = _DEFAULT.codec,
    generator_seed: int | None = None,
) -> list[SampleRow]:
    """Write the clips that `root` lacks, then list all.

    Files are `<root>/<split>/<class>/trajectory-00012.mp4`.


    Args:
        split: always 1, there is one. seed: draws the clips unless `generator_seed` is given.

    Every clip is a group of its own: two clips share no draw.
    Raises ConfigError, DataError (root holds something else), DiskError.
    """
    only_split_one(split, "paths")
    settings = PathSettings(
        families=families,
        frames=frames,
        fps=fps,
        size_px=size_px,
        train_clips=train_clips,
        validation_clips=validation_clips,
        test_clips=test_clips,
        noise=noise,
        codec=codec,
        generator_seed=seed if generator_seed is None else generator_seed,
    )
    clips = numbered_clips(train=train_clips, validation=validation_clips, test=test_clips)
    rows = [_row(root, settings, name, number) for name, number in clips]
    pictures = {
        row.path: partial(render_path, settings, name, number)
        for row, (name, number) in zip(rows, clips, strict=True)
    }
    generate_clips(root, "paths", asdict(settings), pictures, fps=fps, codec=codec)
    return rows


def _row(root: Path, settings: PathSettings, split: SplitName, number: int) -> SampleRow:
    family = settings.families[number % len(settings.families)]
    suffix, _ = ENCODERS[settings.codec]
    return SampleRow(
        path=root / split / family / f"trajectory-{number:05d}{suffix}",
        label_name=family,
        group=f"{split}-{number:05d}",
        split=split,
    )
