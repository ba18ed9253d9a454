"""Errors of places: values worked out by hand, and laws that hold for every error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.analysis.positions import (
    absolute_error,
    distance,
    error_quantiles,
    skill,
    split_by_camera,
    split_by_motion,
    squared_error,
)

SAID = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, -3.0]])
TRUE = np.zeros((2, 3))


def test_errors_of_two_places_are_those_worked_out_by_hand() -> None:
    # Differences (1, 2, 2) and (0, 0, -3): squares sum to 9 and 9, absolutes to 5 and 3.
    assert squared_error(SAID, TRUE).tolist() == [3.0, 3.0]
    assert absolute_error(SAID, TRUE).tolist() == pytest.approx([5 / 3, 1.0])
    assert distance(SAID, TRUE).tolist() == pytest.approx([3.0, 3.0])


def test_mean_squared_error_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import mean_absolute_error, mean_squared_error

    rng = np.random.default_rng(3)
    said, true = rng.normal(size=(2, 50, 3))
    assert squared_error(said, true).mean() == pytest.approx(mean_squared_error(true, said))
    assert absolute_error(said, true).mean() == pytest.approx(mean_absolute_error(true, said))


def test_error_is_parted_along_and_across_the_motion() -> None:
    # Motion along y at any speed: of (1, 2, 2) the 2 in y is along, (1, 2) across.
    along, across = split_by_motion(SAID[:1], np.array([[0.0, 0.07, 0.0]]))
    assert along.tolist() == pytest.approx([4.0])
    assert across.tolist() == pytest.approx([5.0])


def test_object_that_stands_still_has_no_direction() -> None:
    along, across = split_by_motion(SAID[:1], np.zeros((1, 3)))
    assert np.isnan(along).all()
    assert np.isnan(across).all()


def test_depth_is_along_the_optical_axis_of_the_camera() -> None:
    # A camera that looks along -x, its right towards +y and its down towards -z.
    rotation = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])
    depth, plane = split_by_camera(SAID[:1], rotation)
    assert depth.tolist() == pytest.approx([1.0])
    assert plane.tolist() == pytest.approx([8.0])


@given(
    st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(lambda v: max(map(abs, v)) > 1e-3),
)
def test_both_parts_add_up_to_three_times_the_squared_error(
    error: list[float], velocity: list[float]
) -> None:
    whole = 3 * squared_error([error], np.zeros((1, 3)))
    along, across = split_by_motion([error], [velocity])
    assert along + across == pytest.approx(whole, abs=1e-12)
    turned = np.linalg.qr(np.array([velocity, [1.0, 0.3, 0.2], [0.1, 1.0, -0.4]]).T)[0]
    depth, plane = split_by_camera([error], turned)
    assert depth + plane == pytest.approx(whole, abs=1e-12)


def test_quantiles_are_means_over_seeds_of_those_of_numpy() -> None:
    far = np.arange(1.0, 11.0)
    first = np.stack([far, 0 * far, 0 * far], axis=1)
    found = error_quantiles(np.stack([first, 3 * first]), np.zeros((10, 3)))
    assert found["median"] == pytest.approx(2 * 5.5)
    assert found["p90"] == pytest.approx(2 * 9.1)


def test_skill_is_one_minus_the_ratio_and_unknown_against_an_exact_reference() -> None:
    assert skill(0.01, 0.04) == pytest.approx(0.75)
    assert skill(0.08, 0.04) == pytest.approx(-1.0)
    assert skill(0.01, 0.0) is None
    assert skill(None, 0.04) is None
