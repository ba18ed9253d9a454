"""The launcher of this machine: one bound process per task, where devices and memory are free."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from regatta.config.schema import LaunchSection
from regatta.core.bound_exec import bound_command
from regatta.core.errors import EnvironmentFault
from regatta.orchestrate.admission import Admission, Need, place_task
from regatta.orchestrate.bound_process import start_bound
from regatta.orchestrate.devices import (
    DevicePool,
    Machine,
    Memory,
    Placement,
    host_memory,
    make_pool,
)
from regatta.orchestrate.plan import Task
from regatta.orchestrate.processes import (
    cpu_ticks,
    descendants,
    handles_signal,
    resident_gib,
    signal_group,
    signal_process,
)
from regatta.records.status import ProcessId, process_identity

STAGGER_SECONDS = 2.0
"""Next start after this long, or once the last worker reports: starts together freeze hosts."""
MEASURE_SECONDS = 2.0
MEASURE_REST = 200
"""Rest after each measurement, in its own lengths: a long process table must not cost CPU time."""
LOW_MEMORY_SHARE = 0.1
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True)
class Ended:
    """How a task's process ended. `exit_code` is negative for a signal, as in subprocess.

    `oom_kills` counts the kernel's out-of-memory kills on this machine during its life;
    `memory_text` states the sizes, for messages.
    """

    task_id: str
    exit_code: int
    peak_gib: float
    oom_kills: int
    memory_was_low: bool
    memory_text: str


@dataclass(frozen=True)
class Refusal:
    """Why a task cannot start now."""

    reason: str
    is_memory: bool = False


class Launcher(Protocol):
    """Starts tasks and observes them. Knows nothing of studies, statuses or retries."""

    def describe(self) -> str: ...
    def threads_for(self, task: Task) -> int: ...
    def judge_shards(self, devices: float) -> int: ...
    def refusal(self, task: Task, *, alone: bool) -> Refusal | None: ...
    def start(self, task: Task, *, threads: int) -> ProcessId: ...
    def reported(self, task_id: str) -> None: ...
    def wait(self, seconds: float) -> list[Ended]: ...
    def terminate(self, task_id: str) -> None: ...
    def kill(self, task_id: str) -> None: ...
    def dump_stacks(self, task_id: str) -> bool: ...
    def work_done(self, task_id: str) -> int: ...
    def close(self) -> None: ...


@dataclass
class _Running:
    task: Task
    process: subprocess.Popen[bytes]
    identity: ProcessId
    placement: Placement
    oom_kills_before: int
    peak_gib: float = 0.0
    resident_gib: float = 0.0
    lowest_free: Memory | None = None
    pidfd: int = -1


class LocalLauncher:
    """Runs tasks on this machine, from one thread: children are bound to that thread."""

    def __init__(self, machine: Machine, launch: LaunchSection, *, runs: int) -> None:
        self._cores = machine.cores
        self._pool: DevicePool = make_pool(machine, launch, runs=runs)
        self._fixed_threads = launch.threads_per_run
        self._runs = max(1, runs)
        self._running: dict[str, _Running] = {}
        self._admission = Admission(launch)
        self._offered: dict[str, Placement] = {}
        self._next_start = 0.0
        self._last_started = ""
        self._next_measure = 0.0
        self._selector = selectors.DefaultSelector()

    def describe(self) -> str:
        """One line for the user: where tasks run."""
        where = "GPU " + ", ".join(map(str, self._pool.gpus)) if self._pool.gpus else "CPU"
        return f"{where}, at most {self._pool.places} at once"

    def threads_for(self, task: Task) -> int:
        """CPU threads of a task: its share of the cores when all places are taken, nothing else."""
        if task.kind == "prepare":
            return self._cores
        if self._fixed_threads:
            return self._fixed_threads
        beside = self._pool.at_once(task.resources.devices)
        if task.kind == "train":
            beside = min(beside, self._runs)
        return max(1, self._cores // (beside * task.resources.processes))

    def judge_shards(self, devices: float) -> int:
        places = self._pool.at_once(devices)
        # Judging fills the cores that it gets: more shards than cores would only wait.
        return places if self._pool.gpus else min(places, self._cores)

    def refusal(self, task: Task, *, alone: bool) -> Refusal | None:
        """Why the task cannot start now, or None when it can."""
        if self._running and alone:
            return Refusal("it runs alone")
        if time.monotonic() < self._next_start:
            return Refusal("starts are staggered")
        placement, reason = self._find_place(task)
        if placement:
            self._pool.give_back(placement, task.resources.devices)
            self._offered[task.id] = placement
            return None
        return Refusal(reason, is_memory=True) if reason else Refusal("all devices are taken")

    def expect(self, needs: Mapping[str, Need]) -> None:
        """Take in what was measured of tasks before they run, by `Resources.memory_key`."""
        self._admission.expect(needs)

    def _find_place(self, task: Task) -> tuple[Placement | None, str]:
        """Devices with room for the task, now taken; else None and what it lacks ("" = devices)."""
        threads = self.threads_for(task)
        return place_task(
            self._pool,
            task,
            lambda place: self._admission.shortage(task, place, self._measured(), threads=threads),
        )

    def _take_offered(self, task: Task) -> Placement | None:
        """The place where `refusal` found room, else any; not looked at again: what it said holds,
        though memory may have changed by a little since."""
        offered = self._offered.pop(task.id, None)
        avoid = set(self._pool.gpus) - set(offered.gpu_ids) if offered else ()
        return self._pool.take(task.resources.devices, avoid=avoid)

    def _measured(self) -> Collection[_Running]:
        """What runs, measured a moment ago."""
        if self._running and time.monotonic() >= self._next_measure:
            self._measure()
        return self._running.values()

    def start(self, task: Task, *, threads: int) -> ProcessId:
        """Start the task's process in a session of its own; output goes to its log.

        Raises:
            DiskError: the log cannot be written. EnvironmentFault: no process can be started.
        """
        placement = self._take_offered(task)
        if placement is None:
            raise EnvironmentFault(f"no device is free for {task.title}")
        try:
            process = self._spawn(task, placement, threads)
        except BaseException:
            self._pool.give_back(placement, task.resources.devices)
            raise
        identity = process_identity(process.pid)
        running = _Running(task, process, identity, placement, kernel_oom_kills())
        self._running[task.id] = running
        self._watch(running)
        if not self._admission.knows(task):
            # What is known is set aside for it at once; a guess is better seen before the next.
            self._next_start, self._last_started = time.monotonic() + STAGGER_SECONDS, task.id
        return identity

    def _spawn(self, task: Task, placement: Placement, threads: int) -> subprocess.Popen[bytes]:
        env = {**task_environment(placement, threads), **task.env}
        return start_bound(_group_command(task, placement, threads), log=task.log, env=env)

    def _watch(self, running: _Running) -> None:
        if not hasattr(os, "pidfd_open"):
            return
        running.pidfd = os.pidfd_open(running.process.pid)
        self._selector.register(running.pidfd, selectors.EVENT_READ)

    def reported(self, task_id: str) -> None:
        """The task has shown its first sign of life: the next one may start."""
        if task_id == self._last_started:
            self._next_start = 0.0

    def wait(self, seconds: float) -> list[Ended]:
        """Wait until a task ends or the time is over; all that have ended."""
        if self._selector.get_map():
            self._selector.select(seconds)
        else:
            time.sleep(min(seconds, 0.1) if self._running else seconds)
        self._measured()
        gone = [
            task_id for task_id, running in self._running.items() if _has_ended(running.process)
        ]
        return [self._collect(task_id) for task_id in gone]

    def _collect(self, task_id: str) -> Ended:
        running = self._running.pop(task_id)
        if running.process.returncode is None:
            # While the leader is a zombie its group number cannot be given to a stranger.
            signal_group(running.process.pid, signal.SIGKILL)
        exit_code = running.process.wait()
        if running.pidfd >= 0:
            self._selector.unregister(running.pidfd)
            os.close(running.pidfd)
        self._pool.give_back(running.placement, running.task.resources.devices)
        self.reported(task_id)
        if exit_code == 0 and running.peak_gib:
            self._admission.note_host_peak(running.task, running.peak_gib)
        low = running.lowest_free
        return Ended(
            task_id,
            exit_code,
            round(running.peak_gib, 3),
            kernel_oom_kills() - running.oom_kills_before,
            low is not None and low.available_gib < LOW_MEMORY_SHARE * low.total_gib,
            f"it held {running.peak_gib:.1f} GiB when last measured"
            + (
                f", {low.available_gib:.1f} of {low.total_gib:.1f} GiB were free at the lowest"
                if low
                else ""
            ),
        )

    def _measure(self) -> None:
        """Note what each task holds now, all its processes together."""
        began = time.monotonic()
        free = host_memory()
        below = descendants([r.process.pid for r in self._running.values()])
        for running in self._running.values():
            pid = running.process.pid
            running.resident_gib = resident_gib([pid, *(p.pid for p in below[pid])])
            running.peak_gib = max(running.peak_gib, running.resident_gib)
            if (
                running.lowest_free is None
                or free.available_gib < running.lowest_free.available_gib
            ):
                running.lowest_free = free
        self._admission.learn_from(self._running.values())
        ended = time.monotonic()
        self._next_measure = ended + max(MEASURE_SECONDS, MEASURE_REST * (ended - began))

    def terminate(self, task_id: str) -> None:
        """Ask the task to save and leave."""
        running = self._running.get(task_id)
        if running and not _has_ended(running.process):
            # The leader alone: torchrun passes TERM on, a worker looks after its own helpers.
            os.kill(running.process.pid, signal.SIGTERM)

    def kill(self, task_id: str) -> None:
        """End the task's whole tree now; `wait` reports it."""
        if task_id not in self._running:
            return
        process = self._running[task_id].process
        below = descendants([process.pid])[process.pid]
        signal_group(process.pid, signal.SIGKILL)
        for descendant in below:
            signal_process(descendant, signal.SIGKILL)

    def dump_stacks(self, task_id: str) -> bool:
        """Have every process of the task that can write its stacks do so; False when none can."""
        pid = self._running[task_id].process.pid
        tree = [self._running[task_id].identity, *descendants([pid])[pid]]
        # SIGUSR1 ends a process that has not asked for it, torchrun for one.
        able = [process for process in tree if handles_signal(process.pid, signal.SIGUSR1)]
        return bool([p for p in able if signal_process(p, signal.SIGUSR1)])

    def work_done(self, task_id: str) -> int:
        """CPU time of the task's processes in ticks: grows while it works on anything."""
        pid = self._running[task_id].process.pid
        return cpu_ticks([pid, *(p.pid for p in descendants([pid])[pid])])

    def close(self) -> None:
        """Kill and reap whatever is left; safe to call twice."""
        for task_id in list(self._running):
            self.kill(task_id)
        for task_id in list(self._running):
            self._collect(task_id)
        self._selector.close()


def _group_command(task: Task, placement: Placement, threads: int) -> list[str]:
    """The worker itself, or torchrun over as many of it as the task has processes."""
    argv = task.argv(device=placement.device, threads=threads)
    if task.resources.processes == 1:
        return argv
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    ranks = f"--nproc_per_node={task.resources.processes}"
    # Behind "--", or torchrun takes our --run for the beginning of its own --run-path.
    return [*torchrun, ranks, "--", *bound_command(0, argv)]


def task_environment(placement: Placement, threads: int) -> dict[str, str]:
    """Variables that place a worker: its threads and the only GPUs that it may see."""
    return {
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, placement.gpu_ids)),
        # nvidia-smi counts by bus; CUDA would count the fastest first.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONUNBUFFERED": "1",
    }


def kernel_oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since boot; 0 where it is mute."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended, without reaping it."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    return os.waitid(os.P_PID, process.pid, options) is not None
