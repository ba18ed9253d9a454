"""Common corruptions against closed forms and laws; every draw belongs to its image alone."""

from __future__ import annotations

import colorsys
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import zoom

from regatta.core.seeds import stream
from regatta.evaluation import corruptions
from regatta.evaluation.corruptions import NAMES, corrupt_images
from tests.evaluation.tiny_images import scenes

BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate")
# Published severities of these are no ladder of distance: a second round of glass blur comes with a
# weaker blur, frost darkens more as it adds more, and the affine part of elastic shrinks.
NO_LADDER = ("glass_blur", "frost", "elastic_transform")


def draws(name: str, count: int, first: int = 0):
    return [stream(0, name, f"i{number}") for number in range(first, first + count)]


def corrupt(images: np.ndarray, name: str, severity: int) -> np.ndarray:
    return corrupt_images(images, name, severity, draws(name, len(images)))


def grey(level: int, count: int = 8) -> np.ndarray:
    return np.full((count, 32, 32, 3), level, dtype=np.uint8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("severity", [1, 5])
def test_an_image_is_changed_alike_in_any_company(name, severity):
    images = scenes(5)
    together = corrupt(images, name, severity)
    assert together.shape == images.shape
    assert together.dtype == np.uint8
    for number in range(5):
        alone = corrupt_images(images[[number]], name, severity, draws(name, 1, number))
        assert np.array_equal(alone[0], together[number])
    assert not np.array_equal(together, images)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_LADDER])
def test_a_higher_severity_takes_images_farther_from_clean(name):
    images = scenes(32)
    distances = [
        np.abs(corrupt(images, name, severity) - images.astype(float)).mean()
        for severity in (1, 2, 3, 4, 5)
    ]
    # Severities 3 and 4 of motion blur have one sigma: only the far end of the tail differs.
    slack = 0.05 if name == "motion_blur" else 0.0
    assert all(b > a - slack for a, b in pairwise(distances)), distances


@pytest.mark.parametrize("name", BLURS)
@pytest.mark.parametrize("severity", [1, 5])
def test_blurs_and_bends_leave_a_flat_image_flat(name, severity):
    found = corrupt(grey(117), name, severity)
    assert np.abs(found.astype(int) - 117).max() <= 1


@pytest.mark.parametrize(("severity", "sd"), [(1, 0.04), (3, 0.08), (5, 0.10)])
def test_gaussian_noise_has_its_published_sd(severity, sd):
    found = corrupt(grey(128), "gaussian_noise", severity) / 255.0
    assert found.std() == pytest.approx(sd, rel=0.02)


@pytest.mark.parametrize(("severity", "photons"), [(1, 500), (5, 50)])
def test_shot_noise_has_the_variance_of_counted_photons(severity, photons):
    found = corrupt(grey(102), "shot_noise", severity) / 255.0
    assert found.var() == pytest.approx(0.4 / photons, rel=0.04)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.01), (5, 0.07)])
def test_impulse_noise_blacks_and_whitens_equal_shares(severity, share):
    found = corrupt(grey(100, 32), "impulse_noise", severity)
    assert set(np.unique(found)) == {0, 100, 255}
    spread = 5 * (share / 2 / found.size) ** 0.5
    for end in (0, 255):
        assert abs((found == end).mean() - share / 2) < spread


@pytest.mark.parametrize(("severity", "added"), [(1, 0.05), (5, 0.3)])
def test_brightness_raises_the_value_of_hsv(severity, added):
    images = scenes(1)[:, :8, :8]
    images[0, 0, 0] = 0
    found = corrupt(images, "brightness", severity)
    for old, new in zip(images.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(old / 255))
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(1, value + added))
        assert np.abs(new - 255 * np.array(wanted)).max() < 1.01


@pytest.mark.parametrize(("severity", "keep"), [(1, 0.75), (5, 0.15)])
def test_contrast_shrinks_every_colour_about_its_mean(severity, keep):
    images = scenes(3)
    found = corrupt(images, "contrast", severity)
    mean = images.mean(axis=(1, 2), keepdims=True)
    assert np.abs(found - (mean + keep * (images - mean))).max() < 1.01


