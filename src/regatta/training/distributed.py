"""Several processes train one model: DDP or FSDP2 under torchrun, and what its ranks agree on.

Rank 0 alone writes. Whatever is decided (stop, best, early stopping) is decided from sums over all
ranks or by rank 0 for all, because ranks that decide alone wait for each other for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from regatta.config.schema import MANY_PROCESSES
from regatta.core.errors import ConfigError, DeviceError, RegattaError, RunError
from regatta.training.data_parallel import spread_over_gpus
from regatta.training.sharded import refuse_scaled_gradients, shard_over_ranks

T = TypeVar("T")
_JOINED: list[Any] = []


class PortTakenError(RunError):
    """Found free a moment before, the port of the ranks was taken by another process."""

    cause = "port"


def tell_nobody(_failure: dict[str, Any]) -> None:
    """Of a training that nobody watches but who started it."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one model. With `world` 1 every method is local."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Device of this rank, also of the collectives."""
    tell_failure: Callable[[dict[str, Any]], object] = field(
        default=tell_nobody, compare=False, repr=False
    )
    """Takes the keys of a failed status where no error can be raised: the main thread hangs."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Elementwise sum over ranks in float64; the same bits on every rank."""
        if self.world == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: T) -> list[T]:
        """The values of all ranks in rank order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def on_first(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 and give its answer, or its RegattaError, to every rank.

        An error that only rank 0 saw would leave the others waiting in their next collective.
        """
        if self.world == 1:
            return work()
        answer: list[Any] = [None]
        if self.is_first:
            try:
                answer = [work()]
            except RegattaError as error:
                answer = [error]
        dist.broadcast_object_list(answer, src=0, device=self.device)
        if isinstance(answer[0], RegattaError):
            raise answer[0]
        return answer[0]


ONE_PROCESS = Ranks()


@contextmanager
def process_group(
    parallel: str,
    device: torch.device,
    *,
    timeout_seconds: float = 600.0,
    tell_failure: Callable[[dict[str, Any]], object] = tell_nobody,
) -> Iterator[Ranks]:
    """Join the processes that torchrun started, leave them on the way out; one needs no group.

    Args:
        parallel: `train.parallel`. `ddp` or `fsdp` without torchrun is one process, which trains
            the same.
        device: of one process. Under torchrun a GPU rank takes the GPU of its local rank.
        timeout_seconds: how long a rank waits for the others in one collective.
        tell_failure: see `Ranks`.

    Raises:
        ConfigError: torchrun started several processes for a study of one process.
        PortTakenError: another process was faster at the port; a new start has a new one.
        DeviceError: the ranks cannot reach each other, or there are fewer GPUs than local ranks.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(device=device)
        return
    if parallel not in MANY_PROCESSES:
        raise ConfigError(
            f"torchrun started {world} processes, but train.parallel is '{parallel}'",
            where="train.parallel",
            hint="add --set train.parallel=ddp (or fsdp), or start one process without torchrun",
        )
    device = _local_device(device)
    _join(device, timeout_seconds)
    # Kept for the life of the process: where a neighbour was killed, the last to let go of the
    # group (DDP's reducer) would wait for threads that wait for it.
    _JOINED.append(dist.group.WORLD)
    try:
        yield Ranks(dist.get_rank(), world, device, tell_failure)
    finally:
        dist.destroy_process_group()


def _local_device(device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device
    number, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= found:
        raise DeviceError(
            f"local rank {number} has no GPU: this machine shows {found}",
            where="torchrun",
            hint=f"start with --nproc_per_node={found}",
        )
    return torch.device("cuda", number)


def _join(device: torch.device, timeout_seconds: float) -> None:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            timeout=timedelta(seconds=timeout_seconds),
            device_id=device if on_gpu else None,
        )
    except (dist.DistError, ValueError) as error:
        if "EADDRINUSE" in str(error):
            raise PortTakenError(
                "another process took the port of this run before its ranks could meet",
                where=f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}",
                hint="run the same command again: it takes another port",
            ) from error
        raise DeviceError(
            f"the processes of this run cannot reach each other: {error}",
            where=f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}",
            hint="start them with torchrun; on one machine add --standalone",
        ) from error


def spread_over_devices(
    module: nn.Module, ranks: Ranks, *, parallel: str, precision: str
) -> nn.Module:
    """`module` as it is called in training: in DDP, cut over the ranks, or itself on one device.

    Rank 0's weights are given to all. `fsdp` changes `module` where it stands.

    Raises:
        DeviceError: `dp` with fewer than two GPUs. ConfigError: `fsdp` with fp16.
    """
    if parallel == "dp":
        return spread_over_gpus(module, ranks.device)
    if ranks.world == 1:
        return module
    if parallel == "fsdp":
        refuse_scaled_gradients(precision)
        return shard_over_ranks(module, ranks.device)
    on_gpu = ranks.device.type == "cuda"
    spread = DistributedDataParallel(
        module,
        device_ids=[ranks.device.index] if on_gpu else None,
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
    )
    if not on_gpu:
        _lay_out_once(spread)
    return spread


def _lay_out_once(spread: DistributedDataParallel) -> None:
    """Give the gradients the layout that they keep.

    DDP lays them out anew after its first step, in the order in which they came. Of three ranks and
    more a number's place decides the order in which it is summed, so the step after a resume was
    rounded otherwise than the same step of an uninterrupted run. On a GPU that order is the
    exchange's secret anyway, and the order of coming hides its time.
    """
    spread.reducer._push_all_rebuilt_params()
    spread.reducer._rebuild_buckets()


def copy_first_buffers(module: nn.Module, ranks: Ranks) -> None:
    """Give rank 0's buffers (batch-norm statistics) to all: every rank validates what is saved."""
    if ranks.world == 1:
        return
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)
