"""What a source of signals gives: windows and what is known about each. No torch: scanning lists
loads none.

Shapes: N windows, C channels, L samples of a window, F hand-made features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from regatta.data.manifest import Dropped, SplitName

Triple = tuple[int, int, int]


def xyz_triples(channels: Sequence[str]) -> tuple[Triple, ...]:
    """Places of the channels whose names differ in a last x, y, z alone: one sensor each."""
    place = {name: number for number, name in enumerate(channels)}
    found = []
    for name in channels:
        axes = {"x": "xyz", "X": "XYZ"}.get(name[-1:], "")
        names = [name[:-1] + axis for axis in axes]
        if names and all(axis in place for axis in names):
            x, y, z = (place[axis] for axis in names)
            found.append((x, y, z))
    return tuple(found)


@dataclass(frozen=True)
class WindowRow:
    """What a source says about one window; row i belongs to `WindowListing.signals[i]`."""

    sample_id: str
    """Unique, and the same on every machine."""
    label_name: str
    path: Path
    """File that the window comes from."""
    recording: str
    """Windows of one recording are cut from one signal: where they overlap, they hold the same."""
    start: int
    """First sample of the window in its recording."""
    session: str = ""
    """Rows of one session stand in the order of time; empty = the recording. A session may have
    pauses of unknown length between its recordings."""
    subject: str = ""
    """Empty = unknown; either all windows of a source have one or none has."""
    split: SplitName = ""
    """Empty = the source does not say."""


@dataclass(frozen=True)
class WindowListing:
    """What a source of signals read.

    signals: float32 [N, C, L] in physical units; NaN and infinity are left for the scan to refuse.
    classes: names in the order of their labels. triples: channels x, y, z of one sensor, which turn
    together. features: float32 [N, F], hand-made, where the files hold some.
    """

    signals: np.ndarray
    rows: list[WindowRow]
    channels: tuple[str, ...]
    rate_hz: float
    classes: list[str]
    triples: tuple[Triple, ...] = ()
    features: np.ndarray | None = None
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def overlapping_runs(signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number of the recording [N], start in it [N]) of windows [N, C, L] that overlap by half.

    The files do not say where a recording begins: a window continues the one before if its first
    half is the other's second half in every channel, value for value.
    """
    length = signals.shape[2]
    step = length // 2
    same = (signals[:-1, :, step:] == signals[1:, :, : length - step]).all(axis=(1, 2))
    recordings = np.concatenate([[0], np.cumsum(~same)])
    first = np.flatnonzero(np.concatenate([[True], ~same]))
    return recordings, (np.arange(len(signals)) - first[recordings]) * step
