"""The Ray cluster that a launch works on: join it, or start one here; what it has; leave it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import floor
from secrets import token_hex
from types import ModuleType
from urllib.parse import urlsplit

from regatta.config.schema import LaunchSection
from regatta.core.errors import ConfigError, DeviceError, EnvironmentFault, MissingExtraError
from regatta.orchestrate.devices import GIB, Machine, choose_gpus

REACH_SECONDS = 20.0
_SLACK = 1e-9
_QUIET = {
    # Nothing is reported to anybody.
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node's own CUDA_VISIBLE_DEVICES holds where no GPU is asked for; without it Ray warns.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"


@dataclass(frozen=True)
class Node:
    """One machine of the cluster, with all that Ray manages of it."""

    id: str
    address: str
    cpus: float
    gpus: float
    memory_gib: float


@dataclass(frozen=True)
class Cluster:
    """A joined Ray cluster. `leave` is for the end, also of a cluster that was started here."""

    ray: ModuleType
    name: str
    joined_here: bool

    def nodes(self) -> list[Node]:
        """The nodes that are up."""
        return [
            Node(
                node["NodeID"],
                node["NodeManagerAddress"],
                node["Resources"].get("CPU", 0.0),
                node["Resources"].get("GPU", 0.0),
                node["Resources"].get("memory", 0.0) / GIB,
            )
            for node in self.ray.nodes()
            if node["Alive"]
        ]

    def free(self) -> dict[str, float]:
        """What nobody has taken, all nodes together: CPU, GPU, memory in bytes."""
        return self.ray.available_resources()

    def leave(self) -> None:
        if self.joined_here and self.ray.is_initialized():
            self.ray.shutdown()


def join_cluster(machine: Machine, launch: LaunchSection) -> Cluster:
    """Connect to `launch.address`, or start Ray on this machine when there is none.

    Raises:
        MissingExtraError: Ray is not installed. EnvironmentFault: the cluster cannot be reached.
        ConfigError: `device_ids`, which are Ray's to choose. DeviceError: no GPU where one is
        asked for.
    """
    if launch.device_ids is not None:
        raise ConfigError(
            "launch.device_ids does not go with launch.on: ray, which chooses the GPUs itself",
            hint="leave it out; CUDA_VISIBLE_DEVICES limits what `ray start` offers on a node",
        )
    if find_spec("ray") is None:
        raise MissingExtraError(
            "ray is not installed",
            where="launch.on",
            hint="pip install -c constraints.txt 'regatta[ray]', or set launch.on to local",
        )
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if launch.address is None:
        _lock_own_cluster()
    # Looked at before Ray is loaded, which takes longer than to say no.
    gpus = choose_gpus(machine, launch) if launch.address is None else ()
    if launch.address is not None:
        _check_reach(launch.address)
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        return Cluster(ray, "the one that this process is in", joined_here=False)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    with _own_signal_handlers():
        try:
            if launch.address is None:
                # Without "local" a RAY_ADDRESS in the environment would be joined instead.
                own = {"num_cpus": machine.cores, "num_gpus": len(gpus)}
                ray.init(address="local", include_dashboard=False, **own, **quiet)
            else:
                ray.init(address=launch.address, **quiet)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            raise _unreachable(launch.address or "this machine", str(error)) from error
    return Cluster(ray, launch.address or "this machine", joined_here=True)


def _lock_own_cluster() -> None:
    """A cluster of this process alone admits only those that know its token, which is nowhere on
    disk: Ray listens on all interfaces, and whoever may speak to it may run code."""
    # Ray reads these once, when it is loaded.
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = token_hex(32)


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's handlers: Ray puts its own in the place of TERM's, which only exits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _check_reach(address: str) -> None:
    """Find out in a process of its own: where nobody answers Ray waits for two minutes and then
    ends the process that asked."""
    if address != "auto":
        _check_port(address)
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _JOIN, address],
            capture_output=True,
            text=True,
            timeout=REACH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        text = f"no answer within {REACH_SECONDS:.0f} s"
        raise _unreachable(address, text) from error
    if asked.returncode:
        lines = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        raise _unreachable(address, lines[-1])


def _check_port(address: str) -> None:
    url = urlsplit(address if "://" in address else f"//{address}")
    try:
        place = url.hostname, url.port
    except ValueError:
        place = None, None
    if not place[0] or not place[1]:
        raise ConfigError(
            f"'{address}' is no address of a Ray cluster",
            where="launch.address",
            hint="auto, host:port or ray://host:port; null starts Ray here",
        )
    try:
        socket.create_connection((place[0], place[1]), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"the Ray cluster at {address} cannot be reached: {why[:300]}",
        where="launch.address",
        hint="start it with `ray start --head` and give the address that this prints, or set "
        "launch.address=null to start Ray here",
    )


@dataclass(frozen=True)
class Shape:
    """How many tasks of a study stand side by side on the nodes, and what each may have.

    Args:
        on_gpu: whether tasks take GPUs.
        places: most tasks at once.
    """

    nodes: tuple[Node, ...]
    on_gpu: bool
    places: int

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def largest_memory_gib(self) -> float:
        return max(node.memory_gib for node in self.nodes)

    def at_once(self, devices: float) -> int:
        """How many tasks of this size fit side by side."""
        if not self.on_gpu:
            return self.places
        gpus = sum(floor(node.gpus) for node in self.nodes)
        # A share never spans two GPUs.
        fit = floor(1 / devices + _SLACK) * gpus if devices < 1 else gpus // round(devices)
        return max(1, min(self.places, fit))

    def cpus_each(self, processes: int, *, tasks: int) -> float:
        """CPUs of one process when so many tasks of so many processes run, evenly spread."""
        per_node = -(-tasks * processes // len(self.nodes))
        return min(node.cpus for node in self.nodes) / per_node


def shape_of(cluster: Cluster, launch: LaunchSection, *, runs: int) -> Shape:
    """What the cluster offers to a study.

    Args:
        runs: number of runs in the study; on CPUs more places than runs would only waste threads.
    Raises:
        DeviceError: it will never have what one run needs. ConfigError: `devices` is no number of
        devices.
    """
    nodes = cluster.nodes()
    if launch.devices > 1 and launch.devices != int(launch.devices):
        raise ConfigError(
            f"launch.devices is {launch.devices}",
            hint="a whole number, or a share of one device below 1",
        )
    with_gpu = [node for node in nodes if node.gpus >= 1]
    on_gpu = launch.device != "cpu" and bool(with_gpu)
    if launch.device == "cuda" and not on_gpu:
        raise lacking(nodes, "the study asks for a GPU", "--set launch.device=cpu runs without")
    total = sum(floor(node.gpus) for node in with_gpu)
    if on_gpu and launch.devices > total:
        need = f"one run needs {int(launch.devices)} GPUs (launch.devices)"
        raise lacking(nodes, need, "lower launch.devices, or add nodes with `ray start`")
    fixed = launch.memory_gib_per_run
    used = tuple(with_gpu if on_gpu else [node for node in nodes if node.cpus > 0])
    if not used:
        raise lacking(nodes, "a run needs a CPU", "add nodes with `ray start`")
    shape = Shape(used, on_gpu, sys.maxsize)
    processes = max(1, round(launch.devices))
    if fixed and fixed / processes > shape.largest_memory_gib:
        need = f"one process needs {fixed / processes:g} GiB of memory (launch.memory_gib_per_run)"
        raise lacking(nodes, need, "lower it, or start the nodes with a larger `--memory`")
    if on_gpu:
        return Shape(used, on_gpu, launch.max_parallel or shape.at_once(launch.devices))
    fitting = max(1, floor(shape.cpus) // processes)
    return Shape(used, on_gpu, min(launch.max_parallel or fitting, max(1, runs)))


def lacking(nodes: list[Node], need: str, hint: str) -> DeviceError:
    """The error for what no node, nor all together, can give."""
    text = "; ".join(
        f"{n.address}: {n.cpus:g} CPUs, {n.gpus:g} GPUs, {n.memory_gib:.1f} GiB" for n in nodes
    )
    return DeviceError(
        f"{need}, but the Ray cluster does not have it", where=text or "no node is up", hint=hint
    )
