"""Every write that another process may read goes through here: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from stat import S_ISREG
from typing import Any

from regatta.core.errors import DataError, DiskError, RecordError
from regatta.core.json_text import parse_json

PARTIAL_SUFFIX = ".partial"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_GONE = frozenset({errno.ENOENT, errno.ESTALE, errno.ENODEV})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_kept_in_place: dict[Path, int] = {}
"""Folders that this process never makes anew -> their inodes."""


@contextmanager
def atomic_path(
    path: Path, *, durable: bool = True, need_bytes: int | None = None
) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is synced and renamed to `path`.

    Args:
        durable: survive a power failure too; else a reader sees the old or the new content, and
            after a failure of power perhaps neither. For what is written every second.
        need_bytes: size of the whole file, where it is known beforehand; for the error.

    Raises:
        DiskError: the folder cannot be written or the disk is full. `path` then keeps its old
        content.
    """
    path = Path(path)
    temporary = _partial_name(path)
    try:
        make_folders(path.parent)
        yield temporary
        if durable:
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except Exception as error:
        reached = _size_of(temporary)
        _discard(temporary)
        found = _os_error(error)
        if found is None:
            raise
        raise disk_error(found, path, need_bytes=need_bytes, reached_bytes=reached) from error
    except BaseException:
        _discard(temporary)
        raise


def _partial_name(path: Path) -> Path:
    # Threads write too, and containers that share a disk number their processes alike.
    return path.with_name(f".{path.name}.{os.getpid()}-{token_hex(4)}{PARTIAL_SUFFIX}")


def _os_error(error: Exception) -> OSError | None:
    """What the operating system refused, also where a library in Rust words it as its own error."""
    if isinstance(error, OSError):
        return error
    found = _RUST_OS_ERROR.search(str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def keep_in_place(folder: Path) -> None:
    """Never make `folder` anew in this process from now on.

    When it is moved, removed or unmounted under our work, the next write must fail: it would go on
    in a new, half-empty folder of the same name.
    """
    _kept_in_place[Path(folder).absolute()] = os.stat(folder).st_ino


def require_in_place(folder: Path) -> None:
    """Raise DiskError when a folder that was to be kept in place has vanished."""
    inode = _kept_in_place.get(Path(folder).absolute())
    if inode is not None and _inode(folder) != inode:
        raise disk_error(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), folder)


def make_folders(folder: Path) -> None:
    """Create `folder` and what is missing above it.

    Raises:
        OSError: it cannot be made, or it lies below a folder that has vanished (`keep_in_place`).
    """
    if folder.is_dir():
        return
    folder = folder.absolute()
    kept = [k for k in _kept_in_place if k == folder or k in folder.parents]
    if not kept:
        folder.mkdir(parents=True, exist_ok=True)
        return
    for above in kept:
        if _inode(above) != _kept_in_place[above]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(above))
    below = max(kept, key=lambda above: len(above.parts))
    for part in folder.relative_to(below).parts:
        below = below / part
        below.mkdir(exist_ok=True)


def _inode(folder: Path) -> int:
    try:
        return os.stat(folder).st_ino
    except OSError:
        return 0


def _discard(temporary: Path) -> None:
    # The failure that brought us here may also forbid this; it must not hide that failure.
    with suppress(OSError):
        temporary.unlink()


def disk_error(
    error: OSError, path: Path, *, need_bytes: int | None = None, reached_bytes: int = 0
) -> DiskError:
    """The named error for a failed write, with what it needs and what the disk has left.

    Args:
        need_bytes: what was to be written; None where only `reached_bytes` of it are known.
    """
    if error.errno in _FULL:
        need = _size(need_bytes) if need_bytes else f"more than {_size(reached_bytes)}"
        what = "disk full" if error.errno == errno.ENOSPC else "disk quota used up"
        return DiskError(
            f"{what}: need {need}, have {_size(_free(path))}",
            where=path,
            hint="free space, then run the same command again",
        )
    if error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        need = f"need {_size(need_bytes)}, " if need_bytes else ""
        allowed = f"limit is {_size(limit)} a file" if limit >= 0 else "disk has a limit on files"
        return DiskError(
            f"file too large: {need}the {allowed}",
            where=path,
            hint="raise the limit on file sizes (ulimit -f), then run the same command again",
        )
    if error.errno in _GONE:
        return DiskError(
            "the folder has vanished: it was moved, removed or unmounted",
            where=path,
            hint="bring it back, then run the same command again",
        )
    return DiskError(
        f"cannot write: {error.strerror or error}",
        where=path,
        hint="choose another folder with --runs, or make this one writable",
    )


