"""The launcher of a Ray cluster: Ray chooses the places, the workers are those of every launcher.

A task takes a placement group with one bundle per process before it starts, so no run is called
starting while it still waits inside Ray. In each bundle an actor (`ray_host.Host`) has the worker
as its child. The worker ends with its actor, and Ray ends the actors with this process.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import ceil, floor
from pathlib import Path
from typing import Any

from regatta.config.schema import LaunchSection
from regatta.core.errors import EnvironmentFault, RegattaError
from regatta.orchestrate.devices import GIB, Machine
from regatta.orchestrate.local import Ended, Refusal
from regatta.orchestrate.plan import Task
from regatta.orchestrate.ray_cluster import join_cluster, lacking, shape_of
from regatta.orchestrate.ray_host import (
    Order,
    Seat,
    for_rank,
    lease_content,
    passed_on_variables,
    rank_variables,
)
from regatta.orchestrate.ray_places import Place, Places
from regatta.orchestrate.run_states import SUPERVISED_VARIABLE
from regatta.records.status import ProcessId, this_process

SEAT_SECONDS = 120.0
"""Time for Ray to bring up the actors of a task, on a node that may be busy."""
IDLE_SECONDS = 1.0
"""A place that has become free waits so long for another task of its kind, then goes back."""
ANSWER_SECONDS = 5.0
PARTING_SECONDS = 10.0
"""Once one rank's worker has ended the others have this long: they cannot go on without it."""
_LOST = -signal.SIGKILL
_CPU_GRAIN = 1000


@dataclass
class _Running:
    """One task. `waiting` holds the reference to the end of each rank that is at work."""

    task: Task
    place: Place
    waiting: dict[Any, int] = field(default_factory=dict)
    ends: dict[int, Ended] = field(default_factory=dict)
    telling: dict[int, Ended] = field(default_factory=dict)
    """The ends that explain something: those before the stragglers were killed."""
    kill_at: float = float("inf")
    killed_at: float = float("inf")
    work: int = 0
    is_lost: bool = False
    """Whether an actor of it is gone, so that its place is of no use to another task."""


