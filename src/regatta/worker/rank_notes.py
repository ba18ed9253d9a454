"""Why another rank of this run failed: what it leaves for the first one, which alone speaks."""

from __future__ import annotations

import os
import time
from typing import Any

from regatta.core.files import read_json, write_json
from regatta.records.run_folder import StudyFolder


class RankNotes:
    """Notes in a run folder, one per rank, of a training that runs as several processes.

    When one rank fails alone the others only see that a connection broke: its note holds the cause.
    """

    def __init__(self, folder: StudyFolder, run_ids: list[str]) -> None:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and len(run_ids) == 1
        rank, path = os.environ.get("RANK", "0"), folder.run(run_ids[0]).path if several else None
        self._own = path / f"failed-rank-{rank}.json" if path and rank != "0" else None
        self._read_from = path if rank == "0" else None
        self._began = time.time()

    def forget_own(self) -> None:
        """Remove the note of an earlier attempt."""
        if self._own:
            self._own.unlink(missing_ok=True)

    def leave(self, failure: dict[str, Any]) -> None:
        """Note why this rank ends, if it is not the first."""
        if self._own:
            write_json(self._own, failure)

    def of_others(self) -> dict[str, Any] | None:
        """For the first rank: what another has noted since this process began, else None."""
        if not self._read_from:
            return None
        paths = sorted(self._read_from.glob("failed-rank-*.json"))
        fresh = [path for path in paths if path.stat().st_mtime >= self._began]
        return read_json(fresh[0]) if fresh else None
