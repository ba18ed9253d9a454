"""Generated sensor windows with exact labels: a walker or a resting person, by formula.

Shapes: T samples of a recording. Units: g, rad/s, Hz, seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.spatial.transform import Rotation

from regatta.core.registry import SOURCES
from regatta.core.seeds import stream
from regatta.data.sources import only_split_one
from regatta.data.sources._generated import claim_root
from regatta.data.sources._window_arrays import write_arrays
from regatta.data.sources.uci_har import CHANNELS, RATE_HZ
from regatta.data.sources.windows_file import listing_of
from regatta.data.window_listing import WindowListing

WINDOW, STEP = 128, 64
TEST_SHARE = 0.3
"""The last subjects are the test, 9 of 30 as in UCI-HAR."""
NOISE = 0.02
"""Sd of the white noise in g and in rad/s."""
IMPACT_SECONDS, IMPACT_G = 0.06, 0.5
VERSION = 1
"""Raised when the same settings would give other windows, so that old and new never mix."""


@dataclass(frozen=True)
class Activity:
    """One class. acceleration: amplitudes of x, y, z in g; turning: of all three axes in rad/s;
    pace: factor on the step rate; tilt_degrees: range of the angle of gravity to the x axis."""

    name: str
    acceleration: tuple[float, float, float]
    turning: float
    pace: float
    tilt_degrees: tuple[float, float]
    has_impacts: bool = False


ACTIVITIES = (
    Activity("walking", (0.30, 0.18, 0.18), 0.5, 1.0, (0, 0)),
    Activity("walking_upstairs", (0.26, 0.22, 0.15), 0.6, 0.9, (5, 12)),
    Activity("walking_downstairs", (0.45, 0.25, 0.25), 0.8, 1.1, (0, 0), has_impacts=True),
    Activity("sitting", (0.01, 0.01, 0.01), 0.02, 1.0, (15, 40)),
    Activity("standing", (0.01, 0.01, 0.01), 0.02, 1.0, (0, 8)),
    Activity("laying", (0.01, 0.01, 0.01), 0.02, 1.0, (75, 105)),
)


@SOURCES.register("har-synthetic", kind="signal", generates=True)
def har_synthetic(
    root: Path,
    *,
    split: int = 1,
    seed: int = 0,
    subjects: Annotated[int, Field(ge=3)] = 30,
    windows_per_class: Annotated[int, Field(ge=1)] = 20,
    generator_seed: int | None = None,
) -> WindowListing:
    """Generated UCI-HAR look-alike: 9 channels x 128 samples, 6 activities, subjects known.

    Writes `root/windows.safetensors` once. The windows of a subject do not depend on how many
    others there are, nor the first windows on how many follow.

    Args:
        seed: draws the signals unless `generator_seed` is given.
    Raises:
        DataError: root holds something else. DiskError.
    """
    only_split_one(split, "har-synthetic")
    seed = seed if generator_seed is None else generator_seed
    settings = {"subjects": subjects, "windows_per_class": windows_per_class, "seed": seed}
    claim_root(root, "har-synthetic", {"version": VERSION, **settings})
    path = root / "windows.safetensors"
    if not path.is_file():
        _write(path, subjects, windows_per_class, seed)
    return listing_of([(path, "")], root=root)


def _write(path: Path, subjects: int, windows_per_class: int, seed: int) -> None:
    length = WINDOW + (windows_per_class - 1) * STEP
    starts = np.arange(windows_per_class) * STEP
    places = starts[:, None] + np.arange(WINDOW)
    pairs = [(s, k) for s in range(1, subjects + 1) for k in range(len(ACTIVITIES))]
    recordings = [draw_recording(seed, s, ACTIVITIES[k], length) for s, k in pairs]
    tested = max(1, round(TEST_SHARE * subjects))
    people = np.repeat([s for s, _ in pairs], windows_per_class)
    write_arrays(
        path,
        {
            "samples": np.concatenate(
                [recording[:, places].transpose(1, 0, 2) for recording in recordings]
            ),
            "labels": np.repeat([k for _, k in pairs], windows_per_class),
            "subjects": people,
            "splits": np.where(people > subjects - tested, 2, 0),
            "recordings": np.repeat(np.arange(len(pairs)), windows_per_class),
            "starts": np.tile(starts, len(pairs)),
        },
        {
            "classes": [activity.name for activity in ACTIVITIES],
            "channels": CHANNELS,
            "rate_hz": RATE_HZ,
        },
    )


def draw_recording(seed: int, subject: int, activity: Activity, length: int) -> np.ndarray:
    """One recording of a subject, float32 [9, length]: body acceleration, turning, total.

    body_a(t) = q sum_{h=1..3} A_a/h sin(2 pi h c f t + phi_{h,a}), turning the same with B; total =
    body + gravity, which the posture tilts away from x. All are turned by how the device is worn.
    f (steps per second), q (gain) and the wearing belong to the subject, the direction and angle of
    the tilt to the recording, the phases to the seed: everybody walks alike. A shorter recording is
    the beginning of a longer one.
    """
    phases = stream(seed, "phases").uniform(0, 2 * np.pi, (2, 3, 3, 1))
    person = stream(seed, "subject", subject)
    rate, gain = person.uniform(1.6, 2.1), person.uniform(0.8, 1.2)
    axis = person.standard_normal(3)
    worn = Rotation.from_rotvec(
        axis / np.linalg.norm(axis) * np.deg2rad(person.uniform(0, 10))
    ).as_matrix()
    rng = stream(seed, "recording", subject, activity.name)
    gravity = _gravity(rng.uniform(*activity.tilt_degrees), rng.uniform(0, 2 * np.pi))
    seconds = np.arange(length) / RATE_HZ
    paced = activity.pace * rate * seconds
    body = gain * _harmonics(paced, np.array(activity.acceleration), phases[0])
    turning = gain * _harmonics(paced, np.full(3, activity.turning), phases[1])
    if activity.has_impacts:
        since_step = (paced % 1) / (activity.pace * rate)
        blow = np.sin(np.pi * since_step / IMPACT_SECONDS)
        body[0] += np.where(since_step < IMPACT_SECONDS, IMPACT_G * blow, 0)
    # Drawn sample by sample, so that more samples leave the first ones as they are.
    noise = NOISE * rng.standard_normal((length, 6)).T
    body, turning = worn @ body + noise[:3], worn @ turning + noise[3:]
    total = body + (worn @ gravity)[:, None]
    return np.concatenate([body, turning, total]).astype(np.float32)


def _gravity(tilt_degrees: float, direction: float) -> np.ndarray:
    """1 g along x for an upright person, tilted towards `direction` (radians) in the y-z plane."""
    tilt = np.deg2rad(tilt_degrees)
    across = np.sin(tilt)
    return np.array([np.cos(tilt), across * np.cos(direction), across * np.sin(direction)])


def _harmonics(paced: np.ndarray, amplitude: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Sum of the first three harmonics [3, T], phases [harmonic, axis, 1]; `paced` counts steps."""
    order = np.arange(1, 4)[:, None, None]
    waves = amplitude[None, :, None] / order * np.sin(2 * np.pi * order * paced + phases)
    return waves.sum(axis=0)
