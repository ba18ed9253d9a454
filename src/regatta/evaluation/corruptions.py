"""The fifteen common corruptions of small images, generated, each at five severities.

Constants are those of CIFAR-10-C, for 32 x 32 pixels; lengths in pixels stay as they are for other
sizes, except in elastic_transform, whose lengths grow with the side. Differences from the published
arrays: other random draws; frost is a drawn ice texture, as its photographs are not ours to ship;
motion is blurred in floating point.

Source: Hendrycks and Dietterich 2019, Benchmarking neural network robustness to common corruptions
and perturbations.
Shapes: N images of H x W pixels, values 0..1; one generator per image, so that what it becomes does
not depend on its company.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from scipy.ndimage import correlate, gaussian_filter, map_coordinates

Draws = Sequence[np.random.Generator]
Corrupt = Callable[[np.ndarray, int, Draws], np.ndarray]
"""(float64 [N, H, W, 3] in 0..1, severity 1..5, generators) -> the same shape, any range."""

SEVERITIES = (1, 2, 3, 4, 5)
_LUMA = np.array([0.299, 0.587, 0.114])


def corrupt_images(images_NHWC: np.ndarray, name: str, severity: int, draws: Draws) -> np.ndarray:
    """uint8 [N, H, W, 3] -> uint8 of the same shape.

    Values are cut, not rounded, to whole grey levels, as in the published arrays.
    """
    if name in WITH_FILES:
        return WITH_FILES[name](images_NHWC, severity)
    changed = CORRUPTIONS[name](images_NHWC / 255.0, severity, draws)
    return (np.clip(changed, 0, 1) * 255).astype(np.uint8)


def gaussian_noise(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    return add_noise(x, (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1], draws)


def add_noise(x: np.ndarray, sd: float, draws: Draws) -> np.ndarray:
    """Independent normal noise on every value."""
    return x + sd * np.stack([rng.standard_normal(x.shape[1:]) for rng in draws])


def shot_noise(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """Poisson counts of so many photons at full brightness."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    counts = [rng.poisson(image * photons) for rng, image in zip(draws, x, strict=True)]
    return np.stack(counts) / photons


