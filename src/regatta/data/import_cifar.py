"""The python releases of CIFAR-10 and CIFAR-100 turned into the binary ones, which are no pickles.

A pickle can run code when it is opened. Here it is opened once, in a process of its own with little
memory and time, by a reader that knows four names and replaces each by a function of this file; an
opcode that could do more is refused before anything is read.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from regatta.core.confined import confine_this_process, tell_results
from regatta.core.errors import DataError, RegattaError
from regatta.core.files import disk_error, ensure_writable, write_bytes
from regatta.data.sources._cifar_files import IMAGE_BYTES

MEMORY_BYTES = 3 * 2**30
CPU_SECONDS = 300
LARGEST_FILE = 2**29
"""Bytes of a pickle; the largest of the releases has 155 MB."""
_OPCODES = frozenset(
    [
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BININT",
        "BININT1",
        "BININT2",
        "INT",
        "LONG",
        "LONG1",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_DICT",
        "DICT",
        "SETITEM",
        "SETITEMS",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "GET",
        "BINGET",
        "LONG_BINGET",
        "MEMOIZE",
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
    ]
)


@dataclass(frozen=True)
class _Release:
    """files: python name, and binary names; the first part is written last, so that an interrupted
    import is not taken for a whole one. labels: keys of the label bytes, in their order. names:
    key in the file of names -> file to write."""

    meta: str
    files: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    names: dict[str, str]


RELEASES = {
    "cifar100": _Release(
        "meta",
        (("train", "train.bin"), ("test", "test.bin")),
        ("coarse_labels", "fine_labels"),
        {
            "fine_label_names": "fine_label_names.txt",
            "coarse_label_names": "coarse_label_names.txt",
        },
    ),
    "cifar10": _Release(
        "batches.meta",
        (
            *((f"data_batch_{n}", f"data_batch_{n}.bin") for n in range(1, 6)),
            ("test_batch", "test_batch.bin"),
        ),
        ("labels",),
        {"label_names": "batches.meta.txt"},
    ),
}
_NUMBERED = ("PUT", "BINPUT", "LONG_BINPUT")
FOLDERS = ("cifar-100-python", "cifar-10-batches-py")


@dataclass(frozen=True)
class ImportedCifar:
    """What was written. images: of each file."""

    source: str
    folder: str
    images: dict[str, int]
    classes: int


def import_cifar(root: Path, folder: Path) -> ImportedCifar:
    """Write the binary layout of the python release in `root`, or in a release's folder below it.

    Call it in a process that may be lost: see `main`.

    Raises:
        DataError: there is no release, a file is damaged, holds other things than lists, names and
            uint8 arrays, or they do not fit each other.
        DiskError: the folder cannot be written.
    """
    source, base = _find(root)
    release = RELEASES[source]
    meta = _read(base / release.meta)
    names = {key: _names(meta, key, base / release.meta) for key in release.names}
    limits = [len(names[key]) for key in reversed(release.names)]
    contents = {
        target: _records(base / name, release.labels, limits) for name, target in release.files
    }
    ensure_writable(folder)
    # Without its first part an older import is not taken for a whole one while it is written over.
    first = folder / release.files[0][1]
    try:
        first.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, first) from error
    for key, target in release.names.items():
        write_bytes(folder / target, "".join(f"{name}\n" for name in names[key]).encode("utf-8"))
    for target, records in reversed(contents.items()):
        write_bytes(folder / target, records.tobytes())
    counts = {target: len(records) for target, records in contents.items()}
    return ImportedCifar(source, str(folder), counts, len(names[next(iter(release.names))]))


def _find(root: Path) -> tuple[str, Path]:
    for base in (root, *(root / name for name in FOLDERS)):
        for source, release in RELEASES.items():
            if (base / release.meta).is_file():
                return source, base
    wanted = " or ".join(release.meta for release in RELEASES.values())
    raise DataError(
        f"there is no python release here: {wanted} is missing",
        where=root,
        hint=f"unpack the archive and give --root its folder: {' or '.join(FOLDERS)}",
    )


def _read(path: Path) -> dict[str, Any]:
    """The dict that a pickle holds, its keys as text."""
    if not path.is_file():
        raise DataError("the file is missing", where=path, hint="fetch the python release again")
    if path.stat().st_size > LARGEST_FILE:
        raise DataError(f"larger than {LARGEST_FILE >> 20} MiB, no file of the release", where=path)
    try:
        found = read_pickle(path.read_bytes())
    except _Refused as error:
        raise DataError(
            f"refused: {error}",
            where=path,
            hint="the file is not of the official release; fetch it again from its home page",
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"the file holds a {type(found).__name__}, not a dict", where=path)
    return {_text(key, path): value for key, value in found.items()}


class _Refused(Exception):
    """The pickle asks for what the releases do not need, or is damaged."""


def read_pickle(content: bytes) -> Any:
    """Dicts, lists, tuples, bytes, text, numbers and uint8 arrays of a pickle; all else refused.

    Raises:
        _Refused: another opcode or name, or a damaged pickle.
    """
    # The parser remarks on odd escapes in texts; what they stand for is checked below.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _unpickled(content)


def _unpickled(content: bytes) -> Any:
    try:
        for opcode, argument, place in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise _Refused(f"opcode {opcode.name} at byte {place}")
            if opcode.name in _NUMBERED and int(argument or 0) > len(content):
                # The reader makes room for as many as the number says.
                raise _Refused(f"{opcode.name} of number {argument} at byte {place}")
        return _Reader(io.BytesIO(content), encoding="bytes").load()
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        EOFError,
        OverflowError,
        MemoryError,
        RecursionError,
        ImportError,
    ) as error:
        raise _Refused(f"no whole pickle: {str(error)[:120] or type(error).__name__}") from error


class _Named:
    """What a name in the pickle stands for; it can be called and not be changed."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _Refused("the state of a function")


