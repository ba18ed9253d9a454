"""Batches of scenes with their places: seeded order, exact resume, pictures read one batch ahead.

Shapes: N samples, B of a batch, V views, T frames, S picture side, P targets.
What a scene looks like in an epoch depends on (seed, epoch, sample id) alone: not on batch size,
ranks, threads, resume, or whether its pictures are read or drawn.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

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


class SceneLoader:
    """Training or validation scenes, one epoch after the other.

    Each epoch is one seeded order of all samples. A global micro-batch is the next
    `batch_size * world` of them, dealt out like cards. Nothing is padded, repeated or dropped.

    Args:
        views: cameras whose pictures are given, in this order.
        targets: names of the places, see `SceneStore.targets`.
        threads: read ahead in so many; 0 = when asked.
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
    ) -> None:
        if not samples:
            raise DataError("there are no samples to load", hint="look at data.source")
        self._store, self._views = store, tuple(views)
        self._samples = sorted(samples, key=lambda sample: sample.sample_id)
        self._rows = store.rows(self._samples)
        self._targets = scene_targets(store, self._samples, targets)
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
        order = stream(self._seed, "order", epoch).permutation(len(self._samples)).tolist()
        deal = deal_batches(order, self._batch_size, rank=self._rank, world=self._world)[start:]
        made = map_in_threads(
            lambda places: self._inputs(epoch, places), deal, threads=self._threads, ahead=2
        )
        with closing(made):
            for places, inputs in zip(deal, made, strict=True):
                labels = [self._samples[place].label for place in places]
                yield SceneBatch(
                    inputs,
                    torch.tensor(labels, dtype=torch.int64),
                    self._targets[places],
                    [self._samples[place].sample_id for place in places],
                )

    def _inputs(self, epoch: int, places: list[int]) -> torch.Tensor:
        shown = self._store.frames(self._rows[places], self._views)
        if self._augment is None:
            return shown
        for scene, place in zip(shown, places, strict=True):
            own = derive_seed(self._seed, "augment", epoch, self._samples[place].sample_id)
            scene.copy_(self._augment(scene, torch.Generator().manual_seed(own)))
        return shown


def scene_targets(
    store: SceneStore, samples: Sequence[Sample], names: Sequence[str]
) -> torch.Tensor:
    """float32 [N, P, 3] of these samples; raises as `SceneStore.targets`."""
    rows = np.asarray(store.rows(samples))
    return torch.stack([store.targets(rows, name) for name in names], dim=1)
