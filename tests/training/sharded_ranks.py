"""Runs that two processes train with their weights cut over them, and the same runs of one.

python -m tests.training.sharded_ranks FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regatta.training.distributed import ONE_PROCESS, Ranks
from regatta.training.loop import train_run
from regatta.training.sharded import is_sharded
from tests.training.forked import Work, in_ranks
from tests.training.tiny_training import tiny_clips, tiny_run
from tests.training.two_ranks import CLIPS, Watch

COMMON: dict[str, Any] = {"parallel": "fsdp", "epochs": 2, "label_smoothing": 0.1}
RECIPES: dict[str, dict[str, Any]] = {
    "clipped": {"clip_norm": 0.05},
    "averaged": {"ema": 0.9, "optimizer": "sgd"},
    "frozen": {},
}


class Blocks(nn.Module):
    """A stem, two residual blocks and a head, of widths that two ranks cannot cut evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2 * 3 * 4 * 4, 7)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(7), nn.Linear(7, 5), nn.GELU(), nn.Linear(5, 7))
            for _ in range(2)
        )
        self.register_buffer("scale", torch.full((7,), 0.5))
        self.head = nn.Linear(7, 3)

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        hidden = self.stem(video_BTCHW.flatten(1))
        for block in self.blocks:
            hidden = hidden + self.scale * block(hidden)
        return self.head(hidden)


def blocks_run(
    path: Path,
    ranks: Ranks = ONE_PROCESS,
    *,
    clips: int = CLIPS["uneven"],
    frozen: bool = False,
    watch: Watch | None = None,
    watch_validation: Watch | None = None,
    **recipe: Any,
) -> dict[str, Any]:
    """Arguments of `train_run` for this rank: global batches of 8, two of them to a step."""
    share = {"rank": ranks.rank, "world": ranks.world}
    batch_size = 8 // ranks.world
    torch.manual_seed(ranks.rank)  # Rank 0's weights must reach the others.
    module = Blocks()
    if frozen:
        module.stem.requires_grad_(False)
        module.blocks[0].requires_grad_(False)
    return {
        **tiny_run(path, batch_size=batch_size, accumulate=2, **{**COMMON, **recipe}),
        "module": module,
        "train_loader": tiny_clips(clips, batch_size=batch_size, before_batch=watch, **share),
        "validation": tiny_clips(13, seed=1, batch_size=2, before_batch=watch_validation, **share),
        "ranks": ranks,
    }


def cases(root: Path, ranks: Ranks) -> None:
    """Every case in one group of processes; with one process, what they are compared with."""
    for name, recipe in RECIPES.items():
        run = blocks_run(root / name, ranks, frozen=name == "frozen", **recipe)
        train_run(**run)
        assert is_sharded(run["module"]) == (ranks.world > 1)


def stop_at(path: Path, ranks: Ranks, phase: str, place: tuple[int, int]) -> None:
    """A run that ends at a place of one phase because rank 1 was asked to stop."""

    def ask(epoch: int, position: int) -> None:
        if ranks.rank == 1 and (epoch, position) == place:
            run["stop"].request("SIGTERM")

    watched: dict[str, Any] = {"watch" if phase == "train" else "watch_validation": ask}
    run = blocks_run(path, ranks, **RECIPES["averaged"], **watched)
    train_run(**run)


def main(root: Path) -> None:
    def in_two(work: Work) -> list[int]:
        return in_ranks(2, work, parallel="fsdp")

    path = root / "stopped"
    ends = {
        "one": in_ranks(1, lambda ranks: cases(root / "one", ranks), parallel="fsdp"),
        "two": in_two(lambda ranks: cases(root / "two", ranks)),
        "in training": in_two(lambda ranks: stop_at(path, ranks, "train", (0, 2))),
        "in validation": in_two(lambda ranks: stop_at(path, ranks, "validate", (0, 1))),
        "in training again": in_two(lambda ranks: stop_at(path, ranks, "train", (1, 2))),
        "resumed": in_two(
            lambda ranks: train_run(**blocks_run(path, ranks, **RECIPES["averaged"]))
        ),
    }
    print(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
