"""Whether a task fits beside what runs: memory of the host and of GPUs, shared memory, processes.

Only what was measured, or said by the user, can forbid a task to start where nothing else runs;
a guess can make it wait for others.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from regatta.config.schema import LaunchSection
from regatta.core.errors import EnvironmentFault
from regatta.orchestrate.devices import (
    GIB,
    DevicePool,
    Gpu,
    Placement,
    free_processes,
    host_memory,
    list_gpus,
)
from regatta.orchestrate.plan import Task

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written
LOOK_SECONDS = 10.0
"""How long an answer of nvidia-smi holds."""
WAIT_SECONDS = 60.0
"""How long a task waits for memory that nothing of ours holds: ended tasks give it back late."""
RANK_SHARED_GIB = 32 / 1024
"""Shared memory of each process of a run over several GPUs."""
PROCESS_TASKS = 16
"""Threads of a worker beside those that compute: the kernel counts each as a process."""
SETTLED_LOOKS = 3
"""A GPU's use that so often in a row did not grow is what the task takes."""
GROWTH = 1.02


@dataclass(frozen=True)
class Need:
    """Memory that was measured of one training process; None = not measured."""

    host_gib: float | None = None
    device_gib: float | None = None


class Held(Protocol):
    """A task that runs, with what it holds of the host's memory now."""

    task: Task
    placement: Placement
    resident_gib: float


@dataclass
class _Growth:
    """What a task took of a GPU, look by look."""

    peak_gib: float = 0.0
    looks_without_growth: int = 0


