"""What generated scenes follow from: one object on a known track, seen by a ring of cameras.

Lengths in world units (u); the track stays in a cube of 2.4 u around the origin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from regatta.core.errors import ConfigError

CLASSES = ("linear", "circular", "helical", "parabolic")
"""Kinds of motion; the place in the list is the label."""
UNKNOWN_CLASS = "figure-eight"
"""A fifth kind, for judging what a model does with motion that it never saw."""
FORECAST_FRAMES = 5
HORIZONS = {"forecast": FORECAST_FRAMES, "last-visible": 0}
"""Target -> frames from the last shown one to it."""
"""How many frames behind the last shown one the forecast target lies."""
FRAMES_PER_SECOND = 16
OBJECT_RADIUS = 0.15
HALF_BOX = 1.2
"""Every coordinate of every position lies in -1.2..1.2."""
SCENES_VERSION = 1
"""Raised when the same settings would give other pictures, so that old and new never mix."""
MOST_CAMERAS = 16
FEWEST_FRAMES = 8
MOST_DISTRACTORS = 6

Range = tuple[float, float]
Axis = Literal["any", "vertical"]
DiscSize = Literal["depth", "constant"]
Ground = Literal["white", "noise", "gradient"]
Colour = Literal["red", "random"]


@dataclass(frozen=True)
class SceneSettings:
    """Everything the pictures follow from. ConfigError for what cannot be made.

    Frame n shows the time s = n / (frames - 1); the track has `frames` + 5 positions.
    """

    per_class: int = 2500
    cameras: int = 4
    frames: int = 32
    size: int = 64
    """Pixels, in both directions."""
    seed: int = 0
    axis: Axis = "any"
    """vertical = tilted by up to 10 degrees. Of circles, helices and figures of eight."""
    disc: DiscSize = "depth"
    """constant = the same size at any depth: a control that hides depth."""
    trail: int = 0
    """Earlier positions that stay in the picture, fading."""
    ground: Ground = "white"
    colour: Colour = "red"
    distractors: int = 0
    """Small reddish discs per video, each shown for 1 to 3 frames."""
    occluder: bool = False
    """A grey bar in front of the object, at another place in each view."""
    position_noise: float = 0.0
    """sd of what is added to every coordinate of every position."""
    tempo: Literal["uniform"] = "uniform"
    classes: tuple[str, ...] = CLASSES
    start: Range = (-1.0, 1.0)
    """Of every coordinate of the first position; linear and parabolic."""
    speed: Range = (0.8, 2.0)
    """u per clip; of the whole velocity (linear) or of its level part (parabolic)."""
    centre: Range = (-0.3, 0.3)
    radius: Range = (0.3, 0.8)
    turns: Range = (0.8, 1.6)
    rise: Range = (0.6, 1.4)
    """u per clip along the axis of a helix."""
    gravity: Range = (2.0, 4.8)
    apex: Range = (0.3, 0.7)
    """Time s of the highest point of a parabola."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_ranges(self)

    @property
    def count(self) -> int:
        """Scenes of all classes."""
        return self.per_class * len(self.classes)

    @property
    def track_frames(self) -> int:
        """Positions of a track: those shown and those up to the forecast target."""
        return self.frames + FORECAST_FRAMES

    def facts(self) -> dict[str, Any]:
        """As plain JSON types; `settings_from` reads it."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def settings_from(facts: Mapping[str, Any]) -> SceneSettings:
    """The settings that `SceneSettings.facts` described.

    Raises:
        ConfigError: an unknown key, or values that cannot be.
    """
    known = {field.name for field in fields(SceneSettings)}
    foreign = sorted(set(facts) - known)
    if foreign:
        raise ConfigError(
            f"unknown setting(s) of scenes: {', '.join(foreign)}",
            hint=f"known: {', '.join(sorted(known))}",
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()
    }
    return SceneSettings(**values)


def _check_numbers(settings: SceneSettings) -> None:
    known = {*CLASSES, UNKNOWN_CLASS}
    checks = {
        "per_class": settings.per_class >= 1,
        "cameras": 1 <= settings.cameras <= MOST_CAMERAS,
        "frames": settings.frames >= FEWEST_FRAMES,
        "size": 16 <= settings.size <= 512 and settings.size % 2 == 0,
        "seed": settings.seed >= 0,
        "axis": settings.axis in ("any", "vertical"),
        "disc": settings.disc in ("depth", "constant"),
        "trail": 0 <= settings.trail < settings.frames,
        "ground": settings.ground in ("white", "noise", "gradient"),
        "colour": settings.colour in ("red", "random"),
        "distractors": 0 <= settings.distractors <= MOST_DISTRACTORS,
        "position_noise": 0 <= settings.position_noise <= HALF_BOX,
        "tempo": settings.tempo == "uniform",
        "classes": bool(settings.classes)
        and set(settings.classes) <= known
        and len(set(settings.classes)) == len(settings.classes),
    }
    wrong = [f"{name} = {getattr(settings, name)}" for name, holds in checks.items() if not holds]
    if wrong:
        raise ConfigError(
            f"scenes cannot be made with {', '.join(wrong)}",
            where="data.options",
            hint=f"cameras: 1 to {MOST_CAMERAS}; frames: {FEWEST_FRAMES} or more; size: even, 16 "
            f"to 512; distractors: 0 to {MOST_DISTRACTORS}; classes of {', '.join(sorted(known))}",
        )


_LIMITS: dict[str, Range] = {
    "start": (-HALF_BOX, HALF_BOX),
    "speed": (0.0, 2 * math.sqrt(3) * HALF_BOX),
    "centre": (-HALF_BOX, HALF_BOX),
    "radius": (0.0, HALF_BOX),
    "turns": (0.0, math.inf),
    "rise": (0.0, 2 * math.sqrt(3) * HALF_BOX),
    "gravity": (0.0, math.inf),
    "apex": (0.0, 1.0),
}


def _check_ranges(settings: SceneSettings) -> None:
    for name, (least, most) in _LIMITS.items():
        low, high = getattr(settings, name)
        if not low <= high or not math.isfinite(high):
            raise ConfigError(
                f"{name} = {low} to {high} is no range",
                where="data.options",
                hint="give the lower end first",
            )
        if low < least or high > most:
            raise ConfigError(
                f"{name} = {low} to {high} cannot stay in view: the track fills a cube from "
                f"-{HALF_BOX} to {HALF_BOX}",
                where="data.options",
                hint=f"keep {name} between {least:.3g} and {most:.3g}",
            )
