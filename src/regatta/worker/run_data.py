"""The samples of one run: the manifest with the splits of its fold, and its windows of signals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regatta.config.expand import RunSpec
from regatta.core.errors import RecordError
from regatta.core.files import read_json_object
from regatta.core.registry import SOURCES
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
        RecordError: a file is missing or damaged, or they are not of one preparation.
    """
    facts, manifest = read_json_object(folder.data_json), Manifest.load(folder.manifest)
    if manifest.hash() != facts.get("manifest_hash"):
        raise RecordError(
            "the manifest is not the one that data.json describes: reading the data was cut short",
            where=folder.data_json,
            hint="delete data.json, then run the study again: the data are read anew",
        )
    manifest = manifest.of_fold(run_spec.fold)
    # By kind, not by what lies there: a store of data read before decides nothing.
    kind = SOURCES.listed[folder.study().data.source].kind
    store = WindowStore.load(folder.windows) if kind == "signal" else None
    images = ImageStore.load(folder.images) if kind == "image" else None
    scenes = SceneStore.load(folder.scenes) if kind == "scene" else None
    for kept, path in ((store, folder.windows), (images, folder.images), (scenes, folder.scenes)):
        if kept is not None:
            _check_ids(kept.ids, manifest, path)
    return RunData(manifest, store, images, scenes)


def _check_ids(ids: Sequence[str], manifest: Manifest, path: Path) -> None:
    """Refuse a store that was put in the place of the one that was made with the manifest."""
    lacking = {sample.sample_id for sample in manifest.samples} - set(ids)
    if lacking:
        raise RecordError(
            f"it lacks {len(lacking)} samples of manifest.parquet, for example {min(lacking)}: it "
            "was made from other data",
            where=path,
            hint="delete it and manifest.parquet, then run the study again",
        )


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
