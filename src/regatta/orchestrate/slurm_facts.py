"""What a Slurm cluster says of itself, and the errors for what a study asks in vain."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec

from regatta.config.launch import LaunchSection, time_minutes
from regatta.core.errors import ConfigError, EnvironmentFault, MissingExtraError
from regatta.core.registry import unknown_name

ANSWER_SECONDS = 60.0
_ARRAY_SIZE = re.compile(r"^MaxArraySize\s*=\s*(\d+)", re.MULTILINE)
EARLY_SECONDS = 60
"""By which Slurm's warning of the time limit may come too soon (man sbatch, --signal)."""
LONGEST_MINUTES = 7 * 24 * 60
"""Asked for where neither the study nor the cluster limits the time."""


@dataclass(frozen=True)
class Partition:
    """One partition. Minutes are None where it sets none; `gpus` = most on one node."""

    name: str
    is_default: bool
    default_minutes: int | None
    most_minutes: int | None
    gpus: int
    cpus: int
    nodes: int


@dataclass(frozen=True)
class Facts:
    """What jobs of a study will be given: the time of one that asks for none, and GPUs."""

    partition: Partition
    minutes: int
    gpus: bool
    most_in_array: int


def run_slurm(*command: str, may_fail: bool = False, seconds: float = ANSWER_SECONDS) -> str:
    """Output of one of Slurm's commands.

    Args:
        seconds: to wait for it.

    Raises:
        EnvironmentFault: it is not there, gives no answer, or fails (unless it may).
    """
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=_plain_environment(),
        )
    except FileNotFoundError as error:
        raise EnvironmentFault(
            f"there is no {command[0]} on this machine",
            hint="start this on a machine of the cluster, or set launch.on=local",
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        late = isinstance(error, subprocess.TimeoutExpired)
        why = f" within {seconds:.0f} s" if late else f": {error}"
        raise EnvironmentFault(f"{command[0]} gave no answer{why}", hint=_UNREACHABLE) from error
    if answer.returncode and not may_fail:
        words = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
        raise EnvironmentFault(
            f"{command[0]} failed: {words[-1] if words else f'exit code {answer.returncode}'}",
            hint=_UNREACHABLE,
        )
    return answer.stdout


def _plain_environment() -> dict[str, str]:
    """Without the defaults of these commands that a user's shell may set: they filter answers."""
    ours = ("SQUEUE_", "SINFO_", "SCANCEL_")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


_UNREACHABLE = "is the cluster's controller up? `scontrol ping` says; then run the same again"


def partitions() -> list[Partition]:
    """All partitions that this user can see."""
    text = run_slurm("sinfo", "-h", "-a", "-o", "%P|%L|%l|%G|%c|%D")
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        cells = line.split("|")
        if len(cells) == 6:
            row = _partition(cells)
            found[row.name] = _joined(found.get(row.name), row)
    return list(found.values())


def _partition(cells: list[str]) -> Partition:
    name, default, most, gres, cpus, nodes = (cell.strip() for cell in cells)
    return Partition(
        name.rstrip("*"),
        name.endswith("*"),
        time_minutes(default) or None,
        time_minutes(most) or None,
        sum(_gpu_count(part) for part in gres.split(",")),
        int(cpus.rstrip("+") or 0),
        int(nodes),
    )


def _joined(first: Partition | None, second: Partition) -> Partition:
    """A partition with several kinds of nodes fills several lines."""
    if first is None:
        return second
    return Partition(
        first.name,
        first.is_default,
        first.default_minutes,
        first.most_minutes,
        max(first.gpus, second.gpus),
        max(first.cpus, second.cpus),
        first.nodes + second.nodes,
    )


def _gpu_count(gres: str) -> int:
    """Of `gpu:2`, `gpu:a100:4(S:0-1)`; 0 for any other resource."""
    words = gres.partition("(")[0].split(":")
    if words[0] != "gpu":
        return 0
    return int(words[-1]) if words[-1].isdigit() else 1


def check_slurm(launch: LaunchSection) -> Facts:
    """What the jobs will be given.

    Raises:
        EnvironmentFault: no Slurm here, or its controller does not answer.
        MissingExtraError: submitit is not installed.
        ConfigError, UnknownNameError: the launch section asks for what the cluster lacks.
    """
    if shutil.which("sbatch") is None:
        raise EnvironmentFault(
            "launch.on is slurm, but there is no sbatch on this machine",
            where="launch.on",
            hint="start this on a login node of the cluster, or set launch.on=local",
        )
    if find_spec("submitit") is None:
        raise MissingExtraError(
            "submitit is not installed",
            where="launch.on: slurm",
            hint="pip install -c constraints.txt 'regatta[slurm]', or set launch.on=local",
        )
    if launch.device_ids is not None:
        raise ConfigError(
            "launch.device_ids does not go with Slurm, which chooses the devices itself",
            hint="set launch.device_ids=null; launch.slurm_options passes nodelist or gres on",
        )
    partition = _chosen(launch, partitions())
    gpus = _takes_gpus(launch, partition)
    return Facts(partition, _minutes(launch, partition), gpus, _most_in_array())


def _most_in_array() -> int:
    """Most elements of one array: MaxArraySize counts from 0."""
    found = _ARRAY_SIZE.search(run_slurm("scontrol", "show", "config", may_fail=True))
    return max(1, int(found[1])) if found else 1000


def _chosen(launch: LaunchSection, found: list[Partition]) -> Partition:
    if not found:
        raise EnvironmentFault("this cluster shows no partition", hint="look at: sinfo")
    if launch.partition is None:
        return next((p for p in found if p.is_default), found[0])
    names = launch.partition.split(",")
    known = {p.name: p for p in found}
    for name in names:
        if name not in known:
            raise unknown_name("partition", name, list(known), where="launch.partition")
    return known[names[0]]


def _minutes(launch: LaunchSection, partition: Partition) -> int:
    asked = time_minutes(launch.time) if launch.time else None
    if asked and partition.most_minutes and asked > partition.most_minutes:
        raise ConfigError(
            f"launch.time is {asked} minutes, partition {partition.name} allows "
            f"{partition.most_minutes}",
            hint="lower launch.time (a run that is not done saves, queues again and resumes), "
            "or choose another launch.partition",
        )
    minutes = asked or partition.default_minutes or partition.most_minutes or LONGEST_MINUTES
    if minutes * 60 < launch.signal_seconds + 2 * EARLY_SECONDS:
        raise ConfigError(
            f"a job of {minutes} minutes is told to save {launch.signal_seconds} s before its end "
            f"(launch.signal_seconds), which Slurm may do {EARLY_SECONDS} s early: no time to work",
            hint="raise launch.time, or lower launch.signal_seconds",
        )
    return minutes


def _takes_gpus(launch: LaunchSection, partition: Partition) -> bool:
    if launch.device == "cpu":
        return False
    if launch.device == "cuda" and not partition.gpus:
        raise ConfigError(
            f"launch.device is cuda, but partition {partition.name} shows no GPUs",
            hint="choose another launch.partition (sinfo -o '%P %G'), or launch.device=cpu",
        )
    if partition.gpus and launch.devices > partition.gpus:
        raise ConfigError(
            f"one run needs {launch.devices:g} GPUs of a node, partition {partition.name} has "
            f"{partition.gpus} on each",
            hint="lower launch.devices, or spread the run over launch.nodes",
        )
    return bool(partition.gpus)
