"""Windows as arrays in one file (safetensors or npz): how sources write and read them.

Arrays: samples float32 [N, C, L] and labels [N], and where they are known subjects [N], splits [N]
(0 train, 1 validation, 2 test, or the names), recordings [N] with starts [N], features [N, F].
The metadata entry "regatta" of a safetensors file is JSON with classes, channels and rate_hz; in an
npz file these are arrays of the same names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from regatta.core.errors import DataError
from regatta.core.files import atomic_path
from regatta.core.json_text import parse_json
from regatta.data.manifest import SPLITS, SplitName
from regatta.data.sources import SPLIT_ALIASES
from regatta.data.window_listing import WindowRow, overlapping_runs
from regatta.records.array_files import read_npz

PER_WINDOW = ("labels", "subjects", "splits", "recordings", "starts", "features")
FACTS = ("classes", "channels", "rate_hz")
SUFFIXES = (".safetensors", ".npz")
MOST_BYTES = 32 * 2**30
"""Of all arrays of an npz file, unpacked."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Write one safetensors file atomically; DiskError."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata={"regatta": json.dumps(dict(facts))})


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, facts) of a file, with shapes that fit one another.

    Raises:
        DataError: the file is missing or damaged, holds objects, or lacks samples or labels, or an
            array has another number of windows.
    """
    arrays, facts = _from_npz(path) if path.suffix == ".npz" else _from_safetensors(path)
    _check_facts(facts, path)
    for name in ("samples", "labels"):
        if name not in arrays:
            held = ", ".join(sorted(arrays)) or "nothing"
            raise DataError(f"there is no array '{name}'; the file holds {held}", where=path)
    samples = arrays["samples"]
    if samples.ndim != 3 or samples.dtype.kind not in "fiu":
        raise DataError(
            f"samples is {samples.dtype} {list(samples.shape)}, not numbers [windows, channels, "
            "samples of a window]",
            where=path,
        )
    for name in PER_WINDOW:
        if name in arrays and arrays[name].shape[:1] != (len(samples),):
            found = arrays[name].shape[0] if arrays[name].ndim else "no row of"
            raise DataError(f"{found} {name}, but {len(samples)} samples", where=path)
    _check_kinds(arrays, path)
    return arrays, facts


def _check_kinds(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """DataError for an array that does not hold what its name says."""
    for name, kinds, axes in (
        ("subjects", "fiuU", 1),
        ("splits", "iuU", 1),
        ("recordings", "fiuU", 1),
        ("starts", "iu", 1),
        ("features", "fiu", 2),
    ):
        if name not in arrays:
            continue
        found = arrays[name]
        if found.ndim != axes or found.dtype.kind not in kinds:
            wanted = {"fiu": "numbers", "iu": "whole numbers"}.get(kinds, "numbers or names")
            shape = "[windows]" if axes == 1 else "[windows, features]"
            raise DataError(
                f"{name} is {found.dtype} {list(found.shape)}, not {wanted} {shape}", where=path
            )
        is_name = found.dtype.kind == "f" and name != "features"
        if is_name and not np.isfinite(found).all():
            raise DataError(f"{name} has numbers that are not finite", where=path)


def _check_facts(facts: Any, path: Path) -> None:
    """DataError unless class and channel names are lists of names and the rate is a number."""
    if not isinstance(facts, dict):
        raise DataError("its metadata 'regatta' is no JSON object", where=path)
    for name in ("classes", "channels"):
        found = facts.get(name)
        is_list = isinstance(found, list) and all(isinstance(n, str) and n for n in found)
        if found is not None and not (is_list and len(set(found)) == len(found)):
            raise DataError(f"{name} is no list of different names: {found!r:.80}", where=path)
    rate = facts.get("rate_hz")
    if rate is not None and not (type(rate) in (int, float) and 0 < rate < math.inf):
        raise DataError(f"rate_hz is {rate!r:.80}, not a number above 0", where=path)


def _from_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays = read_npz(path, path, most_bytes=MOST_BYTES)
    for name, array in arrays.items():
        if array.dtype.kind == "S":
            arrays[name] = _decoded(array, name, path)
    return arrays, {name: arrays.pop(name).tolist() for name in FACTS if name in arrays}


def _decoded(array: np.ndarray, name: str, path: Path) -> np.ndarray:
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"the names in '{name}' are not UTF-8", where=path) from error


def _from_safetensors(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, parse_json((file.metadata() or {}).get("regatta", "{}"))
    except FileNotFoundError as error:
        raise DataError("the file does not exist", where=path) from error
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"the file cannot be read: {error}",
            where=path,
            hint="it must be safetensors, or npz with plain arrays (no Python objects)",
        ) from error


def rows_of(
    path: Path, arrays: Mapping[str, np.ndarray], names: Sequence[str], *, split: SplitName = ""
) -> list[WindowRow]:
    """One row per window, ids `<file>/<number>`.

    Args:
        names: class name of each window.
        split: of all windows, unless the file holds splits.
    """
    samples, count = arrays["samples"], len(arrays["samples"])
    if "recordings" in arrays and "starts" in arrays:
        recordings, starts = arrays["recordings"], arrays["starts"]
    else:
        recordings, starts = overlapping_runs(samples)
    splits: list[SplitName] = [split] * count
    if "splits" in arrays:
        splits = [_split(value, path) for value in arrays["splits"].tolist()]
    subjects = (
        [_subject(value) for value in arrays["subjects"].tolist()]
        if "subjects" in arrays
        else [""] * count
    )
    return [
        WindowRow(
            sample_id=f"{path.stem}/{number:05d}",
            label_name=names[number],
            path=path,
            recording=f"{path.stem}-recording-{recordings[number]}",
            start=int(starts[number]),
            session=path.stem,
            subject=subjects[number],
            split=splits[number],
        )
        for number in range(count)
    ]


def _split(value: Any, path: Path) -> SplitName:
    if isinstance(value, int) and 0 <= value < len(SPLITS):
        return SPLITS[value]
    found = SPLIT_ALIASES.get(str(value).lower())
    if found is None:
        raise DataError(f"split {value!r} is none of 0, 1, 2, train, validation, test", where=path)
    return found


def _subject(value: Any) -> str:
    return f"subject-{value:02d}" if isinstance(value, int) else str(value)


def class_names(
    path: Path, labels: np.ndarray, classes: Sequence[str] | None
) -> tuple[list[str], list[str] | None]:
    """(class of each window, the class list or None where the labels are the names).

    Raises:
        DataError: labels are no whole numbers or texts, or one is outside the class list.
    """
    if labels.dtype.kind == "U" and labels.ndim == 1:
        return _named(path, labels.tolist(), classes)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels is {labels.dtype} {list(labels.shape)}, not whole numbers or names [windows]",
            where=path,
        )
    if classes is None:
        return [str(label) for label in labels.tolist()], None
    outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(outside):
        raise DataError(
            f"label {int(labels[outside[0]])} of window {int(outside[0])} is outside "
            f"0..{len(classes) - 1} ({len(classes)} classes are named)",
            where=path,
            hint="labels count from 0 in the order of data.options.classes",
        )
    names = list(classes)
    return [names[label] for label in labels.tolist()], names


def _named(
    path: Path, labels: list[str], classes: Sequence[str] | None
) -> tuple[list[str], list[str] | None]:
    known = set(labels) if classes is None else set(classes)
    for number, label in enumerate(labels):
        if not label or label not in known:
            raise DataError(
                f"label {label!r:.80} of window {number} is none of the {len(known)} classes",
                where=path,
                hint="labels are names of data.options.classes, or numbers from 0 in their order",
            )
    return labels, list(classes) if classes else None
