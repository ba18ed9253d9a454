"""Append-only training record: one JSON line per logged step or epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from regatta.core.errors import RecordError
from regatta.core.files import append_json_line, read_json_lines, write_text


def append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Append one record; the usual keys are step, epoch, split, loss, accuracy, lr,
    samples_per_second, seconds."""
    append_json_line(path, record)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole records in order; RecordError where one has no whole number of steps."""
    records = read_json_lines(path)
    for number, record in enumerate(records, 1):
        if type(record.get("step", 0)) is not int:
            raise RecordError("a record of training has no step", where=f"{path}: record {number}")
    return records


def rewind_metrics(path: Path, *, after_step: int) -> None:
    """Drop records of steps beyond a resume point, so that a resumed run logs every step once."""
    kept = [record for record in read_metrics(path) if record.get("step", 0) <= after_step]
    if path.exists():
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
