"""Which operations a training picture goes through, and how strongly: drawn per picture.

Shapes: B pictures of H x W pixels, O operations, L = 31 levels of magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from regatta.data.image_operations import apply_each

LEVELS = 31
ENHANCE = ("brightness", "color", "contrast", "sharpness")
JITTER = ("brightness", "contrast", "color", "hue")


@dataclass(frozen=True)
class Range:
    """Amounts from the weakest level to the strongest; a signed one is as often negative.

    around: what the amount is added to: 1 for factors, where 1 changes nothing.
    """

    weakest: float
    strongest: float
    is_signed: bool = False
    around: float = 0.0
    is_whole: bool = False


def rand_ranges(height: int, width: int) -> dict[str, Range]:
    """Ranges of RandAugment, as AutoAugment has them: a translation reaches 150 of 331 pixels.

    Source: Cubuk et al. 2020, RandAugment: practical automated data augmentation with a reduced
    search space; ranges of Cubuk et al. 2019, AutoAugment, table 6.
    """
    reach = 150 / 331
    return _ranges(
        shear=0.3, across=reach * width, down=reach * height, degrees=30, enhance=0.9, bits=4
    )


def wide_ranges() -> dict[str, Range]:
    """Ranges of TrivialAugment, wide.

    Source: Mueller and Hutter 2021, TrivialAugment: tuning-free yet state-of-the-art data
    augmentation, table 1.
    """
    return _ranges(shear=0.99, across=32, down=32, degrees=135, enhance=0.99, bits=6)


def _ranges(
    *, shear: float, across: float, down: float, degrees: float, enhance: float, bits: int
) -> dict[str, Range]:
    """bits: how many of eight the strongest posterisation drops."""
    return {
        "identity": Range(0, 0),
        "shear_x": Range(0, shear, is_signed=True),
        "shear_y": Range(0, shear, is_signed=True),
        "translate_x": Range(0, across, is_signed=True),
        "translate_y": Range(0, down, is_signed=True),
        "rotate": Range(0, degrees, is_signed=True),
        **{name: Range(0, enhance, is_signed=True, around=1) for name in ENHANCE},
        "posterize": Range(8, 8 - bits, is_whole=True),
        "solarize": Range(255, 0),
        "autocontrast": Range(0, 0),
        "equalize": Range(0, 0),
    }


def amount_table(ranges: dict[str, Range]) -> torch.Tensor:
    """Amounts before sign and offset, float32 [O, L], evenly spaced."""
    share = torch.linspace(0, 1, LEVELS, dtype=torch.float64)
    rows = []
    for span in ranges.values():
        row = span.weakest + (span.strongest - span.weakest) * share
        rows.append(row.round() if span.is_whole else row)
    return torch.stack(rows).float()


@dataclass(frozen=True)
class DrawnOperations:
    """RandAugment or TrivialAugment: per picture `operations` times one of fourteen operations.

    magnitude: level 0 .. 30 of every operation; None = drawn per operation and picture.
    """

    operations: int
    magnitude: int | None

    def __call__(self, inputs: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """uint8 [B, 3, H, W] -> the same; draws are made in one order."""
        images, (height, width) = inputs, inputs.shape[2:]
        is_rand = self.magnitude is not None
        ranges = rand_ranges(height, width) if is_rand else wide_ranges()
        device, count = inputs.device, len(inputs)
        table = amount_table(ranges).to(device)
        signed = torch.tensor([r.is_signed for r in ranges.values()], device=device)
        around = torch.tensor([r.around for r in ranges.values()], device=device)
        for _ in range(self.operations):
            chosen = torch.randint(len(ranges), (count,), generator=generator, device=device)
            levels = torch.randint(LEVELS, (count,), generator=generator, device=device)
            negative = torch.rand(count, generator=generator, device=device) < 0.5
            if self.magnitude is not None:
                levels = torch.full_like(levels, self.magnitude)
            amounts = table[chosen, levels]
            amounts = torch.where(negative & signed[chosen], -amounts, amounts) + around[chosen]
            images = apply_each(images, tuple(ranges), chosen, amounts)
        return images


def rand_augment(*, operations: int, magnitude: int) -> DrawnOperations:
    """Each picture goes through that many operations, all at one magnitude."""
    return DrawnOperations(operations, magnitude)


def trivial_augment() -> DrawnOperations:
    """Each picture goes through one operation at a drawn magnitude."""
    return DrawnOperations(1, None)


@dataclass(frozen=True)
class ColourJitter:
    """Brightness, contrast and saturation times a factor from [1 - x, 1 + x], the hue turned by up
    to `hue` of the circle; in an order drawn per picture.

    Source: Krizhevsky et al. 2012 vary colour; the four factors follow Howard 2013, Some
    improvements on deep convolutional neural network based image classification.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    @cached_property
    def _reach(self) -> torch.Tensor:
        return torch.tensor([self.brightness, self.contrast, self.saturation, self.hue])

    def __call__(self, inputs: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """uint8 [B, 3, H, W] -> the same; draws are made in one order."""
        images, device, shape = inputs, inputs.device, (len(inputs), len(JITTER))
        around = torch.tensor([1.0, 1.0, 1.0, 0.0], device=device)
        drawn = 2 * torch.rand(shape, generator=generator, device=device) - 1
        order = torch.rand(shape, generator=generator, device=device).argsort(dim=1)
        amounts = around + self._reach.to(device) * drawn
        for chosen in order.unbind(1):
            of_chosen = amounts.gather(1, chosen[:, None])[:, 0]
            images = apply_each(images, JITTER, chosen, of_chosen)
        return images


@dataclass(frozen=True)
class RandomErasing:
    """A rectangle of a share of the pictures is filled with one colour.

    Its area is 2 to 33 % of the picture, its height to width 0.3 to 3.3, even in the logarithm. Of
    ten drawn rectangles the first that fits counts; without one the picture stays.

    Args:
        fill: grey level per colour.
    Source: Zhong et al. 2020, Random erasing data augmentation, algorithm 1.
    """

    probability: float
    fill: tuple[int, ...]

    def __call__(self, inputs: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """uint8 [B, 3, H, W] -> the same; draws are made in one order."""
        device, count = inputs.device, len(inputs)
        height, width = inputs.shape[2:]
        drawn = torch.rand((5, 10, count), generator=generator, device=device)
        area = (0.02 + 0.31 * drawn[0]) * height * width
        low, high = torch.log(torch.tensor([0.3, 3.3], device=device))
        ratio = torch.exp(low + (high - low) * drawn[1])
        tall, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (tall < height) & (wide < width) & (tall > 0) & (wide > 0)
        first = fits.int().argmax(dim=0, keepdim=True)
        top = (drawn[2] * (height - tall + 1)).floor()
        left = (drawn[3] * (width - wide + 1)).floor()
        chosen = fits.any(dim=0) & (drawn[4, 0] < self.probability)
        top, left, tall, wide = (v.gather(0, first)[0][:, None] for v in (top, left, tall, wide))
        row, column = torch.arange(height, device=device), torch.arange(width, device=device)
        rows = (row >= top) & (row < top + tall) & chosen[:, None]
        columns = (column >= left) & (column < left + wide)
        fill = torch.tensor(self.fill, dtype=torch.uint8, device=device)[:, None, None]
        return torch.where((rows[:, :, None] & columns[:, None])[:, None], fill, inputs)
