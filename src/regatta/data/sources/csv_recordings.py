"""Recordings as CSV files, cut into windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from regatta.core.errors import DataError
from regatta.core.registry import SOURCES
from regatta.core.signals import leave_if_asked
from regatta.data.manifest import Dropped
from regatta.data.sources import only_split_one
from regatta.data.sources._lists import check_list_size
from regatta.data.window_listing import WindowListing, WindowRow, xyz_triples

NAMED = ("time", "label", "subject")
"""Columns that are no channels."""
LARGEST_RECORDING = 4 * 2**30
"""Bytes of a table; as numbers in memory it takes about half."""
PAUSE = 1.5
"""A step in time of more than so many usual ones is a pause: no window reaches across it."""
IRREGULAR = 0.1
"""Share of the usual step by which others may differ before it is told."""


@dataclass(frozen=True)
class _Recording:
    """One file. signals: float32 [C, T]; labels, subjects: [T], "" = none; stretch: [T], counts
    pauses; step_seconds: the usual step in time."""

    path: Path
    name: str
    channels: tuple[str, ...]
    signals: np.ndarray
    labels: np.ndarray
    subjects: np.ndarray
    stretch: np.ndarray
    step_seconds: float
    notes: list[str]


@SOURCES.register("csv-recordings", kind="signal")
def csv_recordings(
    root: Path,
    *,
    split: int = 1,
    seed: int = 0,  # noqa: ARG001
    window: Annotated[int, Field(ge=2)] = 128,
    step: Annotated[int, Field(ge=1)] = 64,
    rate_hz: Annotated[float, Field(gt=0)] | None = None,
) -> WindowListing:
    """CSV files, one per recording, columns time, channels, label and subject, cut into windows.

    Time is in seconds. A window with two labels, subjects or a pause in it is no sample: it is
    listed. Without a subject column blocks of each recording are the groups.

    Args:
        window, step: samples of a window, and from one window to the next.
        rate_hz: samples per second; by default told by the time column of all files together.
    Raises:
        DataError: no file, a wrong header or cell (with the line), time that does not rise, or
            files of different rates or channels.
    """
    only_split_one(split, "csv-recordings")
    files = sorted(root.rglob("*.csv")) if root.is_dir() else []
    if not files:
        raise DataError(
            "there is no CSV file", where=root, hint="set data.root to the folder that holds them"
        )
    recordings = []
    for path in files:
        leave_if_asked("reading the recordings")
        recordings.append(_read(path, root))
    first = recordings[0]
    for other in recordings[1:]:
        _check_alike(first, other)
    signals: list[np.ndarray] = []
    rows: list[WindowRow] = []
    dropped: list[Dropped] = []
    for recording in recordings:
        _cut(recording, window, step, signals, rows, dropped)
    if not rows:
        raise DataError(f"no recording has a whole window of {window} samples", where=root)
    usual = float(np.median([recording.step_seconds for recording in recordings]))
    return WindowListing(
        np.stack(signals),
        rows,
        first.channels,
        rate_hz or round(1 / usual, 3),
        sorted({row.label_name for row in rows}),
        xyz_triples(first.channels),
        dropped=dropped,
        notes=[note for recording in recordings for note in recording.notes],
    )


def _read(path: Path, root: Path) -> _Recording:
    table = _table(path)
    name = path.relative_to(root).with_suffix("").as_posix()
    channels = tuple(column for column in table.columns if column not in NAMED)
    missing = [column for column in ("time", "label") if column not in table.columns]
    if missing or not channels:
        lacking = "a channel" if not missing else f"a column '{missing[0]}'"
        raise DataError(
            f"the first line does not name {lacking}: {', '.join(table.columns)}",
            where=path,
            hint="it is time,<channels>,label or time,<channels>,label,subject",
        )
    time = _numbers(table, "time", path)
    steps = np.diff(time)
    if len(steps) == 0 or not np.isfinite(time).all() or (steps <= 0).any():
        line = 2 if len(steps) == 0 else 3 + int(np.argmax(~(steps > 0)))
        raise DataError(
            "time must rise from line to line, in seconds", where=f"{path}, line {line}"
        )
    usual = float(np.median(steps))
    # What is too large for float32 becomes infinite, which the scan names.
    with np.errstate(over="ignore"):
        signals = np.stack([_numbers(table, c, path) for c in channels]).astype(np.float32)
    return _Recording(
        path=path,
        name=name,
        channels=channels,
        signals=signals,
        labels=_texts(table, "label"),
        subjects=_texts(table, "subject"),
        stretch=np.concatenate([[0], np.cumsum(steps > PAUSE * usual)]),
        step_seconds=usual,
        notes=_time_notes(name, steps, usual),
    )


def _table(path: Path) -> pd.DataFrame:
    check_list_size(path, most_bytes=LARGEST_RECORDING)
    try:
        table = pd.read_csv(
            path,
            dtype={"label": str, "subject": str},
            skipinitialspace=True,
            skip_blank_lines=False,
            encoding="utf-8-sig",
            low_memory=False,
        )
    except pd.errors.EmptyDataError as error:
        raise DataError("the file is empty", where=path) from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"not a CSV table: {str(error).strip()}", where=path) from error
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror or error}", where=path
        ) from error
    if not isinstance(table.index, pd.RangeIndex):
        # The reader takes more cells than names for row names, and would shift all columns.
        raise DataError("lines have more cells than the first line names", where=path)
    return table.rename(columns=lambda name: str(name).strip())


def _numbers(table: pd.DataFrame, column: str, path: Path) -> np.ndarray:
    """The column as numbers [T]; an empty cell is NaN; DataError with the line of a text."""
    given: Any = table[column]
    numbers: Any = pd.to_numeric(given, errors="coerce")
    wrong = np.flatnonzero(numbers.isna() & given.notna())
    if len(wrong):
        raise DataError(
            f"'{str(given.iloc[wrong[0]])[:30]}' in column '{column}' is not a number",
            where=f"{path}, line {wrong[0] + 2}",
        )
    return np.asarray(numbers, dtype=np.float64)


def _texts(table: pd.DataFrame, column: str) -> np.ndarray:
    if column not in table.columns:
        return np.full(len(table), "", dtype=object)
    texts: Any = table[column]
    return np.asarray(texts.fillna("").str.strip(), dtype=object)


def _time_notes(name: str, steps: np.ndarray, usual: float) -> list[str]:
    within = steps[steps <= PAUSE * usual]
    pauses = len(steps) - len(within)
    notes = [f"{name}: {pauses} pause(s), across which no window is cut"] if pauses else []
    if np.abs(within - usual).max() > IRREGULAR * usual:
        notes.append(
            f"{name}: irregular time, steps of {within.min():.4g} to {within.max():.4g} s are "
            f"taken as {usual:.4g} s"
        )
    return notes


def _check_alike(first: _Recording, other: _Recording) -> None:
    if other.channels != first.channels:
        raise DataError(
            f"channels are {', '.join(other.channels)}, but {', '.join(first.channels)} in "
            f"{first.path.name}",
            where=other.path,
        )
    if abs(other.step_seconds / first.step_seconds - 1) > 0.01:
        raise DataError(
            f"{1 / other.step_seconds:.4g} samples per second, but {1 / first.step_seconds:.4g} "
            f"in {first.path.name}",
            where=other.path,
            hint="bring all recordings to one rate",
        )


def _cut(
    recording: _Recording,
    window: int,
    step: int,
    signals: list[np.ndarray],
    rows: list[WindowRow],
    dropped: list[Dropped],
) -> None:
    """Append the windows of a recording to `signals` and `rows`, and what is none to `dropped`."""
    total = recording.signals.shape[1]
    if total < window:
        dropped.append(Dropped(recording.name, f"{total} samples, fewer than a window of {window}"))
    for start in range(0, total - window + 1, step):
        part = slice(start, start + window)
        name = f"{recording.name}#{start}-{start + window}"
        if reason := _no_sample(recording, part):
            dropped.append(Dropped(name, reason))
            continue
        signals.append(recording.signals[:, part])
        rows.append(
            WindowRow(
                sample_id=name,
                label_name=recording.labels[start],
                path=recording.path,
                recording=f"{recording.name}/{recording.stretch[start]}",
                start=start,
                session=recording.name,
                subject=recording.subjects[start],
            )
        )


def _no_sample(recording: _Recording, part: slice) -> str:
    """Why these samples are no window; empty when they are one."""
    if recording.stretch[part.start] != recording.stretch[part.stop - 1]:
        return "a pause in the time column"
    for what, values in (("label", recording.labels), ("subject", recording.subjects)):
        found = _distinct(values[part])
        if len(found) > 1:
            return f"mixed {what}s: {', '.join(name or 'none' for name in found)}"
    return "" if recording.labels[part.start] else "no label"


def _distinct(values: np.ndarray) -> Sequence[str]:
    return sorted(set(values.tolist()))