def disk_fault(error: Exception, path: Path) -> DiskError | None:
    """The disk's part in an error that some library raised; None when it had none.

    Args:
        path: what is named when the error names no file.
    """
    gone = next(
        (folder for folder, inode in _kept_in_place.items() if _inode(folder) != inode), None
    )
    if gone is not None:
        return disk_error(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), gone)
    found = _os_error(error)
    if found is None or found.errno not in _FULL | {errno.EFBIG, errno.EROFS, errno.ESTALE}:
        return None
    return disk_error(found, Path(found.filename or path))


def _free(path: Path) -> int:
    try:
        return shutil.disk_usage(existing_parent(path)).free
    except OSError:
        return 0


def _size(count: int) -> str:
    """Bytes in words: 12 bytes, 3.4 KiB, 5.6 MiB, 7.8 GiB."""
    if count < 1024:
        return f"{count} bytes"
    power = min(3, (count.bit_length() - 1) // 10)
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    with atomic_path(path, durable=durable, need_bytes=len(content)) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str, *, durable: bool = True) -> None:
    write_bytes(path, content.encode("utf-8"), durable=durable)


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """Write JSON that every reader accepts: NaN and infinity become null."""
    write_text(path, _json_text(content), durable=durable)


def create_json(path: Path, content: Any) -> None:
    """Write a file unless there is one: of several processes that come together, one writes it.

    Raises:
        DiskError: the folder cannot be written.
    """
    path, data = Path(path), _json_text(content).encode("utf-8")
    temporary = _partial_name(path)
    try:
        make_folders(path.parent)
        temporary.write_bytes(data)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        # Whole or not at all, and never over what is there.
        with suppress(FileExistsError):
            _link_or_move(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path, need_bytes=len(data)) from error
    finally:
        _discard(temporary)


def _link_or_move(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS or path.exists():
            raise
        # This disk knows no links; whoever reads the file back sees who came last.
        os.replace(temporary, path)


def overwrite_json(path: Path, content: Any) -> None:
    """Write over the blocks that a file has already: for last words on a disk that is full.

    A reader at the same moment, or after a failure of power, may see neither the old nor the new
    content; hence only where nothing else can be written any more.

    Raises:
        OSError: there is no such file, or it needs more room than it has.
    """
    data = _json_text(content).encode("utf-8")
    descriptor = os.open(path, os.O_WRONLY)
    try:
        if len(data) > os.fstat(descriptor).st_blocks * 512:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, written)
    finally:
        os.close(descriptor)


def _json_text(content: Any) -> str:
    return json.dumps(plain(content), indent=1, sort_keys=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Raises RecordError when the file is absent, cut or not JSON."""
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"), half_characters=True)
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
        raise disk_error(error, Path(path), need_bytes=len(line)) from error


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
    if "\0" in relative or not _is_text(relative):
        raise DataError(
            f"no file can have this name: {relative!a}",
            where=where or root,
            hint="list files by their names in UTF-8",
        )
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


def _is_text(name: str) -> bool:
    """False for half a character, which stands for a byte that is no UTF-8 in a name on disk."""
    return name.isascii() or name.encode("utf-8", "replace").decode("utf-8") == name


def ensure_writable(folder: Path) -> None:
    """Create `folder` and prove that a file can be written there; DiskError otherwise."""
    try:
        make_folders(folder)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
            pass
    except OSError as error:
        raise disk_error(error, folder) from error


def files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below `folder`; others may remove some while we look."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            facts = path.stat()
            if S_ISREG(facts.st_mode):
                yield path, facts


def existing_parent(path: Path) -> Path:
    """The nearest folder, or file in the way, that is there at or above `path`."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path
