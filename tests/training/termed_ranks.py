"""Three ranks of which one gets a real TERM; printed is where each left, and what a resume gives.

python -m tests.training.termed_ranks FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from regatta.core.errors import StopRequested
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.training.checkpoint import list_slots
from regatta.training.distributed import Ranks
from regatta.training.loop import train_run
from tests.training.forked import in_ranks
from tests.training.tiny_training import outcome, tiny_clips, tiny_run

WORLD = 3
CASES: dict[str, tuple[int, str]] = {
    "rank 0 in training": (0, "train"),
    "rank 1 in training": (1, "train"),
    "rank 2 in validation": (2, "validate"),
}


def train(path: Path, ranks: Ranks, case: str | None = None) -> None:
    victim, phase = CASES[case] if case else (-1, "")
    stop = StopFlag().install()

    def watch(epoch: int, position: int) -> None:
        if ranks.rank == victim and position == 1 and epoch == (1 if phase == "train" else 0):
            os.kill(os.getpid(), signal.SIGTERM)

    share = {"rank": ranks.rank, "world": ranks.world, "batch_size": 2}
    hooks = {phase: watch}
    run: dict[str, Any] = tiny_run(path, batch_size=2, parallel="ddp", stop=stop)
    run["train_loader"] = tiny_clips(22, before_batch=hooks.get("train"), **share)
    run["validation"] = tiny_clips(13, seed=1, before_batch=hooks.get("validate"), **share)
    try:
        train_run(**{**run, "ranks": ranks})
    except StopRequested as error:
        (path.parent / f"{path.name}-{ranks.rank}.txt").write_text(error.what)
        raise


def main(root: Path) -> None:
    assert in_ranks(WORLD, lambda ranks: train(root / "reference", ranks)) == [0] * WORLD
    report = {}
    for case in CASES:
        path = root / case
        tiny_run(path)
        ended = in_ranks(WORLD, lambda ranks, path=path, case=case: train(path, ranks, case))
        step = read_json(list_slots(path / "checkpoints")[0] / "state.json")["progress"]["step"]
        told = [(root / f"{case}-{rank}.txt").read_text() for rank in range(WORLD)]
        resumed = in_ranks(WORLD, lambda ranks, path=path: train(path, ranks))
        same = outcome(path) == outcome(root / "reference")
        report[case] = {
            "ended": ended,
            "step": step,
            "told": told,
            "resumed": resumed,
            "same": same,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
