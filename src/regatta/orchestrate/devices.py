"""What this machine has (cores, memory, GPUs) and how tasks share it. Never asks torch."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import ceil, floor
from pathlib import Path

from regatta.config.schema import LaunchSection
from regatta.core.errors import ConfigError, DeviceError

GIB = 2**30
NVIDIA_SMI_SECONDS = 15.0
_GPU_FIELDS = "index,uuid,name,memory.total,memory.free"
_SLACK = 1e-9
"""Three thirds of a GPU are a whole one, whatever floating point says."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi lists it; `index` is in PCI bus order."""

    index: int
    uuid: str
    name: str
    memory_gib: float
    free_gib: float


@dataclass(frozen=True)
class Memory:
    """Host memory that this process may use, the tighter of the machine and its control group."""

    total_gib: float
    available_gib: float


@dataclass(frozen=True)
class Machine:
    """What there is to place tasks on; `gpu_trouble` says why `gpus` is empty."""

    cores: int
    memory: Memory
    gpus: tuple[Gpu, ...] = ()
    gpu_trouble: str = ""


@dataclass(frozen=True)
class Placement:
    """Where a task runs: `device` as the worker is told, and the GPUs that it may see."""

    device: str
    gpu_ids: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"GPU {'+'.join(map(str, self.gpu_ids))}" if self.gpu_ids else "CPU"


def this_machine(launch: LaunchSection) -> Machine:
    """Look at the machine; asks for GPUs, which takes a second, only when they may be used."""
    gpus, trouble = list_gpus() if launch.device != "cpu" else ((), "launch.device is cpu")
    if gpus and _torch_has_no_cuda():
        gpus, trouble = (), "the installed torch is a CPU build"
    return Machine(cpu_cores(), host_memory(), gpus, trouble)


def cpu_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: its affinity, cut by the control group's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = min((q for q in map(_cpu_quota, _group_folders(root, "cpu")) if q), default=cores)
    return max(1, min(cores, ceil(quota)))


def _cpu_quota(folder: Path) -> float | None:
    both = _words(folder / "cpu.max")
    if len(both) != 2:
        both = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    if len(both) != 2 or both[0] in {"max", "-1"}:
        return None
    return int(both[0]) / int(both[1])


def host_memory(root: Path = Path("/")) -> Memory:
    """Total and available memory from /proc/meminfo and the limits of control groups v1 and v2."""
    lines = (
        (root / "proc/meminfo").read_text().splitlines()
        if (root / "proc/meminfo").is_file()
        else []
    )
    table = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}
    total, available = table.get("MemTotal", 0), table.get("MemAvailable", 0)
    if not lines:
        total = available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _group_folders(root, "memory"):
        limit, used = _group_memory(folder)
        if limit is not None and limit < total:
            total, available = limit, min(available, max(0, limit - used))
    return Memory(total / GIB, available / GIB)


def _group_memory(folder: Path) -> tuple[int | None, int]:
    """Limit and use in bytes; file cache counts as free because the kernel gives it back first."""
    for limit_name, use_name in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, used = _words(folder / limit_name), _words(folder / use_name)
        if limit and used and limit[0] != "max":
            words = _words(folder / "memory.stat")
            facts = dict(zip(words[::2], words[1::2], strict=False))
            cache = sum(int(facts.get(key, 0)) for key in ("inactive_file", "active_file"))
            return int(limit[0]), max(0, int(used[0]) - cache)
    return None, 0


def free_processes(root: Path = Path("/")) -> int | None:
    """Processes and threads that the control groups still allow; None where they set no limit."""
    free = []
    for folder in _group_folders(root, "pids"):
        limit, used = _words(folder / "pids.max"), _words(folder / "pids.current")
        if limit and used and limit[0] != "max":
            free.append(int(limit[0]) - int(used[0]))
    return min(free, default=None)


