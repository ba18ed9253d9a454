"""NumPy archives with foreign predictions.

Shapes: C conditions, N samples, K classes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from regatta.core.errors import DataError
from regatta.records.array_files import read_npz
from regatta.records.conditions import Condition
from regatta.records.imports import (
    AXES,
    MAX_ARRAY_BYTES,
    WORD_AXES,
    ForeignScores,
    as_logits,
    axis_value,
    check_columns,
    check_scores,
    class_numbers,
    condition_of,
    content_hash,
    in_order,
    numbered,
    shown,
)

REQUIRED = ("scores", "labels", "sample_ids")
KNOWN = (*REQUIRED, "groups", "classes", "conditions", *AXES)


def read_archive(path: Path, content: bytes) -> ForeignScores:
    """Arrays scores, labels, sample_ids; optional groups, classes, conditions and axes.

    Raises:
        DataError: an array is missing, has the wrong shape or type, or holds what it must not.
    """
    arrays = _arrays(path, content)
    check_columns(list(arrays), KNOWN, REQUIRED, what="array", path=path)
    scores = arrays["scores"]
    if scores.ndim not in (2, 3) or scores.dtype.kind not in "fiu":
        raise _wrong(path, "scores", scores, "numbers [samples, classes] or [conditions, ...]")
    scores_CNK = scores[None] if scores.ndim == 2 else scores
    cells, samples, classes = scores_CNK.shape
    if classes < 2 or samples < 1 or cells < 1:
        raise _wrong(path, "scores", scores, "at least one sample and two classes")
    ids = _texts(path, arrays, "sample_ids", samples)
    twice = np.unique(ids, return_counts=True)
    if (twice[1] > 1).any():
        raise DataError(f"sample ids are there twice: {shown(twice[0][twice[1] > 1])}", where=path)
    names = _texts(path, arrays, "classes", classes).tolist() if "classes" in arrays else None
    if names is not None and len(set(names)) < classes:
        raise DataError(f"two classes have one name: {shown(names)}", where=path)
    conditions = _conditions(path, arrays, cells)
    for condition, found_NK in zip(conditions, scores_CNK, strict=True):
        check_scores(
            found_NK,
            lambda row, c=condition: f"sample {str(ids[row])!r}, condition {c.id}",
            path=path,
        )
    logits, note = as_logits(scores_CNK.reshape(-1, classes))
    order, cell_order = np.argsort(ids, kind="stable"), in_order(conditions)
    place = [[c.id for c in conditions].index(c.id) for c in cell_order]
    labels = _labels(path, arrays, samples, names or numbered(classes))
    return ForeignScores(
        path,
        "npz",
        content_hash(content),
        cell_order,
        names or numbered(classes),
        names is not None,
        ids[order],
        _texts(path, arrays, "groups", samples)[order] if "groups" in arrays else None,
        labels[order],
        logits.reshape(scores_CNK.shape)[place][:, order],
        [note] if note else [],
    )


def _arrays(path: Path, content: bytes) -> dict[str, np.ndarray]:
    return read_npz(path, io.BytesIO(content), most_bytes=MAX_ARRAY_BYTES)


def _texts(path: Path, arrays: dict[str, np.ndarray], name: str, count: int) -> np.ndarray:
    """An array of names [count], whole numbers as text."""
    found = arrays[name]
    if found.shape != (count,):
        raise _wrong(path, name, found, f"shape ({count},)")
    if found.dtype.kind == "S":
        try:
            return np.array([text.decode("utf-8") for text in found.tolist()], dtype=str)
        except UnicodeDecodeError as error:
            raise DataError(f"the names in '{name}' are not UTF-8", where=path) from error
    if found.dtype.kind not in "Uiu":
        raise _wrong(path, name, found, "text or whole numbers")
    return found.astype(str)


def _labels(
    path: Path, arrays: dict[str, np.ndarray], count: int, classes: list[str]
) -> np.ndarray:
    """Numbers are places in `classes` whatever these are called; text is read as in a CSV."""
    found = arrays["labels"]
    if found.dtype.kind in "iu" and found.shape == (count,):
        outside = (found < 0) | (found >= len(classes))
        if outside.any():
            row = int(outside.argmax())
            raise DataError(
                f"the label {found[row]} is none of the {len(classes)} classes",
                where=f"{path}: sample {str(arrays['sample_ids'][row])!r}",
                hint=f"labels are class names, or numbers from 0 to {len(classes) - 1}",
            )
        return found.astype(np.int64)
    return class_numbers(_texts(path, arrays, "labels", count), classes, path=path)


def _conditions(path: Path, arrays: dict[str, np.ndarray], cells: int) -> list[Condition]:
    """The conditions of the first axis of scores, in its order."""
    names = None
    if "conditions" in arrays:
        names = _texts(path, arrays, "conditions", cells).tolist()
    axes: list[dict[str, Any]] = [{} for _ in range(cells)]
    for name in AXES:
        if name not in arrays:
            continue
        if name in WORD_AXES:
            values: list[Any] = _texts(path, arrays, name, cells).tolist()
        else:
            found = arrays[name]
            if found.shape != (cells,) or found.dtype.kind not in "fiu":
                raise _wrong(path, name, found, f"numbers of shape ({cells},)")
            if not np.isfinite(found).all():
                raise DataError(f"'{name}' has values that are not finite", where=path)
            values = [axis_value(value) for value in found.tolist()]
        for place, value in zip(axes, values, strict=True):
            place[name] = value
    if cells > 1 and names is None and not axes[0]:
        raise DataError(
            f"scores have {cells} conditions, but nothing says which",
            where=path,
            hint="add conditions [C], or the axes that vary, such as coverage [C] and stride [C]",
        )
    found = [condition_of(each, names[i] if names else None) for i, each in enumerate(axes)]
    twice = sorted({c.id for c in found if [o.id for o in found].count(c.id) > 1})
    if twice:
        raise DataError(f"two conditions are the same: {shown(twice)}", where=path)
    return found


def _wrong(path: Path, name: str, found: np.ndarray, wanted: str) -> DataError:
    return DataError(
        f"the array '{name}' has shape {found.shape} of {found.dtype}; it must be {wanted}",
        where=path,
        hint="see docs/import.md",
    )
