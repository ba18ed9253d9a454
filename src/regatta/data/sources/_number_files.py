"""Text files of numbers, one sample per line, with errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from regatta.core.errors import DataError
from regatta.data.sources._lists import check_list_size

_SHOWN = 30
"""Most characters of a wrong value in a message."""


def read_table(path: Path) -> np.ndarray:
    """Numbers apart by blanks, float32 [lines, columns]; NaN and infinity are read as such.

    Raises:
        DataError: the file is missing or empty, lines have different counts, or a value is no
            number.
    """
    if _is_empty(path):
        raise DataError("the file is empty", where=path)
    try:
        return np.loadtxt(path, dtype=np.float32, ndmin=2, comments=None, encoding="utf-8")
    except ValueError as error:
        raise _fault(path) or DataError(f"not a table of numbers: {error}", where=path) from error


def read_integers(path: Path) -> list[int]:
    """One whole number per line; DataError as `read_table`, and for two values or a fraction."""
    if _is_empty(path):
        raise DataError("the file is empty", where=path)
    numbers = []
    for line, text in enumerate(read_lines(path), 1):
        number = whole_number(text.removeprefix("-").removeprefix("+"))
        if number is None:
            problem = f"'{text[:_SHOWN]}' is not one whole number"
            raise DataError(problem, where=f"{path}, line {line}")
        numbers.append(-number if text.startswith("-") else number)
    return numbers


def whole_number(text: str) -> int | None:
    """The number that ASCII digits stand for; None for anything else, or far beyond any count."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


def read_lines(path: Path) -> list[str]:
    """Lines without blanks at their ends, and without empty lines at the end of the file."""
    check_list_size(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("the file is not text in UTF-8", where=path) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    return [line.strip() for line in text.rstrip().splitlines()]


def _is_empty(path: Path) -> bool:
    try:
        with open(path, "rb") as lines:
            return not any(line.strip() for line in lines)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError("the file does not exist", where=path, hint="fetch the data set again")
    return DataError(f"the file cannot be read: {error.strerror or error}", where=path)


def _fault(path: Path) -> DataError | None:
    """The first wrong line; read slowly, once it is known that there is one."""
    columns = None
    for line, text in enumerate(read_lines(path), 1):
        values = text.split()
        columns = len(values) if columns is None else columns
        for value in values:
            try:
                float(value)
            except ValueError:
                problem = f"'{value[:_SHOWN]}' is not a number"
                return DataError(problem, where=f"{path}, line {line}")
        if len(values) != columns:
            return DataError(
                f"this line has {len(values)} values, the first has {columns}",
                where=f"{path}, line {line}",
                hint="the file may be cut: fetch it again",
            )
    return None
