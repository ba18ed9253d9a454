"""What the trainer asks of a loader; `ClipLoader` and `WindowLoader` of regatta.data obey it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch


class Batch(Protocol):
    """One micro-batch of one rank. It may have no rows: the last one, on a rank that got none."""

    @property
    def inputs(self) -> torch.Tensor:
        """[B, ...]: clips uint8 [B,T,3,S,S], signals float32 [B,C,L], or features float32 [B,P,d],
        on any device."""
        ...

    @property
    def labels(self) -> torch.Tensor:
        """int64 [B]."""
        ...

    @property
    def sample_ids(self) -> Sequence[str]: ...


class BatchSource(Protocol):
    """Micro-batches in an order that (epoch, position) alone decides."""

    def __len__(self) -> int:
        """Micro-batches of one epoch, the same on every rank."""
        ...

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The micro-batches of `epoch` (from 0) without the first `start`."""
        ...


@contextmanager
def open_batches(source: BatchSource, epoch: int, *, start: int = 0) -> Iterator[Iterator[Batch]]:
    """An epoch's micro-batches whose decoding threads end with the block, also on an error."""
    batches = source.batches(epoch, start=start)
    try:
        yield batches
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
