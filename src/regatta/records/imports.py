"""Foreign predictions: files that other programs wrote, read and checked, never executed.

Four kinds, told apart by what is in them:
- CSV, a row per sample and condition: sample_id, label, score_0 .. score_{K-1} or score_<class>
- NumPy archive (.npz): scores [N, K] or [C, N, K], labels [N], sample_ids [N]
- CSV, a row per class and condition: class, accuracy, n_samples
- the predictions folder of another run of Regatta

Shapes: C conditions, N samples, K classes. Nothing here writes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from regatta.core.errors import DataError
from regatta.core.registry import nearest
from regatta.records.array_files import PICKLE
from regatta.records.class_counts import CLASS_UNIT, ClassCounts, read_class_counts, unit_of
from regatta.records.conditions import Condition
from regatta.records.predictions import RunPredictions, file_hash, read_run_predictions

MAX_FILE_BYTES = 1 << 30
MAX_ARRAY_BYTES = 2 << 30
"""Of a NumPy archive, unpacked."""
SHOWN = 5

NUMERIC_AXES = ("coverage", "stride", "frames", "span", "clips", "crops", "position", "level")
WORD_AXES = ("filter", "control", "perturbation")
AXES = (*NUMERIC_AXES, *WORD_AXES)
"""What may vary between conditions: the axes of the protocols."""

GRID_NAME = re.compile(r"c([1-9][0-9]{0,2})s([1-9][0-9]{0,3})")

MAGIC = {
    b"\x93NUMPY": "a single array; put scores, labels and sample_ids into one file with np.savez",
    b"PAR1": "a parquet file; write it as CSV",
    b"\x89HDF": "an HDF5 file; write it as CSV or with np.savez",
    b"\x1f\x8b": "a packed file; unpack it first",
    b"\x80": f"{PICKLE}; write the numbers as CSV or with np.savez",
}


@dataclass(frozen=True)
class ForeignScores:
    """Scores of every sample under every condition. Samples are sorted by id."""

    path: Path
    kind: str
    """csv, npz or folder."""
    sha256: str
    conditions: list[Condition]
    classes: list[str]
    has_names: bool
    """Whether the file names its classes; otherwise they are "0" .. "K-1"."""
    sample_ids: np.ndarray
    groups: np.ndarray | None
    labels: np.ndarray
    scores: np.ndarray
    """float32 [C, N, K] logits."""
    notes: list[str] = field(default_factory=list)
    predictions: RunPredictions | None = None
    """Of a folder: what else it holds."""


@dataclass(frozen=True)
class ForeignCounts:
    """How many samples of each class were right under every condition."""

    path: Path
    kind: str
    """classes or folder."""
    sha256: str
    conditions: list[Condition]
    classes: list[str]
    counts: np.ndarray
    """Samples, int [K]."""
    right: np.ndarray
    """int [C, K]."""
    notes: list[str] = field(default_factory=list)


Foreign = ForeignScores | ForeignCounts


def read_foreign(path: Path) -> Foreign:
    """Read one foreign file or folder, whatever kind it is.

    Raises:
        DataError: it cannot be read, is too large, or does not hold what its kind should.
        RecordError: a predictions folder is damaged.
    """
    from regatta.records.import_arrays import read_archive
    from regatta.records.import_tables import read_table

    if "://" in str(path) or str(path).startswith(("http:/", "https:/", "s3:/")):
        raise DataError(
            "this is an address, not a file", where=path, hint="download it, then name the file"
        )
    if path.is_dir():
        return _read_folder(path)
    content = _read_bytes(path)
    for magic, what in MAGIC.items():
        if content.startswith(magic):
            raise DataError(f"this is {what}", where=path, hint="see docs/import.md")
    read = read_archive if content.startswith(b"PK") else read_table
    return read(path, content)


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError("this is not a plain file", where=path)
        if size > MAX_FILE_BYTES:
            raise DataError(
                f"the file has {size / 2**30:.1f} GiB; at most {MAX_FILE_BYTES / 2**30:g} GiB are "
                "read",
                where=path,
                hint="leave out conditions or samples, or write it with np.savez_compressed",
            )
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=path.absolute()) from error
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror or error}",
            where=path,
            hint="make it readable for you",
        ) from error
    if not content.strip():
        raise DataError("the file is empty", where=path)
    return content


def content_hash(content: bytes) -> str:
    return sha256(content).hexdigest()


def _read_folder(path: Path) -> Foreign:
    marker = path / "complete.json"
    if not marker.is_file():
        below = sorted(str(found.parent) for found in path.glob("**/predictions/*/complete.json"))
        raise DataError(
            "this is a folder, and no predictions folder of a run: it has no complete.json",
            where=path,
            hint=f"name one of: {shown(below)}" if below else "name a file: see docs/import.md",
        )
    label = path.resolve().parent.parent.name or path.name
    if unit_of(path) == CLASS_UNIT:
        found = read_class_counts(path, run_id=label, entry=label, seed=0)
        return _counts_of(path, file_hash(marker), found)
    predictions = read_run_predictions(path, run_id=label, entry=label, seed=0)
    return ForeignScores(
        path,
        "folder",
        file_hash(marker),
        predictions.conditions,
        predictions.classes,
        predictions.classes != numbered(len(predictions.classes)),
        predictions.sample_ids,
        None if predictions.origin.get("groups") == "none" else predictions.groups,
        predictions.labels,
        predictions.scores,
        list(predictions.origin.get("notes", [])),
        predictions,
    )


def _counts_of(path: Path, digest: str, found: ClassCounts) -> ForeignCounts:
    return ForeignCounts(
        path,
        "folder",
        digest,
        found.conditions,
        found.classes,
        found.counts,
        found.right,
        list(found.origin.get("notes", [])),
    )


def numbered(count: int) -> list[str]:
    """Names of classes that have none."""
    return [str(number) for number in range(count)]


def shown(names: Sequence[object] | np.ndarray, *, most: int = SHOWN) -> str:
    """The first names in quotes, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(str(name)) for name in names[:most]) + more


