"""Scenes outside the ranges that models trained on, drawn anew: other circles, and other motion.

Their scores go to `<predictions>/ood/<name>/` in the format of all predictions. Those of a known
class keep its label; a figure of eight has none.

Shapes: N scenes, V views, T frames, S pixels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from regatta.core.seeds import derive_seed
from regatta.data.manifest import Sample
from regatta.data.scenes.cameras import Cameras, camera_ring
from regatta.data.scenes.render import render_scenes
from regatta.data.scenes.settings import FRAMES_PER_SECOND, UNKNOWN_CLASS, SceneSettings
from regatta.data.scenes.world import draw_scenes
from regatta.data.unknown_classes import UNKNOWN_LABEL

CHANGES: dict[str, dict[str, Any]] = {
    "radius": {"classes": ("circular", "helical"), "radius": (0.8, 1.1), "centre": (-0.1, 0.1)},
    "turns": {"classes": ("circular", "helical"), "turns": (1.6, 2.4)},
    "small-rise": {"classes": ("helical",), "rise": (0.3, 0.6)},
    UNKNOWN_CLASS: {"classes": (UNKNOWN_CLASS,)},
}
"""Settings of each set; a wide circle must lie near the middle, to stay in view."""


@dataclass(frozen=True)
class OodScenes:
    """One set, with all that judging asks of scenes; its pictures are made when asked for."""

    name: str
    settings: SceneSettings
    cameras: Cameras
    positions: np.ndarray
    indices: np.ndarray
    samples: list[Sample]

    def rows(self, samples: Sequence[Sample]) -> np.ndarray:
        """Rows of these samples, int64 [n]."""
        return np.array([self._row_of[sample.sample_id] for sample in samples], dtype=np.int64)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {sample.sample_id: row for row, sample in enumerate(self.samples)}

    def frames(self, rows: Sequence[int] | np.ndarray, views: Sequence[int]) -> torch.Tensor:
        """Pictures uint8 [n, len(views), T, 3, S, S]."""
        chosen = np.asarray(rows, dtype=np.int64)
        pictures = render_scenes(
            self.positions[chosen, : self.settings.frames],
            self.cameras,
            self.settings,
            indices=self.indices[chosen],
            views=views,
        )
        return torch.from_numpy(pictures)


def open_ood_scenes(
    names: Sequence[str], settings: SceneSettings, *, count: int, classes: Sequence[str]
) -> list[OodScenes]:
    """The named sets, `count` scenes each, in everything else as `settings` says.

    Args:
        classes: of the study, whose places are the labels; a class that is not among them has -1.
    Raises:
        ConfigError: scenes of these settings cannot stay in view.
    """
    return [_draw(name, settings, count=count, classes=classes) for name in names]


def _draw(name: str, settings: SceneSettings, *, count: int, classes: Sequence[str]) -> OodScenes:
    changes = CHANGES[name]
    seed = derive_seed(settings.seed, "ood", name)
    per_class = -(-count // len(changes["classes"]))
    own = replace(settings, seed=seed, per_class=per_class, **changes)
    indices = np.arange(count)
    tracks = draw_scenes(own, indices)
    facts = json.dumps(own.facts(), sort_keys=True)
    samples = []
    for index, label in zip(indices, tracks.labels, strict=True):
        class_name = own.classes[label]
        known = list(classes).index(class_name) if class_name in classes else UNKNOWN_LABEL
        samples.append(_sample(name, int(index), known, class_name, own, facts))
    cameras = camera_ring(own.cameras, own.size)
    return OodScenes(name, own, cameras, tracks.positions, indices, samples)


def _sample(
    name: str, index: int, label: int, class_name: str, settings: SceneSettings, facts: str
) -> Sample:
    sample_id = f"{name}/{index:06d}"
    return Sample(
        sample_id=sample_id,
        path="",
        label=label,
        label_name=class_name,
        group=sample_id,
        split="unknown",
        start_frame=0,
        frames=settings.frames,
        fps=float(FRAMES_PER_SECOND),
        width=settings.size,
        height=settings.size,
        duration_seconds=settings.frames / FRAMES_PER_SECOND,
        content_hash=sha256(f"{facts}/{index}".encode()).hexdigest(),
    )
