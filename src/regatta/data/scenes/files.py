"""Scenes as files: made once, continued when interrupted, checked whenever they are read.

A folder with `dataset.json` is finished: what is missing there was lost, and is not made silently.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import regatta
from regatta.core.errors import DataError, DiskError, RecordError, StopRequested
from regatta.core.files import (
    PARTIAL_SUFFIX,
    existing_parent,
    read_json,
    write_json,
    write_text,
)
from regatta.core.locks import alone
from regatta.data.decode import read_frames
from regatta.data.file_scan import Progress, Stop
from regatta.data.manifest import SPLITS, Dropped, Manifest, Sample, SplitName
from regatta.data.scenes.encode import scene_files, tile_shape, untile
from regatta.data.scenes.listing import SceneListing, draw_splits, streamed
from regatta.data.scenes.settings import FRAMES_PER_SECOND, SCENES_VERSION, SceneSettings
from regatta.data.scenes.shares import write_in_shares
from regatta.data.scenes.stored_names import Storage, label_name, video_names
from regatta.data.sources._generated import claim_root

DATASET_FILE, MANIFEST_FILE, SPLITS_FILE = "dataset.json", "manifest.parquet", "splits.csv"
MARKER_FILE = "generated.json"
HASHED_TOGETHER = 1000
_BLOCK_BYTES = 4096
_SPARE = 1.1


@dataclass(frozen=True)
class _Plan:
    root: Path
    listing: SceneListing
    storage: Storage

    @property
    def settings(self) -> SceneSettings:
        return self.listing.settings

    def names(self, scene_id: str) -> list[str]:
        """Files of a scene, the label last."""
        return [*video_names(scene_id, self.settings.cameras, self.storage), label_name(scene_id)]


@dataclass(frozen=True)
class SceneFolder:
    """Scenes of a folder that may still have to be made."""

    root: Path
    settings: SceneSettings
    storage: Storage
    split_seed: int

    def read(self, progress: Progress | None = None, stop: Stop | None = None) -> SceneListing:
        """The scenes of the folder, which is made first, or finished, where it is not whole.

        A scene that lost a file or whose bytes changed is listed as damage. Splits are those of
        `splits.csv`, unless that was drawn with another seed.

        Raises:
            DataError: the folder holds other data, or its lists are damaged. DiskError: no room.
            StopRequested: `stop()` became true; what was made stays, and is continued.
        """
        listing = streamed(self.root, self.settings, self.split_seed)
        plan = _Plan(self.root, listing, self.storage)
        if not (self.root / DATASET_FILE).is_file():
            _make(plan, self.split_seed, progress, stop)
        claim_root(self.root, "trajectories", _identity(self.settings, self.storage))
        return _read(plan, self.split_seed)


def _identity(settings: SceneSettings, storage: Storage) -> dict[str, Any]:
    """All that the bytes follow from."""
    facts = asdict(storage)
    if storage.codec == "ffv1":
        facts.pop("crf")
    return {"version": SCENES_VERSION, **settings.facts(), **facts}


def _make(plan: _Plan, split_seed: int, progress: Progress | None, stop: Stop | None) -> None:
    if not (plan.root / MARKER_FILE).is_file():
        _check_room(plan, len(plan.listing.ids))
    claim_root(plan.root, "trajectories", _identity(plan.settings, plan.storage))
    count = len(plan.listing.ids)

    def follow(done: int, word: str) -> None:
        if stop is not None and stop():
            raise StopRequested(
                "stopped while scenes were made",
                where=plan.root,
                hint="the same command continues with those that are missing",
            )
        if progress is not None:
            progress(done, count, word)

    # The lock is gone with the process that makes the folder.
    with alone(plan.root / MARKER_FILE, wait=lambda: follow(0, "waiting for who makes scenes")):
        if (plan.root / DATASET_FILE).is_file():
            return
        for folder in ("videos", "labels"):
            (plan.root / folder).mkdir(exist_ok=True)
            for left in (plan.root / folder).glob(f".*{PARTIAL_SUFFIX}"):
                with suppress(FileNotFoundError):
                    left.unlink()
        there = _files_there(plan.root)
        missing = [
            row
            for row, name in enumerate(plan.listing.ids)
            if not there.issuperset(plan.names(name))
        ]
        _check_room(plan, len(missing))
        ids = [plan.listing.ids[row] for row in missing]
        indices = [int(plan.listing.indices[row]) for row in missing]
        done = count - len(ids)
        write_in_shares(
            plan.root,
            ids,
            indices,
            plan.settings,
            plan.storage,
            follow=lambda written: follow(done + written, "making scenes"),
        )
        _write_lists(plan, split_seed)


def _files_there(root: Path) -> set[str]:
    """Files that hold something, as names below the root."""
    there: set[str] = set()
    for folder in ("videos", "labels"):
        with suppress(FileNotFoundError), os.scandir(root / folder) as entries:
            # A power failure may leave a name without content.
            there.update(f"{folder}/{e.name}" for e in entries if e.stat().st_size)
    return there


def _check_room(plan: _Plan, count: int) -> None:
    """DiskError where the disk cannot hold `count` more scenes, judged by the first one."""
    if not count:
        return
    first = [int(plan.listing.indices[0])]
    files = next(scene_files(plan.listing.ids[:1], first, plan.settings, plan.storage))
    blocks = sum(-(-len(content) // _BLOCK_BYTES) for content in files.values())
    need = int(count * blocks * _BLOCK_BYTES * _SPARE)
    free = shutil.disk_usage(existing_parent(plan.root)).free
    if need > free:
        raise DiskError(
            f"{count} scenes need {need / 2**20:.0f} MiB, but {free / 2**20:.0f} MiB are left",
            where=plan.root,
            hint="free space, make fewer (options.per_class), or set options.stream: true, which "
            "needs no files",
        )


def _write_lists(plan: _Plan, split_seed: int) -> None:
    """`manifest.parquet`, `splits.csv` and, last, `dataset.json`, which says that all is there."""
    listing, settings = plan.listing, plan.settings
    hashes = [_hash_of(plan, name) for name in listing.ids]
    samples = [
        Sample(
            sample_id=name,
            # Below the folder, so that it can be moved.
            path=plan.names(name)[0],
            label=int(listing.labels[row]),
            label_name=settings.classes[int(listing.labels[row])],
            group=name,
            split=listing.splits[row],
            start_frame=0,
            frames=settings.frames,
            fps=float(FRAMES_PER_SECOND),
            width=settings.size,
            height=settings.size,
            duration_seconds=settings.frames / FRAMES_PER_SECOND,
            content_hash=hashes[row],
            extra={"index": float(listing.indices[row])},
        )
        for row, name in enumerate(listing.ids)
    ]
    Manifest(samples, list(settings.classes)).save(plan.root / MANIFEST_FILE)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample_id", "split"])
    writer.writerows(zip(listing.ids, listing.splits, strict=True))
    write_text(plan.root / SPLITS_FILE, text.getvalue())
    parts = [
        _joined(hashes[start : start + HASHED_TOGETHER])
        for start in range(0, len(hashes), HASHED_TOGETHER)
    ]
    write_json(
        plan.root / DATASET_FILE,
        {
            "source": "trajectories",
            "regatta": regatta.__version__,
            **_identity(settings, plan.storage),
            "split_seed": split_seed,
            "lossless": plan.storage.codec == "ffv1",
            "samples": len(hashes),
            "hash_per_1000": parts,
            "hash": _joined(hashes),
        },
    )


def _joined(hashes: Sequence[str]) -> str:
    return sha256("\n".join(hashes).encode()).hexdigest()


def _hash_of(plan: _Plan, scene_id: str) -> str:
    """SHA-256 over all files of a scene; OSError when one is missing."""
    digest = sha256()
    for name in plan.names(scene_id):
        content = (plan.root / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _read(plan: _Plan, split_seed: int) -> SceneListing:
    """The listing of a finished folder; damaged scenes are left out of it and listed."""
    listing = plan.listing
    recorded = _recorded_hashes(plan)
    there = _files_there(plan.root)
    found = [_fault(plan, name, recorded, there) for name in listing.ids]
    dropped = [
        Dropped(name, fault, is_damage=True)
        for name, fault in zip(listing.ids, found, strict=True)
        if fault
    ]
    splits, notes = _splits(plan, split_seed)
    kept = [row for row, fault in enumerate(found) if not fault]
    if plan.storage.codec != "ffv1":
        notes = [*notes, f"the videos are lossy (h264, crf {plan.storage.crf})"]
    return replace(
        listing,
        ids=[listing.ids[row] for row in kept],
        indices=listing.indices[kept],
        labels=listing.labels[kept],
        splits=[splits[row] for row in kept],
        hashes=[recorded[listing.ids[row]] for row in kept],
        storage=plan.storage,
        dropped=dropped,
        notes=notes,
    )


def _recorded_hashes(plan: _Plan) -> dict[str, str]:
    path = plan.root / MANIFEST_FILE
    try:
        manifest = Manifest.load(path)
    except RecordError as error:
        raise DataError(error.what, where=path, hint=_REMAKE) from error
    recorded = {sample.sample_id: sample.content_hash for sample in manifest.samples}
    if recorded.keys() != set(plan.listing.ids):
        raise DataError("the manifest lists other scenes", where=path, hint=_REMAKE)
    return recorded


_REMAKE = "delete dataset.json there and make the data again: what is lost is made anew"


def _fault(plan: _Plan, name: str, recorded: dict[str, str], there: set[str]) -> str:
    """Why a scene cannot be used; empty = it can."""
    lost = [file for file in plan.names(name) if file not in there]
    if lost:
        return f"{', '.join(lost)} missing or empty"
    try:
        changed = _hash_of(plan, name) != recorded[name]
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "its bytes are not those that were made" if changed else ""


def _splits(plan: _Plan, split_seed: int) -> tuple[list[SplitName], list[str]]:
    """Those of `splits.csv`, or drawn anew for another seed."""
    made_with = read_json(plan.root / DATASET_FILE).get("split_seed")
    if made_with != split_seed:
        note = f"splits are drawn with seed {split_seed}; those of splits.csv are of {made_with}"
        return draw_splits(plan.listing.labels, split_seed), [note]
    listed = _read_splits(plan.root / SPLITS_FILE)
    unlisted = [name for name in plan.listing.ids if name not in listed]
    if unlisted:
        raise DataError(
            f"{len(unlisted)} scene(s) have no split: {', '.join(unlisted[:10])}",
            where=plan.root / SPLITS_FILE,
            hint=_REMAKE,
        )
    return [listed[name] for name in plan.listing.ids], []


def _read_splits(path: Path) -> dict[str, SplitName]:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the splits cannot be read: {error}", where=path, hint=_REMAKE) from error
    splits: dict[str, SplitName] = {}
    for number, row in enumerate(rows, 2):
        name, split = row.get("sample_id"), row.get("split")
        known: SplitName | None = next((k for k in SPLITS if k == split), None)
        if not name or known is None:
            raise DataError(
                f"a line is not a scene and train, validation or test: {name}, {split}",
                where=f"{path}:{number}",
                hint=_REMAKE,
            )
        if splits.get(name, known) != known:
            raise DataError(
                f"{name} stands in two splits: {splits[name]} and {known}",
                where=f"{path}:{number}",
                hint="keep one line per scene",
            )
        splits[name] = known
    return splits


def read_scene(listing: SceneListing, row: int) -> np.ndarray:
    """Pictures of one scene from its files, uint8 [V, T, 3, S, S], each file decoded once.

    Raises:
        DecodeError: a file is damaged or short. DataError: it is of another size.
    """
    storage, settings = listing.storage, listing.settings
    assert storage is not None
    tiled = storage.layout == "tiled"
    rows, columns = tile_shape(settings.cameras) if tiled else (1, 1)
    wanted = (settings.frames, rows * settings.size, columns * settings.size, 3)
    films = []
    for name in video_names(listing.ids[row], settings.cameras, storage):
        images = read_frames(listing.root / name, range(settings.frames)).images
        if images.shape != wanted:
            raise DataError(
                f"the video is {list(images.shape)}, not {list(wanted)}",
                where=listing.root / name,
                hint=_REMAKE,
            )
        films.append(images.transpose(0, 3, 1, 2))
    return untile(films[0], settings.cameras) if tiled else np.stack(films)
