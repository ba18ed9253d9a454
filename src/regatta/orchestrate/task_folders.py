"""Temporary folders of tasks: each process that we start has one of its own, for as long as it
lives.

Libraries leave things behind in the folder for temporary files: torchrun a folder per start, torch
its caches, and a killed process all that it had there. In a folder of the task's own nothing of
that outlives the task; what a killed launch has left is swept by the next one.

Names are short, since paths of sockets in these folders may have 108 characters at most:
`rg-HOST-BOOT-PID-START-NUMBER`, with PID and START of the process that starts the tasks. They end
when it does, so once it is dead nobody needs its folders.
"""

from __future__ import annotations

import getpass
import itertools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from regatta.core.errors import EnvironmentFault
from regatta.core.files import disk_error
from regatta.records.status import ProcessId, boot_id, this_process

COMPILER_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_NAME = re.compile(r"rg-([0-9a-f]{6})-([0-9a-f]{4})-(\d+)-(\d*)-\d+")
_numbers = itertools.count(1)
_stubborn: set[Path] = set()
"""Could not be removed at once: a process that was just killed may still have been at work."""


def make_task_folder() -> Path:
    """A new empty folder for the temporary files of a process that is about to start.

    Raises:
        EnvironmentFault: there is no place for temporary files, or nothing can be made there.
    """
    sweep_task_folders()
    try:
        place = Path(tempfile.gettempdir())
    except OSError as error:
        raise EnvironmentFault(
            f"there is no place for temporary files: {error.strerror}",
            hint="export TMPDIR=/a/writable/folder, then run the same command again",
        ) from error
    for number in _numbers:
        folder = place / f"{_prefix(this_process())}-{number}"
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise disk_error(error, folder) from error
        return folder
    raise AssertionError("numbers do not end")


def compiler_cache() -> str:
    """Where torch keeps what it has compiled: outside tasks' folders, since it serves many."""
    if COMPILER_CACHE_VARIABLE in os.environ:
        return os.environ[COMPILER_CACHE_VARIABLE]
    name = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
    return str(Path(tempfile.gettempdir()) / f"torchinductor_{name}")


def remove_task_folder(folder: Path) -> None:
    """Remove a task's folder with all that is in it."""
    _stubborn.add(folder)
    for path in list(_stubborn):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            _stubborn.discard(path)


def sweep_task_folders() -> None:
    """Remove folders of this user whose owner is dead; those of other hosts stay."""
    for folder, is_dead in _ours():
        if is_dead:
            shutil.rmtree(folder, ignore_errors=True)


def _ours() -> Iterator[tuple[Path, bool]]:
    """Task folders that were made on this host by this user, and whether their owner is dead."""
    me = this_process()
    try:
        entries = list(os.scandir(tempfile.gettempdir()))
    except OSError:
        return
    for entry in entries:
        found = _NAME.fullmatch(entry.name)
        if not found or found[1] != _host_mark(me):
            continue
        try:
            facts = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
            owner = ProcessId(me.host, int(found[3]), found[4], me.boot)
            yield Path(entry.path), found[2] != _boot_mark(me) or owner.is_alive() is False


def _prefix(owner: ProcessId) -> str:
    return f"rg-{_host_mark(owner)}-{_boot_mark(owner)}-{owner.pid}-{owner.started}"


def _host_mark(owner: ProcessId) -> str:
    # Containers may share a folder and a host name, but not the numbers of their processes.
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    return sha256(f"{owner.host} {numbering}".encode()).hexdigest()[:6]


def _boot_mark(owner: ProcessId) -> str:
    return sha256((owner.boot or boot_id()).encode()).hexdigest()[:4]
