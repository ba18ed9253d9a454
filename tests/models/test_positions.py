"""Laws of resizing position embeddings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regatta.models.positions import (
    describe_change,
    resize_space,
    resize_space_time,
    resize_time,
)

SIDES = st.integers(2, 9)


def table(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_same_size_gives_the_same_numbers() -> None:
    positions = table(1, 3 * 4 * 4, 5)
    fitted = resize_space_time(positions, source=(3, 4), target=(3, 4))
    assert torch.equal(fitted, positions)


@given(steps=SIDES, grid=SIDES, new_steps=SIDES, new_grid=SIDES)
def test_a_constant_stays_constant_at_any_size(
    steps: int, grid: int, new_steps: int, new_grid: int
) -> None:
    level = torch.full((1, steps * grid * grid, 3), 0.7)
    fitted = resize_space_time(level, source=(steps, grid), target=(new_steps, new_grid))
    assert fitted.shape == (1, new_steps * new_grid * new_grid, 3)
    assert torch.allclose(fitted, torch.tensor(0.7), atol=1e-5)


def test_time_is_linear_between_frames() -> None:
    ramp = torch.arange(4.0).reshape(1, 4, 1)
    # Frame centres at 1/8 steps: (i + 0.5) / 2 - 0.5, held at both ends.
    expected = torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]).reshape(1, 8, 1)
    assert torch.allclose(resize_time(ramp, 8), expected, atol=1e-6)


def test_fewer_frames_of_a_ramp_keep_their_order_and_mean() -> None:
    ramp = torch.arange(8.0).reshape(1, 8, 1)
    fitted = resize_time(ramp, 4).flatten()
    assert torch.allclose(fitted, torch.tensor([0.5, 2.5, 4.5, 6.5]))


def test_rows_and_columns_are_not_swapped() -> None:
    columns = torch.arange(4.0).repeat(4, 1).reshape(1, 16, 1)
    fitted = resize_space(columns, 8).reshape(8, 8)
    assert torch.allclose(fitted, fitted[:1].expand(8, 8), atol=1e-6)
    assert (fitted[0].diff() > 0).all()


@given(grid=SIDES, new_grid=SIDES)
def test_a_mirrored_picture_gives_the_mirrored_result(grid: int, new_grid: int) -> None:
    picture = table(1, grid, grid, 2)
    mirrored = resize_space(picture.flip(2).reshape(1, grid * grid, 2), new_grid)
    straight = resize_space(picture.reshape(1, grid * grid, 2), new_grid)
    assert torch.allclose(
        mirrored.reshape(new_grid, new_grid, 2).flip(1),
        straight.reshape(new_grid, new_grid, 2),
        atol=1e-5,
    )


@given(steps=SIDES, grid=SIDES, new_steps=SIDES, new_grid=SIDES)
def test_space_and_time_can_be_fitted_in_either_order(
    steps: int, grid: int, new_steps: int, new_grid: int
) -> None:
    positions = table(1, steps * grid * grid, 3)
    at_once = resize_space_time(positions, source=(steps, grid), target=(new_steps, new_grid))
    in_time = resize_space_time(positions, source=(steps, grid), target=(new_steps, grid))
    then_space = resize_space_time(in_time, source=(new_steps, grid), target=(new_steps, new_grid))
    assert torch.allclose(at_once, then_space, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tables_keep_their_type(dtype: torch.dtype) -> None:
    assert resize_time(table(1, 4, 8).to(dtype), 6).dtype == dtype
    assert resize_space(table(2, 16, 8).to(dtype), 3).dtype == dtype


def test_the_change_is_told_in_plain_words() -> None:
    assert describe_change((8, 14), (16, 14)) == "8 -> 16 time steps"
    assert describe_change((8, 14), (8, 7)) == "14x14 -> 7x7 patches"
    assert describe_change((8, 14), (4, 7)) == "8 -> 4 time steps, 14x14 -> 7x7 patches"
