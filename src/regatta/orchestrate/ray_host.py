"""What the Ray launcher runs on a node: an actor per process of a task, its child the worker.

An actor, not a Ray task: it can be asked to have the worker save and leave. The worker is the same
program as everywhere, so Ray only chooses the place.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from regatta.config.schema import LaunchSection
from regatta.core.errors import EnvironmentFault, RegattaError
from regatta.orchestrate.bound_process import start_bound
from regatta.orchestrate.devices import Machine, Placement, host_memory
from regatta.orchestrate.local import Ended, LocalLauncher, task_environment
from regatta.orchestrate.plan import Task
from regatta.records.run_folder import StudyFolder
from regatta.records.status import ProcessId

LOOK_SECONDS = 5.0
"""A shared disk may show what another machine has just written a little later."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Seat:
    """Where Ray has put an actor, and the GPUs that it gave it, as CUDA_VISIBLE_DEVICES names them.

    `port` was free when asked; the first rank's one is where the ranks meet.
    """

    node: str
    address: str
    gpu_ids: tuple[str, ...]
    port: int


@dataclass(frozen=True)
class Order:
    """One worker to start. `environment` is the supervisor's: the node takes what it lacks."""

    task: Task
    device: str
    threads: int
    variables: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


class Host:
    """The actor: starts a worker, watches it, and passes on what the supervisor wants of it.

    One after the other it may have several: starting an actor takes longer than a worker.

    Ray calls its methods from several threads, because `ended` waits for as long as the worker
    lives.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keeper: threading.Thread | None = None
        self._launcher: _OneWorker | None = None
        self._identity: ProcessId | None = None
        self._ended: Ended | None = None
        self._error: RegattaError | None = None

    def look(self, folder: Path, lease: bytes | None, program: str) -> Seat:
        """Check that a worker could work here; where we are.

        Args:
            folder: must be seen from here.
            lease: content of the lease that the supervisor holds in it, None when it holds none.
            program: what a worker's command line begins with.
        Raises:
            EnvironmentFault: the node has not the same folder, or not the program.
        """
        import ray

        context = ray.get_runtime_context()
        address = ray.util.get_node_ip_address()
        if not _sees(folder, lease):
            raise EnvironmentFault(
                f"node {address} of the Ray cluster does not see the study folder",
                where=folder,
                hint="put it on a disk that all nodes share (--runs), at the same path on each",
            )
        if shutil.which(program) is None:
            raise EnvironmentFault(
                f"node {address} of the Ray cluster has no {program}",
                where=program,
                hint="install the same Python environment at the same path on every node",
            )
        gpu_ids = tuple(map(str, context.get_accelerator_ids().get("GPU", ())))
        return Seat(context.get_node_id(), address, gpu_ids, _free_port())

    def start(self, order: Order) -> ProcessId:
        """Start the worker; raises like `LocalLauncher.start`."""
        self._launcher = self._identity = self._ended = self._error = None
        # The kernel ends a bound child with the thread that started it: that thread stays with it.
        self._keeper = threading.Thread(target=self._keep, args=(order,), daemon=True)
        self._keeper.start()
        while self._identity is None and self._keeper.is_alive():
            time.sleep(0.01)
        if self._error:
            raise self._error
        if self._identity is None:
            raise EnvironmentFault("the worker could not be started", where=order.task.title)
        return self._identity

    def _keep(self, order: Order) -> None:
        launcher = _OneWorker(order)
        try:
            with self._lock:
                self._identity = launcher.start(order.task, threads=order.threads)
                self._launcher = launcher
            self._ended = self._watch(launcher)
        except RegattaError as error:
            self._error = error
        finally:
            launcher.close()

    def _watch(self, launcher: _OneWorker) -> Ended:
        while True:
            with self._lock:
                ended = launcher.wait(0)
            if ended:
                return ended[0]
            time.sleep(_POLL_SECONDS)

    def ended(self) -> Ended:
        """Wait for the worker's end and say how it was."""
        if self._keeper:
            self._keeper.join()
        if self._ended is None:
            raise EnvironmentFault("the worker was not watched to its end")
        return self._ended

    def terminate(self, task_id: str) -> None:
        with self._lock:
            if self._launcher:
                self._launcher.terminate(task_id)

    def kill(self, task_id: str) -> None:
        with self._lock:
            if self._launcher:
                self._launcher.kill(task_id)

    def dump_stacks(self, task_id: str) -> bool:
        with self._lock:
            working = self._working
            return bool(working and working.dump_stacks(task_id))

    def work_done(self, task_id: str) -> int:
        with self._lock:
            working = self._working
            return working.work_done(task_id) if working else 0

    @property
    def _working(self) -> _OneWorker | None:
        return self._launcher if self._launcher and self._launcher.works else None


