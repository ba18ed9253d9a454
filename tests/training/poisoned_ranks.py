"""Three ranks, of which one meets NaN in one step; each writes what it saw of its weights.

python -m tests.training.poisoned_ranks FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regatta.core.errors import NonFiniteError
from regatta.training.distributed import Ranks
from regatta.training.loop import train_run
from tests.training.forked import in_ranks
from tests.training.tiny_training import tiny_clips, tiny_net, tiny_run

WORLD, STEPS = 3, 4
CASES: dict[str, tuple[int, int, str, str]] = {
    "loss of rank 0 at step 1": (0, 1, "loss", "skip"),
    "loss of rank 1 at step 3": (1, 3, "loss", "skip"),
    "gradient of rank 2 at step 2": (2, 2, "gradient", "skip"),
    "gradient of rank 1 at step 4": (1, 4, "gradient", "skip"),
    "loss of rank 2 at step 3, stop": (2, 3, "loss", "stop"),
}
"""Rank, step, what is NaN, and the policy."""


def poison(module: nn.Module, what: str) -> Callable[[], None]:
    """Make the module's next results NaN; the answer takes the poison out again."""
    if what == "loss":
        handle = module.register_forward_hook(lambda *call: call[2] * float("nan"))
    else:
        weight = next(module.parameters())
        handle = weight.register_hook(lambda gradient: gradient * float("nan"))
    return handle.remove


def weights_hash(module: nn.Module) -> str:
    values = [value.detach().numpy().tobytes() for value in module.state_dict().values()]
    return sha256(b"".join(values)).hexdigest()


def train(root: Path, ranks: Ranks, name: str) -> None:
    victim, step, what, policy = CASES[name]
    share = {"rank": ranks.rank, "world": ranks.world, "batch_size": 2}
    module, seen, cures = tiny_net(), [], []

    def watch(epoch: int, position: int) -> None:
        seen.append(weights_hash(module))
        while cures:
            cures.pop()()
        if (ranks.rank, position + 1) == (victim, step):
            cures.append(poison(module, what))

    path = root / name
    recipe = {"epochs": 1, "batch_size": 2, "min_lr_fraction": 0.5, "nonfinite": policy}
    run: dict[str, Any] = tiny_run(path, parallel="ddp", **recipe)
    run["train_loader"] = tiny_clips(22, before_batch=watch, **share)
    run["validation"] = tiny_clips(13, seed=1, before_batch=lambda *_: watch(1, 99), **share)
    try:
        results = train_run(**{**run, "module": module, "ranks": ranks})
        report = {"skipped": results["skipped"], "skipped_steps": results["skipped_steps"]}
    except NonFiniteError as error:
        report = {"error": str(error), "event": json.loads((path / "nonfinite.json").read_text())}
        seen.append(weights_hash(module))
    (path / f"saw-{ranks.rank}.json").write_text(json.dumps({**report, "weights": seen}))


def main(root: Path) -> None:
    for name in CASES:
        tiny_run(root / name)
        ended = in_ranks(WORLD, lambda ranks, name=name: train(root, ranks, name))
        assert ended == [0] * WORLD, name


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