@cache
def _group_folders(root: Path, controller: str) -> list[Path]:
    """The control group of this process and all above it, v1 and v2: every limit holds."""
    found = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = [part for part in path.split("/") if part and part != ".."]
        found += [top.joinpath(*inner[:depth]) for depth in range(len(inner), -1, -1)]
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def list_gpus(*, timeout_seconds: float = NVIDIA_SMI_SECONDS) -> tuple[tuple[Gpu, ...], str]:
    """GPUs that this process may use, and why there are none when something is wrong.

    Honours CUDA_VISIBLE_DEVICES of the caller: a scheduler that gave us two of eight means two.
    """
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except FileNotFoundError:
        return (), "nvidia-smi is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"nvidia-smi gave no answer: {error}"
    if answer.returncode:
        return (), f"nvidia-smi failed: {(answer.stdout + answer.stderr).strip()[:200]}"
    gpus = _visible(_parse_gpus(answer.stdout), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return (gpus, "") if gpus else ((), "no GPU is visible (CUDA_VISIBLE_DEVICES)")


def _parse_gpus(text: str) -> list[Gpu]:
    rows = [
        [cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if len(row) == 5
    ]
    return [Gpu(int(r[0]), r[1], r[2], _mib(r[3]) / 1024, _mib(r[4]) / 1024) for r in rows]


def _mib(text: str) -> float:
    # Shared-memory devices answer [N/A].
    return float(text) if text.replace(".", "", 1).isdigit() else 0.0


def _visible(gpus: list[Gpu], visible: str | None) -> tuple[Gpu, ...]:
    if visible is None:
        return tuple(gpus)
    chosen = []
    for word in filter(None, (part.strip() for part in visible.split(","))):
        match = next(
            (
                g
                for g in gpus
                if word == str(g.index) or (len(word) > 4 and g.uuid.startswith(word))
            ),
            None,
        )
        if match is None:
            break  # CUDA itself stops at the first name that it does not know
        chosen.append(match)
    return tuple(chosen)


def _torch_has_no_cuda() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


@dataclass
class DevicePool:
    """Which devices are taken. A task asks for a share of a GPU, whole GPUs, or CPU processes.

    Args:
        gpus: GPU indices that may be used; empty = CPU.
        places: most tasks at once.
    """

    gpus: tuple[int, ...]
    places: int
    _free: dict[int, float] = field(default_factory=dict)
    _running: int = 0

    def __post_init__(self) -> None:
        self._free = dict.fromkeys(self.gpus, 1.0)

    def at_once(self, devices: float) -> int:
        """How many tasks of this size fit side by side."""
        if not self.gpus:
            return self.places
        share = floor(1 / devices + _SLACK) * len(self.gpus) if devices < 1 else 0
        return max(1, min(self.places, share or len(self.gpus) // max(1, round(devices))))

    def take(self, devices: float, *, avoid: Collection[int] = ()) -> Placement | None:
        """Devices for one task, the emptiest first, or None when it does not fit now.

        Args:
            avoid: GPUs to leave alone.
        """
        if self._running >= self.places:
            return None
        if not self.gpus:
            self._running += 1
            return Placement("cpu")
        share, count = min(devices, 1.0), max(1, round(devices)) if devices >= 1 else 1
        usable = (g for g in self.gpus if g not in avoid)
        fitting = [g for g in usable if self._free[g] >= share - _SLACK]
        chosen = sorted(fitting, key=lambda g: -self._free[g])[:count]
        if len(chosen) < count:
            return None
        for gpu in chosen:
            self._free[gpu] -= share
        self._running += 1
        return Placement("cuda:0", tuple(sorted(chosen)))

    def give_back(self, placement: Placement, devices: float) -> None:
        for gpu in placement.gpu_ids:
            self._free[gpu] = min(1.0, self._free[gpu] + min(devices, 1.0))
        self._running -= 1


def make_pool(machine: Machine, launch: LaunchSection, *, runs: int) -> DevicePool:
    """The devices that a study may use.

    Args:
        runs: number of runs in the study; on a CPU more places than runs would only waste threads.
    Raises:
        DeviceError: a device that was asked for does not exist; names what does.
        ConfigError: the launch section contradicts itself.
    """
    if launch.devices > 1 and launch.devices != int(launch.devices):
        raise ConfigError(
            f"launch.devices is {launch.devices}",
            hint="a whole number, or a share of one device below 1",
        )
    gpus = choose_gpus(machine, launch)
    if not gpus:
        fitting = max(1, machine.cores // max(1, int(launch.devices)))
        return DevicePool((), min(launch.max_parallel or fitting, max(1, runs)))
    if launch.devices > len(gpus):
        raise DeviceError(
            f"one run needs {int(launch.devices)} GPUs (launch.devices), usable are {len(gpus)}",
            where=describe_gpus(machine),
            hint="lower launch.devices, or widen launch.device_ids",
        )
    per_gpu = floor(1 / launch.devices + _SLACK) if launch.devices < 1 else 1
    return DevicePool(gpus, launch.max_parallel or per_gpu * len(gpus))


def find_slots(
    launch: LaunchSection, *, runs: int | None = None, machine: Machine | None = None
) -> list[Placement]:
    """Where runs would stand side by side on this machine; raises like `make_pool`."""
    machine = machine or this_machine(launch)
    pool = make_pool(machine, launch, runs=runs or machine.cores)
    taken = (pool.take(launch.devices) for _ in range(pool.places))
    return [placement for placement in taken if placement]


def choose_gpus(machine: Machine, launch: LaunchSection) -> tuple[int, ...]:
    """Indices of the GPUs to use; empty means the CPU."""
    if launch.device == "cpu":
        if launch.device_ids:
            raise ConfigError("launch.device_ids names GPUs, but launch.device is cpu")
        return ()
    if not machine.gpus and (launch.device == "cuda" or launch.device_ids):
        raise DeviceError(
            f"the study asks for a GPU, but none is usable: {machine.gpu_trouble or 'none found'}",
            where=describe_gpus(machine),
            hint="run on the CPU with --set launch.device=cpu --set launch.device_ids=null",
        )
    present = tuple(gpu.index for gpu in machine.gpus)
    if launch.device_ids is None:
        return present
    missing = sorted(set(launch.device_ids) - set(present))
    if missing:
        raise DeviceError(
            f"launch.device_ids names GPUs that do not exist: {', '.join(map(str, missing))}",
            where=describe_gpus(machine),
            hint=f"choose from {', '.join(map(str, present))}",
        )
    return tuple(dict.fromkeys(launch.device_ids))


def describe_gpus(machine: Machine) -> str:
    """One line for messages: which GPUs there are."""
    if not machine.gpus:
        return f"this machine has {machine.cores} CPU cores and no usable GPU"
    return "this machine has " + ", ".join(
        f"GPU {gpu.index} ({gpu.name}, {gpu.memory_gib:.0f} GiB)" for gpu in machine.gpus
    )
