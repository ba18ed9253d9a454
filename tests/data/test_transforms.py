"""Promises of resize, crop and normalise, against Pillow and closed forms."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regatta.data.transforms import (
    Resize,
    mean_frame,
    normalise,
    plan_cut,
    resize_frames,
    shorter_side_size,
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def resized(images: np.ndarray, size: int, resize: Resize) -> np.ndarray:
    """Our result in the layout of the input, [N, S, S, 3]."""
    frames = resize_frames(torch.from_numpy(images), size=size, resize=resize)
    assert frames.dtype == torch.uint8
    assert frames.is_contiguous()
    assert tuple(frames.shape[1:]) == (3, size, size)
    return frames.permute(0, 2, 3, 1).numpy()


def pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    found = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(found)


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (30, 30), (17, 90)])
@pytest.mark.parametrize("size", [16, 30, 41])
def test_crop_is_pillows_bilinear_resize_of_the_shorter_side_and_its_middle(
    shape: tuple[int, int], size: int
):
    images = noise(2, *shape, 3)
    height, width = shorter_side_size(*shape, size)
    top, left = (height - size) // 2, (width - size) // 2
    for image, ours in zip(images, resized(images, size, "crop"), strict=True):
        theirs = pillow(image, height, width)[top : top + size, left : left + size]
        assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("shape", [(48, 64), (17, 90)])
def test_squash_is_pillows_bilinear_resize_of_both_sides(shape):
    images = noise(2, *shape, 3)
    for image, ours in zip(images, resized(images, 24, "squash"), strict=True):
        assert np.abs(ours.astype(int) - pillow(image, 24, 24)).max() <= 1


@given(height=st.integers(1, 400), width=st.integers(1, 400), size=st.integers(1, 300))
def test_shorter_side_becomes_the_size_and_the_aspect_is_kept(height, width, size):
    scaled = shorter_side_size(height, width, size)
    assert min(scaled) == size
    longer = max(height, width) * size / min(height, width)
    assert 0 <= longer - max(scaled) < 1


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_frames_of_the_right_size_keep_every_pixel(resize):
    images = noise(3, 20, 20, 3)
    assert np.array_equal(resized(images, 20, resize), images)


def test_wide_picture_of_the_right_height_loses_only_its_sides():
    images = noise(2, 20, 41, 3)
    assert np.array_equal(resized(images, 20, "crop"), images[:, :, 10:30])


@pytest.mark.parametrize(("crop", "first"), [(0.0, 0), (0.25, 5), (0.5, 10), (0.75, 15), (1.0, 21)])
def test_crops_lie_along_the_longer_side(crop: float, first: int):
    wide = torch.from_numpy(noise(2, 20, 41, 3))
    found = resize_frames(wide, size=20, resize="crop", crop=crop).permute(0, 2, 3, 1)
    assert torch.equal(found, wide[:, :, first : first + 20])
    tall = wide.transpose(1, 2)
    found = resize_frames(tall, size=20, resize="crop", crop=crop).permute(0, 2, 3, 1)
    assert torch.equal(found, tall[:, first : first + 20])


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    size=st.integers(1, 300),
    crop=st.floats(0, 1),
)
def test_a_cut_stays_inside_and_reaches_both_ends(height, width, size, crop):
    cut = plan_cut(height, width, size=size, resize="crop", crop=crop)
    room = max(cut.height, cut.width) - size
    assert 0 <= cut.offset <= room
    offsets = [
        plan_cut(height, width, size=size, resize="crop", crop=c).offset for c in (0, 0.5, 1)
    ]
    assert offsets == [0, room // 2, room]


@given(size=st.integers(1, 300), crop=st.floats(0, 1))
def test_a_crop_changes_nothing_where_no_side_is_longer(size, crop):
    square = plan_cut(77, 77, size=size, resize="crop", crop=crop)
    assert (
        square
        == plan_cut(77, 77, size=size, resize="squash")
        == plan_cut(50, 99, size=size, resize="squash", crop=crop)
    )


@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=40),
    order=st.randoms(use_true_random=False),
)
def test_mean_frame_is_the_exact_mean_with_halves_up_in_any_order(values, order):
    pictures = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    wanted = math.floor(Fraction(sum(values), len(values)) + Fraction(1, 2))
    found = mean_frame(pictures)
    assert found.dtype == torch.uint8
    assert found.unique().tolist() == [wanted]
    order.shuffle(values)
    shuffled = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    assert mean_frame(shuffled).item() == wanted


def test_halving_a_ramp_keeps_the_ramp():
    # An even antialias kernel leaves a straight line straight: output j stands at input 2 j + 1/2.
    ramp = np.broadcast_to(np.arange(80, dtype=np.uint8)[None, None, :, None], (1, 80, 80, 3))
    ours = resized(np.ascontiguousarray(ramp), 40, "squash")[0, 20, 2:-2, 0]
    assert np.abs(ours - (2 * np.arange(2, 38) + 0.5)).max() <= 0.5


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), resize=st.sampled_from(["crop", "squash"]))
def test_a_frame_does_not_depend_on_its_neighbours(seed, resize):
    images = noise(5, 24, 33, 3, seed=seed)
    together = resized(images, 16, resize)
    for place in range(5):
        assert np.array_equal(resized(images[place : place + 1], 16, resize)[0], together[place])


def test_accelerator_path_gives_the_same_shapes_and_type():
    # No accelerator here: the shape-only device runs the same branch, chunks included.
    images = torch.empty((130, 24, 33, 3), dtype=torch.uint8, device="meta")
    frames = resize_frames(images, size=16, resize="crop")
    assert frames.shape == (130, 3, 16, 16)
    assert frames.dtype == torch.uint8


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_normalise_is_value_over_255_minus_mean_over_std():
    frames = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    exact = (frames.double().numpy() / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(
        STD, (3, 1, 1)
    )
    found = normalise(frames, MEAN, STD)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - exact).max() < 2e-6


def test_normalise_rounds_to_half_precision_once():
    frames = torch.from_numpy(noise(2, 3, 8, 8))
    assert torch.equal(
        normalise(frames, MEAN, STD, dtype=torch.bfloat16), normalise(frames, MEAN, STD).bfloat16()
    )


@pytest.mark.parametrize("side", [7, 13, 32])
def test_normalise_gives_equal_bits_wherever_a_clip_stands_in_a_batch(side):
    clip = torch.from_numpy(noise(5, 3, side, side))
    batch = normalise(clip.expand(11, 5, 3, side, side), MEAN, STD)
    assert torch.equal(batch, normalise(clip, MEAN, STD).expand_as(batch))


def test_normalise_refuses_mean_and_std_of_different_length():
    with pytest.raises(ValueError, match="longer"):
        normalise(torch.zeros((1, 3, 4, 4), dtype=torch.uint8), (0.5, 0.5), STD)
