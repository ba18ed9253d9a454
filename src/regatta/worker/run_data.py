"""The samples of one run: the manifest with the splits of its fold, and its windows of signals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from regatta.config.expand import RunSpec
from regatta.core.errors import RecordError
from regatta.data.image_store import ImageStore
from regatta.data.manifest import Manifest
from regatta.data.scene_store import SceneStore
from regatta.data.windows import WindowStore
from regatta.records.run_folder import RunFolder, StudyFolder


@dataclass(frozen=True)
class RunData:
    """What a run trains on and is judged on."""

    manifest: Manifest
    store: WindowStore | None
    """None for videos, images and scenes."""
    images: ImageStore | None = None
    scenes: SceneStore | None = None

    @property
    def window(self) -> tuple[int, int] | None:
        """(channels, samples) of a window; None where samples are no windows."""
        return self.store.window if self.store else None


def find_runs(folder: StudyFolder, run_ids: Sequence[str]) -> list[tuple[RunSpec, RunFolder]]:
    """The runs of these ids with their folders; RecordError for one that the study has not."""
    known = {spec.run_id: (spec, run) for spec, run in folder.runs()}
    for run_id in run_ids:
        if run_id not in known:
            raise RecordError(f"this study has no run '{run_id}'", where=folder.study_yaml)
    return [known[run_id] for run_id in run_ids]


def load_run_data(folder: StudyFolder, run_spec: RunSpec) -> RunData:
    """Read what `prepare` wrote, as this run sees it.

    Raises:
        RecordError: a file is missing or damaged.
    """
    manifest = Manifest.load(folder.manifest).of_fold(run_spec.fold)
    store = WindowStore.load(folder.windows) if folder.windows.is_file() else None
    images = ImageStore.load(folder.images) if folder.images.is_file() else None
    scenes = SceneStore.load(folder.scenes) if folder.scenes.is_dir() else None
    return RunData(manifest, store, images, scenes)


def load_fold_data(folder: StudyFolder, run_ids: Sequence[str]) -> RunData:
    """What these runs are judged on together: all must be of one fold.

    Raises:
        RecordError: a file is missing or damaged, a run is not of this study, or folds differ.
    """
    specs = [spec for spec, _ in find_runs(folder, run_ids)]
    folds = sorted({spec.fold for spec in specs if spec.fold is not None})
    if len(folds) > 1:
        raise RecordError(
            f"runs of folds {', '.join(map(str, folds))} are judged on different samples",
            where=folder.path,
            hint="judge the runs of one fold at a time",
        )
    return load_run_data(folder, specs[0])
