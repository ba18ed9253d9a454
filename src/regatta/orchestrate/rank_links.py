"""Connections between the ranks of one group: JSON messages over a Unix socket or over TCP.

Orders hold command lines, so nobody is believed who has not shown that it has the group's key. The
key lies in a file that only its owner can read, which is there until all have met. What follows
is not encrypted, just as what torch sends between ranks is not.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import stat
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from regatta.core.errors import EnvironmentFault, RecordError, RegattaError
from regatta.core.files import atomic_path

GREETING_SECONDS = 5.0
"""Who connects has so long to show the key, and to say who it is."""
SILENT_SECONDS = 30
"""A machine that answers nothing for so long is taken for lost."""
CONNECT_SECONDS = 3.0
MOST_GREETINGS = 64
_MOST_BYTES = 1 << 20
_SIOCGIFADDR = 0x8915
_NO_PEER = (OSError, EOFError, ValueError, AssertionError, AuthenticationError)


class Link:
    """One end of a connection that carries JSON objects. Nothing is ever unpickled."""

    def __init__(self, connected: socket.socket, *, patience: float = SILENT_SECONDS) -> None:
        connected.settimeout(None)
        if connected.family == socket.AF_INET:
            _notice_a_lost_machine(connected)
        _limit_waiting(connected, patience)
        self._connection = Connection(connected.detach())

    def prove(self, key: bytes, *, asks_first: bool) -> None:
        """Have each side show that it knows the key; raises one of `_NO_PEER` when not."""
        steps = (deliver_challenge, answer_challenge)
        for step in steps if asks_first else reversed(steps):
            step(self._connection, key)

    def be_patient(self) -> None:
        """From now on wait as long for the rest of a message as for a lost machine."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as same:
            _limit_waiting(same, SILENT_SECONDS)

    def send(self, **message: Any) -> None:
        """Send it; whoever is gone is noticed by `receive`."""
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError:
            # Part of it may be on its way: whatever came next would not be understood.
            self.close()

    def receive(self, seconds: float) -> list[dict[str, Any]]:
        """Messages that are there or come within the time; EOFError when the other is gone."""
        messages: list[dict[str, Any]] = []
        try:
            while self._connection.poll(0 if messages else seconds):
                messages.append(json.loads(self._connection.recv_bytes(_MOST_BYTES)))
        except (OSError, EOFError, ValueError) as error:
            if not messages:
                raise EOFError from error
        return messages

    def close(self) -> None:
        with suppress(OSError):
            self._connection.close()


