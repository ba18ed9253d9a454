"""Where this process stands among those that train together: told by torchrun, or by Slurm."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from regatta.core.errors import ConfigError
from regatta.core.files import slug

MEETING_SECONDS = 120.0
"""Time for all ranks to come to the first one."""
MEETING_VARIABLE = "REGATTA_MEETING_SECONDS"
"""Says otherwise."""
_TASKS_ON_NODES = re.compile(r"(\d+)(?:\(x(\d+)\))?")


@dataclass(frozen=True)
class Place:
    """This process among those of one group, each of which trains the same run."""

    rank: int
    world: int
    """Processes of the group, on all machines."""
    here: int
    """Processes of the group on this machine."""
    local_rank: int
    node: int
    """Number of this machine, or of the torchrun on it."""
    starter: str
    """Who started the group: torchrun or Slurm."""
    group: str
    """The same for all ranks of the group, and for no other that lives."""
    meeting_folder: Path
    """Where ranks of several machines find each other."""
    names: tuple[str, ...] = ()
    """Names or addresses by which this machine may be known to the others, the best first."""
    environment: dict[str, str] = field(default_factory=dict)
    """What the starter has not told the workers: set for each of them."""
    meeting_seconds: float = MEETING_SECONDS

    @property
    def spans_machines(self) -> bool:
        return self.world > self.here

    @property
    def meeting_file(self) -> Path:
        """Where the first rank says how to reach it, when the group spans machines."""
        words = slug(self.group, limit=40)
        mark = sha256(self.group.encode()).hexdigest()[:8]
        return self.meeting_folder / f".{self.starter.lower()}-{words}-{mark}.json"

    @property
    def socket_path(self) -> Path:
        """Socket of the first rank, when all are on one machine."""
        mark = sha256(self.group.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"regatta-{os.getuid()}-{mark}.sock"

    def __str__(self) -> str:
        return f"rank {self.rank} ({socket.gethostname()})"


def under_torchrun(meeting_folder: Path) -> Place | None:
    """Our place in torchrun's group, or None when torchrun did not start this process.

    Args:
        meeting_folder: on a disk that all machines of the group share; nothing is left there.
    """
    given = os.environ
    if "TORCHELASTIC_RUN_ID" not in given:
        return None
    rank, world, here = (int(given[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    parts = [given["TORCHELASTIC_RUN_ID"], given.get("MASTER_ADDR", ""), given["MASTER_PORT"]]
    if world == here:
        # On several machines it is no part of it: each machine's torchrun counts its own restarts.
        parts.append(given.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return Place(
        rank=rank,
        world=world,
        here=here,
        local_rank=int(given.get("LOCAL_RANK", rank % here)),
        node=int(given.get("GROUP_RANK", rank // here)),
        starter="torchrun",
        group="-".join(parts),
        meeting_folder=meeting_folder,
        names=tuple(filter(None, [given.get("MASTER_ADDR")])),
        meeting_seconds=_meeting_seconds(given),
    )


def slurm_place(meeting_folder: Path) -> Place | None:
    """Our place in a job step of several tasks, or None outside of one.

    A batch script is no step: its own process is none of the tasks that `srun` starts from it.
    Each task must see all GPUs of its machine that the job has: the local rank picks one.

    Args:
        meeting_folder: on a disk that all machines of the job share; nothing is left there.
    """
    given = os.environ
    world = int(given.get("SLURM_STEP_NUM_TASKS", "1"))
    if world == 1 or "SLURM_PROCID" not in given:
        return None
    node = int(given["SLURM_NODEID"])
    here = _tasks_of_nodes(given.get("SLURM_STEP_TASKS_PER_NODE", str(world)))[node]
    rank, local_rank = int(given["SLURM_PROCID"]), int(given["SLURM_LOCALID"])
    numbers = {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": world}
    restart = given.get("SLURM_RESTART_COUNT", "0")
    return Place(
        rank=rank,
        world=world,
        here=here,
        local_rank=local_rank,
        node=node,
        starter="Slurm",
        group=f"{given['SLURM_JOB_ID']}-{given['SLURM_STEP_ID']}-{restart}",
        meeting_folder=meeting_folder,
        names=tuple(filter(None, [given.get("SLURMD_NODENAME")])),
        environment={k: str(v) for k, v in {**numbers, "LOCAL_WORLD_SIZE": here}.items()},
        meeting_seconds=_meeting_seconds(given),
    )


def _meeting_seconds(given: Mapping[str, str]) -> float:
    text = given.get(MEETING_VARIABLE, str(MEETING_SECONDS))
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{MEETING_VARIABLE} is '{text}'", hint="a number of seconds") from error


def _tasks_of_nodes(text: str) -> list[int]:
    """Tasks on each node, from Slurm's short form: 2(x3),1 means 2, 2, 2, 1."""
    found = [(int(m[1]), int(m[2] or 1)) for m in _TASKS_ON_NODES.finditer(text)]
    return [tasks for tasks, nodes in found for _ in range(nodes)]
