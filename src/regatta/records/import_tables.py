"""CSV files with foreign predictions: scores of every sample, or accuracies of every class.

Shapes: R rows, C conditions, N samples, K classes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from regatta.core.errors import DataError
from regatta.records.conditions import Condition
from regatta.records.imports import (
    AXES,
    NUMERIC_AXES,
    Foreign,
    ForeignCounts,
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

SCORE = "score_"
SAMPLE_COLUMNS = ("sample_id", "label", "group", "condition", *AXES)
CLASS_REQUIRED = ("class", "accuracy", "n_samples")
CLASS_COLUMNS = (*CLASS_REQUIRED, "condition", *AXES)
EXACT, ROUNDED = 1e-9, 5e-4
"""How far accuracy may be from a whole number of right answers: as computed, and as printed with
one decimal of a percent or more."""
_ROW = re.compile(r"Row #(\d+)")
_PROBLEM = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?.*?: (.*)", re.DOTALL)
_HEADER_BYTES = 1 << 23


def read_table(path: Path, content: bytes) -> Foreign:
    """A CSV of either kind, told by its header.

    Raises:
        DataError: it is no such file, or a row is wrong; with the row and the column.
    """
    header = _header(path, content)
    is_of_classes = "class" in header and not any(name.startswith(SCORE) for name in header)
    if is_of_classes and "sample_id" not in header:
        check_columns(header, CLASS_COLUMNS, CLASS_REQUIRED, what="column", path=path)
        return _read_classes(path, content, _columns(path, content, header))
    scores = [name for name in header if name.startswith(SCORE)]
    required = ("sample_id", "label", *(scores or ["score_0", "score_1"]))
    check_columns(header, (*SAMPLE_COLUMNS, *required), required, what="column", path=path)
    return _read_scores(path, content, _columns(path, content, header), scores)


def _header(path: Path, content: bytes) -> list[str]:
    """Names of the columns; a byte order mark before them is no part of a name."""
    first = content[:_HEADER_BYTES].partition(b"\n")[0]
    try:
        text = first.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError as error:
        raise DataError(
            "this is neither text in UTF-8 nor a NumPy archive",
            where=path,
            hint="write predictions as CSV in UTF-8, or with np.savez; see docs/import.md",
        ) from error
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if "," not in text and mark in text:
            raise DataError(
                f"the columns are separated by {name}, not by commas",
                where=f"{path}: row 1",
                hint="save it with commas between columns and points in numbers",
            )
    try:
        return [name.strip() for name in next(csv.reader([text], strict=True), [])]
    except csv.Error as error:
        raise DataError(f"the header is no CSV: {error}", where=f"{path}: row 1") from error


def _columns(path: Path, content: bytes, header: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns by name: float64 for numbers, NaN where there is none, else text."""
    numbers = {name for name in header if name.startswith(SCORE) or name in NUMERIC_AXES}
    numbers |= {"accuracy", "n_samples"} & set(header)
    types = {name: pa.float64() if name in numbers else pa.string() for name in header}
    ragged: list[pa_csv.InvalidRow] = []

    def refuse(row: pa_csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    try:
        table = pa_csv.read_csv(
            io.BytesIO(content),
            # One thread: the number of a wrong row is not known otherwise.
            read_options=pa_csv.ReadOptions(
                use_threads=False, column_names=list(header), skip_rows=1, block_size=_HEADER_BYTES
            ),
            parse_options=pa_csv.ParseOptions(invalid_row_handler=refuse),
            convert_options=pa_csv.ConvertOptions(
                column_types=types,
                null_values=["", "NA", "N/A", "null", "None"],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise _bad_row(path, error, header, ragged, has_rows=b"\n" in content) from error
    if table.num_rows == 0:
        raise DataError("the file has a header and no rows", where=path)
    return {
        name: table[name].to_numpy()
        if name in numbers
        else np.array([text.strip() for text in table[name].to_pylist()], dtype=str)
        for name in header
    }


def _bad_row(
    path: Path,
    error: pa.ArrowInvalid,
    header: Sequence[str],
    ragged: list[pa_csv.InvalidRow],
    *,
    has_rows: bool,
) -> DataError:
    if not has_rows:
        return DataError("the file has a header and no rows", where=path)
    if ragged:
        row = ragged[0]
        return DataError(
            f"a row has {row.actual_columns} fields, the header has {row.expected_columns}",
            where=f"{path}: row {row.number}",
            hint="a name with a comma in it must stand in double quotes",
        )
    found = _PROBLEM.search(str(error))
    if found is None:
        return DataError(f"this is no CSV: {error}", where=path)
    place = f"{path}: row {found[2] or '?'}, column '{header[int(found[1])]}'"
    if "UTF8" in found[3]:
        return DataError("the text is not UTF-8", where=place, hint="save the file as UTF-8")
    return DataError(
        f"not a number: {found[3].removeprefix('invalid value ')}",
        where=place,
        hint="numbers have a point and no separators: 0.25, -1.5e-3",
    )


def _row_conditions(
    path: Path, columns: dict[str, np.ndarray]
) -> tuple[list[Condition], np.ndarray]:
    """The conditions of a table in order of appearance, and the place of each row's, [R]."""
    axes = [name for name in AXES if name in columns]
    keys = [*(["condition"] if "condition" in columns else []), *axes]
    rows = len(next(iter(columns.values())))
    for name in keys:
        values = columns[name]
        absent = ~np.isfinite(values) if values.dtype.kind == "f" else values == ""
        if absent.any():
            row = int(absent.argmax()) + 2
            raise DataError(f"the column '{name}' is empty", where=f"{path}: row {row}")
    if not keys:
        return [condition_of({})], np.zeros(rows, dtype=np.int64)
    code = np.zeros(rows, dtype=np.int64)
    for name in keys:
        distinct, place = np.unique(columns[name], return_inverse=True)
        code = np.unique(code * len(distinct) + place, return_inverse=True)[1]
    _, first, place = np.unique(code, return_index=True, return_inverse=True)
    appearance = np.argsort(first, kind="stable")
    conditions = []
    for row in first[appearance]:
        found = {n: columns[n][row] for n in axes}
        values = {
            n: axis_value(float(v)) if n in NUMERIC_AXES else str(v) for n, v in found.items()
        }
        name = str(columns["condition"][row]) if "condition" in columns else None
        conditions.append(condition_of(values, name))
    twice = sorted({c.id for c in conditions if [o.id for o in conditions].count(c.id) > 1})
    if twice:
        raise DataError(f"a condition has several values on its axes: {shown(twice)}", where=path)
    return conditions, np.argsort(appearance)[place]


def _as_grid(
    path: Path, cell: np.ndarray, item: np.ndarray, conditions: list[Condition], what: str
) -> tuple[list[Condition], np.ndarray, np.ndarray]:
    """(conditions in order, items sorted by name, row of each cell and item [C, items]).

    Raises:
        DataError: an item stands twice in a condition, or lacks one; with its name.
    """
    names, place = np.unique(item, return_inverse=True)
    flat = cell * len(names) + place
    found, first, count = np.unique(flat, return_index=True, return_counts=True)
    if (count > 1).any():
        twice = found[count > 1]
        rows = np.flatnonzero(flat == twice[0])[:2] + 2
        texts = [f"{names[i % len(names)]} ({conditions[i // len(names)].id})" for i in twice]
        raise DataError(
            f"{len(twice)} {what} stand twice in one condition: {shown(texts)}",
            where=f"{path}: rows {rows[0]} and {rows[1]}",
            hint=f"one row per {what.removesuffix('es') if what == 'classes' else 'sample'} and "
            "condition: remove the copies",
        )
    whole = len(conditions) * len(names)
    if len(found) < whole:
        lacking = np.setdiff1d(np.arange(whole), found)
        texts = [f"{names[i % len(names)]} ({conditions[i // len(names)].id})" for i in lacking]
        raise DataError(
            f"{len(lacking)} {what} lack a condition that others have: {shown(texts)}",
            where=path,
            hint="add these rows, or leave the condition out for all",
        )
    rows_CN = first.reshape(len(conditions), len(names))
    ordered = in_order(conditions)
    ids = [c.id for c in conditions]
    return ordered, names, rows_CN[[ids.index(c.id) for c in ordered]]


def _read_scores(
    path: Path, content: bytes, columns: dict[str, np.ndarray], scores: list[str]
) -> ForeignScores:
    names = [name.removeprefix(SCORE) for name in scores]
    has_names = sorted(names) != sorted(numbered(len(names)))
    if not has_names:
        scores, names = [f"{SCORE}{k}" for k in range(len(names))], numbered(len(names))
    if len(names) < 2 or "" in names:
        raise DataError(
            f"predictions need scores of two or more classes, found {shown(scores) or 'none'}",
            where=path,
            hint="one column per class: score_0,score_1 ... or score_<class name>",
        )
    conditions, cell = _row_conditions(path, columns)
    ids = columns["sample_id"]
    if (ids == "").any():
        row = int((ids == "").argmax()) + 2
        raise DataError("a sample has no id", where=f"{path}: row {row}")
    table_RK = np.stack([columns[name] for name in scores], axis=1)
    check_scores(
        table_RK,
        lambda row: f"sample {str(ids[row])!r}, condition {conditions[cell[row]].id}",
        path=path,
    )
    ordered, sample_ids, rows_CN = _as_grid(path, cell, ids, conditions, "samples")
    logits, note = as_logits(table_RK)
    labels = class_numbers(columns["label"], names, path=path)
    groups = columns.get("group")
    _check_constant(path, labels[rows_CN], sample_ids, "label")
    if groups is not None:
        _check_constant(path, groups[rows_CN], sample_ids, "group")
    return ForeignScores(
        path,
        "csv",
        content_hash(content),
        ordered,
        names,
        has_names,
        sample_ids,
        None if groups is None else groups[rows_CN[0]],
        labels[rows_CN[0]],
        logits[rows_CN],
        [note] if note else [],
    )


def _check_constant(path: Path, values_CN: np.ndarray, ids: np.ndarray, what: str) -> None:
    differs = (values_CN != values_CN[0]).any(axis=0)
    if differs.any():
        raise DataError(
            f"{int(differs.sum())} samples have another {what} in another condition: "
            f"{shown(ids[differs])}",
            where=path,
        )
    if what == "group" and (values_CN == "").any():
        raise DataError(f"samples without a group: {shown(ids[values_CN[0] == ''])}", where=path)


def _read_classes(path: Path, content: bytes, columns: dict[str, np.ndarray]) -> ForeignCounts:
    conditions, cell = _row_conditions(path, columns)
    if (columns["class"] == "").any():
        row = int((columns["class"] == "").argmax()) + 2
        raise DataError("a class has no name", where=f"{path}: row {row}")
    ordered, names, rows_CK = _as_grid(path, cell, columns["class"], conditions, "classes")
    counts_CK, shares_CK = columns["n_samples"][rows_CK], columns["accuracy"][rows_CK]

    def place(wrong_CK: np.ndarray) -> str:
        c, k = np.argwhere(wrong_CK)[0]
        return f"{path}: class {str(names[k])!r}, condition {ordered[c].id}"

    bad = ~((counts_CK >= 1) & (counts_CK < 2**53) & (np.floor(counts_CK) == counts_CK))
    if bad.any():
        raise DataError("n_samples is a whole number from 1", where=place(bad))
    uneven = counts_CK != counts_CK[0]
    if uneven.any():
        raise DataError(
            f"{int(uneven.any(axis=0).sum())} classes have another n_samples in another condition: "
            f"{shown(names[uneven.any(axis=0)])}",
            where=place(uneven),
            hint="all conditions must be judged on the same samples",
        )
    bad = ~(np.isfinite(shares_CK) & (shares_CK >= 0) & (shares_CK <= 100))
    if bad.any():
        raise DataError(
            "accuracy is a share from 0 to 1, or a percentage from 0 to 100", where=place(bad)
        )
    is_percent = bool((shares_CK > 1 + EXACT).any())
    fractions = shares_CK / 100 if is_percent else shares_CK
    right, note = _whole_counts(path, fractions, counts_CK, names, ordered, is_percent)
    said = "its accuracies were read as percentages, as some are above 1" if is_percent else ""
    return ForeignCounts(
        path,
        "classes",
        content_hash(content),
        ordered,
        names.tolist(),
        counts_CK[0].astype(np.int64),
        right,
        [text for text in (said, note) if text],
    )


def _whole_counts(
    path: Path,
    fractions_CK: np.ndarray,
    counts_CK: np.ndarray,
    names: np.ndarray,
    conditions: list[Condition],
    is_percent: bool,
) -> tuple[np.ndarray, str]:
    """Right answers, int [C, K], and a note where accuracies were rounded when they were printed.

    Raises:
        DataError: an accuracy that no whole number of right answers gives.
    """
    right = np.rint(fractions_CK * counts_CK)
    off = np.abs(right / counts_CK - fractions_CK)
    wrong = off > ROUNDED
    if wrong.any():
        texts = [
            f"{names[k]} ({conditions[c].id}): {fractions_CK[c, k]:.6g} of {counts_CK[c, k]:g}"
            for c, k in np.argwhere(wrong)
        ]
        unit = "percentages, as some are above 1" if is_percent else "shares from 0 to 1"
        raise DataError(
            f"{len(texts)} accuracies are no whole number of right answers: {shown(texts)}",
            where=path,
            hint=f"they were read as {unit}; a mean over seeds cannot be taken apart: give a table "
            "of each seed, NAME@SEED=FILE",
        )
    rounded = int((off > EXACT).sum())
    note = ""
    if rounded:
        note = (
            f"{rounded} of {off.size} of its accuracies are rounded: the nearest whole number of "
            f"right answers was taken, at most {100 * off.max():.2g} points away"
        )
    return right.astype(np.int64), note
