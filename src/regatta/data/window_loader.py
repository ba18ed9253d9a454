"""Batches of windows or of cached features: all samples stay in memory, on the run's device.

Shapes: N samples, B of a batch, C channels, L samples of a window.
The order and the augmentation of an epoch depend on (seed, epoch) alone: not on batch size, ranks
or resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from regatta.core.errors import DataError
from regatta.core.seeds import derive_seed, stream

AUGMENT_BLOCK = 256
"""Samples that are augmented together; large enough that a block costs few kernels."""


class Augment(Protocol):
    """Changes a block of samples with random numbers of `generator` alone."""

    def __call__(self, inputs: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor: ...


@dataclass(frozen=True)
class WindowBatch:
    """One micro-batch of one rank, on the run's device. The last of an epoch may be short or empty.

    inputs: float32 [B, ...]; labels: int64 [B].
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    sample_ids: Sequence[str]


class WindowLoader:
    """Micro-batches of resident samples, one epoch after the other.

    Each epoch is one seeded order of all samples. A global micro-batch is the next
    `batch_size * world` of them, dealt out like cards. Nothing is padded, repeated or dropped.

    Args:
        inputs: [N, ...], float32 signals or features, or uint8 pictures; moved to `device` once.
            Several views of the same samples [V, N, ...] when `views` is above 1: epoch e shows
            view e mod V.
        augment: applied on the device to `AUGMENT_BLOCK` samples in epoch order at a time, so that
            a sample's change depends on its place in the epoch and not on the batch.
    Raises:
        DataError: no samples.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        labels: Sequence[int],
        sample_ids: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        augment: Augment | None = None,
        views: int = 1,
    ) -> None:
        if not len(sample_ids):
            raise DataError("there are no samples to load", hint="look at data.source")
        inputs = inputs.to(device)
        self._views = inputs if views > 1 else inputs[None]
        self._labels = torch.as_tensor(labels, dtype=torch.int64).to(device)
        self._ids = list(sample_ids)
        self._batch_size, self._seed, self._device = batch_size, seed, device
        self._rank, self._world = rank, world
        self._augment = augment

    def __len__(self) -> int:
        """Micro-batches of an epoch; the same on every rank."""
        return -(-len(self._ids) // (self._batch_size * self._world))

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[WindowBatch]:
        """This rank's micro-batches of `epoch` from position `start` on."""
        order = torch.from_numpy(stream(self._seed, "order", epoch).permutation(len(self._ids)))
        inputs = EpochInputs(
            self._views[epoch % len(self._views)],
            order.to(self._device),
            self._augment,
            seed=derive_seed(self._seed, "augment", epoch),
        )
        step = self._batch_size * self._world
        for position in range(start, len(self)):
            places = torch.arange(position * step, min((position + 1) * step, len(order)))
            places = places[self._rank :: self._world]
            rows = order[places]
            yield WindowBatch(
                inputs.at(places),
                self._labels[rows.to(self._device)],
                [self._ids[row] for row in rows.tolist()],
            )


class EpochInputs:
    """The inputs of one epoch by place in its order, augmented block by block as they are asked
    for."""

    def __init__(
        self, inputs: torch.Tensor, order: torch.Tensor, augment: Augment | None, *, seed: int
    ) -> None:
        self._inputs, self._order, self._augment, self._seed = inputs, order, augment, seed
        self._block, self._changed = -1, inputs[:0]

    def at(self, places: torch.Tensor) -> torch.Tensor:
        """Inputs at ascending places, int64 [B] on the CPU."""
        if self._augment is None:
            return self._inputs[self._order[places.to(self._order.device)]]
        blocks = places // AUGMENT_BLOCK
        parts = [
            self._changed_block(block)[
                (places[blocks == block] % AUGMENT_BLOCK).to(self._order.device)
            ]
            for block in torch.unique_consecutive(blocks).tolist()
        ]
        return torch.cat(parts) if parts else self._inputs[:0]

    def _changed_block(self, block: int) -> torch.Tensor:
        assert self._augment is not None
        if block != self._block:
            generator = torch.Generator(self._order.device)
            generator.manual_seed(derive_seed(self._seed, block))
            rows = self._order[block * AUGMENT_BLOCK : (block + 1) * AUGMENT_BLOCK]
            self._changed = self._augment(self._inputs[rows], generator=generator)
            self._block = block
        return self._changed
