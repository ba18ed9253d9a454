"""Tracks of the four forms, written here once more from their formulas, for tests alone."""

from __future__ import annotations

import numpy as np

FRAMES, AHEAD = 32, 5
FORMS = ("linear", "circular", "helical", "parabolic")


def track(form: str, rng: np.random.Generator, *, frames: int = FRAMES) -> np.ndarray:
    """One track [frames + 5, 3] that stays in the cube of 1.2."""
    time = np.arange(frames + AHEAD) / (frames - 1)
    while True:
        places = _places(form, time, rng)
        if np.abs(places).max() <= 1.2:
            return places


def _places(form: str, s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if form == "linear":
        return rng.uniform(-1, 1, 3) + s[:, None] * _direction(rng) * rng.uniform(0.8, 2.0)
    if form == "parabolic":
        start, heading = rng.uniform(-1, 1, 3), rng.uniform(0, 2 * np.pi)
        speed, fall, apex = rng.uniform(0.8, 2.0), rng.uniform(2.0, 4.8), rng.uniform(0.3, 0.7)
        along = speed * s[:, None] * [np.cos(heading), np.sin(heading), 0]
        return start + along + (fall * apex * s - fall * s**2 / 2)[:, None] * [0, 0, 1]
    return turning(
        s,
        axis=_direction(rng),
        radius=rng.uniform(0.3, 0.8),
        turns=rng.uniform(0.8, 1.6) * rng.choice([-1, 1]),
        phase=rng.uniform(0, 2 * np.pi),
        middle=rng.uniform(-0.3, 0.3, 3),
        rise=rng.uniform(0.6, 1.4) if form == "helical" else 0.0,
    )


def turning(s, *, axis, radius, turns, phase, middle, rise=0.0) -> np.ndarray:
    """A circle, or a screw, around a unit vector."""
    first = np.cross(axis, [1.0, 0, 0] if abs(axis[0]) < 0.9 else [0, 1.0, 0])
    first = first / np.linalg.norm(first)
    second = np.cross(axis, first)
    angle = (phase + 2 * np.pi * turns * s)[:, None]
    flat = radius * (np.cos(angle) * first + np.sin(angle) * second)
    return np.asarray(middle) + flat + (s - 0.5)[:, None] * rise * np.asarray(axis)


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def tracks(per_form: int, *, seed: int = 0, frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """Tracks [4 per_form, frames + 5, 3] and their forms, form after form."""
    rng = np.random.default_rng(seed)
    places = [track(form, rng, frames=frames) for form in FORMS for _ in range(per_form)]
    return np.stack(places), np.repeat(np.arange(4), per_form)
