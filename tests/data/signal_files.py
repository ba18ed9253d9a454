"""Small files of signals for tests: the official UCI-HAR layout, arrays, recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

NAMES = ("WALKING", "SITTING", "LAYING")
CHANNELS = ("body_acc_x", "body_acc_y", "body_acc_z", "pressure")


def write_table(path: Path, rows: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, rows, fmt="%.7e")


def write_uci(
    root: Path,
    *,
    labels: Mapping[str, Sequence[int]],
    subjects: Mapping[str, Sequence[int]] | None = None,
    channels: Sequence[str] = CHANNELS,
    length: int = 16,
    features: int = 0,
    overlap: bool = False,
) -> dict[str, np.ndarray]:
    """Write the official layout; returns the signals of each part, float64 [N, C, L].

    With `overlap` the windows of a part are cut from one signal, half a window apart.
    """
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    lines = [f"{number} {name}" for number, name in enumerate(NAMES, 1)]
    (root / "activity_labels.txt").write_text("\n".join(lines) + "\n")
    written = {}
    for part, own in labels.items():
        if overlap:
            whole = rng.normal(size=(len(channels), length // 2 * (len(own) + 1)))
            starts = np.arange(len(own)) * (length // 2)
            signals = np.stack([whole[:, start : start + length] for start in starts])
        else:
            signals = rng.normal(size=(len(own), len(channels), length))
        for number, channel in enumerate(channels):
            write_table(
                root / part / "Inertial Signals" / f"{channel}_{part}.txt", signals[:, number]
            )
        write_lines(root / part / f"y_{part}.txt", own)
        if subjects is not None:
            write_lines(root / part / f"subject_{part}.txt", subjects[part])
        if features:
            write_table(root / part / f"X_{part}.txt", rng.normal(size=(len(own), features)))
        written[part] = signals
    return written


def write_lines(path: Path, values: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{value}\n" for value in values))
