"""Where the object is in a picture, found from its colour: the ground has none.

Shapes: F pictures, S pixels.
"""

from __future__ import annotations

import numpy as np

_LEAST_COLOUR = 12
"""Weaker colour is what a lossy codec leaves on a grey ground."""
_LEAST_MASS = 200
"""Colour of all pixels together that one must show: about one full pixel of the object."""
_TOGETHER = 64


def find_discs(frames: np.ndarray) -> np.ndarray:
    """Centres float32 [..., 2], (x, y) in pixels, of pictures uint8 [..., 3, S, S]; NaN where none.

    The mean place of all colour (largest less smallest channel). Where that is spread wider than a
    disc, the square with most of it counts alone, so that small distractors do not pull.
    """
    shape, size = frames.shape[:-3], frames.shape[-1]
    flat = frames.reshape(-1, 3, size, size)
    centres = np.empty((len(flat), 2), np.float32)
    for start in range(0, len(flat), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        centres[part] = _find(flat[part])
    return centres.reshape(*shape, 2)


def _find(pictures: np.ndarray) -> np.ndarray:
    red, green, blue = pictures[:, 0], pictures[:, 1], pictures[:, 2]
    colour = np.maximum(red, green)
    np.maximum(colour, blue, out=colour)
    least = np.minimum(red, green)
    colour -= np.minimum(least, blue, out=least)
    colour *= colour >= _LEAST_COLOUR
    size = pictures.shape[-1]
    mass, x, y, spread = _moments(colour)
    # A disc of radius r has a spread of r**2 / 2; the widest one here of 5 at 64 pixels.
    wide = np.flatnonzero((spread > 7 * (size / 64) ** 2 + 1) & (mass >= _LEAST_MASS))
    if len(wide):
        mass[wide], x[wide], y[wide], _ = _moments(_fullest_square(colour[wide]))
    centres = np.stack([x, y], axis=-1)
    centres[mass < _LEAST_MASS] = np.nan
    return centres


def _moments(colour: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mass, mean x, mean y and spread (variance in x plus that in y), each [F], of uint8 [F, S, S].

    Whole numbers about the middle of the picture, so that no order of adding rounds.
    """
    size = colour.shape[-1]
    middle = size // 2
    grid = np.arange(size, dtype=np.float32) - middle
    weights = colour.astype(np.float32)
    columns, rows = weights.sum(axis=1), weights.sum(axis=2)
    mass = columns.sum(axis=1).astype(np.float64)
    safe = np.maximum(mass, 1)
    x, y = ((side.astype(np.float64) * grid).sum(axis=1) / safe for side in (columns, rows))
    square = ((columns + rows).astype(np.float64) * grid**2).sum(axis=1) / safe
    return mass, x + middle, y + middle, square - x**2 - y**2


def _fullest_square(colour: np.ndarray) -> np.ndarray:
    """`colour` with all but the square of most mass set to 0."""
    count, size = len(colour), colour.shape[-1]
    half = max(3, round(5 * size / 64))
    sums = np.zeros((count, size + 2 * half + 1, size + 2 * half + 1))
    padded = np.pad(colour.astype(np.float64), ((0, 0), (half, half), (half, half)))
    sums[:, 1:, 1:] = padded.cumsum(axis=1).cumsum(axis=2)
    wide = 2 * half + 1
    boxes = (
        sums[:, wide:, wide:]
        - sums[:, :-wide, wide:]
        - sums[:, wide:, :-wide]
        + sums[:, :-wide, :-wide]
    )
    best = boxes.reshape(count, -1).argmax(axis=1)
    row, column = np.divmod(best, size)
    grid = np.arange(size)
    near_y = np.abs(grid - row[:, None]) <= half
    near_x = np.abs(grid - column[:, None]) <= half
    return np.where(near_y[:, :, None] & near_x[:, None, :], colour, 0)
