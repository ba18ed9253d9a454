"""Promises of measured tracks: known circles, screws and falls give their own numbers back."""

from __future__ import annotations

import numpy as np
import pytest

from regatta.evaluation.track_shape import (
    clip_time,
    fit_turns,
    measure_tracks,
    polynomial_fit,
    recognise_forms,
)
from tests.evaluation.scene_tracks import FORMS, tracks, turning

S = np.arange(32) / 31
AXIS = np.array([1.0, 2.0, 2.0]) / 3


def screw(**changes):
    known = {"axis": AXIS, "radius": 0.52, "turns": 1.3, "phase": 0.7, "middle": (0.1, -0.2, 0.3)}
    return turning(S, **{**known, "rise": 0.94, **changes})[None]


@pytest.mark.parametrize(("turns", "rise"), [(1.3, 0.94), (-0.8, 0.3), (2.4, 1.4)])
def test_a_screw_gives_its_radius_turns_and_rise(turns, rise):
    fit = fit_turns(screw(turns=turns, rise=rise), rises=True)
    # Turned the other way around, it is right-handed about the axis that points the other way.
    assert fit.radius_N[0] == pytest.approx(0.52, abs=1e-6)
    assert fit.turns_N[0] == pytest.approx(abs(turns), abs=1e-6)
    assert fit.rise_N[0] == pytest.approx(np.sign(turns) * rise, abs=1e-6)
    assert np.abs(fit.axes_N33[0, 2] - np.sign(turns) * AXIS).max() < 1e-6


def test_a_fitted_turn_goes_on_as_it_began():
    later = np.arange(37) / 31
    known = {"axis": AXIS, "radius": 0.4, "turns": 1.1, "phase": 2.0, "middle": (0, 0, 0)}
    for rise in (0.0, 0.8):
        wanted = turning(later, rise=rise, **known)
        fit = fit_turns(wanted[None, :32], rises=rise > 0)
        assert np.abs(fit.at(later)[0] - wanted).max() < 1e-5


def test_the_plane_residual_of_a_circle_is_none_and_of_a_box_its_own():
    flat = measure_tracks(screw(rise=0.0))
    assert flat.singular_N3[0, 2] < 1e-12
    # A whole turn is r / sqrt 2 long both ways.
    whole = np.arange(32) / 32
    circle = turning(whole, axis=AXIS, radius=0.5, turns=1, phase=0, middle=(0, 0, 0))
    assert np.allclose(measure_tracks(circle[None]).singular_N3[0, :2], 0.5 / np.sqrt(2))


def test_a_fall_gives_its_acceleration_and_is_left_over_by_a_line():
    fall = np.stack([1.5 * S, 0 * S, 3.0 * S - 2.5 * S**2], axis=1)
    numbers = measure_tracks(fall[None])
    assert numbers.acceleration_N[0] == pytest.approx(5.0)
    assert np.allclose(polynomial_fit(fall[None], 2)[0, :, 2], [0, 3, -2.5])
    line = np.polynomial.polynomial.polyfit(S, fall[:, 2], 1)
    left = fall[:, 2] - np.polynomial.polynomial.polyval(S, line)
    assert numbers.residual_N3[0, 0] == pytest.approx(np.sqrt(np.mean(left**2)))
    assert numbers.residual_N3[0, 1] < 1e-12


def test_true_tracks_are_always_recognised_also_short_ones():
    for frames in (32, 16):
        places, forms = tracks(500, seed=3, frames=frames)
        found = recognise_forms(measure_tracks(places[:, :frames]))
        assert np.array_equal(found, forms), [FORMS[f] for f in forms[found != forms]]


def test_a_track_with_a_gap_is_not_measured():
    places = screw()
    places[0, 3, 1] = np.nan
    numbers = measure_tracks(np.concatenate([screw(), places]))
    assert np.isnan(numbers.acceleration_N).tolist() == [False, True]
    assert np.isnan(numbers.singular_N3[1]).all()
    assert recognise_forms(numbers).tolist() == [2, -1]


def test_clip_time_runs_from_none_to_one_and_on():
    assert clip_time(3).tolist() == [0, 0.5, 1]
    assert clip_time(32, first=36, last=36).tolist() == [36 / 31]
