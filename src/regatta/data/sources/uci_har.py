"""UCI-HAR: body-worn inertial windows in the official text layout.

Source: Anguita et al. 2013, A public domain dataset for human activity recognition using
smartphones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from regatta.core.registry import SOURCES
from regatta.data.window_listing import WindowListing, WindowRow

SENSORS = ("body_acc", "body_gyro", "total_acc")
CHANNELS = tuple(f"{sensor}_{axis}" for sensor in SENSORS for axis in "xyz")
TRIPLES = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
RATE_HZ = 50.0


@SOURCES.register("uci-har", kind="signal")
def uci_har(root: Path, *, split: int = 1, seed: int = 0) -> WindowListing:
    """UCI-HAR: 9 channels x 128 samples at 50 Hz, 6 activities, official train and test."""
    del split, seed
    names = [line.split()[1].lower() for line in (root / "activity_labels.txt").read_text().splitlines()]
    signals, rows = [], []
    for part in ("train", "test"):
        folder = root / part
        files = [folder / "Inertial Signals" / f"{name}_{part}.txt" for name in CHANNELS]
        signals.append(np.stack([np.loadtxt(file, dtype=np.float32) for file in files], axis=1))
        labels = np.loadtxt(folder / f"y_{part}.txt", dtype=int)
        block = np.cumsum(np.diff(labels, prepend=labels[0]) != 0)
        rows += [
            WindowRow(f"{part}-{n:05d}", names[label - 1], files[0], f"{part}-block-{b:04d}", 0, "", part)
            for n, (label, b) in enumerate(zip(labels, block, strict=True))
        ]
    return WindowListing(np.concatenate(signals), rows, CHANNELS, RATE_HZ, names, TRIPLES)
