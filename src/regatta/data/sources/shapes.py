"""Generated images of striped shapes under noise, by formula: a small set to learn from in seconds.

Shapes: n images of a block, S pixels in both directions. Lengths: half the image is 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from regatta.core.errors import DataError
from regatta.core.files import atomic_path
from regatta.core.registry import SOURCES
from regatta.core.seeds import stream
from regatta.data.image_listing import ImageListing, ImageRow
from regatta.data.manifest import SplitName
from regatta.data.sources import only_split_one
from regatta.data.sources._generated import claim_root

FORMS = ("disc", "square", "triangle", "ring", "cross")
ANGLES = (0, 45, 90, 135)
"""Degrees of the stripes on a shape."""
NAMES = tuple(f"{form}-{angle}" for angle in ANGLES for form in FORMS)
BLOCK = 256
"""Images drawn together, always in full: what an image holds does not depend on how many there
are."""
VERSION = 1
"""Raised when the same settings would give other images, so that old and new never mix."""
_NUMBERS = 12


@SOURCES.register("shapes", kind="image", generates=True)
def shapes(
    root: Path,
    *,
    split: int = 1,
    seed: int = 0,
    classes: Annotated[int, Field(ge=2, le=len(NAMES))] = 8,
    train_per_class: Annotated[int, Field(ge=1, le=10_000)] = 250,
    test_per_class: Annotated[int, Field(ge=1, le=10_000)] = 125,
    image_size: Annotated[int, Field(ge=8, le=256)] = 32,
    noise: Annotated[float, Field(ge=0, le=1)] = 0.06,
    generator_seed: int | None = None,
) -> ImageListing:
    """Generated images of striped shapes: form and direction of the stripes are the class.

    Place, size, tilt and colours are random and say nothing. Writes `root/train.npy` and
    `root/test.npy` once. Image i of a split follows from the seed and i, whatever else is made.

    Args:
        seed: draws the images unless `generator_seed` is given.
        noise: sd of the pixel noise, of the range 0..1.
    Raises:
        DataError: root holds something else. DiskError.
    """
    only_split_one(split, "shapes")
    seed = seed if generator_seed is None else generator_seed
    counts: dict[SplitName, int] = {
        "train": classes * train_per_class,
        "test": classes * test_per_class,
    }
    settings = {"classes": classes, **counts, "image_size": image_size, "noise": noise}
    claim_root(root, "shapes", {"version": VERSION, **settings, "seed": seed})
    images, rows = [], []
    for name, count in counts.items():
        path = root / f"{name}.npy"
        if not path.is_file():
            drawn = draw_shapes(
                seed, name, count, classes=classes, image_size=image_size, noise=noise
            )
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, drawn, allow_pickle=False)
        images.append(_read(path, (count, 3, image_size, image_size)))
        rows += [
            ImageRow(f"{name}/{n:05d}", NAMES[n % classes], path, n, name) for n in range(count)
        ]
    return ImageListing(np.concatenate(images), rows, list(NAMES[:classes]))


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, str(error)) from error
    if found.shape != shape or found.dtype != np.uint8:
        raise _damaged(path, f"it holds {found.dtype} {list(found.shape)}")
    return found


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(
        f"the generated images cannot be read: {problem}",
        where=path,
        hint="delete the file: it is made anew",
    )


def draw_shapes(
    seed: int, split: str, count: int, *, classes: int, image_size: int, noise: float
) -> np.ndarray:
    """The first images of a split, uint8 [count, 3, S, S]; image i is of class i % classes."""
    drawn = [
        _draw_block(seed, split, block, classes, image_size, noise)
        for block in range(-(-count // BLOCK))
    ]
    return np.concatenate(drawn)[:count]


def _draw_block(
    seed: int, split: str, block: int, classes: int, size: int, noise: float
) -> np.ndarray:
    rng = stream(seed, "shapes", split, block)
    numbers = rng.random((_NUMBERS, BLOCK, 1, 1), dtype=np.float32)
    labels = ((np.arange(BLOCK) + block * BLOCK) % classes)[:, None, None]
    form, angle = labels % len(FORMS), np.deg2rad(np.array(ANGLES, np.float32))
    x, y = _own_coordinates(numbers[:4], size)
    along = np.take(angle, labels // len(FORMS))
    wave = (1.5 + 0.7 * numbers[4]) * (x * np.cos(along) + y * np.sin(along)) + numbers[5]
    light = 0.7 + 0.3 * np.sin(2 * np.pi * wave)
    inside = _inside(x, y, form)[:, None]
    # Ground and shape differ in every channel by .3 at least, so that no image is empty.
    ground = numbers[6:9].transpose(1, 0, 2, 3)
    colour = (ground + 0.3 + 0.4 * numbers[9:12].transpose(1, 0, 2, 3)) % 1
    picture = np.where(inside, colour * light[:, None], ground)
    picture += noise * rng.standard_normal((BLOCK, 3, size, size), dtype=np.float32)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _own_coordinates(numbers: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pixels [n, S, S] as seen from each shape: middle 0, radius 1, tilt undone.

    numbers: four of 0..1 per image: place across and down, size, tilt.
    """
    grid = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
    radius = 0.4 + 0.25 * numbers[2]
    tilt = np.deg2rad(30 * numbers[3] - 15)
    across = (grid[None, None, :] - 0.7 * (numbers[0] - 0.5)) / radius
    down = (grid[None, :, None] - 0.7 * (numbers[1] - 0.5)) / radius
    cosine, sine = np.cos(tilt), np.sin(tilt)
    return across * cosine + down * sine, down * cosine - across * sine


def _inside(x: np.ndarray, y: np.ndarray, form: np.ndarray) -> np.ndarray:
    """Which pixels [n, S, S] belong to the shape."""
    square_of_radius, widest = x**2 + y**2, np.maximum(np.abs(x), np.abs(y))
    masks = [
        square_of_radius < 1,
        widest < 0.85,
        (y < 0.7) & (2 * np.abs(x) < y + 1.1),
        (square_of_radius < 1) & (square_of_radius > 0.25),
        (widest < 1) & (np.minimum(np.abs(x), np.abs(y)) < 0.35),
    ]
    return np.select([form == number for number in range(len(FORMS))], masks)
