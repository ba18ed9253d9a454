"""The learning rate follows its closed form at every optimizer step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.training.schedule import count_steps, count_warmup_steps, lr_factor


def factors(total: int, warmup: int, least: float = 0.0) -> list[float]:
    return [
        lr_factor(step, total_steps=total, warmup_steps=warmup, min_fraction=least)
        for step in range(total)
    ]


def test_warmup_rises_by_equal_parts_from_the_first_step():
    assert factors(20, 4)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_cosine_meets_its_published_values_at_the_quarter_points():
    # 9 steps without warm-up: steps 0, 2, 4, 6, 8 are angles 0, pi/4, pi/2, 3 pi/4, pi.
    root = math.sqrt(0.5)
    assert factors(9, 0)[::2] == pytest.approx(
        [1, (1 + root) / 2, 0.5, (1 - root) / 2, 0], abs=1e-15
    )


def test_last_step_has_exactly_the_least_rate():
    assert factors(50, 5, least=0.1)[-1] == pytest.approx(0.1, abs=1e-15)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (2, 2), (5, 5)])
def test_a_run_that_ends_with_its_warmup_ends_at_the_full_rate(total: int, warmup: int):
    assert factors(total, warmup)[-1] == 1.0


@given(
    total=st.integers(1, 400),
    fraction=st.floats(0, 0.99),
    least=st.floats(0, 1, allow_subnormal=False),
)
def test_rate_rises_once_then_never_again_and_stays_in_range(
    total: int, fraction: float, least: float
):
    warmup = count_warmup_steps(total, fraction=fraction)
    values = factors(total, warmup, least)
    peak = max(warmup - 1, 0)
    assert values[peak] == 1.0
    assert all(a < b for a, b in pairwise(values[: peak + 1]))
    assert all(a >= b for a, b in pairwise(values[peak:]))
    assert all(value >= min(least, 1 / max(warmup, 1)) - 1e-12 for value in values)


@pytest.mark.parametrize(
    ("total", "fraction", "steps"),
    [(30, 0.1, 3), (10, 0.0, 0), (4, 0.1, 0), (5, 0.1, 1), (7, 0.5, 4)],
)
def test_warmup_share_is_rounded_to_the_nearest_step(total: int, fraction: float, steps: int):
    assert count_warmup_steps(total, fraction=fraction) == steps


@pytest.mark.parametrize(("micro_batches", "steps"), [(0, 0), (1, 1), (8, 2), (9, 3)])
def test_a_short_last_group_is_a_step_too(micro_batches: int, steps: int):
    assert count_steps(micro_batches, accumulate=4) == steps
