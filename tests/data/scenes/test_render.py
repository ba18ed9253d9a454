"""Promises of the pictures: a disc of the right size in the right place, the same however asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regatta.data.scenes.cameras import camera_ring, moved, project
from regatta.data.scenes.detect import find_discs
from regatta.data.scenes.render import disc_radius, render_scenes, wholly_visible
from regatta.data.scenes.settings import SceneSettings
from regatta.data.scenes.world import draw_scenes

PLAIN = SceneSettings(per_class=10, seed=5)
CAMERAS = camera_ring(4, 64)
INDICES = np.arange(12)
SHOWN = draw_scenes(PLAIN, INDICES).positions[:, :32]
PIXELS = np.moveaxis(project(CAMERAS, SHOWN)[0], 0, 1)

LOOKS = [
    {},
    {"disc": "constant"},
    {"trail": 4},
    {"ground": "noise"},
    {"ground": "gradient", "colour": "random"},
    {"distractors": 3, "occluder": True},
]


def cover_of(frames: np.ndarray) -> np.ndarray:
    """How much of each pixel the disc covers, from the green channel: 255 of the ground, 30 red."""
    return (255.0 - frames[..., 1, :, :]) / 225


def render_pixel_by_pixel(u: float, v: float, radius: float) -> np.ndarray:
    """The formula written out for one frame, uint8 [3, 64, 64]."""
    picture = np.full((3, 64, 64), 255, np.uint8)
    for y in range(64):
        for x in range(64):
            alpha = min(max(radius - ((x - u) ** 2 + (y - v) ** 2) ** 0.5 + 0.5, 0), 1)
            for channel, colour in enumerate((200, 30, 30)):
                picture[channel, y, x] = round(255 + alpha * (colour - 255))
    return picture


def test_the_picture_is_the_formula_at_every_pixel() -> None:
    frames = render_scenes(SHOWN[:1, :2], CAMERAS, PLAIN, indices=[0])
    pixels, depth = project(CAMERAS, SHOWN[0, :2])
    for view in range(4):
        for frame in range(2):
            u, v = pixels[view, frame]
            expected = render_pixel_by_pixel(u, v, 12 / depth[view, frame])
            # Halves may round either way.
            gap = frames[0, view, frame].astype(int) - expected
            assert np.abs(gap).max() <= 1
            assert (gap != 0).sum() <= 2


def test_the_centre_of_mass_is_the_projected_centre() -> None:
    cover = cover_of(render_scenes(SHOWN, CAMERAS, PLAIN, indices=INDICES))
    grid = np.arange(64)
    mass = cover.sum(axis=(-1, -2))
    across = (cover.sum(axis=-2) * grid).sum(axis=-1) / mass
    down = (cover.sum(axis=-1) * grid).sum(axis=-1) / mass
    gap = np.abs(np.stack([across, down], axis=-1) - PIXELS)
    assert np.quantile(gap, 0.995) < 0.05
    assert gap.max() < 0.08


def test_the_disc_covers_the_area_of_its_radius() -> None:
    cover = cover_of(render_scenes(SHOWN, CAMERAS, PLAIN, indices=INDICES))
    _, depth = project(CAMERAS, SHOWN)
    area = np.pi * (80 * 0.15 / np.moveaxis(depth, 0, 1)) ** 2
    ratio = cover.sum(axis=(-1, -2)) / area
    # The soft edge adds a ring of pi / 12, 3 % of a disc of radius 1.7.
    assert ratio.mean() == pytest.approx(1, abs=0.03)
    assert np.abs(ratio - 1).max() < 0.08


def test_radius_is_focal_length_times_size_over_depth() -> None:
    depth = np.array([4.0, 6.0])
    np.testing.assert_allclose(disc_radius(depth, PLAIN, 80.0), [3.0, 2.0])
    constant = replace(PLAIN, disc="constant")
    np.testing.assert_allclose(disc_radius(depth, constant, 80.0), 12 / 29**0.5)


def test_a_constant_disc_is_as_large_near_as_far() -> None:
    areas = {}
    for disc in ("depth", "constant"):
        settings = replace(PLAIN, disc=disc)
        near_and_far = np.array([[[1.2, 0, 0], [-1.2, 0, 0]]])
        frames = render_scenes(near_and_far, CAMERAS, settings, indices=[0], views=[0])
        areas[disc] = cover_of(frames)[0, 0].sum(axis=(1, 2))
    near, far = areas["depth"]
    assert near / far > 1.5
    assert areas["constant"][0] == pytest.approx(areas["constant"][1], rel=0.05)


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: "-".join(map(str, look.values())))
def test_bytes_are_the_same_for_any_grouping_of_scenes_and_views(look: dict) -> None:
    settings = replace(PLAIN, **look)
    whole = render_scenes(SHOWN, CAMERAS, settings, indices=INDICES)
    assert whole.shape == (12, 4, 32, 3, 64, 64)
    assert whole.dtype == np.uint8
    order = np.random.default_rng(0).permutation(12)
    shuffled = render_scenes(SHOWN[order], CAMERAS, settings, indices=INDICES[order])
    np.testing.assert_array_equal(shuffled, whole[order])
    for row in (0, 7):
        for views in ([2], [3, 0]):
            part = render_scenes(
                SHOWN[[row]], CAMERAS, settings, indices=INDICES[[row]], views=views
            )
            np.testing.assert_array_equal(part[0], whole[row, views])


def test_each_look_changes_the_pictures_and_nothing_else_does() -> None:
    seen = [
        render_scenes(SHOWN[:2], CAMERAS, replace(PLAIN, **look), indices=INDICES[:2]).tobytes()
        for look in LOOKS
    ]
    assert len(set(seen)) == len(LOOKS)
    larger = replace(PLAIN, per_class=99)
    assert render_scenes(SHOWN[:2], CAMERAS, larger, indices=INDICES[:2]).tobytes() == seen[0]


def test_detected_centres_are_the_projected_ones() -> None:
    for look in ({}, {"ground": "gradient", "colour": "random"}, {"ground": "noise"}):
        settings = replace(PLAIN, **look)
        found = find_discs(render_scenes(SHOWN, CAMERAS, settings, indices=INDICES))
        assert found.shape == (12, 4, 32, 2)
        assert found.dtype == np.float32
        assert np.abs(found - PIXELS).max() < 0.08


def test_distractors_hardly_pull_the_detected_centre() -> None:
    settings = replace(PLAIN, distractors=6)
    found = find_discs(render_scenes(SHOWN, CAMERAS, settings, indices=INDICES))
    gap = np.linalg.norm(found - PIXELS, axis=-1)
    assert np.median(gap) < 0.05
    assert np.quantile(gap, 0.9) < 0.5
    assert gap.max() < 3


def test_an_empty_picture_has_no_centre() -> None:
    empty = np.full((2, 3, 64, 64), 255, np.uint8)
    assert np.isnan(find_discs(empty)).all()


def test_a_distractor_is_there_for_three_frames_at_most() -> None:
    settings = replace(PLAIN, distractors=1)
    plain = render_scenes(SHOWN, CAMERAS, PLAIN, indices=INDICES)
    frames = render_scenes(SHOWN, CAMERAS, settings, indices=INDICES)
    changed = (frames != plain).any(axis=(1, 3, 4, 5)).sum(axis=1)
    assert changed.max() <= 3
    assert changed.sum() >= 12


def test_a_trail_shows_where_the_object_was() -> None:
    frames = render_scenes(SHOWN, CAMERAS, replace(PLAIN, trail=3), indices=INDICES)
    plain = render_scenes(SHOWN, CAMERAS, PLAIN, indices=INDICES)
    np.testing.assert_array_equal(frames[:, :, 0], plain[:, :, 0])
    marks = cover_of(frames).sum(axis=(-1, -2)), cover_of(plain).sum(axis=(-1, -2))
    assert (marks[0][:, :, 1:] > marks[1][:, :, 1:]).mean() > 0.95


def test_the_occluder_hides_the_object_and_its_frames_are_not_visible() -> None:
    settings = replace(PLAIN, occluder=True)
    frames = render_scenes(SHOWN, CAMERAS, settings, indices=INDICES)
    visible = wholly_visible(SHOWN, CAMERAS, settings, indices=INDICES)
    found = find_discs(frames)
    gap = np.abs(found - PIXELS).max(axis=-1)
    assert 0.2 < visible.mean() < 0.9
    assert gap[visible].max() < 0.08
    assert np.isnan(found[~visible]).any()
    # The bar is as high as the picture and an eighth of its width.
    grey = (frames[:, :, 0] == 128).all(axis=2)
    assert (grey.all(axis=2).sum(axis=2) == 8).all()


def test_everything_is_in_view_of_every_camera() -> None:
    assert wholly_visible(SHOWN, CAMERAS, PLAIN, indices=INDICES).all()


def test_a_disc_beyond_the_border_is_cut_and_never_moved() -> None:
    turned = moved(CAMERAS, 25.0, np.random.default_rng(0))
    corner = np.full((1, 8, 3), 1.1) * np.linspace(-1, 1, 8)[None, :, None]
    pixels, _ = project(turned, corner)
    visible = wholly_visible(corner, turned, PLAIN, indices=[0])
    assert not visible.all()
    cover = cover_of(render_scenes(corner, turned, PLAIN, indices=[0])).sum(axis=(-1, -2))
    outside = (np.moveaxis(pixels, 0, 1) < -5).any(axis=-1) | (np.moveaxis(pixels, 0, 1) > 68).any(
        axis=-1
    )
    assert outside.any()
    assert (cover[outside] == 0).all()
