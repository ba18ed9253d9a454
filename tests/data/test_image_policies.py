"""Policies draw per picture, from the given generator alone, over the published ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from regatta.core.errors import ConfigError, UnknownNameError
from regatta.data.image_augment import ImageAugment, build_image_augment, shift_and_mirror
from regatta.data.image_policies import RandomErasing, amount_table, rand_ranges, wide_ranges
from regatta.data.window_loader import WindowLoader
from tests.data.test_image_operations import pictures

RECIPES = [
    {"policy": "jitter", "erasing": 0.25, "border": "reflect"},
    {"policy": "randaugment", "operations": 3, "magnitude": 14, "erasing": 0.3},
    {"policy": "trivial", "erasing": 0.25},
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("options", RECIPES, ids=lambda options: options["policy"])
def test_a_recipe_repeats_with_its_generator_and_leaves_the_global_one(options):
    images, augment = pictures(64), build_image_augment(options)
    before = torch.random.get_rng_state()
    first = augment(images, generator=generator())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.dtype == torch.uint8
    assert first.shape == images.shape
    assert torch.equal(augment(images, generator=generator()), first)
    assert not torch.equal(augment(images, generator=generator(1)), first)
    assert torch.equal(images, pictures(64))


@pytest.mark.parametrize("options", RECIPES, ids=lambda options: options["policy"])
def test_a_picture_does_not_depend_on_batches_or_ranks(options):
    names = [str(number) for number in range(300)]

    def epoch(batch_size: int, world: int) -> dict[str, bytes]:
        seen = {}
        for rank in range(world):
            loader = WindowLoader(
                pictures(300, 16, 16),
                list(range(300)),
                names,
                batch_size=batch_size,
                seed=5,
                device=torch.device("cpu"),
                rank=rank,
                world=world,
                augment=build_image_augment(options),
            )
            for batch in loader.batches(1):
                for name, picture in zip(batch.sample_ids, batch.inputs, strict=True):
                    seen[name] = picture.numpy().tobytes()
        return seen

    assert epoch(64, 1) == epoch(37, 3)


def test_published_ranges_at_their_ends():
    rand, wide = rand_ranges(32, 32), wide_ranges()
    assert len(rand) == len(wide) == 14
    strongest = {name: r.strongest for name, r in rand.items()}
    assert strongest["translate_x"] == pytest.approx(150 / 331 * 32)
    assert (strongest["shear_x"], strongest["rotate"], strongest["color"]) == (0.3, 30, 0.9)
    assert (strongest["posterize"], strongest["solarize"]) == (4, 0)
    strongest = {name: r.strongest for name, r in wide.items()}
    assert (strongest["translate_y"], strongest["shear_y"], strongest["rotate"]) == (32, 0.99, 135)
    assert (strongest["posterize"], strongest["sharpness"]) == (2, 0.99)
    # Magnitude 9 of 30 is three tenths of the way.
    at_nine = dict(zip(rand, amount_table(rand)[:, 9].tolist(), strict=True))
    assert at_nine["rotate"] == pytest.approx(9)
    assert at_nine["solarize"] == pytest.approx(255 * 0.7)
    assert at_nine["posterize"] == 7  # 8 - 9 / 7.5 = 6.8, a whole number of bits


def test_the_reflected_border_is_numpys():
    images = pictures(9, 8, 8)
    places = torch.arange(9)
    found = shift_and_mirror(
        images, places, places.flip(0), torch.zeros(9, dtype=torch.bool), pad=4, border="reflect"
    )
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    for n in range(9):
        assert np.array_equal(found[n].numpy(), padded[n, :, n : n + 8, 8 - n : 16 - n])


def test_erasing_takes_its_share_of_pictures_and_of_their_area():
    """4,000 draws: the share within five standard deviations; areas and shapes within the paper's,
    up to the rounding of sides to pixels."""
    images = torch.full((4000, 3, 32, 32), 200, dtype=torch.uint8)
    found = RandomErasing(0.25, (10, 20, 30))(images, generator=generator())
    erased = found[:, 0] == 10
    assert torch.equal(found[:, 2] == 30, erased)
    assert torch.equal(found[:, 0] == 200, ~erased)
    hit = erased.flatten(1).any(1)
    assert abs(int(hit.sum()) - 1000) < 5 * math.sqrt(4000 * 0.25 * 0.75)
    rows, columns = erased[hit].any(2).sum(1), erased[hit].any(1).sum(1)
    area = erased[hit].flatten(1).sum(1)
    assert torch.equal(area, rows * columns)
    assert area.min() >= 0.02 * 1024 - 8
    assert area.max() <= 0.33 * 1024 + 32
    assert abs(float(area.double().mean()) / 1024 - 0.175) < 0.02
    shape = torch.log(rows.double() / columns)
    assert abs(float(shape.mean())) < 0.1


def test_what_is_erased_is_the_datas_mean_and_so_zero_once_normalised():
    augment = build_image_augment(
        {"pad": 0, "flip": False, "erasing": 1.0}, mean=(0.5071, 0.4865, 0.4409)
    )
    images = torch.full((20, 3, 32, 32), 255, dtype=torch.uint8)
    found = augment(images, generator=generator())
    assert sorted(found[:, 0].unique().tolist()) == [129, 255]
    assert sorted(found[:, 2].unique().tolist()) == [112, 255]


def test_jitter_of_nothing_and_no_policy_change_nothing():
    images = pictures(40)
    still = {"pad": 0, "flip": False, "policy": "jitter", "jitter": [0.0] * 4, "erasing": 0.0}
    assert torch.equal(build_image_augment(still)(images, generator=generator()), images)
    plain = build_image_augment({"pad": 2, "erasing": 0.0})(images, generator=generator())
    assert torch.equal(plain, ImageAugment(2)(images, generator=generator()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "autoaugment"}, "policy"),
        ({"magnitude": 31}, "0 to 30, got 31"),
        ({"erasing": 1.5}, "0 to 1, got 1.5"),
        ({"jitter": [0.2, 0.2]}, "takes 4 numbers"),
        ({"jitter": [0.2, 0.2, 0.2, 0.6]}, "0 to 0.5, got 0.6"),
        ({"pad": -1}, "0 or more, got -1"),
    ],
)
def test_options_out_of_range_are_named(options, words):
    with pytest.raises(ConfigError) as caught:
        build_image_augment(options)
    assert words in str(caught.value)
    assert "train.augment_options" in str(caught.value)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        build_image_augment({"magnitud": 9})
    assert "magnitude" in str(caught.value)
