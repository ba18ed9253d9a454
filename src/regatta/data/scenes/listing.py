"""What a source of scenes gives: names, classes, splits and where the pictures come from. No torch.

Scenes are stored in a seeded order: neighbours in a list have nothing to do with each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from regatta.core.errors import ConfigError
from regatta.core.seeds import stream
from regatta.data.manifest import Dropped, SplitName
from regatta.data.scenes.settings import SCENES_VERSION, SceneSettings
from regatta.data.scenes.stored_names import Storage

HELD_OUT = 0.2
"""Share of every class that judges, and share that selects."""
FEWEST_PER_CLASS = 3


@dataclass(frozen=True)
class SceneListing:
    """The scenes of a source, in the order of their ids; entry i of every list is one scene.

    indices: of the generator, int64 [N]. labels: places in `settings.classes`. storage: None =
    nothing is stored, pictures are made when they are asked for. hashes: SHA-256 of what the
    scene's files hold, or of what it follows from.
    """

    root: Path
    settings: SceneSettings
    ids: list[str]
    indices: np.ndarray
    labels: np.ndarray
    splits: list[SplitName]
    hashes: list[str]
    storage: Storage | None = None
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def stored_order(settings: SceneSettings) -> np.ndarray:
    """Generator index of each stored scene, int64 [N]."""
    return stream(settings.seed, "scenes", "order").permutation(settings.count)


def scene_ids(settings: SceneSettings) -> list[str]:
    """`traj_00000`, `traj_00001` and so on, in stored order."""
    digits = max(5, len(str(settings.count - 1)))
    return [f"traj_{number:0{digits}d}" for number in range(settings.count)]


def draw_splits(labels: np.ndarray, seed: int) -> list[SplitName]:
    """60/20/20 of every class, by seed: training, validation and test.

    Raises:
        ConfigError: a class is too small to be in all three.
    """
    splits = np.full(len(labels), "train", dtype=object)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < FEWEST_PER_CLASS:
            raise ConfigError(
                f"{len(members)} scene(s) of a class cannot be split in three",
                where="data.options.per_class",
                hint=f"ask for {FEWEST_PER_CLASS} or more",
            )
        order = members[stream(seed, "scene-split", int(label)).permutation(len(members))]
        held = max(1, round(HELD_OUT * len(members)))
        splits[order[:held]] = "test"
        splits[order[held : 2 * held]] = "validation"
    return splits.tolist()


def streamed(root: Path, settings: SceneSettings, split_seed: int) -> SceneListing:
    """The scenes with no files at all."""
    indices = stored_order(settings)
    labels = indices % len(settings.classes)
    facts = settings.facts()
    # How many there are changes no scene.
    facts.pop("per_class")
    shared = json.dumps([SCENES_VERSION, facts], sort_keys=True)
    return SceneListing(
        root=root,
        settings=settings,
        ids=scene_ids(settings),
        indices=indices,
        labels=labels,
        splits=draw_splits(labels, split_seed),
        hashes=_hashes(shared, indices),
    )


def _hashes(shared: str, indices: Sequence[int] | np.ndarray) -> list[str]:
    return [sha256(f"{shared}/{int(index)}".encode()).hexdigest() for index in indices]
