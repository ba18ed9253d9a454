"""Train a fusion in one process and over two ranks, and print what each recorded as JSON.

python -m tests.training.fusion_ranks FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from regatta.records.metrics_stream import read_metrics
from regatta.training.distributed import ONE_PROCESS, Ranks
from regatta.training.loop import train_run
from tests.training.forked import in_ranks
from tests.training.kill_everywhere import in_child
from tests.training.tiny_fusion import fusion_run
from tests.training.tiny_training import tiny_clips

COLUMNS = ("loss", "accuracy", "loss_global", "loss_individual", "experts_lr")


def rank_run(path: Path, ranks: Ranks = ONE_PROCESS, parallel: str = "none") -> dict[str, Any]:
    """Global batches of 8, the last of 17 clips a single one, of which rank 1 gets none."""
    share, size = {"rank": ranks.rank, "world": ranks.world}, 8 // ranks.world
    return fusion_run(
        path,
        batch_size=size,
        parallel=parallel,
        clip_norm=0.05,
        clip_norms={"experts.": 0.1},
        schedule="restarts",
        freeze_experts_epochs=1,
        log_every_steps=1,
        train_loader=tiny_clips(17, batch_size=size, **share),
        validation=tiny_clips(13, seed=1, batch_size=2, **share),
        ranks=ranks,
    )


def numbers_of(path: Path) -> list[dict[str, float]]:
    """Of each record: its numbers, those of single heads and norms among them."""
    found = []
    for record in read_metrics(path / "metrics.jsonl"):
        numbers = {column: record[column] for column in COLUMNS if column in record}
        for column in ("grad_norm_experts", "grad_norm_fusion"):
            if record.get(column) is not None:
                numbers[column] = record[column]
        for name, scores in record.get("heads", {}).items():
            numbers |= {f"{name} {key}": value for key, value in scores.items()}
        found.append(numbers)
    return found


def main(root: Path) -> None:
    torch.set_num_threads(1)
    exits = {}
    for parallel in ("ddp", "fsdp"):
        path = root / parallel

        def work(ranks: Ranks, path: Path = path, parallel: str = parallel) -> None:
            train_run(**rank_run(path, ranks, parallel))

        exits[parallel] = in_ranks(2, work, parallel=parallel)
    in_child(lambda: train_run(**rank_run(root / "one")))
    report = {name: numbers_of(root / name) for name in ("one", "ddp", "fsdp")}
    print(json.dumps({"exits": exits, **report}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
