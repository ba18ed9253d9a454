"""What can be said of a scene without learning from pictures: forecasts and classes from its track.

A track is the true one ("oracle"), or one triangulated from the disc centres that were found in the
pictures of all cameras ("pixels"). These are the answers that a trained model must beat.

Shapes: N tracks, T shown places of each, 3 coordinates; all in world units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from regatta.evaluation.track_shape import (
    FORMS,
    clip_time,
    fit_turns,
    measure_tracks,
    polynomial_at,
    polynomial_fit,
    recognise_forms,
)

NEIGHBOURS, MOST_TRAINED_ON, LINE_FRAMES = 9, 3000, 8
FEWEST_SEEN = 4
"""Frames of a pixel track that must be known, to say anything of it."""


@dataclass(frozen=True)
class Guess:
    """labels_N: places in FORMS, -1 = says nothing of the class. places_N3: NaN = says nothing of
    the place."""

    labels_N: np.ndarray
    places_N3: np.ndarray


def fill_gaps(tracks_NT3: np.ndarray) -> np.ndarray:
    """Unknown places between known ones by straight lines; beyond them the nearest one holds.

    A track with fewer than four known places stays unknown altogether.
    """
    filled = np.array(tracks_NT3, dtype=np.float64)
    frames = np.arange(filled.shape[1])
    for row in np.flatnonzero(~np.isfinite(filled).all(axis=(1, 2))):
        known = np.isfinite(filled[row]).all(axis=1)
        if known.sum() < FEWEST_SEEN:
            filled[row] = np.nan
            continue
        for axis in range(3):
            filled[row, :, axis] = np.interp(frames, frames[known], filled[row, known, axis])
    return filled


def constant_velocity(tracks_NT3: np.ndarray, *, ahead: int) -> np.ndarray:
    """Where the last step, taken `ahead` times more, would lead [N, 3]."""
    last, before = tracks_NT3[:, -1], tracks_NT3[:, -2]
    return last + ahead * (last - before)


def constant_acceleration(tracks_NT3: np.ndarray, *, ahead: int) -> np.ndarray:
    """The parabola through the last three places, `ahead` frames on [N, 3]."""
    last, before, earlier = (tracks_NT3[:, -n] for n in (1, 2, 3))
    bend = last - 2 * before + earlier
    return last + ahead * (last - before) + ahead * (ahead + 1) / 2 * bend


def line_fit(tracks_NT3: np.ndarray, *, ahead: int) -> np.ndarray:
    """The least-squares line through the last eight places, `ahead` frames on [N, 3]."""
    return _polynomial_ahead(tracks_NT3[:, -LINE_FRAMES:], 1, ahead=ahead)


def shape_fit(tracks_NT3: np.ndarray, forms_N: np.ndarray, *, ahead: int) -> np.ndarray:
    """The recognised form, fitted by its own parameters, `ahead` frames on [N, 3].

    A parabola bends along z alone, as things fall; a circle stays in its plane.
    """
    places_N3 = np.full((len(tracks_NT3), 3), np.nan)
    frames = tracks_NT3.shape[1]
    later = clip_time(frames, first=frames - 1 + ahead, last=frames - 1 + ahead)
    for form, name in enumerate(FORMS):
        rows = np.flatnonzero(forms_N == form)
        if not len(rows):
            continue
        own_NT3 = tracks_NT3[rows]
        if name in ("linear", "parabolic"):
            found = _polynomial_ahead(own_NT3, 1, ahead=ahead)
            if name == "parabolic":
                found[:, 2] = _polynomial_ahead(own_NT3[..., 2:], 2, ahead=ahead)[:, 0]
        else:
            found = fit_turns(own_NT3, rises=name == "helical").at(later)[:, 0]
        places_N3[rows] = found
    return places_N3


def _polynomial_ahead(tracks_NTC: np.ndarray, degree: int, *, ahead: int) -> np.ndarray:
    frames = tracks_NTC.shape[1]
    later = clip_time(frames, first=frames - 1 + ahead, last=frames - 1 + ahead)
    return polynomial_at(polynomial_fit(tracks_NTC, degree), later)[:, 0]


def mean_speed(tracks_NT3: np.ndarray) -> np.ndarray:
    """Mean length of a step, in u per frame [N, 1]."""
    return np.linalg.norm(np.diff(tracks_NT3, axis=1), axis=2).mean(axis=1, keepdims=True)


def box_and_speed(tracks_NT3: np.ndarray) -> np.ndarray:
    """Extents of the track along x, y and z, and mean and sd of its speed [N, 5]."""
    steps_NT = np.linalg.norm(np.diff(tracks_NT3, axis=1), axis=2)
    speed_N2 = np.stack([steps_NT.mean(axis=1), steps_NT.std(axis=1)], axis=1)
    return np.concatenate([np.ptp(tracks_NT3, axis=1), speed_N2], axis=1)


def nearest_label(
    train_NF: np.ndarray, train_labels_N: np.ndarray, test_MF: np.ndarray
) -> np.ndarray:
    """The commonest label among the nine nearest standardised training rows [M]; -1 where unknown.

    Args:
        train_NF: at most the 3,000 rows that lie evenly over the given ones count.
    """
    known_N = np.isfinite(train_NF).all(axis=1)
    train_NF, train_labels_N = train_NF[known_N], train_labels_N[known_N]
    known_M = np.isfinite(test_MF).all(axis=1)
    labels_M = np.full(len(test_MF), -1)
    if len(train_NF) < NEIGHBOURS or not known_M.any():
        return labels_M
    kept = np.unique(np.linspace(0, len(train_NF) - 1, MOST_TRAINED_ON).round().astype(int))
    train_NF, train_labels_N = train_NF[kept], train_labels_N[kept]
    mean, sd = train_NF.mean(axis=0), train_NF.std(axis=0)
    sd = np.where(sd > 0, sd, 1.0)
    model = KNeighborsClassifier(NEIGHBOURS).fit((train_NF - mean) / sd, train_labels_N)
    labels_M[known_M] = model.predict((test_MF[known_M] - mean) / sd)
    return labels_M


def track_guesses(
    train_NT3: np.ndarray, train_labels_N: np.ndarray, test_NT3: np.ndarray, *, ahead: int
) -> dict[str, Guess]:
    """What each baseline that looks at tracks says of the test tracks.

    Args:
        train_NT3: shown places only, as `test_NT3`; unknown ones are NaN.
        train_labels_N: places in FORMS.
        ahead: frames from the last shown one to the target.
    """
    train_NT3, test_NT3 = fill_gaps(train_NT3), fill_gaps(test_NT3)
    forms_N = recognise_forms(measure_tracks(test_NT3))
    silent_N, nowhere_N3 = np.full(len(test_NT3), -1), np.full((len(test_NT3), 3), np.nan)

    def nearest(features: Any) -> Guess:
        found = nearest_label(features(train_NT3), train_labels_N, features(test_NT3))
        return Guess(found, nowhere_N3)

    return {
        "constant-velocity": Guess(silent_N, constant_velocity(test_NT3, ahead=ahead)),
        "constant-acceleration": Guess(silent_N, constant_acceleration(test_NT3, ahead=ahead)),
        "last-position": Guess(silent_N, test_NT3[:, -1]),
        "line-fit": Guess(silent_N, line_fit(test_NT3, ahead=ahead)),
        "speed-only": nearest(mean_speed),
        "box-and-speed": nearest(box_and_speed),
        "track-analytic": Guess(forms_N, nowhere_N3),
        "shape-fit": Guess(forms_N, shape_fit(test_NT3, forms_N, ahead=ahead)),
    }


def majority(train_labels_N: np.ndarray, count: int) -> Guess:
    """The commonest training class for all, the first of equal ones; it says no place."""
    names, counts = np.unique(train_labels_N, return_counts=True)
    label = int(names[counts.argmax()]) if len(names) else -1
    return Guess(np.full(count, label), np.full((count, 3), np.nan))


def baseline_rows(
    guesses: Mapping[str, Guess], sample_ids: Sequence[str], *, track: str, labels: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of `scenes/baselines.parquet`.

    Args:
        track: "oracle", "pixels", or "" of what looks at none.
        labels: the data's label of each place in FORMS; -1 where the data has no such class.
    """
    own = np.append(np.asarray(labels, dtype=int), -1)
    return [
        {
            "sample_id": sample_id,
            "baseline": name,
            "track": track,
            "label": int(own[label]),
            **dict(zip("xyz", map(float, place), strict=True)),
        }
        for name, guess in guesses.items()
        for sample_id, label, place in zip(sample_ids, guess.labels_N, guess.places_N3, strict=True)
    ]