@dataclass
class Admission:
    """Knows what tasks of a kind take, learns it while they run, and says what does not fit.

    ask_gpus: the GPUs as they are now.
    """

    launch: LaunchSection
    ask_gpus: Callable[[], Iterable[Gpu]] = lambda: list_gpus()[0]
    shared_memory: Path = SHARED_MEMORY
    _needs: dict[str, Need] = field(default_factory=dict)
    _gpus: dict[int, Gpu] = field(default_factory=dict)
    _baseline: dict[int, float] = field(default_factory=dict)
    """GiB that were free on a GPU when nothing of ours ran there."""
    _growth: dict[str, _Growth] = field(default_factory=dict)
    _looked_at: float = float("-inf")
    _short_since: dict[str, float] = field(default_factory=dict)

    def expect(self, needs: Mapping[str, Need]) -> None:
        """Take in what is known of tasks before they run, by `Resources.memory_key`."""
        self._needs |= needs

    def knows(self, task: Task) -> bool:
        """Whether the host memory that it takes was measured or told, not guessed."""
        return self._known_host(task) is not None

    def expected_gib(self, task: Task) -> float:
        """Host memory of a task: fixed by the user, measured, or guessed by the plan."""
        return self._known_host(task) or task.resources.memory_gib

    def _known_host(self, task: Task) -> float | None:
        if task.resources.memory_is_fixed:
            return task.resources.memory_gib
        known = self._needs.get(task.resources.memory_key)
        return known.host_gib if known else None

    def _device_gib(self, task: Task) -> float | None:
        known = self._needs.get(task.resources.memory_key)
        return known.device_gib if known else None

    def note_host_peak(self, task: Task, peak_gib: float) -> None:
        """Learn from a task that ended well."""
        key = task.resources.memory_key
        known = self._needs.get(key, Need())
        peak = max(known.host_gib or 0.0, peak_gib)
        self._needs[key] = Need(peak, known.device_gib)

    def shortage(
        self, task: Task, placement: Placement, running: Iterable[Held], *, threads: int
    ) -> str | None:
        """What the task needs and does not find now; None when it fits.

        Raises:
            EnvironmentFault: it can never fit here, or nothing of ours holds what it lacks.
        """
        beside = list(running)
        checks = (
            self._host(task, beside),
            self._shared(task, placement, beside),
            self._processes(task, beside, threads),
            self._device(task, placement, beside),
        )
        found = next((text for text in checks if text), None)
        if found is None or beside:
            self._short_since.pop(task.id, None)
            return found
        since = self._short_since.setdefault(task.id, time.monotonic())
        if time.monotonic() - since >= WAIT_SECONDS:
            raise EnvironmentFault(
                f"{task.title} {found}, and no other run holds it",
                where="this machine",
                hint="end what else runs here, or lower train.batch_size or train.frame_cache_gib",
            )
        return found

    def _host(self, task: Task, running: list[Held]) -> str | None:
        known, memory = self._known_host(task), host_memory()
        total = memory.total_gib
        if known is not None and known > total:
            fixed = task.resources.memory_is_fixed
            raise EnvironmentFault(
                f"{task.title} needs {known:.1f} GiB of memory, this machine has {total:.1f}",
                where="launch.memory_gib_per_run" if fixed else "measured",
                hint="lower launch.memory_gib_per_run if it needs less"
                if fixed
                else "lower train.batch_size or train.frame_cache_gib, or use a larger machine",
            )
        if known is None and not running:
            return None
        claimed = sum(max(0.0, self.expected_gib(r.task) - r.resident_gib) for r in running)
        needed, free = self.expected_gib(task), memory.available_gib - claimed
        if needed <= free:
            return None
        return f"needs {needed:.1f} GiB of memory, {max(0.0, free):.1f} GiB are free"

    def _shared(self, task: Task, placement: Placement, running: list[Held]) -> str | None:
        """Clips that runs share stay in memory; without enough of it they go to the disk."""
        try:
            space = shutil.disk_usage(self.shared_memory)
        except OSError:
            return None
        ranks = task.resources.processes if placement.gpu_ids else 1
        needed = ranks * RANK_SHARED_GIB if ranks > 1 else 0.0
        if needed * GIB > space.total:
            raise EnvironmentFault(
                f"{task.title} needs {needed * 1024:.0f} MiB of shared memory for its {ranks} "
                f"processes, there are {space.total / 2**20:.0f}",
                where=self.shared_memory,
                hint="start the container with --shm-size=1g, or: mount -o remount,size=1g "
                f"{self.shared_memory}",
            )
        shares = self.launch.share and task.kind == "train" and bool(running)
        is_first = not any(r.task.kind == "train" for r in running)
        if shares and is_first and self.launch.share_gib * GIB <= space.total:
            needed += self.launch.share_gib
        if needed * GIB <= space.free:
            return None
        return f"needs {needed:.2f} GiB of shared memory, {space.free / GIB:.2f} GiB are free"

    def _processes(self, task: Task, running: list[Held], threads: int) -> str | None:
        """Processes and threads that the kernel would still let us start."""
        free = free_processes()
        if os.getuid():
            soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
            ours = sum(r.task.resources.processes * PROCESS_TASKS for r in running)
            if soft != resource.RLIM_INFINITY:
                free = soft - ours if free is None else min(free, soft - ours)
        needed = task.resources.processes * (PROCESS_TASKS + threads)
        if free is None or needed <= free:
            return None
        text = f"needs about {needed} processes and threads, {max(0, free)} are allowed"
        if running:
            return text
        raise EnvironmentFault(
            f"{task.title} {text}",
            where="pids.max of the control group, or ulimit -u",
            hint="raise the limit (docker: --pids-limit), or lower launch.threads_per_run",
        )

    def _device(self, task: Task, placement: Placement, running: list[Held]) -> str | None:
        """GPU memory, of every GPU of the placement."""
        if not placement.gpu_ids:
            return None
        needed = self._device_gib(task)
        if needed is None and task.resources.devices >= 1:
            return None
        self._look()
        for index in placement.gpu_ids:
            beside = [r for r in running if index in r.placement.gpu_ids]
            text = self._on_gpu(index, task, needed, beside)
            if text:
                return text
        return None

    def _on_gpu(
        self, index: int, task: Task, needed: float | None, beside: list[Held]
    ) -> str | None:
        gpu = self._gpus.get(index)
        if gpu is None:
            return None
        if needed is not None and needed > gpu.memory_gib > 0:
            raise EnvironmentFault(
                f"{task.title} needs {needed:.1f} GiB of GPU memory, {gpu.name} has "
                f"{gpu.memory_gib:.1f}",
                where=f"GPU {index}",
                hint="lower train.batch_size (train.accumulate keeps the effective batch), or set "
                "train.gradient_checkpointing: true",
            )
        if not beside:
            self._baseline[index] = gpu.free_gib
        known = {r.task.id: self._device_gib(r.task) for r in beside}
        if beside and (needed is None or None in known.values()):
            return f"waits until the GPU memory of a run is measured, GPU {index} has one already"
        if needed is None:
            return None
        claimed = sum(value or 0.0 for value in known.values())
        free = min(gpu.free_gib, self._baseline.get(index, gpu.free_gib) - claimed)
        if needed <= free:
            return None
        return f"needs {needed:.1f} GiB of GPU {index}, {max(0.0, free):.1f} GiB are free"

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._gpus = {gpu.index: gpu for gpu in self.ask_gpus()}

    def learn_from(self, running: Iterable[Held]) -> None:
        """Look at GPUs on which one task runs whose need is not known; asks nothing else."""
        tasks = list(running)
        for held in tasks:
            index = held.placement.gpu_ids[0] if held.placement.gpu_ids else None
            is_known = self._device_gib(held.task) is not None
            if index is None or is_known or held.task.resources.devices >= 1:
                continue
            if sum(index in other.placement.gpu_ids for other in tasks) == 1:
                before = self._looked_at
                self._look()
                if self._looked_at != before and index in self._gpus:
                    self._grow(held.task, index)

    def _grow(self, task: Task, index: int) -> None:
        gpu = self._gpus[index]
        taken = self._baseline.get(index, gpu.memory_gib) - gpu.free_gib
        growth = self._growth.setdefault(task.id, _Growth())
        if taken > growth.peak_gib * GROWTH:
            growth.peak_gib, growth.looks_without_growth = taken, 0
        elif growth.peak_gib > 0:
            growth.looks_without_growth += 1
        if growth.looks_without_growth >= SETTLED_LOOKS:
            key = task.resources.memory_key
            host = self._needs.get(key, Need()).host_gib
            self._needs[key] = Need(host, growth.peak_gib)


def place_task(
    pool: DevicePool, task: Task, shortage: Callable[[Placement], str | None]
) -> tuple[Placement | None, str]:
    """A placement whose devices have room, taken from the pool; else None and why not.

    Another GPU is tried where the emptiest has too little memory.
    """
    avoided: set[int] = set()
    reason = ""
    while True:
        placement = pool.take(task.resources.devices, avoid=avoided)
        if placement is None:
            return None, reason
        reason = shortage(placement) or ""
        if not reason:
            return placement, ""
        pool.give_back(placement, task.resources.devices)
        if not placement.gpu_ids:
            return None, reason
        avoided |= set(placement.gpu_ids)
