"""One line of `regatta doctor`, and the child processes that it tries libraries in."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as metadata_version
from typing import Literal

CHILD_SECONDS = 120.0


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, where, and the cure when it is not good."""

    topic: str
    state: Literal["good", "note", "bad"]
    found: str
    cure: str = ""
    where: str = ""


@dataclass(frozen=True)
class Tried:
    """How a few lines of Python went. `trouble` is its last word; "" when all went well."""

    output: str
    trouble: str


def try_lines(code: str) -> Tried:
    """Run a few lines in a child, so that a broken library breaks the child only and torch stays
    out of here."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Tried("", f"no answer within {CHILD_SECONDS:.0f} s")
    if child.returncode == 0:
        return Tried(child.stdout, "")
    lines = child.stderr.strip().splitlines()
    last = lines[-1] if lines else f"ended with exit code {child.returncode}"
    return Tried(child.stdout, last[:300])


def installed(name: str) -> str | None:
    """Version of an installed package; None when it is absent."""
    try:
        return metadata_version(name)
    except PackageNotFoundError:
        return None
