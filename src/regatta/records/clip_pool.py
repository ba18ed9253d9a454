"""Where workers of one study hand clips to each other: files in shared memory, no server.

<root>/                      locked (flock) while anyone joins, leaves or sweeps
  <group>/                   runs that meet the same samples in the same order
    <member>/  member.json   one per live process: who it is, and what its clips look like
               progress      how far it is
               0.0.17        a clip that another member made for it: <epoch>.<stage>.<place>
    claims/    0.0.17        locked (flock) by whoever makes that sample for all

Nothing here is needed for a right result: whatever is absent, damaged or late, a worker makes for
itself. Locks end with their process, so a killed one blocks nobody; what it leaves behind is swept
by the next member, or by the study's supervisor.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from regatta.records.status import ProcessId, this_process

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  folders there are checked to be ours
LOCK_SECONDS = 2.0
"""Longest wait for the root's lock, which is held for moments; then one works alone."""
LOOK_SECONDS = 0.25
"""How long a look at the other members holds."""
WAITING_LIMIT = 256
"""Most clips in one inbox: who is further behind does not wait for data."""
_PROGRESS = struct.Struct("<3q")


class Key(NamedTuple):
    """One sample's turn, in the order in which every member comes to it."""

    epoch: int
    stage: int
    """0 = training, 1 = the validation behind it."""
    place: int
    """In the order of the epoch, over all ranks."""

    @property
    def file_name(self) -> str:
        return ".".join(map(str, self))


@dataclass(frozen=True)
class Other:
    """Another live member."""

    name: str
    folder: Path
    rank: int
    world: int
    facts: dict[str, Any]

    @property
    def progress(self) -> Key | None:
        """The next turn that it has not had; None when it has not said yet."""
        try:
            return Key(*_PROGRESS.unpack((self.folder / "progress").read_bytes()))
        except (OSError, struct.error):
            return None

    def waiting(self) -> int:
        """Clips in its inbox."""
        return sum(name[0].isdigit() for name in _names(self.folder))


def pool_roots(study: Path, *, shared_memory: Path = SHARED_MEMORY) -> tuple[Path, Path]:
    """The study's place in shared memory, and the one in its own folder."""
    study = study.resolve()
    text = f"{socket.gethostname()}/{os.getuid()}/{study}"
    name = f"regatta-{sha256(text.encode()).hexdigest()[:16]}"
    return shared_memory / name, study / f".{name}"


def choose_root(study: Path, *, limit_bytes: int, shared_memory: Path = SHARED_MEMORY) -> Path:
    """Shared memory where there is enough of it (containers often have 64 MiB), else the study."""
    in_memory, in_study = pool_roots(study, shared_memory=shared_memory)
    try:
        space = os.statvfs(shared_memory)
    except OSError:
        return in_study
    # The size, not what is free: all members must choose alike.
    enough = space.f_frsize * space.f_blocks >= limit_bytes
    return in_memory if enough and os.access(shared_memory, os.W_OK) else in_study


def small_shared_memory(limit_bytes: int, *, shared_memory: Path = SHARED_MEMORY) -> str | None:
    """What to tell where shared clips must go through the disk; None where they need not."""
    try:
        space = os.statvfs(shared_memory)
    except OSError:
        return None
    size = space.f_frsize * space.f_blocks
    if size >= limit_bytes:
        return None
    return (
        f"shared memory ({shared_memory}) has {size / 2**20:.0f} MiB and launch.share_gib asks for "
        f"{limit_bytes / 2**20:.0f}: clips that runs share go through the disk; enlarge it "
        f"(docker: --shm-size, or mount -o remount,size=... {shared_memory}) or lower it"
    )


def sweep_pool(study: Path, *, shared_memory: Path = SHARED_MEMORY) -> None:
    """Remove what dead members left; without a live one, the whole pool. Safe at any time."""
    for root in pool_roots(study, shared_memory=shared_memory):
        if root.is_dir():
            with _locked(root) as held:
                if held:
                    _sweep(root)


def _sweep(root: Path) -> None:
    for group in _folders(root):
        members = [folder for folder in _folders(group) if folder.name != "claims"]
        dead = [folder for folder in members if not _is_alive(folder)]
        gone = dead if len(dead) < len(members) else [group]
        for folder in gone:
            shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        root.rmdir()


