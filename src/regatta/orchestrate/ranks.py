"""`regatta train` under torchrun: the first rank supervises, the others start what it orders.

Each rank trains in a worker process of its own. So a run that fails harms no other, every run and
every restart meets at a fresh port, and no launcher ever starts torchrun inside torchrun. Orders
are lines of JSON over a Unix socket; a rank that is gone closes it, so nobody waits for the dead.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from regatta.config.schema import LaunchSection
from regatta.core.errors import ConfigError, EnvironmentFault, RegattaError
from regatta.core.signals import StopFlag
from regatta.orchestrate.devices import Machine, Placement
from regatta.orchestrate.local import (
    Ended,
    LocalLauncher,
    Refusal,
    start_bound,
    task_environment,
)
from regatta.orchestrate.plan import Task
from regatta.orchestrate.processes import descendants, signal_group, signal_process

MEETING_SECONDS = 60.0
"""Time for all ranks to come to the first one."""
PARTING_SECONDS = 10.0
"""Once one rank's worker has ended the others have this long: they cannot go on without it."""
_POLL_SECONDS = 0.1
_LOST = -signal.SIGKILL


@dataclass(frozen=True)
class Torchrun:
    """This process among those that torchrun started on this machine."""

    rank: int
    world: int
    address: Path
    """Socket of the first rank."""


def under_torchrun() -> Torchrun | None:
    """Our place in torchrun's group, or None when torchrun did not start this process.

    Raises:
        ConfigError: the group spans several machines.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if world != here:
        raise ConfigError(
            f"torchrun started {world} processes on several machines",
            hint="start it on one machine: torchrun --standalone --nproc_per_node=N",
        )
    # No two living groups of one machine share a port; a restart of one must not meet the old one.
    group = f"{os.environ['MASTER_PORT']}-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    address = Path(tempfile.gettempdir()) / f"regatta-{os.getuid()}-{group}.sock"
    return Torchrun(int(os.environ["RANK"]), world, address)


class _Link:
    """One end of a connection that carries JSON objects, one per line."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket, self._rest = connected, b""

    def send(self, **message: Any) -> None:
        """Send it; whoever is gone is noticed by `receive`."""
        with suppress(OSError):
            self._socket.settimeout(MEETING_SECONDS)
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> list[dict[str, Any]]:
        """Messages that are there or come within the time; EOFError when the other is gone."""
        self._socket.settimeout(max(seconds, 0.001))
        try:
            read = self._socket.recv(1 << 16)
        except TimeoutError:
            return []
        except OSError as error:
            raise EOFError from error
        if not read:
            raise EOFError
        *lines, self._rest = (self._rest + read).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self._socket.close()


class Crew:
    """The other ranks as the first one sees them. Leaving the block lets them go."""

    def __init__(self, place: Torchrun, stop: StopFlag) -> None:
        self._place, self._stop = place, stop
        self._links: dict[int, _Link] = {}
        self._parent = os.getppid()
        self.ends: dict[int, int] = {}
        """Rank -> exit code of its worker, for the training under way."""

    @property
    def world(self) -> int:
        return self._place.world

    def __enter__(self) -> Crew:
        """Wait for all ranks.

        Raises:
            EnvironmentFault: not all came in time, or the socket cannot be made.
        """
        address = self._place.address
        try:
            address.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(address))
                listener.listen(self.world)
                listener.settimeout(_POLL_SECONDS)
                self._accept(listener)
        except OSError as error:
            raise EnvironmentFault(f"the ranks cannot meet: {error}", where=address) from error
        finally:
            with suppress(OSError):
                address.unlink(missing_ok=True)
        return self

    def _accept(self, listener: socket.socket) -> None:
        deadline = time.monotonic() + MEETING_SECONDS
        while len(self._links) < self.world - 1 and not self._stop.requested:
            if time.monotonic() > deadline:
                came = len(self._links) + 1
                raise EnvironmentFault(f"{came} of {self.world} processes of torchrun came")
            with suppress(TimeoutError, EOFError):
                link = _Link(listener.accept()[0])
                for hello in link.receive(MEETING_SECONDS):
                    self._links[int(hello["rank"])] = link

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is not None:
            self.dismiss(error.exit_code if isinstance(error, RegattaError) else 1)
        for link in self._links.values():
            link.close()

    def dismiss(self, code: int) -> None:
        """Let the other ranks leave with this exit code."""
        self.order(leave=code)

    def order(self, **message: Any) -> None:
        for link in self._links.values():
            link.send(**message)

    def listen(self) -> None:
        """Take in what the ranks say; a lost one, or a lost torchrun, is a request to stop."""
        if os.getppid() != self._parent and not self._stop.requested:
            self._stop.request("SIGTERM")
        for rank, link in list(self._links.items()):
            try:
                messages = link.receive(0)
            except EOFError:
                self._links.pop(rank).close()
                self.ends.setdefault(rank, _LOST)
                messages = [{"stop": "SIGTERM"}]
            for message in messages:
                if "ended" in message:
                    self.ends.setdefault(rank, int(message["ended"]))
                elif not self._stop.requested:
                    self._stop.request(str(message["stop"]))


@dataclass
class _Group:
    """The workers of one training. `ends`: rank -> exit code, in the order in which they ended."""

    task_id: str
    own: Ended | None = None
    ends: dict[int, int] = field(default_factory=dict)
    kill_at: float = float("inf")


