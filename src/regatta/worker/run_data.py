"""The samples of one run: the manifest with the splits of its fold, and its windows of signals."""

from __future__ import annotations

from dataclasses import dataclass

from regatta.config.expand import RunSpec
from regatta.data.manifest import Manifest
from regatta.data.windows import WindowStore
from regatta.records.run_folder import StudyFolder


@dataclass(frozen=True)
class RunData:
    """What a run trains on and is judged on."""

    manifest: Manifest
    store: WindowStore | None
    """None for videos."""

    @property
    def window(self) -> tuple[int, int] | None:
        """(channels, samples) of a window; None for videos."""
        return self.store.window if self.store else None


def load_run_data(folder: StudyFolder, run_spec: RunSpec) -> RunData:
    """Read what `prepare` wrote, as this run sees it.

    Raises:
        RecordError: a file is missing or damaged.
    """
    del run_spec
    manifest = Manifest.load(folder.manifest)
    store = WindowStore.load(folder.windows) if folder.windows.is_file() else None
    return RunData(manifest, store)
