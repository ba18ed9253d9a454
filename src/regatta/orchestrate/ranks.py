"""Processes that torchrun, or a Slurm step, started together: the first supervises, others obey.

Each rank trains in a worker process of its own. So a run that fails harms no other, every run and
every restart meets at a fresh port, and no launcher ever starts torchrun inside torchrun. A rank
that is gone, or whose machine is, is lost to the first one, so nobody waits for the dead.

    place = under_torchrun(runs) or slurm_place(runs)
    if place and place.rank:
        return follow_first(place, stop)
    with Crew(place, stop) as crew:
        ... RankLauncher(machine, launch, runs=n, crew=crew) ...
        crew.dismiss(exit_code)
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from regatta.config.schema import LaunchSection
from regatta.core.errors import EnvironmentFault, RecordError
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
from regatta.orchestrate.rank_crew import LOOPBACK, NOT_SHARED, Crew
from regatta.orchestrate.rank_links import Link, free_port, knock, knock_here
from regatta.orchestrate.rank_places import Place

PARTING_SECONDS = 10.0
"""Once one rank's worker has ended the others have this long: they cannot go on without it."""
_POLL_SECONDS = 0.1


@dataclass
class _Group:
    """The workers of one training. `ends`: rank -> exit code, in the order in which they ended."""

    task_id: str
    own: Ended | None = None
    ends: dict[int, int] = field(default_factory=dict)
    kill_at: float = float("inf")


class RankLauncher(LocalLauncher):
    """Starts a training in every rank of the group, one at a time; other tasks in the first."""

    def __init__(self, machine: Machine, launch: LaunchSection, *, runs: int, crew: Crew) -> None:
        super().__init__(machine, launch, runs=runs)
        self._crew = crew
        self._names_gpus = launch.device_ids is not None
        self._group: _Group | None = None

    def describe(self) -> str:
        return f"{self._crew.describe()}, {super().describe()}"

    def refusal(self, task: Task, *, alone: bool) -> Refusal | None:
        """As for one process; the first rank's worker may be gone before those of the others."""
        if task.kind == "train" and self._group is not None:
            return Refusal("other ranks are still at the training before")
        return super().refusal(task, alone=alone)

    def _spawn(self, task: Task, placement: Placement, threads: int) -> subprocess.Popen[bytes]:
        if task.kind != "train":
            return super()._spawn(task, placement, threads)
        argv = task.argv(device=placement.device, threads=threads)
        places = task_environment(placement, threads)
        shared = {**task.env, **self._meeting_point()}
        env = {**places, **shared, **self._crew.environment}
        own = start_bound(argv, log=task.log, env=env)
        self._crew.ends.clear()
        self._group = _Group(task.id)
        self._crew.order_start(argv, {**places, **shared}, log=task.log)
        if placement.gpu_ids and not self._names_gpus:
            # Numbers of this machine's free GPUs say nothing of those that another one gave us.
            places.pop("CUDA_VISIBLE_DEVICES")
        self._crew.order_start_elsewhere(argv, {**places, **shared}, log=task.log)
        return own

    def _meeting_point(self) -> dict[str, str]:
        """Variables that let the workers of one start find each other, apart from other starts."""
        port = free_port("" if self._crew.spans_machines else LOOPBACK)
        # torchrun's own store still holds the addresses of the run before.
        store = {"TORCHELASTIC_USE_AGENT_STORE": "False"}
        return {"MASTER_ADDR": self._crew.address, "MASTER_PORT": str(port), **store}

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


def follow_first(place: Place, stop: StopFlag) -> int:
    """Do what the first rank orders until it lets go; returns the exit code that it gives.

    Raises:
        EnvironmentFault: the first rank was not found (told by one rank of each other machine).
    """
    return _Follower(place, stop).follow()


class _Follower:
    """A rank that is not the first: it starts and ends a worker as it is told."""

    def __init__(self, place: Place, stop: StopFlag) -> None:
        self._place, self._stop = place, stop
        self._parent = os.getppid()
        self._deadline = time.monotonic() + place.meeting_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._met = False
        """Whether the first rank has all ranks; before that it may turn out to be a stale one."""

    def follow(self) -> int:
        while not self._met:
            link = self._find_first()
            if link is None:
                break
            try:
                return self._serve(link)
            except EOFError:
                time.sleep(_POLL_SECONDS)
            finally:
                if self._child is not None:
                    _kill(self._child)
                link.close()
        return self._stop.exit_code if self._stop.requested else 1

    def _find_first(self) -> Link | None:
        """The connection to the first rank, or None when we should leave or it did not come."""
        why = "it went away before all had met"
        while not self._should_leave():
            if time.monotonic() > self._deadline:
                return self._despair(why)
            try:
                return self._knock()
            except RecordError as error:
                why = error.what
                time.sleep(_POLL_SECONDS / 2)
        return None

    def _knock(self) -> Link:
        place, host = self._place, socket.gethostname()
        hello = {"rank": place.rank, "group": place.group, "host": host, "node": place.node}
        if place.spans_machines:
            return knock(place.meeting_file, hello=hello)
        return knock_here(place.socket_path, hello=hello)

    def _despair(self, why: str) -> None:
        if not self._place.spans_machines or self._place.local_rank:
            return
        raise EnvironmentFault(
            f"{self._place} did not find the first rank of {self._place.starter} within "
            f"{self._place.meeting_seconds:.0f} s: {why}",
            where=self._place.meeting_file.absolute(),
            hint=NOT_SHARED,
        )

    def _serve(self, link: Link) -> int:
        """Obey until the first rank lets go; EOFError when it is gone."""
        told = False
        while True:
            for message in link.receive(_POLL_SECONDS):
                if "leave" in message:
                    return message["leave"]
                self._met = self._met or "met" in message
                self._child = self._obey(message)
            if self._child is not None and self._child.poll() is not None:
                link.send(ended=self._child.returncode)
                self._child = None
            # Without its starter a rank leaves as after a signal, with everything saved.
            if self._should_leave() and not told:
                told = True
                link.send(stop=self._stop.signal_name)

    def _should_leave(self) -> bool:
        if os.getppid() != self._parent and not self._stop.requested:
            self._stop.request("SIGTERM")
        return self._stop.requested

    def _obey(self, message: dict[str, Any]) -> subprocess.Popen[bytes] | None:
        child = self._child
        if "start" in message:
            env = {**message["env"], **self._place.environment}
            return start_bound(message["start"], log=Path(message["log"]), env=env)
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
