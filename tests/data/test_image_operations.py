"""Operations on blocks of pictures against Pillow's own, one picture at a time."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from regatta.data.image_operations import OPERATIONS, apply_each

Pillow = Callable[[Image.Image, float], Image.Image]


def pictures(count: int = 12, height: int = 32, width: int = 32) -> torch.Tensor:
    """Noise, gradients, and pictures of few levels."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    images[1::4] = images[1::4] // 4 + 90
    ramp = np.linspace(0, 255, width)[None, None, None] * rng.uniform(0.2, 1, (1, 3, 1, 1))
    images[2::4] = ramp + rng.integers(-3, 4, (len(images[2::4]), 3, height, width))
    images[3::4] = images[3::4] // 128 * 100
    images[0] = 77
    return torch.from_numpy(images)


def by_pillow(images: torch.Tensor, do: Pillow, amounts: torch.Tensor) -> np.ndarray:
    changed = [
        np.asarray(do(Image.fromarray(image), float(amount)))
        for image, amount in zip(images.permute(0, 2, 3, 1).numpy(), amounts, strict=True)
    ]
    return np.stack(changed).transpose(0, 3, 1, 2)


def affine(of: Callable[[float], tuple[float, ...]]) -> Pillow:
    return lambda image, amount: image.transform(
        image.size, Image.Transform.AFFINE, of(amount), Image.Resampling.NEAREST
    )


WARPS: dict[str, tuple[Pillow, tuple[float, float]]] = {
    "shear_x": (affine(lambda v: (1, v, 0, 0, 1, 0)), (-0.99, 0.99)),
    "shear_y": (affine(lambda v: (1, 0, 0, v, 1, 0)), (-0.99, 0.99)),
    "translate_x": (affine(lambda v: (1, 0, -int(v), 0, 1, 0)), (-32, 32)),
    "translate_y": (affine(lambda v: (1, 0, 0, 0, 1, -int(v))), (-32, 32)),
    "rotate": (lambda image, v: image.rotate(v, Image.Resampling.NEAREST), (-135, 135)),
}
COLOURS: dict[str, tuple[Pillow, tuple[float, float]]] = {
    "brightness": (lambda image, v: ImageEnhance.Brightness(image).enhance(v), (0.01, 1.99)),
    "color": (lambda image, v: ImageEnhance.Color(image).enhance(v), (0.01, 1.99)),
    "contrast": (lambda image, v: ImageEnhance.Contrast(image).enhance(v), (0.01, 1.99)),
    "sharpness": (lambda image, v: ImageEnhance.Sharpness(image).enhance(v), (0.01, 1.99)),
    "solarize": (lambda image, v: ImageOps.solarize(image, int(v)), (0, 255)),
    "autocontrast": (lambda image, _: ImageOps.autocontrast(image), (0, 0)),
    "equalize": (lambda image, _: ImageOps.equalize(image), (0, 0)),
}


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("width", [32, 48])
def test_a_warp_takes_the_pixels_that_pillow_takes(name, width):
    """A pixel on the border between two may fall to either: less than one in two hundred."""
    do, (low, high) = WARPS[name]
    images, amounts = pictures(width=width), torch.linspace(low, high, 12)
    found = OPERATIONS[name](images, amounts).numpy()
    wanted = by_pillow(images, do, amounts)
    assert (found != wanted).any(axis=1).mean() < 0.005
    assert (wanted != images.numpy()).any()


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("width", [32, 48])
def test_a_change_of_levels_is_pillows_within_one(name, width):
    do, (low, high) = COLOURS[name]
    amounts = torch.linspace(low, high, 12)
    if name == "solarize":
        amounts = amounts.round()
    images = pictures(width=width)
    found = OPERATIONS[name](images, amounts)
    assert found.dtype == torch.uint8
    wanted = by_pillow(images, do, amounts)
    assert np.abs(found.numpy().astype(int) - wanted).max() <= 1
    assert (wanted != images.numpy()).any()


@pytest.mark.parametrize("bits", [0, 1, 2, 4, 7, 8])
def test_posterize_keeps_the_highest_bits(bits):
    images = pictures()
    found = OPERATIONS["posterize"](images, torch.full((12,), float(bits)))
    if bits:
        wanted = by_pillow(
            images, lambda i, v: ImageOps.posterize(i, int(v)), torch.tensor([bits]).expand(12)
        )
        assert np.array_equal(found.numpy(), wanted)
    else:
        assert not found.any()


def test_hue_turns_the_circle_of_hsv():
    images, amounts = pictures(6, 6, 6), torch.linspace(-0.5, 0.5, 6)
    found = OPERATIONS["hue"](images, amounts).double()
    for image, shown, amount in zip(images, found, amounts, strict=True):
        for old, new in zip(image.flatten(1).T, shown.flatten(1).T, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(old.double() / 255).tolist())
            wanted = colorsys.hsv_to_rgb((hue + float(amount)) % 1, saturation, value)
            assert (new - 255 * torch.tensor(wanted)).abs().max() <= 0.51


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_picture_is_changed_alike_in_any_company(name):
    images, amounts = pictures(), torch.linspace(0.1, 0.9, 12)
    together = OPERATIONS[name](images, amounts)
    for number in range(12):
        alone = OPERATIONS[name](images[number : number + 1], amounts[number : number + 1])
        assert torch.equal(alone[0], together[number])


def test_each_picture_goes_through_its_own_operation():
    images = pictures()
    names = ("identity", "solarize", "brightness")
    chosen, amounts = torch.arange(12) % 3, torch.linspace(0.5, 2, 12)
    found = apply_each(images, names, chosen, amounts)
    for number in range(12):
        alone = OPERATIONS[names[number % 3]](
            images[number : number + 1], amounts[number : number + 1]
        )
        assert torch.equal(found[number], alone[0])
    assert torch.equal(images, pictures())
