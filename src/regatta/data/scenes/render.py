"""Pictures of scenes: a disc on a plain ground, from every camera.

Shapes: n scenes, V views, T frames, S pixels; F = n V T pictures, scenes slowest.
Only the pixels around each disc are computed, and the bytes are the same for any grouping.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regatta.core.seeds import stream
from regatta.data.scenes.cameras import RING_HEIGHT, RING_RADIUS, Cameras, project
from regatta.data.scenes.settings import OBJECT_RADIUS, SceneSettings

RED = (200, 30, 30)
DISTRACTOR_RADIUS = 0.05
OCCLUDER_GREY = 128
_TOGETHER = 8
"""Scenes of a pass: what is worked on stays in the processor's cache."""


def render_scenes(
    positions: np.ndarray,
    cameras: Cameras,
    settings: SceneSettings,
    *,
    indices: Sequence[int] | np.ndarray,
    views: Sequence[int] | None = None,
) -> np.ndarray:
    """Pictures uint8 [n, V, T, 3, S, S] of an object at positions [n, T, 3].

    Args:
        indices: of the generator, [n]: ground, colour, distractors and occluder follow from them.
        views: cameras to look through, in this order; None = all.
    """
    chosen = list(range(len(cameras)) if views is None else views)
    size, (count, frames) = cameras.size, positions.shape[:2]
    pictures = np.empty((count, len(chosen), frames, 3, size, size), np.uint8)
    for start in range(0, count, _TOGETHER):
        part = slice(start, start + _TOGETHER)
        numbers = [int(index) for index in indices[part]]
        _render(pictures[part], positions[part], cameras, settings, numbers, chosen)
    return pictures


def disc_radius(depth: np.ndarray, settings: SceneSettings, focal: float) -> np.ndarray:
    """Pixels, f R / Z; under `disc: constant` that of an object at the origin, for any depth."""
    if settings.disc == "constant":
        depth = np.full_like(depth, np.hypot(RING_RADIUS, RING_HEIGHT))
    return focal * OBJECT_RADIUS / depth


def wholly_visible(
    positions: np.ndarray,
    cameras: Cameras,
    settings: SceneSettings,
    *,
    indices: Sequence[int] | np.ndarray,
) -> np.ndarray:
    """bool [n, V, T]: the whole disc lies in the picture, and clear of the occluder."""
    pixels, depth = project(cameras, positions)
    radius = disc_radius(depth, settings, cameras.focal)
    reach = radius[..., None]
    inside = (pixels - reach >= -0.5) & (pixels + reach <= cameras.size - 0.5)
    visible = np.moveaxis(inside.all(axis=-1) & (depth > 0), 0, 1)
    if settings.occluder:
        bars = np.array(
            [
                [_occluder(settings, int(i), v, cameras.size) for v in range(len(cameras))]
                for i in indices
            ]
        ).reshape(len(positions), len(cameras), 1, 2)
        across, radius = np.moveaxis(pixels[..., 0], 0, 1), np.moveaxis(radius, 0, 1)
        left, right = bars[..., 0] - 0.5, bars[..., 1] - 0.5
        visible &= (across + radius <= left) | (across - radius >= right)
    return visible


def _render(
    pictures: np.ndarray,
    positions: np.ndarray,
    cameras: Cameras,
    settings: SceneSettings,
    numbers: list[int],
    views: list[int],
) -> None:
    _lay_ground(pictures, settings, numbers, views)
    looking = cameras.select(views)
    pixels, depth = _by_scene(*project(looking, positions))
    radius = disc_radius(depth, settings, cameras.focal)
    shown = np.where(depth > 0, 1.0, 0.0)
    colours = np.array([_colour(settings, number) for number in numbers])
    if settings.trail:
        _paint_trail(pictures, pixels, radius, shown, colours, settings.trail)
    strays = [_Strays(settings, numbers, looking, number) for number in range(settings.distractors)]
    for stray in strays:
        stray.paint(pictures, depth, in_front=False)
    _paint(pictures, pixels, radius, shown, colours)
    for stray in strays:
        stray.paint(pictures, depth, in_front=True)
    if settings.occluder:
        _hide(pictures, settings, numbers, views)


