"""A run of two ranks, stopped, is offered to one and to three; printed is what each said.

python -m tests.training.other_count FOLDER
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from regatta.core.errors import RegattaError
from regatta.core.signals import StopFlag
from regatta.training.distributed import Ranks
from regatta.training.loop import train_run
from tests.training.forked import in_ranks
from tests.training.tiny_training import outcome, tiny_clips, tiny_run

GLOBAL_BATCH = 6


def train(path: Path, ranks: Ranks, *, stop_at: tuple[int, int] | None = None) -> None:
    batch, stop = GLOBAL_BATCH // ranks.world, StopFlag()

    def watch(epoch: int, position: int) -> None:
        if (epoch, position) == stop_at:
            stop.request()

    share = {"batch_size": batch, "rank": ranks.rank, "world": ranks.world}
    run: dict[str, Any] = tiny_run(path, batch_size=batch, parallel="ddp", stop=stop)
    run["train_loader"] = tiny_clips(22, before_batch=watch, **share)
    run["validation"] = tiny_clips(13, seed=1, **share)
    try:
        train_run(**{**run, "ranks": ranks})
    except RegattaError as error:
        words = {"error": type(error).__name__, "text": str(error)}
        name = f"{path.name}-{ranks.rank}-of-{ranks.world}.json"
        (path.parent / name).write_text(json.dumps(words))
        raise


def hashes(path: Path) -> dict[str, str]:
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file): sha256(file.read_bytes()).hexdigest() for file in files}


def main(root: Path) -> None:
    path = root / "run"
    assert in_ranks(2, lambda ranks: train(root / "reference", ranks)) == [0, 0]
    tiny_run(path)
    assert in_ranks(2, lambda ranks: train(path, ranks, stop_at=(1, 1))) == [143, 143]
    before, ended = hashes(path), {}
    for world in (1, 3):
        ended[world] = in_ranks(world, lambda ranks: train(path, ranks))
    told = {file.stem: json.loads(file.read_text()) for file in root.glob("run-*-of-*.json")}
    untouched = hashes(path) == before
    assert in_ranks(2, lambda ranks: train(path, ranks)) == [0, 0]
    same = outcome(path) == outcome(root / "reference")
    print(json.dumps({"ended": ended, "told": told, "untouched": untouched, "same": same}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
