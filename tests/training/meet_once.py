"""One rank of a group that torchrun started: meet the others, add up, say so.

python -m tests.training.meet_once           a real group of torch
python tests/training/meet_once.py --light   only knocks at the store, without importing torch
"""

from __future__ import annotations

import json
import os
import socket
import sys


def knock() -> int:
    """Open a connection to the store of this group."""
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    with socket.create_connection(address, timeout=30):
        return int(os.environ["WORLD_SIZE"])


def add_up() -> int:
    """How many ranks came, as counted by an exchange between them."""
    import torch

    from regatta.training.distributed import process_group

    with process_group("ddp", torch.device("cpu"), timeout_seconds=120) as ranks:
        return int(ranks.sum([1.0])[0])


if __name__ == "__main__":
    came = knock() if "--light" in sys.argv else add_up()
    facts = {key: os.environ[key] for key in ("RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID")}
    # One write each: the lines of all ranks go to one log.
    sys.stdout.write(json.dumps({"came": came, **facts}) + "\n")
    sys.stdout.flush()
    os._exit(0)
