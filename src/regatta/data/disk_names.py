"""Listed names against the names on disk: which file is meant, and which files are one."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from regatta.data.manifest import SampleRow

FileNumber = tuple[int, int]
"""(device, inode): equal for a file and every link to it."""


def normal_form(text: str) -> str:
    """Composed Unicode: one spelling of names that look the same (macOS writes them apart)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


@dataclass(frozen=True)
class OnDisk:
    """Where the listed files are."""

    actual: dict[Path, Path]
    """Listed path -> the path on disk, where its accents are spelt otherwise."""
    missing: set[Path]
    """Listed paths without a file."""
    numbers: dict[Path, FileNumber]
    """Listed path -> what file that is."""


def find_on_disk(paths: Iterable[Path], root: Path) -> OnDisk:
    """Look each listed file up once; one that is not there is sought under other accents."""
    found = OnDisk({}, set(), {})
    lookalikes = _Lookalikes(os.path.normpath(root))
    for path in paths:
        number = _file_number(path)
        if number is None and (actual := lookalikes.of(str(path))):
            number = _file_number(actual)
            found.actual[path] = Path(actual)
        if number is None:
            found.missing.add(path)
        else:
            found.numbers[path] = number
    return found


def same_file_twice(rows: Sequence[SampleRow], found: OnDisk) -> list[list[Path]]:
    """Paths of different splits that lead to one file, through links or not."""
    places: dict[FileNumber, dict[Path, str]] = defaultdict(dict)
    for row in rows:
        if row.path in found.numbers:
            places[found.numbers[row.path]][row.path] = row.split
    return [
        sorted(paths)
        for paths in places.values()
        if len(paths) > 1 and len(set(paths.values())) > 1
    ]


def _file_number(path: str | Path) -> FileNumber | None:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino


@dataclass
class _Lookalikes:
    """Names on disk that differ from a listed path in Unicode form alone."""

    root: str
    _listings: dict[str, dict[str, str]] = field(default_factory=dict)
    _folders: dict[str, str | None] = field(default_factory=dict)

    def of(self, path: str) -> str | None:
        """The path on disk; None when there is none or the names are plain ASCII."""
        if path.isascii() or not path.startswith(self.root):
            return None
        folder, name = os.path.split(path)
        actual = self._folder(folder)
        match = None if actual is None else self._names(actual).get(normal_form(name))
        return None if actual is None or match is None else os.path.join(actual, match)

    def _folder(self, folder: str) -> str | None:
        if folder not in self._folders:
            there = len(folder) <= len(self.root) or os.path.isdir(folder)
            self._folders[folder] = folder if there else self.of(folder)
        return self._folders[folder]

    def _names(self, folder: str) -> dict[str, str]:
        """Composed name -> name on disk."""
        if folder not in self._listings:
            try:
                names = os.listdir(folder)
            except OSError:
                names = []
            self._listings[folder] = {normal_form(name): name for name in sorted(names)}
        return self._listings[folder]
