"""What a source of signals gives: windows and what is known about each. No torch: scanning lists
loads none.

Shapes: N windows, C channels, L samples of a window, F hand-made features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from regatta.data.manifest import Dropped, SplitName

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class WindowRow:
    """What a source says about one window; row i belongs to `WindowListing.signals[i]`."""

    sample_id: str
    """Unique, and the same on every machine."""
    label_name: str
    path: Path
    """File that the window comes from."""
    recording: str
    """Windows of one recording follow one another in time, and may overlap."""
    start: int
    """First sample of the window in its recording."""
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
