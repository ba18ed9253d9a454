"""What killed processes leave in a study: files that they were in the middle of writing."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from regatta.core.files import PARTIAL_SUFFIX


def sweep_partials(root: Path) -> list[Path]:
    """Remove all half-written files and folders under `root`; returns what they were.

    Only for who holds the study's lease and has ended its workers: a living writer would lose what
    it is writing.
    """
    found = sorted(root.rglob(f".*{PARTIAL_SUFFIX}"))
    for path in found:
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return found
