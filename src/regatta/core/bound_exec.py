"""Become another program that cannot outlive its parent. Run as a script.

Usage: python bound_exec.py PARENT_PID COMMAND [ARGUMENT ...]
PARENT_PID 0 means whoever the parent is now.

A supervisor that is killed cannot clean up, so the kernel does it: PR_SET_PDEATHSIG survives exec
and ends the worker with SIGKILL. It is not inherited by a worker's own children, hence torchrun
gets this wrapper per rank too. Only Linux has it; elsewhere the command is started unbound.
Standard library only: it runs before anything is set up, also between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
COULD_NOT_START = "cannot start"
LOST_PARENT_EXIT = 143
_LIBC = ctypes.CDLL(None, use_errno=True)


def bind_to_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent thread ends; leave if it already has."""
    if not sys.platform.startswith("linux"):
        return
    parent_pid = parent_pid or os.getppid()
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A parent that died before the call above would never trigger it.
    if os.getppid() != parent_pid:
        sys.exit(LOST_PARENT_EXIT)


def bound_command(parent_pid: int, argv: list[str]) -> list[str]:
    """`argv` behind the wrapper that binds it to its parent; 0 = whoever starts it."""
    # Isolated and without site-packages: up in milliseconds, and runs nobody's start-up code.
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(parent_pid), *argv]


def bound(argv: list[str]) -> tuple[list[str], Callable[[], None] | None]:
    """Command and `preexec_fn` for subprocess, that start `argv` bound to this process."""
    # Here, since the script needs neither and starts with every rank.
    import threading
    from functools import partial

    # With one thread its copy may run Python before it becomes `argv`, which saves an interpreter;
    # with several a lock could be copied in the held state.
    if threading.active_count() == 1:
        return argv, partial(bind_to_parent, os.getpid())
    return bound_command(os.getpid(), argv), None


def main(arguments: list[str]) -> None:
    parent_pid, command = int(arguments[0]), arguments[1:]
    bind_to_parent(parent_pid)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the point of this file
    except OSError as error:
        sys.exit(f"{COULD_NOT_START} {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
