"""Three ranks of which one hangs, or raises, in its own code; printed is how all of them ended.

python -m tests.training.hung_ranks FOLDER hang|raise|validate
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regatta.training.distributed import Ranks
from regatta.training.loop import train_run
from regatta.training.rank_watch import Patience
from tests.training.forked import in_ranks
from tests.training.tiny_training import outcome, tiny_clips, tiny_run

WORLD, VICTIM, CLIPS = 3, 1, 22
QUICK = Patience(least=1.0, factor=3.0, unmeasured=6.0, linger=0.5)
PLACE = (1, 2)
"""Epoch and micro-batch."""
Watch = Callable[[int, int], None]


def hang_here(epoch: int, position: int) -> None:
    if (epoch, position) == PLACE:
        time.sleep(600)


def raise_here(epoch: int, position: int) -> None:
    if (epoch, position) == PLACE:
        raise ValueError("this rank alone has gone wrong")


def hang_in_validation(epoch: int, position: int) -> None:
    if position == 1:
        time.sleep(600)


def train(path: Path, ranks: Ranks, fault: dict[str, Watch], told: Path | None = None) -> None:
    share = {"rank": ranks.rank, "world": ranks.world, "batch_size": 2}
    watch = fault if ranks.rank == VICTIM else {}
    run = tiny_run(path, batch_size=2, parallel="ddp", checkpoint_every_steps=1)
    run["train_loader"] = tiny_clips(CLIPS, before_batch=watch.get("train"), **share)
    run["validation"] = tiny_clips(13, seed=1, before_batch=watch.get("validate"), **share)

    def tell(failure: dict[str, Any]) -> None:
        assert told is not None
        (told / f"rank-{ranks.rank}.json").write_text(json.dumps(failure))

    ranks = Ranks(ranks.rank, ranks.world, ranks.device, tell)
    train_run(**run, ranks=ranks, patience=QUICK)


FAULTS: dict[str, dict[str, Watch]] = {
    "hang": {"train": hang_here},
    "raise": {"train": raise_here},
    "validate": {"validate": hang_in_validation},
}


def main(root: Path, mode: str) -> None:
    assert in_ranks(WORLD, lambda ranks: train(root / "reference", ranks, {})) == [0] * WORLD
    path, told = root / "run", root / "told"
    told.mkdir()
    tiny_run(path)
    began = time.monotonic()
    ended = in_ranks(WORLD, lambda ranks: train(path, ranks, FAULTS[mode], told))
    seconds = time.monotonic() - began
    resumed = in_ranks(WORLD, lambda ranks: train(path, ranks, {}))
    same = outcome(path) == outcome(root / "reference")
    failures = {file.stem: json.loads(file.read_text()) for file in told.iterdir()}
    report = {"ended": ended, "seconds": seconds, "resumed": resumed, "same": same}
    print(json.dumps({**report, "told": failures}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
