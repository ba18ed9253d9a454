"""What the trainer asks of a loader; `regatta.data.loader.ClipLoader` obeys it, others may too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch


class ClipBatch(Protocol):
    """One micro-batch of one rank. It may have no rows: the last one, on a rank that got none."""

    @property
    def videos(self) -> torch.Tensor:
        """uint8 [B,T,3,S,S]."""
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

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[ClipBatch]:
        """The micro-batches of `epoch` (from 0) without the first `start`."""
        ...


@contextmanager
def open_batches(
    source: BatchSource, epoch: int, *, start: int = 0
) -> Iterator[Iterator[ClipBatch]]:
    """An epoch's micro-batches whose decoding threads end with the block, also on an error."""
    batches = source.batches(epoch, start=start)
    try:
        yield batches
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
