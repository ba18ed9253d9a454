"""The same training on windows of signals in one, two, three and seven processes.

python -m tests.training.signal_ranks FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regatta.data.window_loader import WindowBatch, WindowLoader
from regatta.models.spec import signal_spec
from regatta.training.distributed import Ranks
from regatta.training.loop import train_run
from tests.training.forked import CPU, in_ranks
from tests.training.tiny_training import CLASSES, tiny_run

TRAINED, VALIDATED, EPOCHS = 31, 11, 2
GROUPS = {1: 6, 2: 6, 3: 6, 7: 14}
"""Ranks -> global batch. 31 windows are 5 of 6 and one of a single window, or 2 of 14 and one of 3:
two ranks of three, and four of seven, get none of the last."""


class Window1d(nn.Module):
    """A network on [B,C,L] without batch norm, whose share of a batch would be its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.LayerNorm(112))
        self.head = nn.Linear(112, len(CLASSES))

    def forward(self, signals_BCL: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(signals_BCL))


@dataclass
class Noted:
    """A loader that notes which windows this rank was given in each epoch."""

    loader: WindowLoader
    seen: dict[int, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.loader)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[WindowBatch]:
        for batch in self.loader.batches(epoch, start=start):
            self.seen.setdefault(epoch, []).extend(batch.sample_ids)
            yield batch


def windows(count: int, *, name: str, ranks: Ranks, batch: int) -> Noted:
    """Noise in which the channel of a window's class is larger; this rank's share."""
    labels = [row % len(CLASSES) for row in range(count)]
    signals_NCL = torch.randn(count, 3, 16, generator=torch.Generator().manual_seed(count))
    for row, label in enumerate(labels):
        signals_NCL[row, label] += 0.5
    return Noted(
        WindowLoader(
            signals_NCL,
            labels,
            [f"{name}-{row}" for row in range(count)],
            batch_size=batch // ranks.world,
            seed=7,
            device=CPU,
            rank=ranks.rank,
            world=ranks.world,
        )
    )


def folder(root: Path, world: int, batch: int) -> Path:
    return root / f"batch-{batch}-in-{world}"


def train(root: Path, ranks: Ranks, *, batch: int = 6, module: nn.Module | None = None) -> None:
    path = folder(root, ranks.world, batch)
    torch.manual_seed(3)
    module = module or Window1d()
    first, validation = (
        windows(n, name=s, ranks=ranks, batch=batch) for s, n in (("t", TRAINED), ("v", VALIDATED))
    )
    recipe: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": batch // ranks.world,
        "parallel": "ddp",
    }
    run = tiny_run(path, **recipe, accumulate=2)
    spec = signal_spec("w", lambda _: Window1d(), channels=3, length=16, config={"name": "w"})
    run |= {"module": module, "spec": spec, "ranks": ranks}
    run |= {"train_loader": first, "validation": validation}
    train_run(**run)
    seen = {"train": first.seen, "validation": validation.seen}
    (path / f"saw-{ranks.rank}.json").write_text(json.dumps(seen))


def main(root: Path) -> None:
    for world, batch in (*GROUPS.items(), (1, GROUPS[7])):
        ended = in_ranks(world, lambda ranks, batch=batch: train(root, ranks, batch=batch))
        assert ended == [0] * world


if __name__ == "__main__":
    main(Path(sys.argv[1]))