class RankLauncher(LocalLauncher):
    """Starts a training in every rank of torchrun, one at a time; other tasks in the first."""

    def __init__(self, machine: Machine, launch: LaunchSection, *, runs: int, crew: Crew) -> None:
        super().__init__(machine, launch, runs=runs)
        self._crew = crew
        self._group: _Group | None = None

    def describe(self) -> str:
        return f"torchrun, {self._crew.world} processes, {super().describe()}"

    def refusal(self, task: Task, *, alone: bool) -> Refusal | None:
        """As for one process; the first rank's worker may be gone before those of the others."""
        if task.kind == "train" and self._group is not None:
            return Refusal("other ranks are still at the training before")
        return super().refusal(task, alone=alone)

    def _spawn(self, task: Task, placement: Placement, threads: int) -> subprocess.Popen[bytes]:
        if task.kind != "train":
            return super()._spawn(task, placement, threads)
        argv = task.argv(device=placement.device, threads=threads)
        env = {**task_environment(placement, threads), **task.env, **_meeting_point()}
        own = start_bound(argv, log=task.log, env=env)
        self._crew.ends.clear()
        self._group = _Group(task.id)
        self._crew.order(start=argv, env=env, log=str(task.log))
        return own

    def wait(self, seconds: float) -> list[Ended]:
        """As for one process; a training has ended when every rank's worker has."""
        ended = super().wait(seconds)
        self._crew.listen()
        if self._group is None:
            return ended
        others = [end for end in ended if end.task_id != self._group.task_id]
        self._group.own = next((e for e in ended if e not in others), self._group.own)
        whole = self._whole(self._group)
        if whole:
            self._group = None
        return [*others, *([whole] if whole else [])]

    def _whole(self, group: _Group) -> Ended | None:
        """The end of the group, once all its workers are gone; stragglers are killed."""
        ends = {**self._crew.ends, **({0: group.own.exit_code} if group.own else {})}
        if ends and group.kill_at == float("inf"):
            group.kill_at = time.monotonic() + PARTING_SECONDS
        if time.monotonic() < group.kill_at:
            # What ends after that was killed here, which explains nothing.
            group.ends |= {rank: code for rank, code in ends.items() if rank not in group.ends}
        elif len(ends) < self._crew.world:
            self.kill(group.task_id)
        if group.own is None or len(ends) < self._crew.world:
            return None
        bad = [code for code in group.ends.values() if code]
        # A rank whose neighbour is gone ends with 1: any other code says more.
        telling = [code for code in bad if code != 1] or bad
        return replace(group.own, exit_code=telling[0]) if telling else group.own

    def terminate(self, task_id: str) -> None:
        super().terminate(task_id)
        self._order(task_id, "terminate")

    def kill(self, task_id: str) -> None:
        super().kill(task_id)
        self._order(task_id, "kill")

    def dump_stacks(self, task_id: str) -> bool:
        self._order(task_id, "dump")
        return super().dump_stacks(task_id)

    def _order(self, task_id: str, word: str) -> None:
        if self._group and self._group.task_id == task_id:
            self._crew.order(**{word: True})

    def close(self) -> None:
        if self._group:
            self._order(self._group.task_id, "kill")
        super().close()


def _meeting_point() -> dict[str, str]:
    """Variables that let the workers of one start find each other, apart from all other starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # torchrun's own store still holds the addresses of the run before.
    store = {"TORCHELASTIC_USE_AGENT_STORE": "False"}
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **store}


def follow_first(place: Torchrun, stop: StopFlag) -> int:
    """Do what the first rank orders until it lets go; returns the exit code that it gives."""
    parent = os.getppid()
    link = _meet(place, stop, parent)
    if link is None:
        return stop.exit_code if stop.requested else 1
    child: subprocess.Popen[bytes] | None = None
    told = False
    try:
        while True:
            for message in link.receive(_POLL_SECONDS):
                if "leave" in message:
                    return message["leave"]
                child = _obey(message, child)
            if child is not None and child.poll() is not None:
                link.send(ended=child.returncode)
                child = None
            if os.getppid() != parent and not stop.requested:
                # torchrun is gone: leave as after its signal, with everything saved.
                stop.request("SIGTERM")
            if stop.requested and not told:
                told = True
                link.send(stop=stop.signal_name)
    except EOFError:
        pass
    finally:
        if child is not None:
            _kill(child)
        link.close()
    return stop.exit_code if stop.requested else 1


def _meet(place: Torchrun, stop: StopFlag, parent: int) -> _Link | None:
    """The connection to the first rank, or None when it did not come or we should leave."""
    deadline = time.monotonic() + MEETING_SECONDS
    while time.monotonic() < deadline and not stop.requested and os.getppid() == parent:
        connecting = socket.socket(socket.AF_UNIX)
        try:
            connecting.connect(str(place.address))
            # In a folder for all users anybody could listen at this name.
            if place.address.stat().st_uid != os.getuid():
                raise PermissionError
        except OSError:
            connecting.close()
            time.sleep(_POLL_SECONDS / 2)
            continue
        link = _Link(connecting)
        link.send(rank=place.rank)
        return link
    return None


def _obey(
    message: dict[str, Any], child: subprocess.Popen[bytes] | None
) -> subprocess.Popen[bytes] | None:
    if "start" in message:
        return start_bound(message["start"], log=Path(message["log"]), env=message["env"])
    if child is None or child.poll() is not None:
        return child
    if "terminate" in message:
        child.terminate()
    elif "kill" in message:
        _kill(child)
    elif "dump" in message:
        child.send_signal(signal.SIGUSR1)
    return child


def _kill(child: subprocess.Popen[bytes]) -> None:
    below = descendants([child.pid])[child.pid]
    signal_group(child.pid, signal.SIGKILL)
    for process in below:
        signal_process(process, signal.SIGKILL)
    child.wait()
