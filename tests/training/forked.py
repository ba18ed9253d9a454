"""Groups of real processes that meet over gloo, forked from one process that has torch loaded.

torchrun would take seconds for each group; these take a tenth of one.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable

import torch
import torch._dynamo  # The first optimizer step imports it: once here, not in every child.
import torch.distributed.fsdp

from regatta.core.errors import StopRequested
from regatta.training.distributed import Ranks, process_group

CPU = torch.device("cpu")
Work = Callable[[Ranks], object]


def in_ranks(world: int, work: Work, *, parallel: str = "ddp") -> list[int]:
    """Run `work` in `world` processes; their exit statuses, negative for a signal.

    The calling process must not have computed anything yet: its threads are not forked.
    """
    port = _free_port()
    children = [_fork(rank, world, port, work, parallel) for rank in range(world)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _fork(rank: int, world: int, port: str, work: Work, parallel: str) -> int:
    child = os.fork()
    if child:
        return child
    status = 70
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in numbers.items()}, MASTER_ADDR="127.0.0.1")
    try:
        torch.set_num_threads(1)
        with process_group(parallel, CPU, timeout_seconds=30) as ranks:
            work(ranks)
        status = 0
    except StopRequested as stop:
        status = stop.exit_code
    except Exception as error:  # noqa: BLE001 - said by the child, judged by its exit status
        # A neighbour that was killed on purpose is no news.
        if "by peer" not in str(error):
            traceback.print_exc()
    finally:
        os._exit(status)