class RayLauncher:
    """Runs tasks where Ray has room for them, from one thread."""

    def __init__(self, machine: Machine, launch: LaunchSection, *, runs: int) -> None:
        """Join the cluster; raises like `join_cluster` and `shape_of`."""
        self._cluster = join_cluster(machine, launch)
        self._ray = self._cluster.ray
        try:
            self._shape = shape_of(self._cluster, launch, runs=runs)
        except BaseException:
            self._cluster.leave()
            raise
        self._launch, self._runs = launch, max(1, runs)
        self._running: dict[str, _Running] = {}
        self._places = Places(self._ray)
        self._peaks: dict[str, float] = {}

    def describe(self) -> str:
        """One line for the user: where tasks run."""
        nodes, gpus = len(self._shape.nodes), sum(node.gpus for node in self._shape.nodes)
        has = f"{gpus:g} GPUs" if self._shape.on_gpu else f"{self._shape.cpus:g} CPUs"
        count = f"{nodes} node" if nodes == 1 else f"{nodes} nodes"
        return f"Ray at {self._cluster.name}, {count}, {has}, at most {self._shape.places} at once"

    def threads_for(self, task: Task) -> int:
        """CPU threads of each process: its share of a node when all places are taken."""
        if task.kind == "prepare":
            return max(1, floor(max(node.cpus for node in self._shape.nodes)))
        return self._launch.threads_per_run or max(1, floor(self._cpus_each(task)))

    def _cpus_each(self, task: Task) -> float:
        beside = self._shape.at_once(task.resources.devices)
        if task.kind == "train":
            beside = min(beside, self._runs)
        return self._shape.cpus_each(task.resources.processes, tasks=beside)

    def judge_shards(self, devices: float) -> int:
        places = self._shape.at_once(devices)
        return places if self._shape.on_gpu else min(places, max(1, floor(self._shape.cpus)))

    def refusal(self, task: Task, *, alone: bool) -> Refusal | None:
        """Why the task cannot start now. None when it can: then its place is reserved.

        Raises:
            DeviceError: no node will ever have what it needs.
        """
        if self._running and alone:
            return Refusal("it runs alone")
        if len(self._running) >= self._shape.places:
            return Refusal("all places are taken")
        bundles = self._bundles(task)
        if self._places.take_idle(task.id, bundles):
            return None
        free, need = Counter(self._cluster.free()), Counter[str]()
        for bundle in bundles:
            need.update(bundle)
        short = [name for name in need if need[name] > free[name] + 1 / _CPU_GRAIN]
        if short and self._places.empty_idle():
            return Refusal("a place of another kind is being given back")
        if short == ["memory"]:
            text = f"needs {need['memory'] / GIB:.1f} GiB of memory, "
            return Refusal(f"{text}{free['memory'] / GIB:.1f} GiB are free", is_memory=True)
        if short:
            return Refusal("all devices of the Ray cluster are taken")
        if not self._places.reserve(task.id, bundles):
            return Refusal("no node of the Ray cluster has room")
        return None

    def _bundles(self, task: Task) -> list[dict[str, float]]:
        """What Ray has to find for a task, one bundle per process, each within one node."""
        asked = task.resources
        each = asked.devices if asked.one_process else min(1.0, asked.devices)
        most = max(node.gpus for node in self._shape.nodes)
        if self._shape.on_gpu and each > most:
            need = f"{task.title} needs {each:g} GPUs in one node"
            hint = "use train.parallel=ddp, which spans nodes, or lower launch.devices"
            raise lacking(list(self._shape.nodes), need, hint)
        cpus = min(self.threads_for(task), self._cpus_each(task))
        # More than a node has is a guess that was too high, or it would wait for ever.
        memory = min(self._expected_gib(task) / asked.processes, self._shape.largest_memory_gib)
        bundle = {"CPU": floor(cpus * _CPU_GRAIN) / _CPU_GRAIN, "memory": float(ceil(memory * GIB))}
        if self._shape.on_gpu:
            bundle["GPU"] = floor(each * 10_000) / 10_000
        return [dict(bundle) for _ in range(asked.processes)]

    def _expected_gib(self, task: Task) -> float:
        if task.resources.memory_is_fixed:
            return task.resources.memory_gib
        return self._peaks.get(task.resources.memory_key, task.resources.memory_gib)

    def start(self, task: Task, *, threads: int) -> ProcessId:
        """Start the task's worker, or its ranks, in the place that is reserved for it.

        A node or actor that is lost meanwhile is reported by `wait`, as any later.

        Raises:
            DiskError: the log cannot be written. EnvironmentFault: a node lacks the study folder
            or the program, or no place is free.
        """
        place = self._places.take(task.id)
        if place is None and self._places.reserve(task.id, self._bundles(task)):
            place = self._places.take(task.id)
        if place is None:
            raise EnvironmentFault(f"no place is free in the Ray cluster for {task.title}")
        running = self._running[task.id] = _Running(task, place)
        try:
            identities = self._seat(task, self._places.hosts_of(place), threads)
        except self._ray.exceptions.RayTaskError as error:
            self._let_go(task.id)
            raise _meant(error) from error
        except self._ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False) or "ModuleNotFound" in str(error):
                self._let_go(task.id)
                raise _not_installed(error) from error
            lost = self._lost(running, error)
            running.ends = running.telling = dict.fromkeys(range(len(place.hosts)), lost)
            return this_process()
        running.waiting = {host.ended.remote(): rank for rank, host in enumerate(place.hosts)}
        return identities[0]

    def _seat(self, task: Task, hosts: list[Any], threads: int) -> list[ProcessId]:
        ray = self._ray
        folder = Path(task.env.get(SUPERVISED_VARIABLE, task.log.parent)).resolve()
        lease = lease_content(folder)
        looks = [host.look.remote(folder, lease, task.command[0]) for host in hosts]
        seats: list[Seat] = ray.get(looks, timeout=SEAT_SECONDS)
        device = "cuda:0" if self._shape.on_gpu else "cpu"
        orders = [
            Order(for_rank(task, seats, rank), device, threads, variables, passed_on_variables())
            for rank, variables in enumerate(rank_variables(seats))
        ]
        pairs = zip(hosts, orders, strict=True)
        return ray.get([host.start.remote(order) for host, order in pairs], timeout=SEAT_SECONDS)

    def reported(self, task_id: str) -> None:
        """Starts are not staggered: each waits until its actor is up."""

    def wait(self, seconds: float) -> list[Ended]:
        """Wait until a task ends or the time is over; all that have ended."""
        refs = [ref for running in self._running.values() for ref in running.waiting]
        over = any(not running.waiting for running in self._running.values())
        if refs and not over:
            self._ray.wait(refs, num_returns=1, timeout=seconds)
        elif not over:
            time.sleep(seconds)
        if refs:
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
            for running in self._running.values():
                self._take_in(running, set(ready))
        self._places.empty_idle(seconds=IDLE_SECONDS)
        gone = [i for i, r in self._running.items() if len(r.ends) == len(r.place.hosts)]
        return [self._collect(task_id) for task_id in gone]

    def _take_in(self, running: _Running, ready: set[Any]) -> None:
        """Note the ends of ranks; kill those that are left once the others had time to leave."""
        now = time.monotonic()
        for ref in [ref for ref in running.waiting if ref in ready]:
            rank = running.waiting.pop(ref)
            running.ends[rank] = self._end_of(running, ref)
            if now < running.kill_at:
                running.telling[rank] = running.ends[rank]
        if running.ends and running.kill_at == float("inf"):
            running.kill_at = now + PARTING_SECONDS
        if running.waiting and now >= running.kill_at:
            self.kill(running.task.id)

    def _end_of(self, running: _Running, ref: Any) -> Ended:
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return self._lost(running, error)

    def _lost(self, running: _Running, error: Exception) -> Ended:
        """The end of a worker whose actor or node is gone, or never came."""
        running.is_lost = True
        text = " ".join(str(error).split())
        # Ray's own guard against a full host: it ends actors before the kernel does.
        full = isinstance(error, self._ray.exceptions.OutOfMemoryError) or "low on memory" in text
        words = f"its Ray actor or node was lost: {text[:300]}"
        return Ended(running.task.id, _LOST, 0.0, int(full), False, words)

    def _collect(self, task_id: str) -> Ended:
        running = self._running[task_id]
        if running.is_lost:
            self._let_go(task_id)
        else:
            self._places.keep_idle(self._running.pop(task_id).place)
        whole = whole_end(running.ends, running.telling)
        key = running.task.resources.memory_key
        if whole.exit_code == 0 and whole.peak_gib:
            self._peaks[key] = max(self._peaks.get(key, 0.0), whole.peak_gib)
        return whole

    def _let_go(self, task_id: str) -> None:
        self._places.give_back(self._running.pop(task_id).place)

    def terminate(self, task_id: str) -> None:
        """Ask the task to save and leave."""
        self._tell(task_id, lambda host: host.terminate.remote(task_id))

    def kill(self, task_id: str) -> None:
        """End the task's whole tree now; `wait` reports it. Asked again, its actors go too."""
        if task_id not in self._running:
            return
        running = self._running[task_id]
        if running.killed_at == float("inf"):
            running.killed_at = time.monotonic()
            self._tell(task_id, lambda host: host.kill.remote(task_id))
        elif time.monotonic() > running.killed_at + ANSWER_SECONDS:
            self._tell(task_id, lambda host: self._ray.kill(host, no_restart=True))

    def _tell(self, task_id: str, word: Callable[[Any], object]) -> None:
        running = self._running.get(task_id)
        if running:
            for rank in running.waiting.values():
                word(running.place.hosts[rank])

    def dump_stacks(self, task_id: str) -> bool:
        """Have every process of the task that can write its stacks do so; False when none can."""
        running = self._running[task_id]
        asked = [
            running.place.hosts[r].dump_stacks.remote(task_id) for r in running.waiting.values()
        ]
        return any(self._answers(asked) or [])

    def work_done(self, task_id: str) -> int:
        """CPU time of the task's processes in ticks; as before where a node gives no answer."""
        running = self._running[task_id]
        asked = [running.place.hosts[r].work_done.remote(task_id) for r in running.waiting.values()]
        answers = self._answers(asked)
        running.work = running.work if answers is None else sum(answers)
        return running.work

    def _answers(self, asked: list[Any]) -> list[Any] | None:
        try:
            return self._ray.get(asked, timeout=ANSWER_SECONDS)
        except self._ray.exceptions.RayError:
            return None

    def close(self) -> None:
        """Kill whatever is left and leave the cluster; safe to call twice."""
        for task_id in self._running:
            self.kill(task_id)
        deadline = time.monotonic() + ANSWER_SECONDS
        while self._running and time.monotonic() < deadline:
            self.wait(0.1)
        for task_id in list(self._running):
            self._let_go(task_id)
        self._places.give_back_all()
        self._cluster.leave()


