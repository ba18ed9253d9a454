"""A CSV list of videos: `video_path,label[,group,split,start_frame,end_frame]`."""

from __future__ import annotations

import csv as csv_format
import math
import os
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path

from regatta.core.errors import DataError
from regatta.core.files import path_under
from regatta.core.registry import SOURCES, nearest
from regatta.data.manifest import SampleRow, SplitName
from regatta.data.sources import SPLIT_ALIASES, FrameCount, Share, existing_root, only_split_one
from regatta.data.sources._lists import check_list_size
from regatta.data.sources._number_files import whole_number
from regatta.data.splits import DEFAULT_TEST_FRACTION, assign_group_split

REQUIRED = ("video_path", "label")
OPTIONAL = ("group", "split", "start_frame", "end_frame")


@SOURCES.register("manifest")
def read_manifest_list(
    root: Path,
    *,
    split: int,
    seed: int,
    csv: str = "manifest.csv",
    classes: list[str] | None = None,
    segment_frames: FrameCount | None = None,
    test_fraction: Share = DEFAULT_TEST_FRACTION,
) -> list[SampleRow]:
    """One sample per line of a CSV file in UTF-8, with a header line.

    `video_path` is below the root. `group` is the source video, by default the file. `split` is
    train, validation or test, on every line or on none. The sample is the frames [start_frame,
    end_frame) of the file; an empty field means from the first or to the last. Other columns
    become `Sample.extra`.

    Args:
        root: the folder of the videos.
        split: 1, there is no other.
        seed: of the group split, where the list gives none.
        csv: the list, below the root or from the working folder.
        classes: when given, a label outside it is an error.
        segment_frames: cut each sample into pieces of this many frames.
        test_fraction: share held out for judging, where the list gives no split.
    Raises:
        DataError: no root or list, a column is missing or misspelt, a line is malformed.
    """
    only_split_one(split, "manifest")
    existing_root(root, "manifest")
    path = _list_path(root, csv)
    rows: list[SampleRow] = []
    for where, record in _records(path):
        label_name = _field(record, "label", where)
        _check_label(label_name, classes, where)
        video = _field(record, "video_path", where)
        start, frames = _frame_range(record, where)
        rows.append(
            SampleRow(
                path=path_under(root, video, where=where),
                label_name=label_name,
                group=record.get("group") or Path(os.path.normpath(video)).as_posix(),
                split=_split(record.get("split", ""), where),
                start_frame=start,
                frames=frames,
                extra=_extra(record),
                segment_frames=segment_frames,
            )
        )
    without = sum(not row.split for row in rows)
    if 0 < without < len(rows):
        raise DataError(
            f"{without} of {len(rows)} lines give no split",
            where=path,
            hint="fill in the column 'split' on every line, or leave it out",
        )
    return assign_group_split(rows, seed, test_fraction=test_fraction)


def _list_path(root: Path, csv: str) -> Path:
    """Below the root where it is; else from the working folder, as a list kept beside the study."""
    below, beside = root / csv, Path(csv)
    return beside if beside.is_file() and not below.is_file() else below


def _records(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """("file:line", column -> stripped text) of each line below the header."""
    check_list_size(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problem = "does not exist" if isinstance(error, FileNotFoundError) else f"fails: {error}"
        raise DataError(
            f"the list of videos {problem}",
            where=path,
            hint=f"write a CSV file with the columns {', '.join(REQUIRED)}, or set options.csv",
        ) from error
    reader = csv_format.reader(StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            values = [cell.strip() for cell in cells]
            if not any(values):
                continue
            if not header:
                header = values
                _check_header(header, where)
            elif len(values) != len(header):
                problem = f"{len(values)} fields where the header has {len(header)}"
                raise DataError(problem, where=where)
            else:
                yield where, dict(zip(header, values, strict=True))
    except csv_format.Error as error:
        raise DataError(f"not CSV: {error}", where=f"{path}:{reader.line_num}") from error
    if not header:
        raise DataError("the list of videos is empty", where=path)


def _check_header(header: list[str], where: str) -> None:
    """A misspelt column must not pass as an extra one: a lost `group` would leak between splits."""
    known = (*REQUIRED, *OPTIONAL)
    absent = [name for name in known if name not in header]
    for name in header:
        close = nearest(name, absent)
        if name not in known and close:
            raise DataError(
                f"unknown column '{name}'; did you mean '{close}'?",
                where=where,
                hint="if not, give it a name that is less alike: other columns become extras",
            )
    missing = [name for name in REQUIRED if name in absent]
    if missing or len(set(header)) < len(header):
        problem = f"lacks {', '.join(missing)}" if missing else "names a column twice"
        raise DataError(
            f"the header line {problem}",
            where=where,
            hint=f"columns: {', '.join(REQUIRED)}, and if you like {', '.join(OPTIONAL)}",
        )


def _field(record: Mapping[str, str], name: str, where: str) -> str:
    if not record[name]:
        raise DataError(f"{name} is empty", where=where)
    return record[name]


def _check_label(label: str, classes: list[str] | None, where: str) -> None:
    if classes is not None and label not in classes:
        close = nearest(label, classes)
        raise DataError(
            f"label '{label}' is not in the class list",
            where=where,
            hint=f"did you mean '{close}'?" if close else f"classes: {', '.join(classes)}",
        )


def _split(text: str, where: str) -> SplitName:
    if text and text.lower() not in SPLIT_ALIASES:
        raise DataError(f"unknown split '{text}'", where=where, hint="train, validation or test")
    return SPLIT_ALIASES[text.lower()] if text else ""


def _frame_range(record: Mapping[str, str], where: str) -> tuple[int, int | None]:
    numbers: list[int | None] = []
    for name in ("start_frame", "end_frame"):
        text = record.get(name, "")
        number = whole_number(text)
        if text and number is None:
            raise DataError(f"{name} is not a whole number: '{text}'", where=where)
        numbers.append(number)
    start, end = numbers[0] or 0, numbers[1]
    if end is not None and end <= start:
        problem = f"end_frame {end} is not after start_frame {start}"
        raise DataError(problem, where=where, hint="the last frame is end_frame - 1")
    return start, None if end is None else end - start


def _extra(record: Mapping[str, str]) -> dict[str, float | str]:
    extra: dict[str, float | str] = {}
    for name, text in record.items():
        if name not in REQUIRED and name not in OPTIONAL:
            number = _number(text)
            extra[name] = text if number is None else number
    return extra


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