class Membership:
    """One process in a group: what it tells the others, gives them and gets from them.

    Args:
        limit_bytes: most that all waiting clips of the group take together.
        processes: how many members the group can have.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, processes: int) -> None:
        self._folder = folder
        self._limit_bytes, self._processes = limit_bytes, max(2, processes)
        self._others: tuple[Other, ...] = ()
        self._looked_at = float("-inf")
        self._giving = Lock()

    def others(self) -> tuple[Other, ...]:
        """The other live members, as of at most a second ago."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._others = self._look()
        return self._others

    def _look(self) -> tuple[Other, ...]:
        found = []
        for folder in _folders(self._folder.parent):
            if folder.name in {"claims", self._folder.name}:
                continue
            if _is_alive(folder):
                found += [other for other in self._others if other.folder == folder] or [
                    _read_other(folder)
                ]
            else:
                self._sweep()
        return tuple(other for other in found if other)

    def _sweep(self) -> None:
        root = self._folder.parent.parent
        with _locked(root) as held:
            if held:
                _sweep(root)

    def tell(self, key: Key) -> None:
        """Say that `key` is the next turn."""
        with suppress(OSError):
            os.pwrite(self._progress, _PROGRESS.pack(*key), 0)

    @cached_property
    def _progress(self) -> int:
        return os.open(self._folder / "progress", os.O_CREAT | os.O_WRONLY, 0o600)

    def drop_before(self, key: Key) -> None:
        """Remove clips that came when their turn was over."""
        for name in _names(self._folder):
            if name[0].isdigit() and Key(*map(int, name.split("."))) < key:
                with suppress(OSError):
                    (self._folder / name).unlink()

    def receive(self, key: Key, size: int) -> bytearray | None:
        """The clip that was made for this turn, of exactly `size` bytes; it leaves the pool."""
        path = self._folder / key.file_name
        try:
            with open(path, "rb", buffering=0) as handle:
                content = bytearray(size)
                whole = handle.readinto(content) == size and not handle.read(1)
            path.unlink()
        except OSError:
            return None
        return content if whole else None

    def wanting(self, key: Key) -> list[Other]:
        """Members that will come to this turn and have room for its clip."""
        return [
            other
            for other in self.others()
            if (progress := other.progress) is not None
            and progress <= key
            and key.epoch < other.facts["epochs"]
            and key.place % other.world == other.rank
            and other.waiting() < self._room(other.facts["clip_bytes"])
        ]

    def _room(self, clip_bytes: int) -> int:
        """Clips that may wait in one inbox. Every other process may be giving one right now."""
        each = self._limit_bytes // (self._processes * max(1, clip_bytes))
        return min(WAITING_LIMIT, each - self._processes)

    def give(self, key: Key, content: memoryview, to: Sequence[Other]) -> None:
        """Put one clip into the inboxes of all `to`; it takes its memory once."""
        path = self._folder / f"giving.{key.file_name}"
        # One at a time: what is being written counts as one clip per process.
        with self._giving, suppress(OSError):
            try:
                path.write_bytes(content)
                for other in to:
                    # Exists: the same clip was made twice. Gone: the member has left.
                    with suppress(FileExistsError, FileNotFoundError):
                        # A link appears whole, so that nobody ever reads half a clip.
                        os.link(path, other.folder / key.file_name)
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def claim(self, key: Key) -> Iterator[bool]:
        """Whether this turn's clips are ours to make: no other live process is at it."""
        path = self._folder.parent / "claims" / key.file_name
        try:
            descriptor = _lock_file(path)
        except OSError:
            # The pool is gone or full: what is made now is made for ourselves alone.
            yield True
            return
        if descriptor is None:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def close(self) -> None:
        if "_progress" in self.__dict__:
            os.close(self._progress)


@contextmanager
def join_pool(
    root: Path,
    group: str,
    member: str,
    facts: dict[str, Any],
    *,
    rank: int = 0,
    world: int = 1,
    limit_bytes: int,
    processes: int,
) -> Iterator[Membership | None]:
    """Be a member for the length of the block; None where that cannot be.

    Args:
        group: same name = same samples in the same order, decoded alike.
        member: name of the run. A live process with the same name and rank keeps its place.
        facts: plain JSON with `epochs` and `clip_bytes`; the rest is between the members.
    """
    folder = root / group / f"{member}.{rank}of{world}"
    if not _enter(root, folder, facts):
        yield None
        return
    membership = Membership(folder, limit_bytes=limit_bytes, processes=processes)
    try:
        yield membership
    finally:
        membership.close()
        with _locked(root) as held:
            if held:
                shutil.rmtree(folder, ignore_errors=True)
                _sweep(root)


def _enter(root: Path, folder: Path, facts: dict[str, Any]) -> bool:
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        # Anyone may make folders in shared memory; ours must be ours.
        if root.is_symlink() or root.stat().st_uid != os.getuid():
            return False
        with _locked(root, create=True) as held:
            if not held:
                return False
            _sweep(root)
            if folder.exists():
                return False
            (folder.parent / "claims").mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            record = {"process": asdict(this_process()), "facts": facts}
            (folder / "member.json").write_text(json.dumps(record), encoding="utf-8")
        return True
    except OSError:
        return False


@contextmanager
def _locked(root: Path, *, create: bool = False) -> Iterator[bool]:
    """Hold the root's lock; False when it could not be had in time, or there is no root."""
    descriptor = None
    deadline = time.monotonic() + LOCK_SECONDS
    while descriptor is None and time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if create:
                root.mkdir(mode=0o700, exist_ok=True)
            descriptor = _lock(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        if descriptor is None:
            if not create and not root.is_dir():
                break
            time.sleep(0.01)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock_file(path: Path) -> int | None:
    return _lock(path, os.O_CREAT | os.O_RDWR)


def _lock(path: Path, flags: int) -> int | None:
    """Descriptor of `path` with its lock, or None when another has it; closing it lets go."""
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between opening and locking, its last holder may have removed it.
        if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _read_other(folder: Path) -> Other | None:
    record = _record(folder)
    rank, _, world = folder.name.rpartition(".")[2].partition("of")
    if record is None:
        return None
    return Other(folder.name, folder, int(rank), int(world), record["facts"])


def _is_alive(folder: Path) -> bool:
    record = _record(folder)
    return record is not None and ProcessId(**record["process"]).is_alive() is True


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "member.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _folders(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder) if (folder / name).is_dir()]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
