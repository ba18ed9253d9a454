"""Promises of the random crop and mirror of training clips."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regatta.core.seeds import stream
from regatta.data.augment import (
    ASPECT_MAX,
    ASPECT_MIN,
    Augmentation,
    CropBox,
    augment_clip,
    draw_augmentation,
    draw_crop,
)

SIDES = st.integers(40, 400)


def clip(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8))


@given(height=SIDES, width=SIDES, scale_min=st.floats(0.05, 1), seed=st.integers(0, 10_000))
def test_box_lies_in_the_picture_with_an_allowed_aspect(height, width, scale_min, seed):
    box = draw_crop(stream(seed, "crop"), height, width, scale_min=scale_min)
    assert box.top >= 0
    assert box.left >= 0
    assert box.top + box.height <= height
    assert box.left + box.width <= width
    # Rounding moves each side by half a pixel at most.
    assert (box.width + 0.5) / (box.height - 0.5) >= ASPECT_MIN
    assert (box.width - 0.5) / (box.height + 0.5) <= ASPECT_MAX


@given(
    height=SIDES, aspect=st.floats(0.75, 1.33), scale=st.floats(0.05, 1), seed=st.integers(0, 9999)
)
def test_box_keeps_the_least_area_in_a_picture_of_common_aspect(height, aspect, scale, seed):
    width = round(height * aspect)
    box = draw_crop(stream(seed, "crop"), height, width, scale_min=scale)
    assert (box.height + 0.5) * (box.width + 0.5) >= scale * height * width


def test_whole_picture_is_kept_when_no_less_is_allowed():
    assert draw_crop(stream(0, "a"), 240, 320, scale_min=1.0) == CropBox(0, 0, 240, 320)


def test_very_wide_picture_gives_its_largest_allowed_box_in_the_middle():
    # 4/3 of the height fits; area 1.0 never does.
    assert draw_crop(stream(0, "a"), 30, 400, scale_min=1.0) == CropBox(0, 180, 30, 40)
    assert draw_crop(stream(0, "a"), 400, 30, scale_min=1.0) == CropBox(180, 0, 40, 30)


def test_crops_differ_between_draws_and_repeat_with_the_stream():
    draws = [draw_crop(stream(0, "a", k), 100, 100, scale_min=0.3) for k in range(50)]
    assert len(set(draws)) > 40
    assert draws == [draw_crop(stream(0, "a", k), 100, 100, scale_min=0.3) for k in range(50)]


def test_mirror_is_a_fair_coin_and_off_changes_nothing_else():
    on = [draw_augmentation(stream(0, k), 60, 80, scale_min=0.5, flip=True) for k in range(400)]
    off = [draw_augmentation(stream(0, k), 60, 80, scale_min=0.5, flip=False) for k in range(400)]
    # Five standard deviations of a fair coin: 5 * sqrt(400) / 2 = 50.
    assert abs(sum(a.mirror for a in on) - 200) <= 50
    assert not any(a.mirror for a in off)
    assert [a.box for a in on] == [a.box for a in off]


def test_crop_and_scale_is_pillows():
    images = clip(3, 60, 80)
    box = CropBox(7, 11, 41, 50)
    found = augment_clip(images, Augmentation(box, mirror=False), size=24)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    for image, ours in zip(images.numpy(), found.permute(0, 2, 3, 1).numpy(), strict=True):
        cut = Image.fromarray(image[7 : 7 + 41, 11 : 11 + 50])
        theirs = np.asarray(cut.resize((24, 24), Image.Resampling.BILINEAR))
        assert np.abs(ours.astype(int) - theirs).max() <= 1


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999))
def test_every_frame_of_a_clip_gets_the_same_treatment(seed):
    still = clip(1, 48, 64, seed).expand(4, 48, 64, 3)
    drawn = draw_augmentation(stream(seed, "a"), 48, 64, scale_min=0.3, flip=True)
    found = augment_clip(still, drawn, size=16)
    assert torch.equal(found, found[:1].expand_as(found))


def test_mirror_reverses_columns_and_nothing_else():
    images, box = clip(2, 48, 64), CropBox(3, 5, 30, 33)
    plain = augment_clip(images, Augmentation(box, mirror=False), size=16)
    mirrored = augment_clip(images, Augmentation(box, mirror=True), size=16)
    assert torch.equal(mirrored, plain.flip(-1))
    assert not torch.equal(mirrored, plain)


def test_whole_box_of_the_right_size_keeps_every_pixel():
    images = clip(2, 16, 16)
    found = augment_clip(images, Augmentation(CropBox(0, 0, 16, 16), mirror=False), size=16)
    assert torch.equal(found.permute(0, 2, 3, 1), images)
