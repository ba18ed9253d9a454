"""Every write that another process may read goes through here: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from regatta.core.errors import DataError, DiskError, RecordError
from regatta.core.json_text import parse_json

PARTIAL_SUFFIX = ".partial"


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is synced and renamed to `path`.

    Args:
        durable: survive a power failure too; else a reader sees the old or the new content, and
            after a failure of power perhaps neither. For what is written every second.

    Raises:
        DiskError: the folder cannot be written or the disk is full. `path` then keeps its old
        content.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        _discard(temporary)
        raise disk_error(error, path) from error
    except BaseException:
        _discard(temporary)
        raise


def _discard(temporary: Path) -> None:
    # The failure that brought us here may also forbid this; it must not hide that failure.
    with suppress(OSError):
        temporary.unlink()


def disk_error(error: OSError, path: Path) -> DiskError:
    """The named error for a failed write, with what the disk has left."""
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(existing_parent(path)).free
        return DiskError(
            f"disk full: {free / 2**20:.0f} MiB left",
            where=path,
            hint="free space, then run the same command again",
        )
    return DiskError(
        f"cannot write: {error.strerror or error}",
        where=path,
        hint="choose another folder with --runs, or make this one writable",
    )


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str, *, durable: bool = True) -> None:
    write_bytes(path, content.encode("utf-8"), durable=durable)


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """Write JSON that every reader accepts: NaN and infinity become null."""
    text = json.dumps(plain(content), indent=1, sort_keys=False, allow_nan=False) + "\n"
    write_text(path, text, durable=durable)


def read_json(path: Path) -> Any:
    """Raises RecordError when the file is absent, cut or not JSON."""
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError("file is missing", where=path) from error
    except (ValueError, OSError) as error:
        raise RecordError(f"file cannot be read as JSON: {error}", where=path) from error


def read_json_object(path: Path) -> dict[str, Any]:
    """As `read_json`, of a file that holds one object; RecordError for anything else."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise RecordError("file does not hold a JSON object", where=path)
    return found


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line in one write, so that lines of several writers never mix."""
    line = (json.dumps(plain(record), allow_nan=False) + "\n").encode("utf-8")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                # A crash tore the last line: glued to ours, both would be lost.
                os.ftruncate(descriptor, os.pread(descriptor, size, 0).rfind(b"\n") + 1)
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, "only part of a line was written")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk_error(error, Path(path)) from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a torn last line (a crash while appending) is left out."""
    if not Path(path).exists():
        return []
    records = []
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = parse_json(line)
            if not isinstance(record, dict):
                raise ValueError("no object")
            records.append(record)
        except ValueError as error:
            if number >= len(lines) - 1:
                break
            raise RecordError("line is not JSON", where=f"{path}:{number}") from error
    return records


def plain(value: Any) -> Any:
    """`value` with numpy scalars, paths and tuples turned into plain JSON types, and NaN into
    None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def slug(name: str, *, limit: int = 64) -> str:
    """A file name for any text: ASCII letters, digits, dot, dash and underscore only, never empty
    or hidden.

    Names that had to be changed get a short hash, so two different names never meet on disk.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:limit]
    if safe == name and safe:
        return safe
    return f"{safe or 'x'}-{sha256(name.encode('utf-8')).hexdigest()[:6]}"


def path_under(root: Path, relative: str, *, where: object = None) -> Path:
    """`root / relative`, refused when it leaves `root` lexically (absolute path or `..`).

    Links are followed wherever they lead: data folders are often put together from links, and are
    only read.
    """
    top = os.path.normpath(root)
    joined = os.path.normpath(os.path.join(top, relative))
    # Strings, not Path.is_relative_to: lists name hundreds of thousands of files.
    inside = joined.startswith(top.rstrip(os.sep) + os.sep) or joined == top
    if top == os.curdir:
        inside = not os.path.isabs(joined) and joined.split(os.sep)[0] != os.pardir
    if not inside:
        raise DataError(
            f"path leaves the data folder: {relative!r}",
            where=where or root,
            hint="list files by paths below the root, without '..' or a leading '/'",
        )
    return Path(joined)


def ensure_writable(folder: Path) -> None:
    """Create `folder` and prove that a file can be written there; DiskError otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
            pass
    except OSError as error:
        raise disk_error(error, folder) from error


def existing_parent(path: Path) -> Path:
    """The nearest folder, or file in the way, that is there at or above `path`."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path
