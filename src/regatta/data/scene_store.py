"""The scenes of a study, for all its runs: tracks, and pictures in one file or made when asked for.

Shapes: N scenes, C cameras, V views whose pictures are kept, T frames, S pixels; N tracks have
T + 5 positions.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError, DiskError, RecordError, StopRequested
from regatta.core.files import atomic_path, existing_parent, read_json, write_json
from regatta.core.registry import unknown_name
from regatta.data.file_scan import Progress, Stop
from regatta.data.manifest import Manifest, Sample
from regatta.data.scenes.cameras import Cameras, camera_ring, cameras_from
from regatta.data.scenes.detect import find_discs
from regatta.data.scenes.files import read_scene
from regatta.data.scenes.render import render_scenes
from regatta.data.scenes.scan import ScannedScenes, scan_scenes
from regatta.data.scenes.settings import (
    FORECAST_FRAMES,
    HORIZONS,
    SceneSettings,
    settings_from,
)
from regatta.data.scenes.world import draw_scenes

FRAMES_FILE, TRACKS_FILE, FACTS_FILE = "frames.u8", "tracks.safetensors", "scenes.json"
_MADE_TOGETHER = 8
_TOGETHER = 32
"""Scenes of one step of building: pictures of all cameras, 50 MB at 64 pixels."""


@dataclass(frozen=True)
class SceneStore:
    """Scenes in the order of `ids`, which is that of the manifest.

    positions: float64 [N, T + 5, 3], NaN where not known. pixels: float32 [N, C, T, 2], centres of
    the object as found in the pictures of every camera, NaN where none. indices: int64 [N], of the
    generator. views: cameras whose pictures are kept. pictures: uint8 [N, V, T, 3, S, S] in a file
    that all runs share; None = they are made when asked for.
    """

    ids: list[str]
    labels: list[int]
    settings: SceneSettings
    cameras: Cameras
    views: tuple[int, ...]
    positions: np.ndarray
    pixels: np.ndarray
    indices: np.ndarray
    pictures: np.ndarray | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether pictures are made when asked for, from no file."""
        return self.pictures is None

    @property
    def bytes(self) -> int:
        """Of the file of pictures; 0 when streamed."""
        return 0 if self.pictures is None else self.pictures.nbytes

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def rows(self, samples: Sequence[Sample]) -> np.ndarray:
        """Rows of these samples, int64 [n]."""
        return np.array([self._row_of[sample.sample_id] for sample in samples], dtype=np.int64)

    def frames(self, rows: Sequence[int] | np.ndarray, views: Sequence[int]) -> torch.Tensor:
        """Pictures uint8 [n, len(views), T, 3, S, S] of these rows from these cameras.

        Raises:
            ConfigError: pictures of a camera are not kept.
        """
        missing = sorted(set(views) - set(self.views))
        if missing:
            raise ConfigError(
                f"pictures of camera(s) {', '.join(map(str, missing))} are not kept",
                where="views",
                hint=f"kept: {', '.join(map(str, self.views))}",
            )
        chosen = np.asarray(rows, dtype=np.int64)
        if self.pictures is None:
            return torch.from_numpy(self._made(chosen, views))
        places = [self.views.index(view) for view in views]
        if places == list(range(len(self.views))):
            return torch.from_numpy(self.pictures[chosen])
        return torch.from_numpy(self.pictures[chosen[:, None], places])

    def _made(self, rows: np.ndarray, views: Sequence[int]) -> np.ndarray:
        shown = self.positions[rows, : self.settings.frames]
        return render_scenes(
            shown, self.cameras, self.settings, indices=self.indices[rows], views=views
        )

    def more(self, count: int, *, first: int) -> SceneStore:
        """Scenes of the same settings behind all that belong to the data set, from number `first`
        on; drawn from the seed when asked for."""
        begin = self.settings.per_class * len(self.settings.classes) + first
        indices = np.arange(begin, begin + count)
        tracks = draw_scenes(self.settings, indices)
        return replace(
            self,
            ids=[f"more_{index}" for index in indices],
            labels=tracks.labels.tolist(),
            positions=tracks.positions,
            pixels=np.full((count, *self.pixels.shape[1:]), np.nan, dtype=np.float32),
            indices=indices,
            pictures=None,
        )

    def targets(self, rows: Sequence[int] | np.ndarray, name: str) -> torch.Tensor:
        """Where the object is, float32 [n, 3] in world units.

        Args:
            name: `forecast` = five frames behind the last shown one; `last-visible` = in that one,
                which is finding a place and not foretelling it.
        Raises:
            UnknownNameError: another name. DataError: a position is not known.
        """
        if name not in HORIZONS:
            raise unknown_name("target", name, HORIZONS)
        frame = self.settings.frames - 1 + HORIZONS[name]
        chosen = np.asarray(rows, dtype=np.int64)
        places = self.positions[chosen, frame]
        unknown = [self.ids[row] for row in chosen[np.isnan(places).any(axis=1)]]
        if unknown:
            raise DataError(
                f"{len(unknown)} scene(s) have no position for target {name}: "
                f"{', '.join(unknown[:10])}",
                where="targets",
                hint="train on last-visible where only visible positions are known",
            )
        return torch.from_numpy(places.astype(np.float32))

    def save(self, folder: Path) -> None:
        """Write `tracks.safetensors` and `scenes.json`; the pictures already lie beside them."""
        arrays = {"positions": self.positions, "pixels": self.pixels, "indices": self.indices}
        with atomic_path(folder / TRACKS_FILE) as temporary:
            save_file({key: np.ascontiguousarray(a) for key, a in arrays.items()}, temporary)
        facts = {
            "ids": self.ids,
            "labels": self.labels,
            "settings": self.settings.facts(),
            "cameras": self.cameras.facts(),
            "views": list(self.views),
            "streamed": self.is_streamed,
        }
        # Last, so that a folder with it is whole.
        write_json(folder / FACTS_FILE, facts)

    @classmethod
    def load(cls, folder: Path) -> SceneStore:
        """Read what `save` wrote; RecordError when it is missing or damaged."""
        try:
            facts = read_json(folder / FACTS_FILE)
            with safe_open(folder / TRACKS_FILE, framework="np") as file:
                arrays = {key: file.get_tensor(key) for key in ("positions", "pixels", "indices")}
            store = cls(
                facts["ids"],
                facts["labels"],
                settings_from(facts["settings"]),
                cameras_from(facts["cameras"]),
                tuple(facts["views"]),
                **arrays,
            )
            store.check()
            if facts["streamed"]:
                return store
            return replace(store, pictures=_open_pictures(folder / FRAMES_FILE, store._shape))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, ConfigError) as error:
            raise RecordError(
                f"the scenes cannot be read: {error}",
                where=folder,
                hint="delete the folder and manifest.parquet, then run the study again",
            ) from error

    @property
    def _shape(self) -> tuple[int, ...]:
        size = self.settings.size
        return (len(self.ids), len(self.views), self.settings.frames, 3, size, size)

    def check(self) -> None:
        """ValueError where the parts of the store contradict each other."""
        count, frames, cameras = len(self.ids), self.settings.frames, len(self.cameras)
        wanted = {
            "positions": (count, frames + FORECAST_FRAMES, 3),
            "pixels": (count, cameras, frames, 2),
            "indices": (count,),
        }
        for name, shape in wanted.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{name} is {list(found)}, not {list(shape)}")
        if len(self.labels) != count:
            raise ValueError(f"{len(self.labels)} labels for {count} scenes")
        if not set(self.views) <= set(range(cameras)):
            raise ValueError(f"views {list(self.views)} of {cameras} cameras")


