"""The first task of a study: generate or scan the data set, once for all runs."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from typing import Any

from regatta.config.expand import data_settings
from regatta.config.schema import Study
from regatta.core.errors import DataError
from regatta.core.files import disk_error, sync_folder, write_json
from regatta.core.registry import SOURCES
from regatta.core.signals import StopFlag
from regatta.data.image_store import build_images
from regatta.data.manifest import Dropped, Manifest
from regatta.data.partition import write_partition
from regatta.data.scan import build_manifest
from regatta.data.scene_store import build_scenes
from regatta.data.windows import build_windows
from regatta.evaluation.protocols import check_protocol
from regatta.evaluation.window_protocols import check_window_protocol
from regatta.records.run_folder import StudyFolder
from regatta.worker.status_writer import StatusWriter
from regatta.worker.study_checks import (
    check_begun_runs,
    check_entries,
    check_image_entries,
    check_scene_entries,
    check_scene_settings,
    check_splits,
    scene_views,
)
from regatta.worker.window_inputs import check_inputs


def prepare(folder: StudyFolder, stop: StopFlag, status: StatusWriter) -> None:
    """Generate or scan the data set; write `manifest.parquet` and `data.json`."""
    study = folder.study()
    needed_frames = check_entries(study)
    check_protocol(study)
    kind, images = SOURCES.listed[study.data.source].kind, None
    if kind == "signal":
        status.update({"phase": "scan"})
        manifest, store = build_windows(study.data)
        check_entries(study, window=store.window)
        check_inputs(study, store)
        check_window_protocol(study.protocol, store)
        short = dict.fromkeys(needed_frames, 0)
    elif kind == "image":
        status.update({"phase": "scan"})
        manifest, images = build_images(study.data, study.partition)
        store, short = None, dict.fromkeys(needed_frames, 0)
        check_image_entries(study, images, manifest)
    elif kind == "scene":
        manifest, store = _scan_scenes(folder, study, stop, status), None
        short = dict.fromkeys(needed_frames, 0)
    else:
        manifest, store = _scan_videos(folder, study, stop, status), None
        manifest, short = _settle_short_clips(study, manifest, needed_frames)
    check_splits(study, manifest)
    check_begun_runs(folder, manifest)
    _forget(folder, kind)
    if store is not None:
        store.save(folder.windows)
    if images is not None:
        images.save(folder.images)
        if study.partition is not None:
            write_partition(folder.splits, manifest, images.parts, study.partition)
    manifest.save(folder.manifest)
    write_json(folder.data_json, _data_facts(study, manifest, short))
    status.end(state="done", phase="")


def _forget(folder: StudyFolder, kind: str) -> None:
    """Take away what says that data are prepared, then the stores of other kinds of data.

    Killed from now on, this leaves data that no settings claim, not those of two settings mixed.

    Raises:
        DiskError: the folder cannot be written.
    """
    others = {"signal": folder.windows, "image": folder.images, "scene": folder.scenes}
    others.pop(kind, None)
    if kind != "image":
        others["lists of images"] = folder.splits
    try:
        if folder.data_json.exists():
            folder.data_json.unlink()
            sync_folder(folder.path)
        for path in others.values():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, folder.data_json) from error


def _scan_scenes(
    folder: StudyFolder, study: Study, stop: StopFlag, status: StatusWriter
) -> Manifest:
    check_scene_settings(study)
    # Pictures are written while they are read.
    _forget(folder, "scene")
    manifest, store = build_scenes(
        study.data,
        folder.scenes,
        views=scene_views(study),
        progress=lambda done, total, _what: status.update(
            {"phase": "scan", "step": done, "total_steps": total}
        ),
        stop=lambda: stop.requested,
    )
    check_scene_entries(study, store)
    store.save(folder.scenes)
    return manifest


def _scan_videos(
    folder: StudyFolder, study: Study, stop: StopFlag, status: StatusWriter
) -> Manifest:
    return build_manifest(
        study.data,
        cache_folder=folder.path.parent / ".scan-cache",
        progress=lambda done, total, _file: status.update(
            {"phase": "scan", "step": done, "total_steps": total}
        ),
        stop=lambda: stop.requested,
    )


def _settle_short_clips(
    study: Study, manifest: Manifest, needed: dict[str, int]
) -> tuple[Manifest, dict[str, int]]:
    """Apply `data.short`: count clips too short for a model; drop them for all entries, or fail."""
    short = {
        name: sum(sample.frames < frames for sample in manifest.samples)
        for name, frames in needed.items()
    }
    limit = max(needed.values())
    too_short = [sample for sample in manifest.samples if sample.frames < limit]
    if too_short and study.data.short == "fail":
        raise DataError(
            f"{len(too_short)} clips have fewer frames than a model takes ({limit})",
            where=", ".join(f"{s.sample_id} ({s.frames})" for s in too_short[:10]),
            hint="set data.short to pad or drop, or lower the entry's options.frames",
        )
    if too_short and study.data.short == "drop":
        reason = f"fewer than {limit} frames (data.short: drop)"
        manifest = replace(
            manifest,
            samples=[sample for sample in manifest.samples if sample.frames >= limit],
            dropped=[*manifest.dropped, *(Dropped(s.sample_id, reason) for s in too_short)],
        )
    return manifest, short


def _data_facts(study: Study, manifest: Manifest, short: dict[str, int]) -> dict[str, Any]:
    return {
        "settings": data_settings(study),
        "source": study.data.source,
        "manifest_hash": manifest.hash(),
        "classes": manifest.classes,
        **_split_facts(manifest),
        "dropped": [asdict(dropped) for dropped in manifest.dropped],
        "notes": manifest.notes,
        "short_clips": short,
    }


def _split_facts(manifest: Manifest) -> dict[str, Any]:
    """Samples per split and class, and groups per split.

    With folds: `folds` holds these facts of each, and the totals are what all folds judge, and the
    rounded mean over folds of what they train and select on.
    """
    if not manifest.folds:
        return _one_split_facts(manifest)
    folds = [_one_split_facts(manifest.of_fold(fold)) for fold in range(manifest.folds)]

    def over_folds(split: str, values: list[int]) -> int:
        return sum(values) if split == "test" else round(sum(values) / len(values))

    return {
        "counts": {
            split: {
                name: over_folds(split, [fold["counts"][split][name] for fold in folds])
                for name in manifest.classes
            }
            for split in ("train", "validation", "test")
        },
        "groups": {
            split: over_folds(split, [fold["groups"][split] for fold in folds])
            for split in ("train", "validation", "test")
        },
        "folds": folds,
    }


def _one_split_facts(manifest: Manifest) -> dict[str, Any]:
    splits = ("train", "validation", "test")
    return {
        "counts": {
            split: {
                name: sum(s.label_name == name for s in manifest.split(split))
                for name in manifest.classes
            }
            for split in splits
        },
        "groups": {split: len({s.group for s in manifest.split(split)}) for split in splits},
    }