@pytest.mark.parametrize(("severity", "quality"), [(1, 80), (5, 40)])
def test_jpeg_is_what_another_encoder_call_gives(severity, quality):
    images = scenes(2)
    for image, found in zip(images, corrupt(images, "jpeg_compression", severity), strict=True):
        written = BytesIO()
        Image.fromarray(image).save(written, format="jpeg", quality=quality)
        assert np.array_equal(found, np.asarray(Image.open(written)))


def test_pixelate_at_severity_five_makes_twenty_pixels_of_a_side():
    found = corrupt(scenes(1), "pixelate", 5)[0]
    assert len(np.unique(found.reshape(32, -1), axis=0)) == 20
    assert len(np.unique(found.transpose(1, 0, 2).reshape(32, -1), axis=0)) == 20


def test_defocus_at_severity_five_is_the_mean_of_a_disk_of_nine_pixels():
    """Radius 1.5 covers 3 x 3 pixels; a smoothing of sd 0.1 has taps below 1e-21."""
    image = scenes(1)
    padded = np.pad(image[0].astype(float), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    assert np.abs(corrupt(image, "defocus_blur", 5)[0] - windows.mean(axis=(3, 4))).max() < 1.01


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.25, 1.75, 2.25])
def test_enlarging_is_linear_interpolation_of_the_middle(factor):
    x = scenes(2) / 255
    kept = int(np.ceil(32 / factor))
    first = (32 - kept) // 2
    part = x[:, first : first + kept, first : first + kept]
    wanted = np.stack([np.asarray(zoom(i, (factor, factor, 1), order=1)) for i in part])
    first = (wanted.shape[1] - 32) // 2
    wanted = wanted[:, first : first + 32, first : first + 32]
    assert np.allclose(corruptions.enlarge(x, factor), wanted, atol=1e-12)


def test_a_smear_pulls_from_one_side_by_half_a_normal():
    """At 0 degrees pixel c is sum_i w_i x[c + i], w the half normal; at 90 the same downwards."""
    x = np.zeros((2, 32, 32, 1))
    x[:, 20, 20] = 1
    found = corruptions.smear(x, 6, 2.0, np.array([0.0, 90.0]))
    weights = np.exp(-0.5 * (np.arange(13) / 2.0) ** 2)
    weights /= weights.sum()
    assert np.allclose(found[0, 20, 20 - np.arange(13), 0], weights)
    assert np.allclose(found[1, 20 - np.arange(13), 20, 0], weights)
    assert found.sum() == pytest.approx(2)


def test_three_points_that_move_alike_shift_the_image():
    places = corruptions.affine_places((32, 32), np.tile([2.0, -3.0], (1, 3, 1)))
    assert np.allclose(places[0], np.indices((32, 32)) - np.array([2, -3])[:, None, None])


def test_glass_moves_pixels_and_makes_none():
    """With a blur of sd 0.05, which is none, every colour of the image is still there."""
    images = scenes(2)
    found = corrupt(images, "glass_blur", 1)
    for old, new in zip(images, found, strict=True):
        assert not np.array_equal(old, new)
        gap = np.abs(
            np.sort(old.reshape(-1, 3).sum(1).astype(int))
            - np.sort(new.reshape(-1, 3).sum(1).astype(int))
        )
        assert gap.max() <= 6  # both roundings cut, at most one level per colour each


def test_plasma_fills_its_range_and_is_rougher_when_it_decays_less():
    smooth, rough = (corruptions.plasma((32, 32), d, draws("p", 16)) for d in (9.0, 1.5))
    for heights in (smooth, rough):
        assert heights.shape == (16, 32, 32)
        assert np.allclose(heights.min(axis=(1, 2)), 0)
        assert np.allclose(heights.max(axis=(1, 2)), 1)

    def steps(heights: np.ndarray) -> float:
        return float(np.abs(np.diff(heights, axis=1)).mean())

    assert steps(rough) > 1.5 * steps(smooth)


def test_fog_lies_on_a_black_image_as_nothing_and_never_exceeds_the_brightest():
    assert not corrupt(grey(0), "fog", 5).any()
    assert corrupt(grey(200), "fog", 5).max() <= 200


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_keep_their_shape(name):
    images = scenes(2, side=24)
    assert corrupt(images, name, 4).shape == images.shape
