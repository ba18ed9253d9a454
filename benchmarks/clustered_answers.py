"""Simulated right answers whose true accuracies are known, for the studies of intervals and tests.

Shapes: B studies, E entries, S seeds of each, G groups, N samples.

Groups have rates from a beta distribution, so answers of a group are beta-binomial with the given
intraclass correlation; sizes are unequal and independent of the rates. In 70 % of the groups all
entries have one rate and in the others each its own, so that their difference is clustered as well;
on 60 % of the samples all runs have the same luck. Seeds of an entry share its rates.

An entry or a seed that is better moves each group's rate x by
shift * x (1 - x) / (1 - correlation): rates stay within 0 and 1, and their mean p moves by exactly
shift * p (1 - p).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARED_RATES, SHARED_LUCK = 0.7, 0.6
"""Share of groups whose rate all entries have, and of samples on which all runs have one luck."""
SEED_REACH = 2.5
"""A seed's shift is normal, cut here, in standard deviations."""


@dataclass(frozen=True)
class Design:
    """One kind of study.

    shifts: of each entry, in units of p (1 - p). seed_noise: standard deviation of a seed's shift,
    in the same unit.
    """

    accuracy: float
    correlation: float
    groups: int
    shifts: Sequence[float] = (0.0, 0.0)
    seeds: int = 1
    seed_noise: float = 0.0
    samples_per_group: float = 9.0

    def truth(self, entry: int) -> float:
        """The accuracy that an entry has over all groups, samples and seeds there could be."""
        return self.accuracy + self.shifts[entry] * self.accuracy * (1 - self.accuracy)


def draw_groups(rng: np.random.Generator, design: Design) -> np.ndarray:
    """Group of each sample [N]; sizes are 1 or more and vary by three quarters of their mean."""
    extra = design.samples_per_group - 1
    sizes = 1 + rng.poisson(rng.gamma(2.0, extra / 2.0, size=design.groups))
    return np.repeat(np.arange(design.groups), sizes)


def draw_answers(
    rng: np.random.Generator, design: Design, groups: np.ndarray, *, studies: int
) -> np.ndarray:
    """Right answers bool [B, E, S, N] of independent studies on groups of these sizes."""
    entries, seeds = len(design.shifts), design.seeds
    common = _rates(rng, design, (studies, 1))
    own = _rates(rng, design, (studies, entries))
    is_common = rng.random(common.shape) < SHARED_RATES
    rates = np.where(is_common, common, own)[:, :, None]
    noise = np.clip(rng.normal(size=(studies, entries, seeds, 1)), -SEED_REACH, SEED_REACH)
    shift = np.reshape(design.shifts, (1, entries, 1, 1)) + design.seed_noise * noise
    rates = rates + shift * rates * (1 - rates) / (1 - design.correlation)
    luck = rng.random((studies, 1, 1, len(groups)), dtype=np.float32)
    shape = (studies, entries, seeds, len(groups))
    is_shared = rng.random(luck.shape, dtype=np.float32) < SHARED_LUCK
    luck = np.where(is_shared, luck, rng.random(shape, dtype=np.float32))
    return luck < rates[..., groups]


def _rates(rng: np.random.Generator, design: Design, shape: tuple[int, int]) -> np.ndarray:
    """Rates of all groups, [*shape, G], with the design's mean and correlation."""
    if design.correlation == 0:
        return np.full((*shape, design.groups), design.accuracy)
    scale = (1 - design.correlation) / design.correlation
    parameters = design.accuracy * scale, (1 - design.accuracy) * scale
    return rng.beta(*parameters, size=(*shape, design.groups))
