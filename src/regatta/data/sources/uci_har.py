"""UCI-HAR: body-worn inertial windows in the official text layout.

Source: Anguita et al. 2013, A public domain dataset for human activity recognition using
smartphones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regatta.core.errors import DataError
from regatta.core.registry import SOURCES
from regatta.data.manifest import SplitName
from regatta.data.sources import only_split_one
from regatta.data.sources._number_files import (
    read_integers,
    read_lines,
    read_table,
    whole_number,
)
from regatta.data.window_listing import (
    WindowListing,
    WindowRow,
    overlapping_runs,
    xyz_triples,
)

SENSORS = ("body_acc", "body_gyro", "total_acc")
CHANNELS = tuple(f"{sensor}_{axis}" for sensor in SENSORS for axis in "xyz")
RATE_HZ = 50.0
PARTS: tuple[SplitName, ...] = ("train", "test")
FOLDER = "UCI HAR Dataset"
"""Name of the folder inside the official archive."""


@dataclass(frozen=True)
class _Part:
    """One official part: signals float32 [N, C, L], labels as written, subjects if they are known,
    features float32 [N, F] where there are some."""

    name: SplitName
    signals: np.ndarray
    labels: list[int]
    subjects: list[int] | None
    features: np.ndarray | None


@SOURCES.register("uci-har", kind="signal")
def uci_har(
    root: Path,
    *,
    split: int = 1,
    seed: int = 0,  # noqa: ARG001
    channels: Sequence[str] = CHANNELS,
    rate_hz: float = RATE_HZ,
) -> WindowListing:
    """UCI-HAR text layout: body and total acceleration and turning, 50 Hz, official train and test.

    Reads below root or root/UCI HAR Dataset: `activity_labels.txt` and, in `train` and `test`,
    `Inertial Signals/<channel>_<part>.txt`, `y_<part>.txt` and, where they are there,
    `subject_<part>.txt` and the hand-made features `X_<part>.txt`.

    Args:
        channels: names of the signal files, in this order; those ending in x, y, z of one name are
            a sensor.
    Raises:
        DataError: a file is missing, has other counts than its neighbours, or a wrong line.
    """
    only_split_one(split, "uci-har")
    base = root if (root / "train").is_dir() or not (root / FOLDER).is_dir() else root / FOLDER
    if not base.is_dir():
        raise DataError(
            "the data folder of source 'uci-har' does not exist",
            where=root,
            hint="set data.root (or --root) to the folder that holds train/ and test/",
        )
    names = _class_names(base / "activity_labels.txt")
    parts = [_read_part(base, part, channels) for part in PARTS]
    _check_alike(parts, base)
    rows = [row for part in parts for row in _rows(part, base, names, channels[0])]
    features = [part.features for part in parts if part.features is not None]
    return WindowListing(
        np.concatenate([part.signals for part in parts]),
        rows,
        tuple(channels),
        rate_hz,
        [names[number] for number in sorted(names)],
        xyz_triples(channels),
        np.concatenate(features) if features else None,
    )


def _class_names(path: Path) -> dict[int, str]:
    """Number -> name in lower case; DataError that names the line."""
    names: dict[int, str] = {}
    for line, text in enumerate(read_lines(path), 1):
        number, _, name = text.partition(" ")
        name = name.strip().lower()
        value = whole_number(number)
        if value is None or not name or value in names or name in names.values():
            raise DataError(
                f"'{text[:40]}' is not a new number and name", where=f"{path}, line {line}"
            )
        names[value] = name
    return names


def _read_part(base: Path, part: SplitName, channels: Sequence[str]) -> _Part:
    folder = base / part
    labels_file = folder / f"y_{part}.txt"
    labels = read_integers(labels_file)
    tables: list[np.ndarray] = []
    for channel in channels:
        file = folder / "Inertial Signals" / f"{channel}_{part}.txt"
        table = read_table(file)
        _check_count(file, len(table), "rows", labels_file, len(labels))
        if tables and table.shape[1] != tables[0].shape[1]:
            first = folder / "Inertial Signals" / f"{channels[0]}_{part}.txt"
            _check_count(file, table.shape[1], "columns", first, tables[0].shape[1])
        tables.append(table)
    subjects, features = None, None
    subjects_file, features_file = folder / f"subject_{part}.txt", folder / f"X_{part}.txt"
    if subjects_file.exists():
        subjects = read_integers(subjects_file)
        _check_count(subjects_file, len(subjects), "rows", labels_file, len(labels))
    if features_file.exists():
        features = read_table(features_file)
        _check_count(features_file, len(features), "rows", labels_file, len(labels))
    return _Part(part, np.stack(tables, axis=1), labels, subjects, features)


def _check_count(file: Path, count: int, what: str, other: Path, expected: int) -> None:
    if count != expected:
        raise DataError(
            f"{count} {what} in {file.name}, but {expected} in {other.name}",
            where=file,
            hint="a file is cut or of another version: fetch the data set again",
        )


def _check_alike(parts: Sequence[_Part], base: Path) -> None:
    """Train and test must have windows of one length, and the same optional files."""
    first, *others = parts
    for part in others:
        if part.signals.shape[2] != first.signals.shape[2]:
            raise DataError(
                f"windows have {first.signals.shape[2]} samples in {first.name} and "
                f"{part.signals.shape[2]} in {part.name}",
                where=base,
            )
        pairs = [
            ("subject", first.subjects is None, part.subjects is None),
            ("X", first.features is None, part.features is None),
        ]
        for stem, missing, other_missing in pairs:
            if missing != other_missing:
                lacking = first.name if missing else part.name
                raise DataError(
                    f"{stem}_{lacking}.txt is missing, but the other part has its file",
                    where=base / lacking,
                    hint="add it, or remove the other part's file",
                )
        if first.features is not None and part.features is not None:
            widths = first.features.shape[1], part.features.shape[1]
            if widths[0] != widths[1]:
                raise DataError(f"X files have {widths[0]} and {widths[1]} columns", where=base)


def _rows(part: _Part, base: Path, names: dict[int, str], channel: str) -> list[WindowRow]:
    labels_file = base / part.name / f"y_{part.name}.txt"
    file = base / part.name / "Inertial Signals" / f"{channel}_{part.name}.txt"
    recordings, starts = overlapping_runs(part.signals)
    rows = []
    for number, label in enumerate(part.labels):
        if label not in names:
            raise DataError(
                f"label {label} is not in activity_labels.txt, which has "
                f"{', '.join(map(str, sorted(names)))}",
                where=f"{labels_file}, line {number + 1}",
            )
        subject = "" if part.subjects is None else f"subject-{part.subjects[number]:02d}"
        rows.append(
            WindowRow(
                sample_id=f"{part.name}/{number:05d}",
                label_name=names[label],
                path=file,
                recording=f"{part.name}-recording-{recordings[number]:04d}",
                start=int(starts[number]),
                session=part.name,
                subject=subject,
                split=part.name,
            )
        )
    return rows
