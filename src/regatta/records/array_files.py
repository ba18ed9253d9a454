"""NumPy archives that others wrote. Headers are checked before an array is made, and nothing is
unpickled."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from regatta.core.archives import check_archive
from regatta.core.errors import DataError

PICKLE = "Python objects (a pickle), which could run code when they are read"
MOST_ARRAYS = 10_000
_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, LookupError, SyntaxError),
    *(NotImplementedError, RuntimeError, MemoryError, TypeError, AttributeError, OverflowError),
    *(tokenize.TokenError, Warning),
)
"""All that the readers raise over a damaged file."""
_LAST_CHARACTER, _HALVES = 0x10FFFF, (0xD800, 0xDFFF)


def read_npz(path: Path, file: Path | IO[bytes], *, most_bytes: int) -> dict[str, np.ndarray]:
    """All arrays of an archive by name.

    Args:
        path: for messages. file: what is read.
        most_bytes: of all arrays, unpacked.

    Raises:
        DataError: damaged, too large, or an array holds Python objects or text that is none.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(path, archive, most_bytes)
            return {
                member.filename.removesuffix(".npy"): _array(path, archive, member)
                for member in archive.infolist()
            }
    except FileNotFoundError as error:
        raise DataError("the file does not exist", where=path) from error
    except _FAULTS as error:
        raise DataError(
            f"the archive is damaged: {error or type(error).__name__}",
            where=path,
            hint="write it again with np.savez",
        ) from error


def _check_members(path: Path, archive: zipfile.ZipFile, most_bytes: int) -> None:
    members = archive.infolist()
    strange = [m.filename for m in members if not m.filename.endswith(".npy")]
    if strange:
        raise DataError(
            f"this is a zip file, and no NumPy archive: it holds {strange[0]!r}",
            where=path,
            hint="write it with np.savez or np.savez_compressed",
        )
    check_archive(
        path,
        members,
        most_files=MOST_ARRAYS,
        most_bytes=most_bytes,
        hint="leave out conditions or samples, keep numbers as float32, or do not compress them",
    )
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two arrays have one name")


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as stream:
        _check_header(path, name, member.file_size, stream)
    with archive.open(member) as stream:
        found = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError(f"the array '{name}' is longer than its shape {found.shape}")
    if found.dtype.kind == "U" and not _is_text(found):
        raise DataError(f"the array '{name}' holds text that is no Unicode", where=path)
    return found


def _check_header(path: Path, name: str, size: int, stream: Any) -> None:
    """DataError for an array of objects, or one whose header promises more than the file has."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"'{name}' has an unknown format {version}")
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(
            f"the array '{name}' holds {PICKLE}",
            where=path,
            hint="write names as text arrays, np.array(names, dtype=str), and numbers as numbers",
        )
    if dtype.kind not in "biufcSU":
        raise ValueError(f"the array '{name}' holds neither numbers nor text but {dtype}")
    # Python's whole numbers: the product of a hostile shape fits no fixed width.
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != size - stream.tell():
        raise ValueError(f"the array '{name}' is shorter or longer than its shape {shape}")


def _is_text(found: np.ndarray) -> bool:
    if not found.size or not found.dtype.itemsize:
        return True
    # In the machine's byte order; numpy never looks at the numbers behind the letters.
    native = np.ascontiguousarray(found).astype(found.dtype.newbyteorder("="))
    letters = native.reshape(-1).view(np.uint32)
    low, high = _HALVES
    return not ((letters > _LAST_CHARACTER) | ((letters >= low) & (letters <= high))).any()
