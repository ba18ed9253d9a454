"""Tracks of the object, by formula: scene i follows from the settings and i, whatever else is made.

Shapes: n scenes, A attempts, N = T + 5 positions of a track. World: right-handed, z up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regatta.core.errors import ConfigError
from regatta.core.seeds import stream
from regatta.data.scenes.settings import HALF_BOX, Range, SceneSettings

MOST_REDRAWS = 1000
_NUMBERS = 10
"""Random numbers of one attempt, always all of them: the next attempt never shifts."""
_ATTEMPTS = 8
_BLOCK = 512
_LEAST_UPRIGHT = float(np.cos(np.deg2rad(10)))

Parameters = dict[str, np.ndarray]


@dataclass(frozen=True)
class Tracks:
    """Where the object is in each frame, and behind the last one.

    positions: float64 [n, N, 3]. labels: int64 [n], places in `settings.classes`. parameters: of
    the formula, one dict per scene. rejected: int64 [n], attempts that left the cube.
    """

    positions: np.ndarray
    labels: np.ndarray
    parameters: list[dict[str, Any]]
    rejected: np.ndarray


def draw_scenes(settings: SceneSettings, indices: Sequence[int] | np.ndarray) -> Tracks:
    """The tracks of these scenes; classes alternate along the index, which may exceed the count.

    A track that leaves the cube is drawn again from its own stream.

    Raises:
        ConfigError: 1,000 redraws gave no track that stays in view.
    """
    numbers = np.asarray(indices, dtype=np.int64)
    parts = [
        _draw_block(settings, numbers[start : start + _BLOCK])
        for start in range(0, max(len(numbers), 1), _BLOCK)
    ]
    return Tracks(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.labels for part in parts]),
        [parameters for part in parts for parameters in part.parameters],
        np.concatenate([part.rejected for part in parts]),
    )


def _draw_block(settings: SceneSettings, indices: np.ndarray) -> Tracks:
    labels = indices % len(settings.classes)
    draws = [stream(settings.seed, "scenes", int(index)) for index in indices]
    shake = _shake(settings, indices)
    positions = np.empty((len(indices), settings.track_frames, 3))
    chosen = np.empty((len(indices), _NUMBERS))
    rejected = np.zeros(len(indices), dtype=np.int64)
    open_rows = np.arange(len(indices))
    while len(open_rows):
        uniforms = np.stack([draws[row].random((_ATTEMPTS, _NUMBERS)) for row in open_rows])
        tracks = _tracks(settings, labels[open_rows], uniforms) + shake[open_rows, None]
        stays = np.asarray((np.abs(tracks) <= HALF_BOX).all(axis=(2, 3)))
        found, first = stays.any(axis=1), stays.argmax(axis=1)
        done = open_rows[found]
        positions[done] = tracks[found, first[found]]
        chosen[done] = uniforms[found, first[found]]
        rejected[open_rows] += np.where(found, first, _ATTEMPTS)
        open_rows = open_rows[~found]
        _check_redraws(settings, labels[open_rows], rejected[open_rows])
    return Tracks(positions, labels, _parameters(settings, labels, chosen), rejected)


def _shake(settings: SceneSettings, indices: np.ndarray) -> np.ndarray:
    """What `position_noise` adds, float64 [n, N, 3]; the same for every attempt of a scene."""
    shape = (settings.track_frames, 3)
    if not settings.position_noise:
        return np.zeros((len(indices), *shape))
    draws = [
        stream(settings.seed, "scenes", "shake", int(i)).standard_normal(shape) for i in indices
    ]
    return settings.position_noise * np.stack(draws)


def _check_redraws(settings: SceneSettings, labels: np.ndarray, rejected: np.ndarray) -> None:
    stuck = labels[rejected >= MOST_REDRAWS]
    if len(stuck):
        name = settings.classes[int(stuck[0])]
        ranges = {key: getattr(settings, key) for key in FORMS[name].ranges}
        shown = ", ".join(f"{key} {low:g} to {high:g}" for key, (low, high) in ranges.items())
        raise ConfigError(
            f"a {name} track left the view in all of {MOST_REDRAWS} draws: {shown}; "
            f"{settings.frames} frames",
            where="data.options",
            hint="narrow these ranges, or show more frames: the track goes on for five frames "
            "behind the last",
        )


def _tracks(settings: SceneSettings, labels: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Positions of every attempt, float64 [n, A, N, 3], from uniforms [n, A, numbers]."""
    times = np.arange(settings.track_frames) / (settings.frames - 1)
    tracks = np.empty((*uniforms.shape[:2], len(times), 3))
    for label, name in enumerate(settings.classes):
        rows = labels == label
        if rows.any():
            form = FORMS[name]
            drawn = np.ascontiguousarray(uniforms[rows].reshape(-1, _NUMBERS).T)
            placed = form.place(form.draw(settings, drawn), times)
            tracks[rows] = placed.reshape(-1, *tracks.shape[1:])
    return tracks


def _parameters(
    settings: SceneSettings, labels: np.ndarray, uniforms: np.ndarray
) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = [{} for _ in labels]
    for label, name in enumerate(settings.classes):
        rows = np.flatnonzero(labels == label)
        drawn = FORMS[name].draw(settings, np.ascontiguousarray(uniforms[rows].T))
        plain = {key: values.tolist() for key, values in drawn.items()}
        for place, row in enumerate(rows):
            listed[row] = {key: values[place] for key, values in plain.items()}
    return listed