class _Bytes:
    """Type of the items of an array: uint8 and no other."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(x is not None for x in state[2:5]):
            raise _Refused("items of an array that are no plain numbers")


class _Array:
    """An array as it stands in a pickle, before its content is set."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), tuple(shape), _Bytes(), bool(by_columns), bytes(raw)) if all(
                type(size) is int and size >= 0 for size in shape
            ) and math.prod(shape) == len(raw):
                order = "F" if by_columns else "C"
                self.values = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order=order)
            case _:
                raise _Refused("an array that is not of bytes")


def _no_call(*_arguments: object) -> Any:
    raise _Refused("a call of numpy.ndarray")


def _new_dtype(name: object, *_flags: object) -> _Bytes:
    if name not in ("u1", b"u1", "|u1", b"|u1"):
        raise _Refused(f"an array of {name!r:.20}, not of uint8")
    return _Bytes()


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _Refused("an encoding other than latin1")
    return text.encode("latin1")


_NDARRAY = _Named(_no_call)


def _new_array(kind: object, *_arguments: object) -> _Array:
    if kind is not _NDARRAY:
        raise _Refused("an array of another type")
    return _Array()


_KNOWN = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Named(_new_dtype),
    ("numpy.core.multiarray", "_reconstruct"): _Named(_new_array),
    ("numpy._core.multiarray", "_reconstruct"): _Named(_new_array),
    ("_codecs", "encode"): _Named(_encode),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"it asks for {module}.{name}, which could run code"[:160])
        return _KNOWN[module, name]


def _text(value: object, path: Path) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise DataError(f"a {type(value).__name__} stands where a name is expected", where=path)
    return value


def _names(meta: dict[str, Any], key: str, path: Path) -> list[str]:
    found = meta.get(key)
    if not isinstance(found, list) or not 0 < len(found) <= 256:
        raise DataError(f"there is no list '{key}' of 1 to 256 names", where=path)
    names = [_text(name, path).strip() for name in found]
    if len(set(names)) < len(names) or any(not n or not n.isprintable() for n in names):
        raise DataError(f"'{key}' has equal, empty or unprintable names", where=path)
    return names


def _records(path: Path, label_keys: Sequence[str], limits: Sequence[int]) -> np.ndarray:
    """uint8 [N, labels + 3072] of one file. limits: number of names of each label."""
    found = _read(path)
    data = found.get("data")
    images = data.values if isinstance(data, _Array) else None
    if images is None or images.ndim != 2 or images.shape[1] != IMAGE_BYTES:
        shape = None if images is None else list(images.shape)
        raise DataError(
            f"'data' is no uint8 array [N, {IMAGE_BYTES}] but {shape or type(data).__name__}",
            where=path,
        )
    columns = [
        _label_column(found.get(key), key, len(images), limit, path)
        for key, limit in zip(label_keys, limits, strict=True)
    ]
    return np.concatenate([np.stack(columns, axis=1), images], axis=1)


def _label_column(found: Any, key: str, count: int, limit: int, path: Path) -> np.ndarray:
    if not isinstance(found, list) or len(found) != count:
        length = len(found) if isinstance(found, list) else "no"
        raise DataError(f"{length} '{key}' for {count} images", where=path)
    for number, label in enumerate(found):
        if type(label) is not int or not 0 <= label < limit:
            raise DataError(
                f"label {label!r:.20} of image {number} is outside the list of {limit} names",
                where=path,
            )
    return np.array(found, dtype=np.uint8)


def main(arguments: Sequence[str]) -> int:
    """`python -m regatta.data.import_cifar ROOT FOLDER`: a line of JSON that says what was
    written."""
    root, folder = map(Path, arguments)
    confine_this_process(memory_bytes=MEMORY_BYTES, cpu_seconds=CPU_SECONDS)
    try:
        return tell_results([partial(import_cifar, root, folder)])
    except MemoryError:
        print("error: the files need more memory than a release does", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
