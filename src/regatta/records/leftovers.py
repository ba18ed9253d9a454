"""What killed processes leave in a study: files that they were in the middle of writing."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from regatta.config.schema import Study
from regatta.core.files import PARTIAL_SUFFIX
from regatta.core.locks import number_is_taken
from regatta.core.registry import SOURCES
from regatta.records.in_hand import BOARDS
from regatta.records.run_folder import StudyFolder

QUIET_SECONDS = 3600.0
"""Nothing was written for so long into a half-written file that nobody is writing any more."""
_BY_PROCESS = re.compile(rf"\..*\.(\d+)(?:-[0-9a-f]{{8}})?{re.escape(PARTIAL_SUFFIX)}")


def sweep_dead_writers(folder: StudyFolder, study: Study) -> None:
    """Remove half-written files of killed processes from a study, and from what its source makes.

    Only for who holds the study's lease and has ended its workers. Never a file whose process may
    live: its number is taken here, or, where others write too, it was written to within the hour.
    """
    for path in _half_written(folder.path):
        # Comparisons and reports are also written without the lease.
        is_shared = path.is_relative_to(folder.results) or path.is_relative_to(folder.report)
        _remove_dead(path, quiet_seconds=QUIET_SECONDS if is_shared else 0.0)
    for place in (folder.path, *folder.path.glob("runs/*")):
        for board in place.glob(BOARDS):
            board.unlink(missing_ok=True)
    listed = SOURCES.listed.get(study.data.source)
    shared = [folder.path.parent / ".scan-cache"]
    if listed is not None and listed.generates:
        shared.append(Path(study.data.root or Path("data") / study.data.source))
    for root in shared:
        for path in _half_written(root):
            _remove_dead(path, quiet_seconds=QUIET_SECONDS)


def _half_written(root: Path) -> Iterator[Path]:
    for place, _, names in os.walk(root):
        for name in names:
            if name.endswith(PARTIAL_SUFFIX) and _BY_PROCESS.fullmatch(name):
                yield Path(place, name)


def _remove_dead(path: Path, *, quiet_seconds: float) -> None:
    found = _BY_PROCESS.fullmatch(path.name)
    if found is None or number_is_taken(int(found[1])):
        return
    with suppress(OSError):
        if not quiet_seconds or time.time() - path.stat().st_mtime > quiet_seconds:
            path.unlink()


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