def _open_pictures(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    found = path.stat().st_size
    if found != size:
        raise ValueError(f"{path.name} has {found} bytes, not {size}")
    return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)


def build_scenes(
    data: DataSection,
    folder: Path,
    *,
    views: Sequence[int] | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> tuple[Manifest, SceneStore]:
    """The manifest of a source of scenes and its scenes; pictures are written to `folder` once.

    Every video is decoded once. Where the object is seen is found on the way, for all cameras.

    Args:
        views: cameras whose pictures are kept; None = all.
        progress: called with done, total and a word.
    Raises:
        As `scan_scenes`; ConfigError: there are fewer cameras than `views` asks for; DataError: a
        video has another shape or length; DiskError: no room; StopRequested.
    """
    scanned = scan_scenes(data, progress=progress, stop=stop)
    settings = scanned.listing.settings
    kept = tuple(range(settings.cameras)) if views is None else tuple(views)
    beyond = [view for view in kept if not 0 <= view < settings.cameras]
    if beyond:
        raise ConfigError(
            f"view(s) {', '.join(map(str, beyond))} are asked for, but there are "
            f"{settings.cameras} cameras, counted from 0",
            where="views",
            hint="make the data with more cameras, or ask for fewer views",
        )
    tracks = draw_scenes(settings, scanned.indices)
    store = SceneStore(
        ids=[sample.sample_id for sample in scanned.manifest.samples],
        labels=[sample.label for sample in scanned.manifest.samples],
        settings=settings,
        cameras=camera_ring(settings.cameras, settings.size),
        views=kept,
        positions=tracks.positions,
        pixels=np.empty((len(scanned.rows), settings.cameras, settings.frames, 2), np.float32),
        indices=scanned.indices,
    )
    follow = _Follow(progress, stop, len(store.ids))
    if scanned.listing.storage is None:
        _find_in_made(store, follow)
    else:
        store = _decode_all(store, scanned, folder, follow)
    return scanned.manifest, store


@dataclass(frozen=True)
class _Follow:
    progress: Progress | None
    stop: Stop | None
    total: int

    def __call__(self, done: int) -> None:
        if self.stop is not None and self.stop():
            raise StopRequested("stopped while the scenes were read")
        if self.progress is not None:
            self.progress(done, self.total, "scenes")


def _find_in_made(store: SceneStore, follow: _Follow) -> None:
    """Fill `pixels` from pictures that are made and thrown away."""
    everywhere, count = range(len(store.cameras)), len(store.ids)

    def find(start: int) -> None:
        rows = np.arange(start, min(start + _MADE_TOGETHER, count))
        store.pixels[rows] = find_discs(store._made(rows, everywhere))

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(0, count, _TOGETHER):
            follow(start)
            list(pool.map(find, range(start, min(start + _TOGETHER, count), _MADE_TOGETHER)))
    follow(count)


def _decode_all(
    store: SceneStore, scanned: ScannedScenes, folder: Path, follow: _Follow
) -> SceneStore:
    """The store with `pixels` filled, and the pictures of its views in one file."""
    _check_room(folder, int(np.prod(store._shape)))
    path = folder / FRAMES_FILE
    with atomic_path(path) as temporary:
        pictures = np.memmap(temporary, dtype=np.uint8, mode="w+", shape=store._shape)

        def decode(row: int) -> None:
            seen = read_scene(scanned.listing, int(scanned.rows[row]))
            store.pixels[row] = find_discs(seen)
            pictures[row] = seen[list(store.views)]

        # Decoding lets go of the interpreter lock.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for start in range(0, len(store.ids), _TOGETHER):
                follow(start)
                list(pool.map(decode, range(start, min(start + _TOGETHER, len(store.ids)))))
        pictures.flush()
    follow(len(store.ids))
    return replace(store, pictures=_open_pictures(path, store._shape))


def _check_room(folder: Path, need: int) -> None:
    free = shutil.disk_usage(existing_parent(folder)).free
    if need > free:
        raise DiskError(
            f"the pictures need {need / 2**20:.0f} MiB, but {free / 2**20:.0f} MiB are left",
            where=folder,
            hint="free space, keep fewer views, or set data.options.stream: true, which makes the "
            "pictures when they are asked for",
        )
