"""A worker that does no work: it says each second that it is at it, and leaves when it is told to.

Usage: python holding_worker.py train --study FOLDER --run ID [...]
Standard library only: fifty of them must leave the cores to the supervisor that is measured.
"""

import json
import os
import signal
import sys
import time
from types import FrameType


def identity() -> dict[str, object]:
    with open("/proc/self/stat") as handle:
        started = handle.read().rpartition(")")[2].split()[19]
    with open("/proc/sys/kernel/random/boot_id") as handle:
        boot = handle.read().strip()
    return {"host": os.uname().nodename, "pid": os.getpid(), "started": started, "boot": boot}


def write_json(path: str, content: object) -> None:
    with open(f"{path}.partial", "w") as handle:
        json.dump(content, handle, indent=1)
    os.replace(f"{path}.partial", path)


def leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)


def main(arguments: list[str]) -> None:
    signal.signal(signal.SIGTERM, leave)
    study = arguments[arguments.index("--study") + 1]
    run = os.path.join(study, "runs", arguments[arguments.index("--run") + 1])
    status: dict[str, object] = {"state": "running", "phase": "train", "process": identity()}
    status |= {"total_steps": 100_000, "epochs": 100, "samples_per_second": 100.0}
    step = 0
    while True:
        step += 10
        status |= {"step": step, "epoch": 1 + step // 1000, "heartbeat": time.time()}
        status |= {"seconds_left": (100_000 - step) / 10, "metric": min(0.9, step / 1000)}
        write_json(os.path.join(run, "status.json"), status)
        if step % 100 == 0:
            with open(os.path.join(run, "metrics.jsonl"), "a") as handle:
                record = {"step": step, "split": "validation", "accuracy": status["metric"]}
                handle.write(json.dumps(record) + "\n")
        time.sleep(1.0)


if __name__ == "__main__":
    main(sys.argv[1:])
