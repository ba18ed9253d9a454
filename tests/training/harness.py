"""Modules of this folder as processes of their own, in which many small runs are forked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run_module(
    name: str, folder: Path, *arguments: str, seconds: float = 600
) -> subprocess.CompletedProcess[str]:
    """`python -m tests.training.NAME FOLDER ARGUMENTS` to its end, which must be good.

    The compiler that torch imports makes a folder for itself: here it lies in FOLDER.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"tests.training.{name}", str(folder), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return done
