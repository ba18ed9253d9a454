"""A tree of image files, in a folder or in a zip archive that is read without unpacking it."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from regatta.core.archives import check_archive
from regatta.core.errors import DataError, DecodeError
from regatta.data.disk_names import normal_form
from regatta.data.sources import SPLIT_ALIASES

LARGEST_FILE = 64 * 2**20
"""Bytes of one image file, unpacked."""
LARGEST_ARCHIVE = 64 * 2**30
"""Bytes of all files of an archive, unpacked."""
MOST_FILES = 4_000_000
"""Of an archive; each takes half a kilobyte of memory before it is opened."""
NO_FILE = -1
"""Size of a link that leads nowhere, a pipe or a device: reading one could wait for ever."""
_ENCRYPTED = 0x1
_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError),
    *(NotImplementedError, RuntimeError, LookupError),
)
"""All that reading a damaged archive raises."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others unpack all they hold at once, whatever size the archive declares."""


@dataclass(frozen=True)
class TreeFile:
    """One file. parts: folders and name below the top of the tree."""

    parts: tuple[str, ...]
    key: str
    """How the tree itself calls it."""
    path: Path
    """For people: a place in an archive is written as if it were a folder."""
    size: int
    """Bytes, unpacked."""

    @property
    def name(self) -> str:
        return "/".join(self.parts)


class Tree(Protocol):
    """Where the files come from."""

    def files(self) -> list[TreeFile]:
        """All visible files, sorted by name."""
        ...

    def read(self, file: TreeFile) -> bytes:
        """Its bytes; may be called by several threads. DecodeError when it cannot be read."""
        ...


@contextmanager
def open_tree(root: Path) -> Iterator[Tree]:
    """The tree below a folder or in a `.zip` file; DataError when it is neither."""
    if root.is_dir():
        yield _Folder(root)
        return
    if not root.is_file():
        raise DataError(
            "the data folder of source 'image-folder' does not exist",
            where=root,
            hint="set data.root (or --root) to the folder, or the .zip file, with the images",
        )
    try:
        archive = zipfile.ZipFile(root)
    except _FAULTS as error:
        raise DataError(
            f"the file is no whole zip archive: {error}", where=root, hint="fetch it again"
        ) from error
    with archive:
        yield _Archive(root, archive)


def _unreadable(error: OSError) -> None:
    """Without this a folder that may not be opened would count as empty."""
    raise DataError(
        f"the folder cannot be read: {error.strerror or error}",
        where=error.filename,
        hint="make it readable, or move it elsewhere",
    ) from error


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self) -> list[TreeFile]:
        found = []
        for place, folders, names in os.walk(self._root, followlinks=True, onerror=_unreadable):
            below = Path(place).relative_to(self._root).parts
            # Deeper folders are not read; going on would follow a link that leads in a circle.
            folders[:] = [n for n in folders if not n.startswith(".") and len(below) < 4]
            visible = [name for name in names if not name.startswith(".")]
            if below and not folders and not visible:
                # An empty class folder would pass unseen: it stands as a file without a name.
                visible = [""]
            for name in visible:
                path = Path(place, name)
                size = os.path.getsize(path) if path.is_file() else NO_FILE
                found.append(TreeFile(_parts((*below, name), path), str(path), path, size))
        return _below_one_folder(found)

    def read(self, file: TreeFile) -> bytes:
        _check_size(file)
        try:
            return file.path.read_bytes()
        except OSError as error:
            raise DecodeError(f"cannot be read: {error.strerror or error}") from error


class _Archive:
    def __init__(self, root: Path, archive: zipfile.ZipFile) -> None:
        self._root, self._archive = root, archive

    def files(self) -> list[TreeFile]:
        infos = self._archive.infolist()
        check_archive(
            self._root,
            infos,
            most_files=MOST_FILES,
            most_bytes=LARGEST_ARCHIVE,
            hint="unpack it and set data.root to the folder",
        )
        found, empty = [], {}
        for info in infos:
            parts = self._inner_parts(info.filename)
            if any(part.startswith(".") or part == "__MACOSX" for part in parts):
                continue
            path = self._root.joinpath(*parts)
            if info.is_dir():
                # As in a folder: an empty class stands as a file without a name.
                file = TreeFile((*_parts(parts, path), ""), info.filename, path, NO_FILE)
                empty[file.parts[:-1]] = file
            else:
                found.append(TreeFile(_parts(parts, path), info.filename, path, info.file_size))
        for parts in [
            *(file.parts for file in found),
            *(file.parts[:-1] for file in empty.values()),
        ]:
            for depth in range(len(parts)):
                empty.pop(parts[:depth], None)
        return _below_one_folder([*found, *empty.values()])

    def _inner_parts(self, name: str) -> tuple[str, ...]:
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or not parts[0]:
            raise DataError(
                f"a name leaves the archive: {name[:80]!r}",
                where=self._root,
                hint="use archives from where you trust them",
            )
        return tuple(part for part in parts if part not in ("", "."))

    def read(self, file: TreeFile) -> bytes:
        _check_size(file)
        info = self._archive.getinfo(file.key)
        if info.flag_bits & _ENCRYPTED:
            raise DecodeError("encrypted in the archive")
        if info.compress_type not in _METHODS:
            raise DecodeError("packed in another way than store and deflate")
        try:
            with self._archive.open(info) as packed:
                # Asked for all, it would unpack far more than the declared size before it cuts.
                return packed.read(file.size + 1)
        except _FAULTS as error:
            raise DecodeError(f"cannot be read from the archive: {error}") from error


def _check_size(file: TreeFile) -> None:
    if file.size == NO_FILE:
        raise DecodeError("cannot be read: it leads to no file")
    if file.size > LARGEST_FILE:
        raise DecodeError(f"larger than {LARGEST_FILE >> 20} MiB")


def _parts(parts: Sequence[str], path: Path) -> tuple[str, ...]:
    """One spelling of each name; DataError for one that cannot stand in a table or a message."""
    text = "/".join(parts)
    if text.encode("utf-8", "replace").decode("utf-8") != text:
        raise DataError("a name is not valid UTF-8", where=ascii(str(path)))
    return tuple(normal_form(part) for part in parts)


def _below_one_folder(files: list[TreeFile]) -> list[TreeFile]:
    """Without the one folder that an archive often wraps around all."""
    tops = {file.parts[0] for file in files}
    is_wrapped = len(tops) == 1 and all(len(file.parts) > 2 for file in files)
    if is_wrapped and next(iter(tops)).lower() not in SPLIT_ALIASES:
        return _below_one_folder([replace(file, parts=file.parts[1:]) for file in files])
    return sorted(files, key=lambda file: file.parts)
