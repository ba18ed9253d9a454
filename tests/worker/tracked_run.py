"""A small run that dies beyond its last checkpoint and is started again, mirrored by trackers.

python -m tests.worker.tracked_run FOLDER tracker,tracker
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from regatta.records.run_folder import RunFolder
from regatta.training.loop import train_run
from regatta.worker.trackers import Mirrors, Tracked
from tests.training.tiny_training import tiny_clips, tiny_run


class Died(Exception):
    """Stands for a death that no code of the run saw coming."""


def mirrors_of(path: Path, *names: str) -> Mirrors:
    config = {"train": {"lr": 0.01}, "model": {"name": "tiny"}, "seed": 7, "run_id": path.name}
    about = Tracked("study", "tiny seed 7", "tiny", RunFolder(path), path.parent, config)
    return Mirrors(about, names)


def attempt(path: Path, mirrors: Mirrors, *, dies_before: tuple[int, int] | None = None) -> None:
    """Train 2 epochs of 3 steps, or until just before (epoch, micro-batch); a step is logged each
    time, and every second one is a checkpoint."""

    def watch(epoch: int, position: int) -> None:
        if (epoch, position) == dies_before:
            raise Died

    loader = tiny_clips(22, batch_size=8, before_batch=watch)
    recipe: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 8,
        "log_every_steps": 1,
        "checkpoint_every_steps": 2,
    }
    run = tiny_run(path, train_loader=loader, **recipe)
    succeeded = False
    try:
        train_run(**{**run, "observe": mirrors.observe})
        succeeded = True
    except Died:
        pass
    finally:
        mirrors.close(succeeded=succeeded, seconds=90)


def main(path: Path, names: list[str]) -> None:
    # The checkpoint of step 4 stands, step 5 is mirrored and lost.
    attempt(path, mirrors_of(path, *names), dies_before=(1, 2))
    attempt(path, mirrors_of(path, *names))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","))
