"""Process trees: who belongs to whom, what they hold, and signals that reach only who is meant."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from regatta.records.status import ProcessId, process_identity

GIB = 2**30


def descendants(roots: Iterable[int]) -> dict[int, list[ProcessId]]:
    """Every living descendant of each root, in any session, from one reading of the process table.

    Workers under torchrun lead their own sessions, so a process group alone does not hold them all.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        parent = _parent(int(entry.name))
        if parent:
            children.setdefault(parent, []).append(int(entry.name))
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


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the name: state, parent, group, session, ..."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    # The name may hold spaces and brackets; only the last bracket ends it.
    return text.rpartition(")")[2].split()


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
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1], base)
    return 0


def signal_process(process: ProcessId, number: int) -> bool:
    """Signal exactly this process; False when it is gone, replaced, or on another host."""
    if process.is_alive() is not True:
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_tree(leader: ProcessId) -> None:
    """SIGKILL a process, its group and all descendants; the leader's identity is checked first."""
    below = descendants([leader.pid])[leader.pid] if leader.is_alive() else []
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
