"""Train until told to stop, as a worker does; waits for a line of input where the test acts.

python -m tests.training.stoppable_run FOLDER train|validate
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from regatta.core.errors import StopRequested
from regatta.core.signals import StopFlag
from regatta.training.loop import train_run
from tests.training.tiny_training import tiny_clips, tiny_run


def main(path: Path, phase: str) -> int:
    torch.set_num_threads(1)
    reached = []

    def wait_for_the_test(epoch: int, position: int) -> None:
        reached.append(position)
        if len(reached) == 2:
            print("waiting", flush=True)
            sys.stdin.readline()

    run = tiny_run(path, stop=StopFlag().install())
    if phase == "train":
        run["train_loader"] = tiny_clips(22, before_batch=wait_for_the_test)
    else:
        run["validation"] = tiny_clips(13, seed=1, batch_size=5, before_batch=wait_for_the_test)
    try:
        train_run(**run)
    except StopRequested as stop:
        return stop.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