def _by_scene(pixels: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[V, n, T, ...] -> [n, V, T, ...]."""
    return np.moveaxis(pixels, 0, 1), np.moveaxis(depth, 0, 1)


def _paint(
    pictures: np.ndarray,
    pixels: np.ndarray,
    radius: np.ndarray,
    strength: np.ndarray,
    colours: np.ndarray,
) -> None:
    """Blend discs into pictures [n, V, T, 3, S, S], with coverage clip(r - distance + .5, 0, 1).

    pixels [n, V, T, 2], radius and strength [n, V, T], colours [n, 3]. A disc is cut by the border.
    """
    size = pictures.shape[-1]
    where = np.flatnonzero(strength.reshape(-1) > 0)
    if not len(where):
        return
    centre, reach = pixels.reshape(-1, 2)[where], radius.reshape(-1)[where]
    half = int(reach.max() + 1)
    steps = np.arange(-half, half + 1)
    columns, rows = (np.rint(centre[:, axis]).astype(np.int64)[:, None] + steps for axis in (0, 1))
    square_x, square_y = (columns - centre[:, :1]) ** 2, (rows - centre[:, 1:]) ** 2
    cover = np.sqrt(square_y[:, :, None] + square_x[:, None, :])
    np.subtract(reach[:, None, None] + 0.5, cover, out=cover)
    covered = cover > 0
    covered &= ((rows >= 0) & (rows < size))[:, :, None]
    covered &= ((columns >= 0) & (columns < size))[:, None, :]
    counts = np.count_nonzero(covered, axis=(1, 2))
    alpha = np.minimum(cover[covered], 1)
    alpha *= np.repeat(strength.reshape(-1)[where], counts)
    plane = size * size
    places = (where[:, None] * (3 * plane) + rows * size)[:, :, None] + columns[:, None, :]
    places = places[covered]
    own_colours = colours[where // (pictures.shape[1] * pictures.shape[2])]
    values = pictures.reshape(-1)
    for channel in range(3):
        colour = np.repeat(own_colours[:, channel], counts)
        ground = values[places]
        values[places] = np.rint(ground + alpha * (colour - ground.astype(np.float64)))
        places += plane


def _paint_trail(
    pictures: np.ndarray,
    pixels: np.ndarray,
    radius: np.ndarray,
    shown: np.ndarray,
    colours: np.ndarray,
    trail: int,
) -> None:
    """Where the object was up to `trail` frames ago, the oldest first and faintest."""
    for ago in range(trail, 0, -1):
        strength = np.zeros_like(shown)
        strength[:, :, ago:] = shown[:, :, :-ago] * (1 - ago / (trail + 1))
        place, size = np.roll(pixels, ago, axis=2), np.roll(radius, ago, axis=2)
        _paint(pictures, place, size, strength, colours)


def _colour(settings: SceneSettings, number: int) -> tuple[int, int, int]:
    if settings.colour == "red":
        return RED
    low, high = RED[1], RED[0]
    sixth = 6 * float(stream(settings.seed, "scenes", "colour", number).random())
    # The hues of a colour wheel, as light and as strong as the red.
    ramp = [min(max(abs((sixth - shift) % 6 - 3) - 1, 0), 1) for shift in (0, 2, 4)]
    red, green, blue = (round(low + (high - low) * part) for part in ramp)
    return red, green, blue


def _lay_ground(
    pictures: np.ndarray, settings: SceneSettings, numbers: list[int], views: list[int]
) -> None:
    """White, or grey that differs by scene and view but stands still."""
    if settings.ground == "white":
        pictures[:] = 255
        return
    size = pictures.shape[-1]
    for scene, number in enumerate(numbers):
        for place, view in enumerate(views):
            rng = stream(settings.seed, "scenes", "ground", number, view)
            if settings.ground == "noise":
                grey = rng.integers(192, 256, (size, size), dtype=np.uint8)
            else:
                grey = _gradient(rng, size)
            pictures[scene, place] = grey


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    turn, low, high = 2 * np.pi * rng.random(), rng.uniform(150, 200), rng.uniform(220, 255)
    grid = np.arange(size) / (size - 1) - 0.5
    slope = np.cos(turn) * grid[None, :] + np.sin(turn) * grid[:, None]
    return np.rint(low + (high - low) * (slope / np.sqrt(2) + 0.5)).astype(np.uint8)


def _occluder(settings: SceneSettings, number: int, view: int, size: int) -> tuple[int, int]:
    """First column of the bar and the one behind its last."""
    width = size // 8
    rng = stream(settings.seed, "scenes", "occluder", number, view)
    left = int(rng.integers(size // 4, size - size // 4 - width + 1))
    return left, left + width


def _hide(
    pictures: np.ndarray, settings: SceneSettings, numbers: list[int], views: list[int]
) -> None:
    for scene, number in enumerate(numbers):
        for place, view in enumerate(views):
            left, right = _occluder(settings, number, view, pictures.shape[-1])
            pictures[scene, place, ..., left:right] = OCCLUDER_GREY


class _Strays:
    """One distractor of each scene: a small reddish disc that is there for 1 to 3 frames."""

    def __init__(
        self, settings: SceneSettings, numbers: list[int], cameras: Cameras, which: int
    ) -> None:
        drawn = [_stray(settings, number, which) for number in numbers]
        tracks = np.stack([track for track, _, _ in drawn])
        self.colours = np.stack([colour for _, _, colour in drawn])
        there = np.stack([there for _, there, _ in drawn])
        self.pixels, self.depth = _by_scene(*project(cameras, tracks))
        self.there = there[:, None] & (self.depth > 0)
        self.radius = cameras.focal * DISTRACTOR_RADIUS / self.depth

    def paint(self, pictures: np.ndarray, depth: np.ndarray, *, in_front: bool) -> None:
        """Those nearer to the camera than the object, or the others."""
        now = self.there & ((self.depth < depth) == in_front)
        _paint(pictures, self.pixels, self.radius, now.astype(np.float64), self.colours)


def _stray(
    settings: SceneSettings, number: int, which: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Track [T, 3], the frames that show it [T], and colour [3]."""
    rng = stream(settings.seed, "scenes", "distractor", number, which)
    frames = settings.frames
    shown, motion = int(rng.integers(1, 4)), int(rng.integers(4))
    first = int(rng.integers(0, frames - shown + 1))
    start, step = rng.uniform(-0.8, 0.8, 3), rng.uniform(-0.1, 0.1, 3)
    jumps, turn = rng.uniform(-0.1, 0.1, (3, 3)), 2 * np.pi * rng.random()
    colour = np.array([rng.integers(180, 231), rng.integers(20, 91), rng.integers(20, 91)])
    ago = np.arange(3)[:, None]
    angle = turn + 0.5 * np.arange(3)
    circle = 0.2 * np.stack([np.cos(angle), np.sin(angle), np.zeros(3)], axis=-1)
    ways = (np.zeros((3, 3)), ago * step, np.cumsum(jumps, axis=0), circle)
    track, there = np.zeros((frames, 3)), np.zeros(frames, dtype=bool)
    track[first : first + shown] = (start + ways[motion])[:shown]
    there[first : first + shown] = True
    return track, there, colour