def whole_end(ends: dict[int, Ended], telling: dict[int, Ended]) -> Ended:
    """One end for all ranks of a task.

    Args:
        ends: rank -> end, in the order in which they came.
        telling: those of them that were not killed here, which would explain nothing.
    """
    bad = [end for end in telling.values() if end.exit_code]
    # A rank whose neighbour is gone ends with 1: any other code says more.
    first = next((end for end in bad if end.exit_code != 1), bad[0] if bad else ends[min(ends)])
    return replace(
        first,
        peak_gib=round(sum(end.peak_gib for end in ends.values()), 3),
        oom_kills=max(end.oom_kills for end in ends.values()),
        memory_was_low=any(end.memory_was_low for end in ends.values()),
    )


def _meant(error: Any) -> RegattaError:
    """The error that an actor raised, as it would have been raised here."""
    if isinstance(error.cause, RegattaError):
        return error.cause
    return EnvironmentFault(
        f"a worker could not be started through Ray: {error.cause}",
        hint="see the logs of Ray on that node (/tmp/ray/session_latest/logs)",
    )


def _not_installed(error: Exception) -> EnvironmentFault:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return EnvironmentFault(
        f"a node of the Ray cluster cannot load Regatta: {lines[-1] if lines else error}",
        hint="install the same Python environment at the same path on every node",
    )