class _OneWorker(LocalLauncher):
    """Starts and measures the one worker of an order on devices that Ray has chosen."""

    def __init__(self, order: Order) -> None:
        here = Machine(order.threads, host_memory())
        super().__init__(here, LaunchSection(device="cpu"), runs=1)
        self._order = order

    @property
    def works(self) -> bool:
        return bool(self._running)

    def _spawn(self, task: Task, placement: Placement, threads: int) -> subprocess.Popen[bytes]:
        order = self._order
        lacking = {k: v for k, v in order.environment.items() if k not in os.environ}
        place = task_environment(placement, threads)
        env = {**lacking, **place, **order.variables, **task.env}
        return start_bound(task.argv(device=order.device, threads=threads), log=task.log, env=env)


_PASSED_ON = (
    "PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHON", "LANG", "LC_", "TZ",
    "REGATTA_", "HF_HOME", "HF_HUB_", "TRANSFORMERS_", "XDG_CACHE_HOME", "TORCH", "CUDA_",
    "CUBLAS_", "NVIDIA_", "NCCL_", "GLOO_", "OMP_", "MKL_", "OPENBLAS_", "MALLOC_", "KMP_",
)  # fmt: skip
"""Beginnings of names of variables that a worker elsewhere may need. Ray carries them in clear
text: keys and tokens are not among them, they are set on the nodes."""
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL")


def passed_on_variables() -> dict[str, str]:
    """This process's variables for workers on other nodes, without anything secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) and not any(word in name.upper() for word in _SECRET)
    }


def rank_variables(seats: list[Seat]) -> list[dict[str, str]]:
    """What tells each process of a task its place: its GPUs, and its rank when there are several.

    Ranks of one node see the GPUs of all of them, as under torchrun: the local rank chooses.
    """
    nodes = [seat.node for seat in seats]
    gpus = {n: ",".join(g for s in seats if s.node == n for g in s.gpu_ids) for n in nodes}
    shown = [{"CUDA_VISIBLE_DEVICES": gpus[node]} for node in nodes]
    if len(seats) == 1:
        return shown
    meet = "127.0.0.1" if len(set(nodes)) == 1 else seats[0].address
    return [
        {
            **shown[rank],
            "RANK": str(rank),
            "WORLD_SIZE": str(len(seats)),
            "LOCAL_RANK": str(nodes[:rank].count(node)),
            "LOCAL_WORLD_SIZE": str(nodes.count(node)),
            "MASTER_ADDR": meet,
            "MASTER_PORT": str(seats[0].port),
            # There is no torchrun whose store could be asked.
            "TORCHELASTIC_USE_AGENT_STORE": "False",
        }
        for rank, node in enumerate(nodes)
    ]


def for_rank(task: Task, seats: list[Seat], rank: int) -> Task:
    """The task of one rank: two machines that append to one file would overwrite each other."""
    if seats[rank].node == seats[0].node:
        return task
    return replace(task, log=task.log.with_name(f"{task.log.stem}-rank{rank}{task.log.suffix}"))


def _sees(folder: Path, lease: bytes | None) -> bool:
    """Whether the folder is here, and is the supervisor's own: a namesake holds another lease."""
    deadline = time.monotonic() + LOOK_SECONDS
    while True:
        if folder.is_dir() and (lease is None or lease_content(folder) == lease):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)


def lease_content(folder: Path) -> bytes | None:
    """The lease in a study's folder as it stands there; None when there is none."""
    try:
        return StudyFolder(folder).lease.read_bytes()
    except OSError:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