def _between(uniform: np.ndarray, bounds: Range) -> np.ndarray:
    low, high = bounds
    return low + (high - low) * uniform


def _point(uniforms: np.ndarray, bounds: Range) -> np.ndarray:
    return np.stack([_between(u, bounds) for u in uniforms[:3]], axis=-1)


def _direction(height: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Unit vectors [m, 3]; uniform on the sphere when the height is uniform (Archimedes)."""
    level = np.sqrt(np.maximum(0.0, 1 - height**2))
    heading = 2 * np.pi * turn
    return np.stack([level * np.cos(heading), level * np.sin(heading), height], axis=-1)


def _draw_line(settings: SceneSettings, u: np.ndarray) -> Parameters:
    speed = _between(u[5], settings.speed)
    return {
        "start": _point(u, settings.start),
        "velocity": speed[:, None] * _direction(2 * u[3] - 1, u[4]),
    }


def _place_line(drawn: Parameters, times: np.ndarray) -> np.ndarray:
    return drawn["start"][:, None] + drawn["velocity"][:, None] * times[:, None]


def _draw_circle(settings: SceneSettings, u: np.ndarray) -> Parameters:
    least = -1.0 if settings.axis == "any" else _LEAST_UPRIGHT
    return {
        "centre": _point(u, settings.centre),
        "axis": _direction(_between(u[3], (least, 1.0)), u[4]),
        "radius": _between(u[5], settings.radius),
        "turns": _between(u[6], settings.turns),
        "phase": 2 * np.pi * u[7],
        "sign": np.where(u[8] < 0.5, -1.0, 1.0),
    }


def _draw_helix(settings: SceneSettings, u: np.ndarray) -> Parameters:
    return _draw_circle(settings, u) | {"rise": _between(u[9], settings.rise)}


def _plane(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors that make a right-handed system with each axis [m, 3]."""
    level = np.hypot(axis[:, 0], axis[:, 1])
    # An upright axis has no heading: any will do, but it must be the same one everywhere.
    safe = np.where(level > 0, level, 1.0)
    cosine = np.where(level > 0, axis[:, 0] / safe, 1.0)
    sine = np.where(level > 0, axis[:, 1] / safe, 0.0)
    first = np.stack([axis[:, 2] * cosine, axis[:, 2] * sine, -level], axis=-1)
    return first, np.stack([-sine, cosine, np.zeros_like(sine)], axis=-1)


def _angles(drawn: Parameters, times: np.ndarray) -> np.ndarray:
    rate = 2 * np.pi * drawn["sign"] * drawn["turns"]
    return drawn["phase"][:, None] + rate[:, None] * times


def _in_plane(drawn: Parameters, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    first, second = _plane(drawn["axis"])
    offset = across[..., None] * first[:, None] + along[..., None] * second[:, None]
    return drawn["centre"][:, None] + drawn["radius"][:, None, None] * offset


def _place_circle(drawn: Parameters, times: np.ndarray) -> np.ndarray:
    angles = _angles(drawn, times)
    return _in_plane(drawn, np.cos(angles), np.sin(angles))


def _place_helix(drawn: Parameters, times: np.ndarray) -> np.ndarray:
    climb = drawn["rise"][:, None] * (times - 0.5)
    return _place_circle(drawn, times) + climb[..., None] * drawn["axis"][:, None]


def _place_eight(drawn: Parameters, times: np.ndarray) -> np.ndarray:
    """Lemniscate of Gerono."""
    angles = _angles(drawn, times)
    return _in_plane(drawn, np.sin(angles), np.sin(angles) * np.cos(angles))


def _draw_throw(settings: SceneSettings, u: np.ndarray) -> Parameters:
    return {
        "start": _point(u, settings.start),
        "speed": _between(u[5], settings.speed),
        "heading": 2 * np.pi * u[7],
        "gravity": _between(u[6], settings.gravity),
        "apex": _between(u[9], settings.apex),
    }


def _place_throw(drawn: Parameters, times: np.ndarray) -> np.ndarray:
    way = drawn["speed"][:, None] * times
    heading, gravity, apex = (drawn[key][:, None] for key in ("heading", "gravity", "apex"))
    height = gravity * (apex * times - times**2 / 2)
    moved = np.stack([way * np.cos(heading), way * np.sin(heading), height], axis=-1)
    return drawn["start"][:, None] + moved


@dataclass(frozen=True)
class Form:
    """A kind of motion: its parameters from uniform numbers [10, m], and its positions [m, N, 3]
    at times [N]."""

    draw: Callable[[SceneSettings, np.ndarray], Parameters]
    place: Callable[[Parameters, np.ndarray], np.ndarray]
    ranges: tuple[str, ...]


FORMS: dict[str, Form] = {
    "linear": Form(_draw_line, _place_line, ("start", "speed")),
    "circular": Form(_draw_circle, _place_circle, ("centre", "radius", "turns")),
    "helical": Form(_draw_helix, _place_helix, ("centre", "radius", "turns", "rise")),
    "parabolic": Form(_draw_throw, _place_throw, ("start", "speed", "gravity", "apex")),
    "figure-eight": Form(_draw_circle, _place_eight, ("centre", "radius", "turns")),
}
