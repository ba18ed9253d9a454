"""What form a track has, measured: its plane, its turns, its rise, its acceleration.

A track is a row of places at equal steps of time. Its own time s runs from 0 at the first place to
1 at the last, so lengths are in world units u, and an acceleration is in u per clip squared.

Shapes: N tracks, T places of each, 3 coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FORMS = ("linear", "circular", "helical", "parabolic")
STRAIGHT_RMS, CURVED_RMS, FLAT_RMS = 0.045, 0.05, 0.035
"""In u, how far a track may be from a line, a parabola and a plane to be called one. Over 2,000
tracks of each form as they are generated a fall was 0.075 or more from a line, a turn 0.10 or more
from a parabola, and a screw 0.064 or more from a plane."""
MOST_TURNS = 4.0
_TURN_STEP = 0.01
_CHUNK = 256

Basis = Callable[[np.ndarray], np.ndarray]
"""Angular speeds [..., G] -> columns [..., G, T, k] that a track is fitted with."""


class TrackNumbers(NamedTuple):
    """singular_N3: root mean square extent along the principal axes, longest first, in u;
    the last is the distance from the best plane. residual_N3: the same of what polynomials of
    degree 1, 2 and 3 leave. acceleration_N: of the parabola, u per clip squared."""

    singular_N3: np.ndarray
    residual_N3: np.ndarray
    acceleration_N: np.ndarray


@dataclass(frozen=True)
class TurnFit:
    """Circles and screws: centre + radius (cos(w s), sin(w s)) around an axis + rise (s - 1/2).

    places_N: complex, in the plane (e1, e2): its middle and its start seen from there.
    """

    axes_N33: np.ndarray
    """Rows e1, e2 and the axis that the track turns around counter-clockwise."""
    middle_N: np.ndarray
    arm_N: np.ndarray
    speed_N: np.ndarray
    """Radians per clip, above 0."""
    height_N: np.ndarray
    rise_N: np.ndarray

    @property
    def radius_N(self) -> np.ndarray:
        return np.abs(self.arm_N)

    @property
    def turns_N(self) -> np.ndarray:
        return self.speed_N / (2 * np.pi)

    def at(self, time: np.ndarray) -> np.ndarray:
        """Places [N, M, 3] at the times [M]."""
        angle_NM = self.speed_N[:, None] * time
        flat_NM = self.middle_N[:, None] + self.arm_N[:, None] * np.exp(1j * angle_NM)
        height_NM = self.height_N[:, None] + self.rise_N[:, None] * (time - 0.5)
        own_NM3 = np.stack([np.real(flat_NM), np.imag(flat_NM), height_NM], axis=-1)
        return own_NM3 @ self.axes_N33


def clip_time(frames: int, *, first: int = 0, last: int | None = None) -> np.ndarray:
    """s of the frames first .. last of a clip of `frames`; by default of all that are shown."""
    return np.arange(first, frames if last is None else last + 1) / (frames - 1)


def measure_tracks(tracks_NT3: np.ndarray) -> TrackNumbers:
    """Extents and what polynomials leave; float64, NaN for a track that has one."""
    tracks_NT3 = np.asarray(tracks_NT3, dtype=np.float64)
    frames = tracks_NT3.shape[1]
    known_N = np.asarray(np.isfinite(tracks_NT3).all(axis=(1, 2)))
    safe_NT3 = np.where(known_N[:, None, None], tracks_NT3, 0.0)
    centred_NT3 = safe_NT3 - safe_NT3.mean(axis=1, keepdims=True)
    singular_N3 = np.linalg.svd(centred_NT3, compute_uv=False) / np.sqrt(frames)
    residual_N3 = np.stack([_polynomial_rms(safe_NT3, degree) for degree in (1, 2, 3)], axis=1)
    bend_N3 = 2 * polynomial_fit(safe_NT3, 2)[:, 2]
    acceleration_N = np.linalg.norm(bend_N3, axis=-1)
    gap_N = np.where(known_N, 0.0, np.nan)
    return TrackNumbers(
        singular_N3 + gap_N[:, None], residual_N3 + gap_N[:, None], acceleration_N + gap_N
    )


def polynomial_fit(tracks_NT3: np.ndarray, degree: int) -> np.ndarray:
    """Coefficients [N, degree + 1, 3] of powers of s, by least squares."""
    powers_TK = np.vander(clip_time(tracks_NT3.shape[1]), degree + 1, increasing=True)
    return np.linalg.pinv(powers_TK) @ tracks_NT3


def polynomial_at(coefficients_NK3: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Places [N, M, 3] of polynomials at the times [M]."""
    return np.vander(time, coefficients_NK3.shape[1], increasing=True) @ coefficients_NK3


def _polynomial_rms(tracks_NT3: np.ndarray, degree: int) -> np.ndarray:
    left = tracks_NT3 - polynomial_at(
        polynomial_fit(tracks_NT3, degree), clip_time(tracks_NT3.shape[1])
    )
    return np.sqrt((left**2).sum(axis=2).mean(axis=1))