def check_columns(
    found: Sequence[str], known: Iterable[str], required: Sequence[str], *, what: str, path: Path
) -> None:
    """DataError for a name that is missing, twice there or not known, with the nearest one.

    Args:
        what: what the names are called, for messages: "column".
    """
    known = list(dict.fromkeys(known))
    twice = sorted(name for name, count in Counter(found).items() if count > 1)
    if twice:
        raise DataError(f"the {what} '{twice[0]}' is there twice", where=path)
    named, given = set(known), set(found)
    strange = [name for name in found if name not in named]
    missing = [name for name in required if name not in given]
    guesses = [(name, nearest(name, missing or known)) for name in strange[:SHOWN]]
    guess = "; ".join(f"did you mean '{close}' by '{name}'?" for name, close in guesses if close)
    listed = f"known: {', '.join(known)}; see docs/import.md"
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        raise DataError(f"there is no {what} {names}", where=path, hint=f"{guess} {listed}".strip())
    if strange:
        raise DataError(
            f"unknown {what} {shown(strange)}",
            where=path,
            hint=f"{guess} leave it out, or rename it; {listed}".strip(),
        )


def condition_of(axes: dict[str, Any], name: str | None = None) -> Condition:
    """A condition from its axes: c50s4 for coverage and stride, else the names and values."""
    if name is None and set(axes) == {"coverage", "stride"}:
        name = f"c{axes['coverage']}s{axes['stride']}"
    return Condition(name or "-".join(f"{k}{v}" for k, v in axes.items()) or "imported", axes)


