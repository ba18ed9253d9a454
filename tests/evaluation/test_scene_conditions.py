"""Promises of disturbed scenes: frames counted by hand, one change in any company and level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import convolve1d

from regatta.data.scenes.cameras import project
from regatta.data.scenes.detect import find_discs
from regatta.evaluation.scene_conditions import disturb, frame_order, recode_h264, scene_orders
from tests.evaluation.tiny_scenes import SETTINGS, build_store, part_of

ALL = [
    ("prefix", 4),
    ("spread", 4),
    ("stride", 4),
    ("dropped", 0.5),
    ("single-frame", 1),
    ("shuffled-frames", 1),
    ("noise", 0.1),
    ("blur", 1.0),
    ("camera", 5),
    ("distractors", 6),
    ("occluder", 1),
    ("views-missing", 1),
    ("h264", 38),
]


@pytest.fixture(scope="module")
def store():
    return build_store()


def test_frames_are_shown_held_and_repeated_as_counted_by_hand():
    assert frame_order("prefix", 4, 8).tolist() == [0, 1, 2, 3, 3, 3, 3, 3]
    # Of 0..7 four frames lie nearest to 0, 2.33, 4.67 and 7.
    assert frame_order("spread", 4, 8).tolist() == [0, 0, 2, 2, 2, 5, 5, 7]
    assert frame_order("stride", 2, 8).tolist() == [0, 2, 4, 6, 6, 6, 6, 6]
    assert frame_order("stride", 4, 10).tolist() == [0, 4, 8, 8, 8, 8, 8, 8, 8, 8]
    assert frame_order("single-frame", 1, 4).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("level", [0.1, 0.25, 0.5])
def test_as_many_frames_are_lost_as_asked_and_the_one_before_is_held(level):
    order = scene_orders("dropped", level, ["a", "b"], 32, seed=0)
    for row in order:
        kept = np.unique(row)
        assert 32 - len(kept) == round(32 * level)
        assert row[0] == 0
        assert all(row[place] == max(k for k in kept if k <= place) for place in range(32))
    assert not np.array_equal(order[0], order[1])


def test_more_loss_keeps_no_frame_that_less_loss_took():
    kept = [set(scene_orders("dropped", x, ["a"], 32, seed=0)[0]) for x in (0.1, 0.25, 0.5)]
    assert kept[2] < kept[1] < kept[0]


def test_shuffling_shows_every_frame_once_in_an_order_of_its_own():
    first, second = scene_orders("shuffled-frames", 1, ["a", "b"], 32, seed=0)
    assert sorted(first) == sorted(second) == list(range(32))
    assert first.tolist() != second.tolist() != list(range(32))


@pytest.mark.parametrize(("name", "level"), ALL)
def test_a_scene_is_changed_the_same_way_in_any_company(store, name, level):
    together = disturb(part_of(store), name, level, seed=3)
    before = part_of(store).frames
    assert np.array_equal(together, disturb(part_of(store), name, level, seed=3))
    alone = part_of(store, [7])
    assert np.array_equal(disturb(alone, name, level, seed=3)[0], together[7])
    assert np.array_equal(alone.frames[0], before[7])
    if name != "views-missing":
        # Which camera fails is drawn among those that anyone sees.
        one_view = disturb(part_of(store, [7], views=(2,)), name, level, seed=3)
        assert np.array_equal(one_view[0, 0], together[7, 2])
    assert not np.array_equal(together, before)


def test_another_seed_draws_another_change(store):
    for name, level in ALL:
        if name in ("dropped", "shuffled-frames", "noise", "camera", "views-missing"):
            first, second = (disturb(part_of(store), name, level, seed=s) for s in (0, 1))
            assert not np.array_equal(first, second), name


def test_noise_has_the_asked_spread_and_is_the_same_draw_at_every_level(store):
    part = part_of(store, [0], views=(0,))
    grey = replace(part, frames=np.full_like(part.frames, 128))
    weak, strong = (disturb(grey, "noise", sd, seed=0).astype(float) - 128 for sd in (0.05, 0.1))
    assert weak.std() == pytest.approx(0.05 * 255, rel=0.02)
    assert strong.std() == pytest.approx(0.1 * 255, rel=0.02)
    assert np.abs(strong - 2 * weak).max() <= 1.5


def test_blur_is_a_gaussian_of_that_many_pixels(store):
    part = part_of(store, [0], views=(0,))
    reach = np.arange(-8, 9)
    kernel = np.exp(-(reach**2) / (2 * 2.0**2))
    kernel /= kernel.sum()
    wanted = part.frames.astype(float)
    for axis in (-1, -2):
        wanted = convolve1d(wanted, kernel, axis=axis, mode="nearest")
    assert np.abs(disturb(part, "blur", 2.0, seed=0) - wanted).max() <= 0.51


def test_a_moved_camera_shifts_the_picture_by_its_angle(store):
    part = part_of(store)
    shifted = find_discs(disturb(part, "camera", 3, seed=0)) - find_discs(part.frames)
    length = np.linalg.norm(shifted, axis=-1)
    # In the middle f tan 3 degrees = 40 x 0.0524 = 2.10 px; more towards the border.
    assert np.nanmedian(length) == pytest.approx(40 * np.tan(np.deg2rad(3)), rel=0.1)
    weak = find_discs(disturb(part, "camera", 1, seed=0)) - find_discs(part.frames)
    cosine = (shifted * weak).sum(-1) / (length * np.linalg.norm(weak, axis=-1))
    assert np.nanmedian(cosine) > 0.98


def test_a_missing_view_is_black_and_all_others_are_untouched(store):
    part = part_of(store)
    one, two = (disturb(part, "views-missing", n, seed=0) for n in (1, 2))
    black = [(shown == 0).all(axis=(2, 3, 4, 5)) for shown in (one, two)]
    assert black[0].sum(axis=1).tolist() == [1] * 12
    assert black[1].sum(axis=1).tolist() == [2] * 12
    assert (black[0] <= black[1]).all()
    assert len(np.unique(black[0].argmax(axis=1))) == 3
    assert np.array_equal(one[~black[0]], part.frames[~black[0]])


def test_distractors_and_occluder_leave_the_object_where_it_is(store):
    part = part_of(store)
    pixels, _ = project(store.cameras, part.positions)
    for name, level in (("distractors", 6), ("occluder", 1)):
        found = find_discs(disturb(part, name, level, seed=0))
        away = np.linalg.norm(found - np.moveaxis(pixels, 0, 1), axis=-1)
        assert np.nanmedian(away) < 0.3
    grey = (disturb(part, "occluder", 1, seed=0) == 128).all(axis=3)
    assert (grey.sum(axis=(3, 4)) == SETTINGS.size * SETTINGS.size // 8).all()


def test_stronger_compression_loses_more_and_a_still_plain_picture_loses_little(store):
    clip = part_of(store, [0]).frames[0, 0]
    losses = [np.abs(recode_h264(clip, crf).astype(float) - clip).mean() for crf in (18, 28, 38)]
    assert 0 < losses[0] < losses[1] < losses[2] < 5
    still = np.full((16, 3, 32, 32), 200, np.uint8)
    assert np.abs(recode_h264(still, 18).astype(int) - 200).max() <= 2
    assert recode_h264(clip, 28).shape == clip.shape
