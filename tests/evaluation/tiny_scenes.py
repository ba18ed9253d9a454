"""A small study of scenes and small models of them, for the tests of judging scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from regatta.config.schema import ProtocolSection
from regatta.data.manifest import Manifest, Sample
from regatta.data.scene_store import SceneStore
from regatta.data.scenes.cameras import camera_ring
from regatta.data.scenes.detect import find_discs
from regatta.data.scenes.render import render_scenes
from regatta.data.scenes.settings import CLASSES, SceneSettings
from regatta.data.scenes.world import draw_scenes
from regatta.evaluation.judge_scenes import judge_scenes
from regatta.evaluation.judged_parts import JudgeCost
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.scene_conditions import ScenePart
from regatta.evaluation.scene_protocols import SceneProtocol, resolve_scene_protocol
from regatta.models.spec import scene_spec
from tests.evaluation.tiny_judging import CPU, TEMPLATE

SETTINGS = SceneSettings(per_class=3, cameras=3, frames=16, size=32, seed=4)


def protocol(name: str = "trajectories", **options: Any) -> SceneProtocol:
    section = ProtocolSection.model_validate({"name": name, "options": options})
    return resolve_scene_protocol(section)


def build_store(
    settings: SceneSettings = SETTINGS, views: tuple[int, ...] | None = None
) -> SceneStore:
    """All scenes of the settings, with the pictures of some cameras in memory."""
    indices = np.arange(settings.count)
    tracks = draw_scenes(settings, indices)
    cameras = camera_ring(settings.cameras, settings.size)
    kept = tuple(range(settings.cameras)) if views is None else views
    shown = tracks.positions[:, : settings.frames]
    seen = render_scenes(shown, cameras, settings, indices=indices)
    return SceneStore(
        ids=[f"traj_{index:05d}" for index in indices],
        labels=tracks.labels.tolist(),
        settings=settings,
        cameras=cameras,
        views=kept,
        positions=tracks.positions,
        pixels=find_discs(seen),
        indices=indices,
        pictures=np.ascontiguousarray(seen[:, list(kept)]),
    )


def samples_of(store: SceneStore, split: Any = "test") -> list[Sample]:
    return [
        replace(
            TEMPLATE,
            sample_id=name,
            label=label,
            label_name=CLASSES[label],
            group=name,
            split=split,
            frames=store.settings.frames,
        )
        for name, label in zip(store.ids, store.labels, strict=True)
    ]


def manifest_of(samples: list[Sample]) -> Manifest:
    return Manifest(samples, list(CLASSES))


def part_of(store: SceneStore, rows: list[int] | None = None, views: Any = None) -> ScenePart:
    chosen = np.arange(len(store.ids)) if rows is None else np.array(rows)
    seen = store.views if views is None else views
    return ScenePart(
        [store.ids[row] for row in chosen],
        store.frames(chosen, seen).numpy(),
        tuple(seen),
        store.positions[chosen, : store.settings.frames],
        store.indices[chosen],
        store.cameras,
        store.settings,
    )


class TinyScenes(nn.Module):
    """Means of every view and frame through a linear head: 4 logits and P places."""

    position_mean: torch.Tensor
    position_sd: torch.Tensor
    log_variances: torch.Tensor | None = None

    def __init__(self, views: int = 1, names: tuple[str, ...] = ("forecast",)) -> None:
        super().__init__()
        self.position_names = names
        self.register_buffer("position_mean", torch.zeros(len(names), 3))
        self.register_buffer("position_sd", torch.ones(len(names), 3))
        self.head = nn.Linear(views * SETTINGS.frames * 3 * 16, 4 + 3 * len(names))
        self.batches: list[int] = []

    def fit_targets(self, targets_NP3: torch.Tensor) -> None:
        self.position_mean.copy_(targets_NP3.mean(0))

    def forward(self, scenes: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(scenes))
        blocks = scenes.unflatten(-1, (4, -1)).unflatten(-3, (4, -1)).mean((-1, -3))
        return self.head(blocks.flatten(1))


def entry(
    root: Path,
    run_id: str,
    views: tuple[int, ...] = (0,),
    names: tuple[str, ...] = ("forecast",),
    module: nn.Module | None = None,
) -> JudgedEntry:
    torch.manual_seed(len(run_id))
    spec = scene_spec(
        "tiny",
        lambda _: TinyScenes(),
        frames=SETTINGS.frames,
        image_size=SETTINGS.size,
        views=views,
        config={},
    )
    judged = (module or TinyScenes(len(views), names)).eval()
    return JudgedEntry(run_id, judged, spec, root / run_id)


def judge(
    entries: list[JudgedEntry], store: SceneStore, design: SceneProtocol, **changes: Any
) -> JudgeCost:
    settings: dict[str, Any] = {"batch_size": 4, "part_samples": 5, "device": CPU}
    settings |= {"samples": samples_of(store), "scenes": store}
    return judge_scenes(entries, protocol=design, **(settings | changes))