def impulse_noise(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """A share of the values becomes 0 or 1, half of them each."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    drawn = np.stack([rng.random((2, *x.shape[1:])) for rng in draws])
    return np.where(drawn[:, 0] <= share, np.round(drawn[:, 1]), x)


def defocus_blur(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """A disk, itself smoothed by a normal of three taps."""
    del draws
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    place = np.arange(-3, 4)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).astype(np.float64)
    taps = np.exp(-0.5 * (np.arange(-1, 2) / alias) ** 2)
    kernel = correlate(disk / disk.sum(), np.outer(taps, taps) / taps.sum() ** 2, mode="constant")
    return correlate(x, kernel[None, :, :, None], mode="mirror")


def glass_blur(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """Blurred; each pixel, from the last on, changes places with a neighbour; blurred again."""
    settings = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    sigma, reach, rounds = settings[severity - 1]
    count, height, width, _ = x.shape
    # The published code blurs to whole grey levels first.
    shuffled = np.floor(_blur(x, sigma) * 255) / 255
    shape = (rounds, height, width, 2)
    steps = np.stack([rng.integers(-reach, reach, shape) for rng in draws])
    image = np.arange(count)
    for turn in range(rounds):
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                down, right = steps[:, turn, row, column].T
                other = image, row + down, column + right
                kept = shuffled[:, row, column].copy()
                shuffled[:, row, column] = shuffled[other]
                shuffled[other] = kept
    return _blur(shuffled, sigma)


def _blur(x: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest")


def motion_blur(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    degrees = np.array([rng.uniform(-45, 45) for rng in draws])
    # Rounded to grey levels by the tool that blurred the published images.
    return np.round(smear(x, radius, sigma, degrees) * 255) / 255


def smear(x: np.ndarray, radius: int, sigma: float, degrees_N: np.ndarray) -> np.ndarray:
    """Mean along a line that starts at each pixel, weighed by one half of a normal."""
    _, height, width, _ = x.shape
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    angles = np.deg2rad(degrees_N)
    out = np.zeros_like(x)
    image = np.arange(len(x))[:, None, None]
    for step, weight in zip(steps, weights, strict=True):
        right = np.ceil(step * np.cos(angles) - 0.5).astype(int)[:, None]
        down = np.ceil(step * np.sin(angles) - 0.5).astype(int)[:, None]
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        out += weight * x[image, rows[:, :, None], columns[:, None, :]]
    return out


def zoom_blur(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """Mean of the image and of itself enlarged in steps of 1 %."""
    del draws
    largest = (5, 10, 15, 20, 25)[severity - 1]
    total = x.copy()
    for step in range(largest + 1):
        total += enlarge(x, 1 + step / 100)
    return total / (largest + 2)


def enlarge(x: np.ndarray, factor: float) -> np.ndarray:
    """The middle of the images, enlarged to their own size by linear interpolation."""
    for axis in (1, 2):
        x = _enlarge_along(x, factor, axis)
    return x


def _enlarge_along(x: np.ndarray, factor: float, axis: int) -> np.ndarray:
    """The outermost pixels of the part that is kept fall on the outermost of the grown one, of
    which the middle is shown."""
    side = x.shape[axis]
    kept = int(np.ceil(side / factor))
    grown = round(kept * factor)
    shown = (grown - side) // 2 + np.arange(side)
    places = shown * ((kept - 1) / max(grown - 1, 1))
    before = np.floor(places).astype(int)
    share = np.expand_dims(places - before, tuple(range(1, x.ndim - axis)))
    first, last = (side - kept) // 2, (side - kept) // 2 + kept - 1
    after = np.minimum(first + before + 1, last)
    return x.take(first + before, axis) * (1 - share) + x.take(after, axis) * share


def snow(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """Flakes: thresholded noise, enlarged and smeared downwards, over a whitened image."""
    mean, sd, factor, least, radius, sigma, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    flakes = np.stack([rng.normal(mean, sd, x.shape[1:3]) for rng in draws])[..., None]
    flakes = enlarge(flakes, factor)
    flakes = np.floor(np.clip(np.where(flakes < least, 0, flakes), 0, 1) * 255) / 255
    degrees = np.array([rng.uniform(-135, -45) for rng in draws])
    flakes = np.round(smear(flakes, radius, sigma, degrees) * 255) / 255
    grey = (x * _LUMA).sum(axis=3, keepdims=True)
    whitened = keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5)
    return whitened + flakes + flakes[:, ::-1, ::-1]


def frost(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """The image under bluish white needles; the texture is drawn, no photograph of ice."""
    settings = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    keep, share = settings[severity - 1]
    heights = plasma(x.shape[1:3], 1.5, draws)
    needles = (1 - np.abs(2 * heights - 1)) ** 2
    ice = (0.3 + 0.7 * needles)[..., None] * np.array([0.88, 0.95, 1.0])
    return keep * x + share * ice


def fog(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """A plasma fractal is added, and the brightest value held."""
    settings = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))
    amount, decay = settings[severity - 1]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    fogged = x + amount * plasma(x.shape[1:3], decay**2, draws)[..., None]
    # A black image has no brightness to hold.
    return fogged * brightest / (brightest + amount)


def plasma(shape: tuple[int, ...], decay: float, draws: Draws) -> np.ndarray:
    """Periodic heights [N, H, W] by the diamond-square method, each stretched over 0..1.

    Args:
        decay: what random heights are divided by from one octave to the next.
    Source: Fournier, Fussell and Carpenter 1982, Computer rendering of stochastic models.
    """
    side = 1 << (max(shape) - 1).bit_length()
    field = np.zeros((len(draws), side, side))
    drawn = np.stack([rng.uniform(-1, 1, side * side - 1) for rng in draws])
    step, height = side, 1.0
    while step > 1:
        half, cells = step // 2, side // step
        rough, drawn = np.split(drawn, [3 * cells * cells], axis=1)
        middle, across, along = height * rough.reshape(-1, 3, cells, cells).swapaxes(0, 1)
        corner = field[:, ::step, ::step]
        beside, below = np.roll(corner, -1, axis=2), np.roll(corner, -1, axis=1)
        centre = (corner + beside + below + np.roll(below, -1, axis=2)) / 4 + middle
        top = (corner + beside + centre + np.roll(centre, 1, axis=1)) / 4 + across
        left = (corner + below + centre + np.roll(centre, 1, axis=2)) / 4 + along
        field[:, half::step, half::step] = centre
        field[:, ::step, half::step] = top
        field[:, half::step, ::step] = left
        step, height = half, height / decay
    low, high = field.min(axis=(1, 2), keepdims=True), field.max(axis=(1, 2), keepdims=True)
    return ((field - low) / (high - low))[:, : shape[0], : shape[1]]


def brightness(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """The value of HSV is raised; hue and saturation stay, so all colours grow by one factor."""
    del draws
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = x.max(axis=3, keepdims=True)
    factor = np.minimum(value + added, 1) / np.where(value > 0, value, 1)
    return np.where(value > 0, x * factor, added)


def contrast(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """Every colour moves towards its mean over the image."""
    del draws
    keep = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    # Whole grey levels add up exactly, in whatever order.
    levels = np.round(x * 255).astype(np.int64).sum(axis=(1, 2), keepdims=True)
    mean = levels / (255 * x.shape[1] * x.shape[2])
    return (x - mean) * keep + mean


def elastic_transform(x: np.ndarray, severity: int, draws: Draws) -> np.ndarray:
    """A random affine map of three points, then smooth random displacements."""
    settings = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05))
    amount, sigma, reach = (*settings, (0.1, 0.03, 0.03))[severity - 1]
    side = min(x.shape[1:3])
    moves = np.stack([rng.uniform(-reach * side, reach * side, (3, 2)) for rng in draws])
    bent = _sample(x, affine_places(x.shape[1:3], moves), mode="mirror")
    if not amount:
        return bent
    rough = np.stack([rng.uniform(-1, 1, (2, *x.shape[1:3])) for rng in draws])
    spread = (0, 0, sigma * side, sigma * side)
    smooth = gaussian_filter(rough, spread, mode="reflect", truncate=3)
    places = np.indices(x.shape[1:3], dtype=np.float64)
    return _sample(bent, places + amount * side * smooth, mode="reflect")


def affine_places(shape: tuple[int, ...], moves_N32: np.ndarray) -> np.ndarray:
    """Where each pixel comes from, [N, 2, H, W] as (row, column), when three points of a square
    about the middle move so."""
    middle, reach = np.array(shape) // 2, min(shape) // 3
    points = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + moves_N32
    ones = np.ones((len(moves_N32), 3, 1))
    back = np.linalg.solve(np.concatenate([moved, ones], axis=2), np.array(points, dtype=float))
    row, column = np.indices(shape, dtype=np.float64)
    at = back[:, :, :, None, None]
    return at[:, 0] * row + at[:, 1] * column + at[:, 2]


def _sample(x: np.ndarray, places_N2HW: np.ndarray, *, mode: str) -> np.ndarray:
    """Linear interpolation at these rows and columns."""
    out = np.empty_like(x)
    for number, places in enumerate(places_N2HW):
        for colour in range(x.shape[3]):
            map_coordinates(
                x[number, :, :, colour], places, out[number, :, :, colour], order=1, mode=mode
            )
    return out


def pixelate(images_NHWC: np.ndarray, severity: int) -> np.ndarray:
    """Made smaller and large again, each pixel the mean of the box that it covers."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = images_NHWC.shape[1:3]
    small = int(width * share), int(height * share)
    box = Image.Resampling.BOX
    pictures = (Image.fromarray(image).resize(small, box) for image in images_NHWC)
    return np.stack([np.asarray(picture.resize((width, height), box)) for picture in pictures])


def jpeg_compression(images_NHWC: np.ndarray, severity: int) -> np.ndarray:
    """Written as JPEG and read again."""
    return np.stack([_through_jpeg(i, (80, 65, 58, 50, 40)[severity - 1]) for i in images_NHWC])


def _through_jpeg(image_HWC: np.ndarray, quality: int) -> np.ndarray:
    written = BytesIO()
    Image.fromarray(image_HWC).save(written, "JPEG", quality=quality)
    with Image.open(written) as picture:
        return np.asarray(picture.convert("RGB"))


CORRUPTIONS: dict[str, Corrupt] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
}
WITH_FILES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
"""Those that work on whole grey levels, through Pillow."""
NAMES = (*CORRUPTIONS, *WITH_FILES)
