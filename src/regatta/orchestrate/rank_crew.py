"""The other ranks as the first one sees them: they come, take orders, report, and are let go."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from regatta.core.errors import EnvironmentFault, RegattaError
from regatta.core.signals import StopFlag
from regatta.orchestrate.rank_links import (
    Door,
    Invitation,
    Link,
    common_address,
    listen_everywhere,
    listen_here,
    own_addresses,
)
from regatta.orchestrate.rank_places import Place

GOODBYE_SECONDS = 5.0
LOOPBACK = "127.0.0.1"
NOT_SHARED = "is the runs folder on a disk that all machines share? If so, see what the others said"
_POLL_SECONDS = 0.1
_LOST = -signal.SIGKILL


@dataclass
class _Mate:
    """Another rank as the first one knows it."""

    link: Link
    host: str
    node: int
    reached: str
    """Address of the first rank that this one reached it at."""


class Crew:
    """The other ranks as the first one sees them. Leaving the block lets them go."""

    def __init__(self, place: Place, stop: StopFlag) -> None:
        self._place, self._stop = place, stop
        self._mates: dict[int, _Mate] = {}
        self._parent = os.getppid()
        self.address = LOOPBACK
        """Where the workers of all ranks reach that of the first."""
        self.ends: dict[int, int] = {}
        """Rank -> exit code of its worker, for the training under way."""

    @property
    def world(self) -> int:
        return self._place.world

    @property
    def here(self) -> int:
        """Processes on this machine: so many devices of it has one run."""
        return self._place.here

    @property
    def environment(self) -> dict[str, str]:
        """For the first rank's own worker, beside what the launcher gives it."""
        return self._place.environment

    @property
    def spans_machines(self) -> bool:
        return self._place.spans_machines

    def describe(self) -> str:
        nodes = {self._place.node, *(mate.node for mate in self._mates.values())}
        on = f" on {len(nodes)} machines" if len(nodes) > 1 else ""
        return f"{self._place.starter}, {self.world} processes{on}"

    def is_elsewhere(self, rank: int) -> bool:
        """Whether the rank is on another machine than the first."""
        return self._mates[rank].node != self._place.node

    def __enter__(self) -> Crew:
        """Wait for all ranks.

        Raises:
            EnvironmentFault: not all came in time, or they have no place to meet.
        """
        try:
            self._meet()
            self.order(met=True)
        except RegattaError as error:
            self._let_go(error.exit_code)
            raise
        return self

    def _meet(self) -> None:
        over_network = self.spans_machines
        path = self._place.meeting_file if over_network else self._place.socket_path
        try:
            if over_network:
                self._meet_over_network(path)
            else:
                self._meet_here(path)
        except OSError as error:
            raise EnvironmentFault(f"the ranks cannot meet: {error}", where=path) from error

    def _meet_here(self, path: Path) -> None:
        try:
            self._let_in(Door(listen_here(path), key=None))
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _meet_over_network(self, path: Path) -> None:
        key, addresses = os.urandom(32), own_addresses(self._place.names)
        door = Door(listen_everywhere(), key)
        invitation = Invitation(addresses, door.port, key.hex())
        try:
            invitation.write(path)
            self._let_in(door)
        finally:
            door.close()
            invitation.remove(path)
        elsewhere = [m.reached for rank, m in self._mates.items() if self.is_elsewhere(rank)]
        self.address = common_address(addresses, elsewhere)

    def _let_in(self, door: Door) -> None:
        deadline = time.monotonic() + self._place.meeting_seconds
        try:
            while len(self._mates) < self.world - 1 and not self._stop.requested:
                for link, hello in door.arrivals(_POLL_SECONDS):
                    self._welcome(link, hello)
                self._listen_while_meeting()
                if time.monotonic() > deadline:
                    raise self._not_all_came()
        finally:
            door.close()

    def _welcome(self, link: Link, hello: dict[str, Any]) -> None:
        rank = int(hello.get("rank", 0))
        if hello.get("group") != self._place.group or rank not in range(1, self.world):
            link.close()
            return
        mate = _Mate(link, str(hello["host"]), int(hello["node"]), str(hello.get("reached", "")))
        known = self._mates.pop(rank, None)
        if known:
            known.link.close()
        self._mates[rank] = mate

    def _listen_while_meeting(self) -> None:
        """Who goes now may come again; who was asked to stop stops all."""
        self._follow_parent()
        for rank, mate in list(self._mates.items()):
            try:
                said = mate.link.receive(0)
            except EOFError:
                self._mates.pop(rank).link.close()
                continue
            if any("stop" in message for message in said):
                self._stop.request("SIGTERM")

    def _not_all_came(self) -> EnvironmentFault:
        came = [str(self._place)]
        came += [f"rank {rank} ({mate.host})" for rank, mate in sorted(self._mates.items())]
        missing = [str(rank) for rank in range(1, self.world) if rank not in self._mates]
        return EnvironmentFault(
            f"{len(came)} of {self.world} processes of {self._place.starter} came within "
            f"{self._place.meeting_seconds:.0f} s: {', '.join(came)}; "
            f"missing: rank {', '.join(missing)}",
            where=self._place.meeting_file if self.spans_machines else self._place.socket_path,
            hint=NOT_SHARED if self.spans_machines else "see what the others said",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is not None:
            self._let_go(error.exit_code if isinstance(error, RegattaError) else 1)
        self._let_go(None)

    def _let_go(self, code: int | None) -> None:
        """Close all links, after the others have had the time to take in what was sent."""
        if code is not None:
            self.dismiss(code)
        deadline = time.monotonic() + GOODBYE_SECONDS
        for mate in self._mates.values():
            # A connection closed with something unread in it takes back what was sent before.
            with suppress(EOFError):
                while time.monotonic() < deadline:
                    mate.link.receive(_POLL_SECONDS)
            mate.link.close()
        self._mates.clear()

    def dismiss(self, code: int) -> None:
        """Let the other ranks leave with this exit code."""
        self.order(leave=code)

    def order(self, **message: Any) -> None:
        for mate in self._mates.values():
            mate.link.send(**message)

    def order_start(self, argv: list[str], env: dict[str, str], *, log: Path) -> None:
        """Have the ranks of this machine start a worker."""
        for rank, mate in self._mates.items():
            if not self.is_elsewhere(rank):
                mate.link.send(start=argv, env=env, log=str(log))

    def order_start_elsewhere(self, argv: list[str], env: dict[str, str], *, log: Path) -> None:
        """Have the ranks of the other machines start a worker, each with a log of its own.

        Lines that several machines append to one file of a shared disk overwrite each other.
        """
        for rank, mate in self._mates.items():
            if self.is_elsewhere(rank):
                own_log = log.with_name(f"{log.stem}-rank{rank}{log.suffix}")
                mate.link.send(start=argv, env=env, log=str(own_log))

    def listen(self) -> None:
        """Take in what the ranks say; a lost one, or a lost starter, is a request to stop."""
        self._follow_parent()
        for rank, mate in list(self._mates.items()):
            try:
                messages = mate.link.receive(0)
            except EOFError:
                self._mates.pop(rank).link.close()
                self.ends.setdefault(rank, _LOST)
                messages = [{"stop": "SIGTERM"}]
            for message in messages:
                if "ended" in message:
                    self.ends.setdefault(rank, int(message["ended"]))
                elif "stop" in message and not self._stop.requested:
                    self._stop.request(str(message["stop"]))

    def _follow_parent(self) -> None:
        if os.getppid() != self._parent and not self._stop.requested:
            self._stop.request("SIGTERM")
