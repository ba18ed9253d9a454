"""What the readers of published lists share: text and JSON with places, classes, source videos."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from regatta.core.errors import ConfigError, DataError
from regatta.core.json_text import parse_json
from regatta.core.registry import nearest
from regatta.data.manifest import SampleRow
from regatta.data.sources import VIDEO_SUFFIXES, GroupBy
from regatta.data.splits import check_no_leak, torn_groups

LARGEST_LIST = 512 * 2**20
"""Bytes of a list; those of the largest public data sets have some 50 MiB."""


def check_list_size(path: Path, *, most_bytes: int = LARGEST_LIST) -> None:
    """DataError for a list that would fill the memory, or a pipe, which may never end; one that is
    missing is left to who reads it."""
    try:
        facts = path.stat()
    except OSError:
        return
    if stat.S_ISFIFO(facts.st_mode) or stat.S_ISCHR(facts.st_mode):
        raise DataError("this is no file but a pipe or a device", where=path)
    if facts.st_size > most_bytes:
        raise DataError(
            f"the list has {facts.st_size / 2**20:.0f} MiB; at most {most_bytes >> 20} are read",
            where=path,
            hint="is it the right file?",
        )


def read_text(path: Path, *, what: str, hint: str) -> str:
    """The text of a list in UTF-8, with or without a byte order mark.

    Raises:
        DataError: it is missing, a folder, too large, or in another encoding.
    """
    check_list_size(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{what} is missing", where=path, hint=hint) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{what} is not UTF-8 text", where=f"{path}:{line}", hint="save it again as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror}", where=path) from error


def list_lines(path: Path, *, what: str, hint: str) -> Iterator[tuple[str, str]]:
    """("file:line", stripped text) of each line that says something; any line ends."""
    # str.splitlines would also cut at characters that file names may hold.
    text = read_text(path, what=what, hint=hint).replace("\r\n", "\n").replace("\r", "\n")
    place = f"{path}:"
    for number, line in enumerate(text.split("\n"), 1):
        if line := line.strip():
            yield f"{place}{number}", line


def read_json(path: Path, *, what: str, hint: str) -> Any:
    """The content of a JSON list; DataError with the line where it breaks off."""
    text = read_text(path, what=what, hint=hint)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        problem = f"{what} is not JSON: {error.msg}"
        raise DataError(problem, where=f"{path}:{error.lineno}", hint=hint) from error
    except ValueError as error:
        raise DataError(f"{what} is not JSON: {error}", where=path, hint=hint) from error


def json_entries(path: Path, *, what: str, hint: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file entry N", object) of a JSON list of objects; counted from 1."""
    content = read_json(path, what=what, hint=hint)
    if not isinstance(content, list):
        raise DataError(f"{what} is not a JSON list", where=path, hint=hint)
    for number, entry in enumerate(content, 1):
        where = f"{path} entry {number}"
        if not isinstance(entry, dict):
            raise DataError("the entry is not a JSON object", where=where, hint=hint)
        yield where, entry


def first_file(folder: Path, names: Sequence[str], *, what: str, hint: str) -> Path:
    """The first of `names` that is a file below `folder`; DataError that tells all of them."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{what} is missing; looked for {', '.join(names)}", where=folder, hint=hint)


def first_folder(root: Path, names: Iterable[str]) -> Path:
    """The first of `names` that is a folder below `root`, else `root` itself."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def wanted_classes(wanted: list[str] | None, known: Collection[str], data_set: str) -> set[str]:
    """The classes that a study asks for, all by default; ConfigError with the nearest."""
    for name in wanted or []:
        if name not in known:
            close = nearest(name, known)
            raise ConfigError(
                f"{data_set} has no class named '{name}'",
                where="data.options.classes",
                hint=f"did you mean '{close}'?" if close else f"it has {listed(sorted(known))}",
            )
    return set(known) if wanted is None else set(wanted)


def unknown_label(label: str, known: Collection[str], *, where: str, class_list: str) -> DataError:
    """The error for a label that the class list does not hold, with the nearest one."""
    close = nearest(label, known)
    return DataError(
        f"'{label}' is not in {class_list}",
        where=where,
        hint=f"did you mean '{close}'?" if close else f"it has {listed(sorted(known))}",
    )


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def grouped(
    rows: list[SampleRow], group: GroupBy, *, where: object
) -> tuple[list[SampleRow], list[str]]:
    """Rows whose group is their source video, kept so or taken apart, and the remark if apart.

    Raises:
        SplitLeakError: `group` is "video" and the lists part one.
    """
    if group == "video":
        hint = (
            "the lists part clips of one source video; to judge as published all the same, set "
            "data.options.group: clip, and the report says so"
        )
        check_no_leak(rows, where=where, hint=hint)
        return rows, []
    torn = torn_groups(rows)
    alone = [replace(row, group=row.path.as_posix()) for row in rows]
    return alone, [
        f"each clip is its own group (data.options.group: clip); {len(torn)} source video(s) "
        f"stand in more than one split{': ' if torn else ''}{listed(list(torn))}"
    ]


class FolderNames:
    """The names in each folder, listed once: a lookup per line would ask the disk each time."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def names(self, folder: str) -> frozenset[str]:
        """Names in a folder; none where it does not exist."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except (FileNotFoundError, NotADirectoryError, ValueError):
                # ValueError: no folder can have this name.
                self._names[folder] = frozenset()
            except OSError as error:
                problem = f"the folder cannot be listed: {error.strerror}"
                raise DataError(problem, where=folder) from error
        return self._names[folder]

    def video(self, folders: Iterable[str], stem: str, suffixes: Sequence[str]) -> str | None:
        """The path of `<stem><suffix>` in the first folder that has it; None where none has."""
        for folder in folders:
            if names := self.names(folder):
                for suffix in suffixes:
                    if stem + suffix in names:
                        return f"{folder}{os.sep}{stem}{suffix}"
        return None


def suffix_order(*first: str) -> list[str]:
    """Video suffixes to try, the usual ones of a data set first."""
    return [*first, *sorted(VIDEO_SUFFIXES - set(first))]