def recognise_forms(numbers: TrackNumbers) -> np.ndarray:
    """Places in FORMS [N], -1 where a track is not known.

    A track near a line is linear, one near a parabola parabolic, another one in a plane circular,
    and what leaves every plane helical. Nothing is learned; the bounds stand at the top.
    """
    forms_N = np.where(numbers.singular_N3[:, 2] <= FLAT_RMS, 1, 2)
    forms_N = np.where(numbers.residual_N3[:, 1] <= CURVED_RMS, 3, forms_N)
    forms_N = np.where(numbers.residual_N3[:, 0] <= STRAIGHT_RMS, 0, forms_N)
    return np.where(np.isfinite(numbers.acceleration_N), forms_N, -1)


def fit_turns(tracks_NT3: np.ndarray, *, rises: bool) -> TurnFit:
    """The circles, or screws when they rise, nearest to tracks without gaps.

    The angular speed is searched over up to MOST_TURNS turns per clip; given it, everything else is
    linear, once the axis is known from a fit that leaves the axis free.
    """
    tracks_NT3 = np.asarray(tracks_NT3, dtype=np.float64)
    parts = [
        _fit_chunk(tracks_NT3[first : first + _CHUNK], rises=rises)
        for first in range(0, max(len(tracks_NT3), 1), _CHUNK)
    ]
    names = TurnFit.__dataclass_fields__
    return TurnFit(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def _fit_chunk(tracks_NT3: np.ndarray, *, rises: bool) -> TurnFit:
    time_T = clip_time(tracks_NT3.shape[1])

    def waves(speed: np.ndarray) -> np.ndarray:
        angle = speed[..., None] * time_T
        still = [np.ones_like(angle)] + ([np.ones_like(angle) * (time_T - 0.5)] if rises else [])
        return np.stack([*still, np.cos(angle), np.sin(angle)], axis=-1)

    def circle(speed: np.ndarray) -> np.ndarray:
        angle = speed[..., None] * time_T
        return np.stack([np.ones_like(angle) + 0j, np.exp(1j * angle)], axis=-1)

    speed_N = _search(waves, tracks_NT3)
    loose_NK3 = np.linalg.pinv(waves(speed_N)) @ tracks_NT3
    axes_N33 = _turning_axes(loose_NK3[:, -2], loose_NK3[:, -1])
    own_NT3 = tracks_NT3 @ axes_N33.swapaxes(1, 2)
    flat_NT1 = (own_NT3[..., 0] + 1j * own_NT3[..., 1])[..., None]
    speed_N = _refine(circle, flat_NT1, speed_N, step=2 * np.pi * _TURN_STEP * 5)
    middle_N, arm_N = (np.linalg.pinv(circle(speed_N)) @ flat_NT1)[..., 0].T
    height_N, slope_N = own_NT3[..., 2].mean(axis=1), np.zeros(len(own_NT3))
    if rises:
        slope_N = own_NT3[..., 2] @ (time_T - 0.5) / ((time_T - 0.5) ** 2).sum()
    return TurnFit(axes_N33, middle_N, arm_N, speed_N, height_N, slope_N)


def _turning_axes(cosine_N3: np.ndarray, sine_N3: np.ndarray) -> np.ndarray:
    """Orthonormal rows e1, e2, e1 x e2 [N, 3, 3] of the plane of two vectors, in their order."""
    first = cosine_N3 / np.maximum(np.linalg.norm(cosine_N3, axis=-1, keepdims=True), 1e-12)
    second = sine_N3 - (sine_N3 * first).sum(axis=-1, keepdims=True) * first
    second = second / np.maximum(np.linalg.norm(second, axis=-1, keepdims=True), 1e-12)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def _search(basis: Basis, tracks_NTC: np.ndarray) -> np.ndarray:
    """The angular speeds [N] whose columns leave least of the tracks."""
    turns = np.arange(0.3, MOST_TURNS, _TURN_STEP)
    speed_G = 2 * np.pi * turns
    inside_GN = _explained(basis(speed_G)[:, None], tracks_NTC)
    best_N = speed_G[inside_GN.argmax(axis=0)]
    return _refine(basis, tracks_NTC, best_N, step=2 * np.pi * _TURN_STEP)


def _refine(
    basis: Basis, tracks_NTC: np.ndarray, speed_N: np.ndarray, *, step: float
) -> np.ndarray:
    """The best angular speeds within `step` of the given ones, to a millionth of it."""
    for _ in range(6):
        near_GN = speed_N + np.linspace(-step, step, 11)[:, None]
        inside_GN = _explained(basis(near_GN), tracks_NTC)
        speed_N = np.take_along_axis(near_GN, inside_GN.argmax(axis=0)[None], axis=0)[0]
        step /= 8
    return speed_N


def _explained(columns_GNTK: np.ndarray, tracks_NTC: np.ndarray) -> np.ndarray:
    """How much of each track's energy lies in the span of the columns [G, N]."""
    frames_GNTK, _ = np.linalg.qr(columns_GNTK)
    inside = frames_GNTK.conj().swapaxes(-1, -2) @ tracks_NTC
    return (np.abs(inside) ** 2).sum(axis=(-1, -2))
