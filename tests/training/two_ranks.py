"""Scenarios for two ranks; each rank writes what it saw to FOLDER/rank-<n>.json.

torchrun --nproc_per_node=2 -m tests.training.two_ranks FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regatta.core.errors import RegattaError
from regatta.training.checkpoint import list_slots
from regatta.training.distributed import ONE_PROCESS, Ranks, copy_first_buffers, process_group
from regatta.training.loop import train_run
from tests.training.tiny_training import tiny_clips, tiny_net, tiny_run

CLIPS = {"even": 22, "uneven": 17}
"""In global batches of 8, 22 clips end in 3 + 3 and 17 in 1 + 0: rank 1 gets none."""
Watch = Callable[[int, int], None]


def rank_run(
    path: Path,
    ranks: Ranks = ONE_PROCESS,
    *,
    clips: int = 22,
    watch: Watch | None = None,
    watch_validation: Watch | None = None,
) -> dict[str, Any]:
    """Arguments of `train_run` for this rank: global batches of 8, two of them to a step."""
    share = {"rank": ranks.rank, "world": ranks.world}
    batch_size = 8 // ranks.world
    return {
        **tiny_run(path, batch_size=batch_size, accumulate=2, label_smoothing=0.1),
        "module": tiny_net(dropout=0.0),
        "train_loader": tiny_clips(clips, batch_size=batch_size, before_batch=watch, **share),
        "validation": tiny_clips(13, seed=1, batch_size=2, before_batch=watch_validation, **share),
        "ranks": ranks,
    }


def seen(run: dict[str, Any]) -> dict[str, Any]:
    """How a run ended on this rank."""
    try:
        train_run(**run)
    except RegattaError as error:
        return {"error": type(error).__name__, "text": str(error), "exit_code": error.exit_code}
    return {"error": None}


def stopped_at(path: Path, ranks: Ranks, place: tuple[int, int], phase: str) -> dict[str, Any]:
    """A run of which rank 1 alone is asked to stop at a place of one phase."""

    def ask(epoch: int, position: int) -> None:
        if ranks.rank == 1 and (epoch, position) == place:
            run["stop"].request("SIGTERM")

    run = (
        rank_run(path, ranks, watch=ask)
        if phase == "train"
        else rank_run(path, ranks, watch_validation=ask)
    )
    return run


def poisoned(path: Path, ranks: Ranks) -> dict[str, Any]:
    """A run whose scores on rank 1 alone are NaN from the third micro-batch on."""

    def poison(epoch: int, position: int) -> None:
        if ranks.rank == 1 and position == 2:
            run["module"].register_forward_hook(lambda *call: call[2] * float("nan"))

    run = rank_run(path, ranks, watch=poison)
    return run


def damage_slots(root: Path) -> None:
    for slot in list_slots(root):
        (slot / "weights.safetensors").write_bytes(b"damaged")


def buffer_of_first(ranks: Ranks) -> float:
    """What this rank's batch-norm mean is after rank 0's was given to all."""
    module = torch.nn.BatchNorm1d(1)
    module.running_mean = torch.full((1,), 5.0 + ranks.rank)
    copy_first_buffers(module, ranks)
    return module.running_mean.item()


def scenarios(root: Path, ranks: Ranks) -> dict[str, Any]:
    report: dict[str, Any] = {"buffer": buffer_of_first(ranks)}
    for name, count in CLIPS.items():
        report[name] = seen(rank_run(root / name, ranks, clips=count))
    path = root / "stopped"
    report["stopped in training"] = seen(stopped_at(path, ranks, (1, 0), "train"))
    report["stopped in validation"] = seen(stopped_at(path, ranks, (0, 1), "validate"))
    report["resumed"] = seen(rank_run(path, ranks))
    report["poisoned"] = seen(poisoned(root / "poisoned", ranks))
    report["damaged"] = seen(stopped_at(root / "damaged", ranks, (0, 2), "train"))
    ranks.on_first(lambda: damage_slots(root / "damaged" / "checkpoints"))
    report["damaged again"] = seen(rank_run(root / "damaged", ranks))
    seen(stopped_at(root / "two", ranks, (0, 2), "train"))
    return report


def main(root: Path) -> None:
    torch.set_num_threads(1)
    with process_group("ddp", torch.device("cpu"), timeout_seconds=60) as ranks:
        report = scenarios(root, ranks)
        (root / f"rank-{ranks.rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # As the worker does: threads of gloo that outlive the group can abort the interpreter's end.
    sys.stdout.flush()
    os._exit(0)
