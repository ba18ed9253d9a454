"""CSV that no spreadsheet runs: names of samples and classes come from files of others."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Cannot be written as UTF-8; a name from JSON may hold one."""


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; None is an empty field and text can never be read as a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([csv_cell(name) for name in header])
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def csv_cell(value: Any) -> Any:
    """One field. Text that a spreadsheet would run as a formula gets a leading apostrophe.

    Numbers pass as they are, with every digit that they have; a list becomes words with spaces; a
    carriage return becomes a space.
    """
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        value = " ".join(str(item) for item in value)
    if isinstance(value, str):
        # A bare carriage return is not quoted by the writer and would break the row for readers.
        text = LONE_SURROGATE.sub("\ufffd", value.replace("\r", " "))
        return f"'{text}" if value.startswith(FORMULA_STARTS) else text
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value
