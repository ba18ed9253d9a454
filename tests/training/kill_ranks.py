"""Kill one of two ranks wherever it can die, let both resume, and print what came out as JSON.

python -m tests.training.kill_ranks FOLDER

What dies is a real process, by a real SIGKILL that it sends to itself; its neighbour finds the
connection closed and ends, as under torchrun.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regatta.training.distributed import Ranks
from regatta.training.loop import train_run
from tests.training.forked import in_ranks
from tests.training.kill_everywhere import before_each_write, die_at
from tests.training.tiny_training import outcome, tiny_clips, tiny_run

LANES = 3
"""Cases side by side: a pair of ranks waits for each other more than it computes."""
CLIPS, EPOCHS, BATCH_SIZE, RANKS = 9, 2, 2, 2
"""3 micro-batches, 2 optimizer steps an epoch; the last has a single clip, on rank 0."""
MICRO_BATCHES = EPOCHS * -(-CLIPS // (BATCH_SIZE * RANKS))
Fault = Callable[[Ranks], dict[str, Any]]
"""Arms the rank that is to die, and returns options of its training loader."""


def train(path: Path, ranks: Ranks, fault: Fault = lambda _: {}) -> None:
    share = {"batch_size": BATCH_SIZE, "rank": ranks.rank, "world": ranks.world}
    recipe: dict[str, Any] = {"epochs": EPOCHS, "accumulate": 2, "checkpoint_every_steps": 3}
    run = tiny_run(path, batch_size=BATCH_SIZE, parallel="ddp", **recipe)
    run["validation"] = tiny_clips(5, seed=1, **share)
    run["train_loader"] = tiny_clips(CLIPS, **share, **fault(ranks))
    train_run(**{**run, "ranks": ranks})


def at_step(victim: int, number: int) -> Fault:
    """Death before a micro-batch."""
    return lambda ranks: {"before_batch": die_at(number)} if ranks.rank == victim else {}


def at_write(number: int) -> Fault:
    """Death before a change of the disk, which rank 0 alone makes."""

    def arm(ranks: Ranks) -> dict[str, Any]:
        if ranks.is_first:
            before_each_write(die_at(number))
        return {}

    return arm


def count_writes(path: Path) -> tuple[int, int]:
    """Changes of the disk that an undisturbed run makes, of rank 0 and of rank 1."""
    reader, writer = os.pipe()
    write = os.write

    def work(ranks: Ranks) -> None:
        before_each_write(lambda: write(writer, str(ranks.rank).encode()))
        train(path, ranks)

    assert in_ranks(RANKS, work) == [0, 0]
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    return said.count("0"), said.count("1")


def kill_and_resume(path: Path, fault: Fault) -> dict[str, Any]:
    """What a run came to of which one rank was killed, and which was then started again."""
    tiny_run(path)
    ended = in_ranks(RANKS, lambda ranks: train(path, ranks, fault))
    resumed = in_ranks(RANKS, lambda ranks: train(path, ranks))
    return {
        "ended": ended,
        "resumed": resumed,
        "left": [entry.name for entry in path.rglob("*.partial")],
        "outcome": outcome(path) if resumed == [0, 0] else None,
    }


def in_lanes(root: Path, faults: dict[str, Fault]) -> dict[str, dict[str, Any]]:
    """`kill_and_resume` of every fault, in forked lanes that each take their share."""
    names = list(faults)
    lanes = []
    for lane in range(LANES):
        child = os.fork()
        if child == 0:
            status = 70
            try:
                found = {
                    name: kill_and_resume(root / name, faults[name]) for name in names[lane::LANES]
                }
                (root / f"lane-{lane}.json").write_text(json.dumps(found))
                status = 0
            finally:
                os._exit(status)
        lanes.append(child)
    for child in lanes:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    report: dict[str, dict[str, Any]] = {}
    for lane in range(LANES):
        report |= json.loads((root / f"lane-{lane}.json").read_text())
    return report


def main(root: Path) -> None:
    tiny_run(root / "reference")
    counts = count_writes(root / "reference")
    numbers = range(1, MICRO_BATCHES + 1)
    faults = {f"step-{n}-of-rank-{r}": at_step(r, n) for r in range(RANKS) for n in numbers}
    faults |= {f"write-{n}": at_write(n) for n in range(1, counts[0] + 1)}
    report = {"writes": counts, "reference": outcome(root / "reference")}
    print(json.dumps({**report, "faults": in_lanes(root, faults)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
