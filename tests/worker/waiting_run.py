"""A small run that says how long its training thread ever waited for trackers.

python -m tests.worker.waiting_run FOLDER tracker,tracker
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from regatta.training.loop import train_run
from tests.training.tiny_training import tiny_clips, tiny_run
from tests.worker.tracked_run import mirrors_of


def main(path: Path, names: list[str]) -> None:
    logging.basicConfig()
    mirrors, waits = mirrors_of(path, *names), [0.0]

    def observe(record: dict[str, Any]) -> None:
        began = time.monotonic()
        mirrors.observe(record)
        waits.append(time.monotonic() - began)

    recipe: dict[str, Any] = {"epochs": 2, "batch_size": 8, "log_every_steps": 1}
    run = tiny_run(path, train_loader=tiny_clips(22, batch_size=8), **recipe)
    train_run(**{**run, "observe": observe})
    began = time.monotonic()
    mirrors.close(succeeded=True)
    told = {"records": len(waits) - 1, "longest": max(waits), "end": time.monotonic() - began}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [name for name in sys.argv[2].split(",") if name])
    # As a worker leaves: threads of libraries must not keep the process.
    sys.stderr.flush()
    os._exit(0)
