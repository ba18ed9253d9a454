"""Batches of scenes with their places: seeded order, exact resume, pictures read one batch ahead.

Shapes: N samples, B of a batch, V views, T frames, S picture side, P targets.
What a scene looks like in an epoch depends on (seed, epoch, sample id) alone: not on batch size,
ranks, threads, resume, or whether its pictures are read or drawn.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from regatta.config.options import typed_options
from regatta.core.errors import ConfigError, DataError
from regatta.core.seeds import derive_seed, stream
from regatta.data.loader import deal_batches, map_in_threads
from regatta.data.manifest import Sample
from regatta.data.scene_store import SceneStore

WHERE = "train.augment_options"


@dataclass(frozen=True)
class SceneBatch:
    """One micro-batch of one rank. The last of an epoch may be short, on some ranks even empty.

    inputs: uint8 [B, V, T, 3, S, S]; labels: int64 [B]; targets: float32 [B, P, 3] in world units,
    NaN where a place is not known.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    sample_ids: Sequence[str]


@dataclass(frozen=True)
class SceneAugment:
    """Changes of light that leave every place where it is: no flip, no crop, no rotation.

    noise: sd of the pixel noise; brightness: most that all colours shift together, ground: most
    that each colour shifts alone; all as shares of the range of grey levels.
    """

    noise: float = 0.02
    brightness: float = 0.1
    ground: float = 0.05

    def __call__(self, scene: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """uint8 [V, T, 3, S, S] -> the same, alike in all views and frames but for the noise."""
        light = (torch.rand(1, generator=generator) * 2 - 1) * self.brightness
        colour = (torch.rand(3, 1, 1, generator=generator) * 2 - 1) * self.ground
        changed = torch.randn(scene.shape, generator=generator).mul_(255 * self.noise)
        changed.add_(scene).add_(255 * (light + colour))
        return changed.round_().clamp_(0, 255).to(torch.uint8)


def build_scene_augment(options: dict[str, object]) -> SceneAugment:
    """The changes of `train.augment: standard` for scenes.

    Raises:
        ConfigError: an unknown option, a wrong type, or a share outside 0 to 1.
    """
    augment = SceneAugment(**typed_options(SceneAugment, options, where=WHERE))
    for name, share in vars(augment).items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} is a share of 0 to 1, got {share:g}", where=WHERE)
    return augment


@dataclass(frozen=True)
class _EpochScenes:
    """Scenes of one epoch: row of the store, id, label and targets [N, P, 3] by place."""

    store: SceneStore
    rows: np.ndarray
    ids: list[str]
    labels: list[int]
    targets: torch.Tensor


class SceneLoader:
    """Training or validation scenes, one epoch after the other.

    Each epoch is one seeded order of all samples. A global micro-batch is the next
    `batch_size * world` of them, dealt out like cards. Nothing is padded, repeated or dropped.

    Args:
        views: cameras whose pictures are given, in this order.
        targets: names of the places, see `SceneStore.targets`.
        threads: read ahead in so many; 0 = when asked.
        fresh: each epoch but the first has new scenes, as many as there are samples.
    Raises:
        DataError: no samples, or a target that this data does not know.
    """

    def __init__(
        self,
        store: SceneStore,
        samples: Sequence[Sample],
        *,
        views: Sequence[int],
        targets: Sequence[str],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        threads: int = 1,
        augment: SceneAugment | None = None,
        fresh: bool = False,
    ) -> None:
        if not samples:
            raise DataError("there are no samples to load", hint="look at data.source")
        self._store, self._views, self._names = store, tuple(views), tuple(targets)
        self._samples = sorted(samples, key=lambda sample: sample.sample_id)
        self._fresh = fresh
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._world, self._threads = rank, world, threads
        self._augment = augment

    def __len__(self) -> int:
        """Micro-batches of an epoch; the same on every rank."""
        return -(-len(self._samples) // (self._batch_size * self._world))

    def batches(self, epoch: int, *, start: int = 0) -> Generator[SceneBatch]:
        """This rank's micro-batches of `epoch` from position `start` on.

        Close the generator to leave early: it then ends its threads.
        """
        scenes = self._scenes(epoch)
        order = stream(self._seed, "order", epoch).permutation(len(scenes.ids)).tolist()
        deal = deal_batches(order, self._batch_size, rank=self._rank, world=self._world)[start:]
        made = map_in_threads(
            lambda places: self._inputs(scenes, epoch, places),
            deal,
            threads=self._threads,
            ahead=2,
        )
        with closing(made):
            for places, inputs in zip(deal, made, strict=True):
                yield SceneBatch(
                    inputs,
                    torch.tensor([scenes.labels[place] for place in places], dtype=torch.int64),
                    scenes.targets[places],
                    [scenes.ids[place] for place in places],
                )

    def _scenes(self, epoch: int) -> _EpochScenes:
        """What the epoch trains on, by place."""
        if self._fresh and epoch > 0:
            count = len(self._samples)
            store = self._store.more(count, first=(epoch - 1) * count)
            rows = np.arange(count)
            targets = [store.targets(rows, name) for name in self._names]
            return _EpochScenes(store, rows, store.ids, store.labels, torch.stack(targets, dim=1))
        return self._own

    @cached_property
    def _own(self) -> _EpochScenes:
        return _EpochScenes(
            self._store,
            self._store.rows(self._samples),
            [sample.sample_id for sample in self._samples],
            [sample.label for sample in self._samples],
            scene_targets(self._store, self._samples, self._names),
        )

    def _inputs(self, scenes: _EpochScenes, epoch: int, places: list[int]) -> torch.Tensor:
        shown = scenes.store.frames(scenes.rows[places], self._views)
        if self._augment is None:
            return shown
        for scene, place in zip(shown, places, strict=True):
            own = derive_seed(self._seed, "augment", epoch, scenes.ids[place])
            scene.copy_(self._augment(scene, torch.Generator().manual_seed(own)))
        return shown


def scene_targets(
    store: SceneStore, samples: Sequence[Sample], names: Sequence[str]
) -> torch.Tensor:
    """float32 [N, P, 3] of these samples; raises as `SceneStore.targets`."""
    rows = np.asarray(store.rows(samples))
    return torch.stack([store.targets(rows, name) for name in names], dim=1)