def in_order(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions of a file with one of them as the reference: the widest coverage at the
    smallest stride, else the first. Grids are sorted, other conditions keep their order.

    Names such as c50s4 are those of a grid, and say the axes where nothing else does.
    """
    found = list(conditions)
    cells = [GRID_NAME.fullmatch(c.id) for c in found if not c.axes]
    if len(cells) == len(found) and all(cells):
        found = [
            Condition(c.id, {"coverage": int(cell[1]), "stride": int(cell[2])})
            for c, cell in zip(found, cells, strict=True)
            if cell
        ]
    if all({"coverage"} <= set(c.axes) <= {"coverage", "stride"} for c in found):
        found.sort(key=lambda c: (c.axes["coverage"], c.axes.get("stride", 0)))
        widest = max(c.axes["coverage"] for c in found)
        first = next(i for i, c in enumerate(found) if c.axes["coverage"] == widest)
    else:
        first = 0
    return [Condition(c.id, c.axes, is_reference=i == first) for i, c in enumerate(found)]


def axis_value(value: float) -> int | float:
    """Whole numbers as such, so that 50.0 is the 50 of a protocol."""
    return int(value) if float(value).is_integer() else float(value)


def class_numbers(
    labels: Sequence[str] | np.ndarray, classes: Sequence[str], *, path: Path
) -> np.ndarray:
    """Labels as places in `classes`: all of them names, or all of them numbers from 0.

    Raises:
        DataError: one is neither, with its row and the nearest class.
    """
    distinct, place = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    names = {name: number for number, name in enumerate(classes)}
    found = [names.get(text) for text in distinct.tolist()]
    if None in found:
        numbers = [_whole(text, len(classes)) for text in distinct.tolist()]
        if None not in numbers:
            found = numbers
    if None in found:
        first = int(
            np.flatnonzero(np.isin(place, [i for i, k in enumerate(found) if k is None]))[0]
        )
        wrong = str(distinct[place[first]])
        close = nearest(wrong, classes)
        guess = f"did you mean '{close}'? " if close and not wrong.lstrip("-").isdecimal() else ""
        raise DataError(
            f"the label '{wrong}' is none of the {len(classes)} classes",
            where=f"{path}: row {first + 1} of the data",
            hint=f"{guess}labels are class names, or numbers from 0 to {len(classes) - 1}; "
            f"classes: {shown(classes)}",
        )
    return np.array(found, dtype=np.int64)[place]


def _whole(text: str, count: int) -> int | None:
    digits = text.removesuffix(".0")
    known = digits.isascii() and digits.isdecimal() and len(digits) < 10
    return int(digits) if known and int(digits) < count else None


def check_scores(scores: np.ndarray, name_of: Any, *, path: Path) -> None:
    """DataError naming the first sample whose scores are not finite numbers of float32.

    Args:
        scores: [R, K]. name_of: row -> "sample 'x'".
    """
    largest = float(np.finfo(np.float32).max)
    bad = ~(np.abs(scores) <= largest).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{int(bad.sum())} rows have scores that are missing or not finite",
            where=f"{path}: {name_of(row)}",
            hint="every class needs a finite number; leave such samples out of all files, or "
            "correct them",
        )


def as_logits(scores: np.ndarray) -> tuple[np.ndarray, str]:
    """Scores [R, K] as float32 logits, and a note where they were something else.

    Probabilities become their logarithms, as calibration reads logits. No answer changes: where
    rounding to float32 would tie the highest two, the row is shifted by its highest score first.
    """
    double = scores.astype(np.float64)
    answers, note = double.argmax(axis=1), ""
    if (double >= 0).all() and np.allclose(double.sum(axis=1), 1, atol=1e-3):
        double = np.log(np.maximum(double, np.finfo(np.float32).tiny))
        note = "its scores are probabilities (each row sums to 1): their logarithms are kept"
    rounded = double.astype(np.float32)
    changed = rounded.argmax(axis=1) != answers
    if changed.any():
        rows = np.flatnonzero(changed)
        shifted = double[rows] - double[rows, answers[rows]][:, None]
        rounded[rows] = np.where(shifted < 0, np.minimum(shifted, -1e-30), shifted)
    return rounded, note
