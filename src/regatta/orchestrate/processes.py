"""Process trees: who belongs to whom, what they hold, and signals that reach only who is meant."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress

from regatta.core.errors import EnvironmentFault
from regatta.records.status import ProcessId, process_identity

GIB = 2**30
_PROC_BYTES = 16_384


def descendants(roots: Iterable[int]) -> dict[int, list[ProcessId]]:
    """Every living descendant of each root, in any session, from one reading of the process table.

    Workers under torchrun lead their own sessions, so a process group alone does not hold them all.
    """
    children: dict[int, list[int]] = {}
    for pid in _all_processes():
        parent = _parent(pid)
        if parent:
            children.setdefault(parent, []).append(pid)
    return {root: [process_identity(pid) for pid in _below(root, children)] for root in roots}


def _below(root: int, children: dict[int, list[int]]) -> list[int]:
    found, waiting = [], list(children.get(root, []))
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, []))
    return found


def _parent(pid: int) -> int:
    fields = _stat_fields(pid)
    return int(fields[1]) if fields else 0


def _all_processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _stat_fields(pid: int) -> list[bytes]:
    """Fields of /proc/PID/stat after the name: state, parent, group, session, ..."""
    # The name may hold spaces and brackets; only the last bracket ends it.
    return _read_proc(pid, "stat").rpartition(b")")[2].split()


def _read_proc(pid: int, name: str) -> bytes:
    """A short file of a process, empty when it is gone."""
    try:
        # Bare calls: a supervisor reads hundreds of these every few seconds.
        descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _PROC_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def cpu_ticks(pids: Iterable[int]) -> int:
    """User and system time spent by the processes, in clock ticks."""
    return sum(int(f[11]) + int(f[12]) for pid in pids if (f := _stat_fields(pid)))


def resident_gib(pids: Iterable[int]) -> float:
    """Memory held by the processes now; pages that they share are counted for each."""
    return sum(_status_number(pid, "VmRSS", base=10) for pid in pids) * 1024 / GIB


def handles_signal(pid: int, number: int) -> bool:
    """Whether the process handles the signal itself, so that sending it does not end it."""
    return bool(_status_number(pid, "SigCgt", base=16) >> (number - 1) & 1)


def _status_number(pid: int, key: str, *, base: int) -> int:
    _, found, rest = _read_proc(pid, "status").partition(f"\n{key}:".encode())
    return int(rest.split(None, 1)[0], base) if found else 0


def signal_process(process: ProcessId, number: int) -> bool:
    """Signal exactly this process; False when it is gone, replaced, or on another host.

    Raises:
        EnvironmentFault: it belongs to another user.
    """
    if process.is_alive() is not True:
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise EnvironmentFault(
            f"process {process.pid} belongs to another user and cannot be signalled",
            hint="ask its owner, or an administrator of this machine",
        ) from error
    return True


def kill_tree(leader: ProcessId) -> None:
    """SIGKILL a process, its group and all descendants; the leader's identity is checked first."""
    below = descendants([leader.pid])[leader.pid] if leader.is_alive() else []
    with suppress(ProcessLookupError):
        # It may end between the two looks.
        if leader.is_alive() and os.getpgid(leader.pid) == leader.pid != os.getpgrp():
            signal_group(leader.pid, signal.SIGKILL)
    for process in [leader, *below]:
        signal_process(process, signal.SIGKILL)


def signal_group(group: int, number: int) -> None:
    """Signal a group whose leader is the caller's own child, living or not yet reaped."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return
