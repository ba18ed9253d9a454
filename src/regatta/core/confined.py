"""Files that could run code or waste the machine are opened in a process of their own, which may
be lost: little memory and time, no other process, no core dump."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regatta.core.errors import DataError, RegattaError
from regatta.core.files import plain

_QUIET = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Threads of numerical libraries count as processes of the user, and none may be started."""

WALL_SECONDS = 3600.0
"""Of a confined process: its limit on processor time does not count while it waits."""


def confine_this_process(*, memory_bytes: int, cpu_seconds: int) -> None:
    """Limit what this process can waste from now on, for good.

    Args:
        memory_bytes: of address space, beside what is reserved already.
    """
    # Numerical libraries reserve room for each core when they load: it is no part of the files.
    own = Path("/proc/self/statm")
    reserved = int(own.read_text().split()[0]) * resource.getpagesize() if own.is_file() else 0
    for kind, most in (
        (resource.RLIMIT_AS, reserved + memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))


def tell_results(works: Iterable[Callable[[], Any]]) -> int:
    """Do each and print the dataclass that it returns as a line of JSON; an error ends it, on
    stderr.

    Returns:
        The exit code.
    """
    try:
        for work in works:
            print(json.dumps(plain(asdict(work()))), flush=True)
    except RegattaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run_confined(
    module: str,
    arguments: Sequence[object],
    *,
    where: object,
    wall_seconds: float = WALL_SECONDS,
) -> tuple[int, str]:
    """(exit code, output) of `python -m module arguments`, which confines itself; what it says on
    stderr passes through.

    Raises:
        DataError: it was killed for time or memory, so it could not say so itself.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, **_QUIET},
            timeout=wall_seconds,
        )
    except subprocess.TimeoutExpired as error:
        # It used hardly any processor time, or the limit on that had ended it.
        raise DataError(
            f"reading the files was stopped after {wall_seconds:g} s: it waits for something",
            where=where,
            hint="copy them to a disk of this machine, and name files only, no pipes",
        ) from error
    if done.returncode < 0:
        raise DataError(
            f"reading the files was stopped (signal {-done.returncode}): they need more time or "
            "memory than such files do",
            where=where,
            hint="fetch or make them again",
        )
    return done.returncode, done.stdout
