"""Bounds of archives that others made: a small file must not unpack into a full disk or memory."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from regatta.core.errors import DataError

LOOSE_BYTES = 2**30
"""Unpacked, below which the ratio does not matter."""
MOST_RATIO = 200
"""Of unpacked to packed: pictures have 1 to 3, and numbers up to 10; a bomb has 1000."""


def check_archive(
    path: Path,
    members: Sequence[zipfile.ZipInfo],
    *,
    most_files: int,
    most_bytes: int,
    hint: str,
) -> None:
    """DataError for an archive with more files or bytes than are read, or packed like a bomb."""
    size, packed = sum(member.file_size for member in members), path.stat().st_size
    problem = None
    if len(members) > most_files:
        problem = f"the archive holds {len(members)} files; at most {most_files} are read"
    elif size > most_bytes:
        problem = (
            f"the archive unpacks to {_gib(size)} GiB; at most {_gib(most_bytes)} GiB are read"
        )
    elif size > max(LOOSE_BYTES, MOST_RATIO * packed):
        problem = (
            f"the archive unpacks to {_gib(size)} GiB, {size // max(1, packed)} times its own "
            f"size; at most {MOST_RATIO} times are read"
        )
    if problem is not None:
        raise DataError(problem, where=path, hint=hint)


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g}"
