"""Promise of lists that others made: one that would fill the memory, or never ends, is refused by
name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regatta.core.errors import DataError
from regatta.data.sources import _cifar_files, _lists, _number_files, csv_recordings, manifest_list

READERS: dict[str, Callable[[Path], Any]] = {
    "list": lambda path: list(_lists.list_lines(path, what="the list", hint="h")),
    "json": lambda path: _lists.read_json(path, what="the list", hint="h"),
    "numbers": _number_files.read_lines,
    "manifest": lambda path: list(manifest_list._records(path)),
    "recording": csv_recordings._table,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_list_without_end_is_refused(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    path = tmp_path / "huge.csv"
    path.touch()
    # Takes no room on the disk.
    os.truncate(path, 5 * 2**30)
    with pytest.raises(DataError, match=r"has 5120 MiB; at most \d+ are read") as caught:
        reader(path)
    assert caught.value.where == str(path)
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(DataError, match="a pipe or a device"):
        reader(path)


def test_class_names_of_an_image_source_are_bounded_too(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.touch()
    os.truncate(path, 5 * 2**30)
    with pytest.raises(DataError, match="has 5120 MiB"):
        _cifar_files.read_names(path)