def _notice_a_lost_machine(connected: socket.socket) -> None:
    """Have the kernel ask: a machine without power or network says no goodbye."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    every = SILENT_SECONDS // 6
    limits = {
        "TCP_KEEPIDLE": every,
        "TCP_KEEPINTVL": every,
        "TCP_KEEPCNT": 5,
        "TCP_USER_TIMEOUT": SILENT_SECONDS * 1000,
    }
    for name, value in limits.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _limit_waiting(connected: socket.socket, seconds: float) -> None:
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connected.setsockopt(socket.SOL_SOCKET, direction, limit)


class Door:
    """Where the first rank lets the others in, each greeted in a thread: none can block another.

    Args:
        listener: bound and listening; closed with the door.
        key: what a caller must know; None = whoever can reach the socket is one of us.
    """

    def __init__(self, listener: socket.socket, key: bytes | None) -> None:
        self._listener, self._key = listener, key
        self._greeted: queue.SimpleQueue[tuple[Link, dict[str, Any]]] = queue.SimpleQueue()
        self._places = threading.BoundedSemaphore(MOST_GREETINGS)

    @property
    def port(self) -> int:
        """Of a listener over TCP."""
        return self._listener.getsockname()[1]

    def arrivals(self, seconds: float) -> list[tuple[Link, dict[str, Any]]]:
        """Who has been greeted by now, after a wait for a caller: link and its first message."""
        self._listener.settimeout(seconds)
        if self._places.acquire(timeout=seconds):
            try:
                connected = self._listener.accept()[0]
            except (TimeoutError, ConnectionError):
                self._places.release()
            else:
                threading.Thread(target=self._greet, args=(connected,), daemon=True).start()
        found = []
        with suppress(queue.Empty):
            while True:
                found.append(self._greeted.get_nowait())
        return found

    def _greet(self, connected: socket.socket) -> None:
        link = None
        try:
            link = Link(connected, patience=GREETING_SECONDS)
            if self._key is not None:
                link.prove(self._key, asks_first=True)
            hello = link.receive(GREETING_SECONDS)
            link.be_patient()
            self._greeted.put((link, hello[0]))
        except (*_NO_PEER, IndexError):
            (link or connected).close()
        finally:
            self._places.release()

    def close(self) -> None:
        self._listener.close()


@dataclass(frozen=True)
class Invitation:
    """How to reach the first rank, as the meeting file says it."""

    addresses: list[str]
    port: int
    key: str
    """In hexadecimal."""

    def write(self, path: Path) -> None:
        """Write it for our own eyes only.

        Raises:
            DiskError: it cannot be written. EnvironmentFault: others could read it there.
        """
        with atomic_path(path) as temporary:
            temporary.unlink(missing_ok=True)
            # Not written first and closed to others later: somebody could look in between.
            number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(number, "w", encoding="utf-8") as handle:
                json.dump(asdict(self), handle)
        if not _is_our_secret(path.stat()):
            path.unlink(missing_ok=True)
            raise EnvironmentFault(
                "ranks on several machines need a file that only we can read, and this disk makes "
                "none (it changes the owner or the mode)",
                where=path.parent,
                hint="choose a folder on another disk with --runs",
            )

    def remove(self, path: Path) -> None:
        """Remove it, unless a newer one stands there."""
        with suppress(RegattaError, OSError):
            if read_invitation(path) == self:
                path.unlink(missing_ok=True)


def read_invitation(path: Path) -> Invitation:
    """The invitation at `path`.

    Raises:
        RecordError: none is there, it is not ours, or it is none.
    """
    try:
        # A disk over the network may remember that the file was absent, until the folder is read.
        os.listdir(path.parent)
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(number, encoding="utf-8") as handle:
            if not _is_our_secret(os.fstat(number)):
                raise RecordError("the meeting file is another user's, or open to others")
            content = json.load(handle)
        return Invitation(list(content["addresses"]), int(content["port"]), str(content["key"]))
    except OSError as error:
        raise RecordError(f"no meeting file can be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError("the meeting file is damaged") from error


def _is_our_secret(facts: os.stat_result) -> bool:
    return facts.st_uid == os.getuid() and not stat.S_IMODE(facts.st_mode) & 0o077


def knock(path: Path, *, hello: dict[str, Any]) -> Link:
    """The connection to the first rank that the meeting file names; `hello` is sent to it.

    It also tells the first rank at which of its addresses it was reached.

    Raises:
        RecordError: there is no meeting file, or no first rank where it says.
    """
    invitation = read_invitation(path)
    for address in invitation.addresses:
        with suppress(*_NO_PEER):
            connected = socket.create_connection(
                (address, invitation.port), timeout=CONNECT_SECONDS
            )
            link = Link(connected, patience=GREETING_SECONDS)
            try:
                link.prove(bytes.fromhex(invitation.key), asks_first=False)
            except _NO_PEER:
                link.close()
                raise
            link.be_patient()
            link.send(**hello, reached=address)
            return link
    tried = ", ".join(invitation.addresses)
    raise RecordError(f"the first rank does not answer at port {invitation.port} of {tried}")


def knock_here(path: Path, *, hello: dict[str, Any]) -> Link:
    """As `knock`, at a socket of this machine."""
    connecting = socket.socket(socket.AF_UNIX)
    try:
        connecting.connect(str(path))
        # In a folder for all users anybody could listen at this name.
        if _user_behind(connecting, path) != os.getuid():
            raise PermissionError("the socket is another user's")
    except OSError as error:
        connecting.close()
        raise RecordError(f"the first rank does not answer: {error}") from error
    link = Link(connecting)
    link.send(**hello)
    return link


def _user_behind(connected: socket.socket, path: Path) -> int:
    """Who listens at the other end of a socket of this machine: the kernel knows, where it is
    Linux; else the owner of the name."""
    if not hasattr(socket, "SO_PEERCRED"):
        return path.stat().st_uid
    size = struct.calcsize("3i")
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return struct.unpack("3i", credentials)[1]


def own_addresses(names: Iterable[str]) -> list[str]:
    """IPv4 addresses of this machine: those of `names` first, loopback ones last."""
    named = [address for name in (*names, socket.gethostname()) for address in _resolve(name)]
    found = dict.fromkeys([*named, *_interface_addresses(), "127.0.0.1"])
    return sorted(filter(_is_own, found), key=lambda address: address.startswith("127."))


def _resolve(name: str) -> list[str]:
    try:
        facts = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(fact[4][0]) for fact in facts]


def _interface_addresses() -> list[str]:
    """Addresses of all interfaces, where the kernel tells them (Linux)."""
    try:
        import fcntl
    except ImportError:
        return []
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    return found


def _is_own(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, suppress(OSError):
        probe.bind((address, 0))
        return True
    return False


def common_address(addresses: Sequence[str], reached: Iterable[str]) -> str:
    """The address that most ranks elsewhere have reached; the first of `addresses` among equals."""
    counts = Counter(reached)
    return max(addresses, key=lambda address: counts[address])


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def listen_everywhere() -> socket.socket:
    """A listener at all addresses of this machine: only the others know which one they reach."""
    return socket.create_server(("", 0), backlog=MOST_GREETINGS)


def listen_here(path: Path) -> socket.socket:
    """A listener at a socket of this machine."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        # Whoever may write it may join as a rank: this user alone, whatever the usual mask.
        mask = os.umask(0o077)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(MOST_GREETINGS)
    except OSError:
        listener.close()
        raise
    return listener
