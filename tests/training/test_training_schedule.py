"""The learning rate follows its closed form at every optimizer step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regatta.training.schedule import (
    constant_factor,
    count_steps,
    count_warmup_steps,
    lr_factor,
    restart_factor,
)


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


def restarts(total: int, warmup: int = 0, least: float = 0.0) -> list[float]:
    return [
        restart_factor(step, total_steps=total, warmup_steps=warmup, min_fraction=least)
        for step in range(total)
    ]


def test_a_constant_rate_stays_at_1_after_its_warmup():
    found = [constant_factor(step, warmup_steps=4) for step in range(8)]
    assert found == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert [constant_factor(step, warmup_steps=0) for step in (0, 9)] == [1.0, 1.0]


def test_restarts_come_after_a_quarter_and_three_quarters():
    found = restarts(16, least=0.1)
    assert [found[step] for step in (0, 4, 12)] == [1.0, 1.0, 1.0]
    # Half way through the periods 0 .. 4 and 4 .. 12: the middle between 1 and 0.1.
    assert [found[step] for step in (2, 8)] == pytest.approx([0.55, 0.55])
    # A quarter of the period 12 .. 28 is never reached: its last step is 3/16 of it.
    assert found[15] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 3 / 16)) / 2)
    rises = [step for step, (a, b) in enumerate(pairwise(found), 1) if b > a]
    assert rises == [4, 12]


@pytest.mark.parametrize("total", [8, 20, 400])
def test_restarts_are_torchs(total: int):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=total // 4, T_mult=2, eta_min=0.1
    )
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert restarts(total, least=0.1) == pytest.approx(expected, abs=1e-12)


@given(total=st.integers(1, 300), fraction=st.floats(0, 0.99), least=st.floats(0, 1))
def test_restarts_begin_with_the_warmup_and_stay_in_range(
    total: int, fraction: float, least: float
):
    warmup = count_warmup_steps(total, fraction=fraction)
    found = restarts(total, warmup, least)
    assert found[:warmup] == factors(total, warmup, least)[:warmup]
    assert all(least - 1e-12 <= value <= 1 for value in found[warmup:])
    rises = [step for step, (a, b) in enumerate(pairwise(found), 1) if b > a and step >= warmup]
    assert all(step in (math.ceil(total / 4), math.ceil(3 * total / 4)) for step in rises)
