"""Two hosts on this machine: network namespaces with addresses and host names of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

PREFIX = "192.0.2"
"""A network that nobody has (RFC 5737)."""


@dataclass(frozen=True)
class Host:
    """One of the two. `before` in front of a command line has it run there."""

    name: str
    address: str
    interface: str

    @property
    def folder(self) -> Path:
        """Files that the host sees in its /etc."""
        return Path("/etc/netns") / self.name

    @property
    def before(self) -> tuple[str, ...]:
        inside = ("ip", "netns", "exec", self.name)
        named = ("unshare", "--uts", "sh", "-c", f'hostname {self.name}; exec "$@"', "sh")
        return (*inside, *named)


def cut(hosts: tuple[Host, Host]) -> None:
    """Lose all that the hosts send each other from now on, without a word to either."""
    for host, other in (hosts, hosts[::-1]):
        # Both interfaces stay up: what is sent goes to a card that nobody has.
        nobody = ("lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", host.interface)
        _call("ip", "-n", host.name, "neigh", "replace", other.address, *nobody)


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def open_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts, joined by a cable; skips the test where this machine cannot have them."""
    if os.getuid() or not all(map(shutil.which, ("ip", "unshare", "hostname"))):
        pytest.skip("two hosts need root and iproute2 (ip)")
    mark = f"{os.getpid():x}"
    first, second = (Host(f"rgt{n}-{mark}", f"{PREFIX}.{n}", f"rgt{n}{mark}") for n in (1, 2))
    made: list[Host] = []
    try:
        for host in (first, second):
            made.append(host)
            # `ip netns exec` shows this file as /etc/hosts.
            host.folder.mkdir(parents=True)
            lines = ["127.0.0.1 localhost", *(f"{h.address} {h.name}" for h in (first, second))]
            (host.folder / "hosts").write_text("\n".join(lines) + "\n")
            _call("ip", "netns", "add", host.name)
        pair = ("type", "veth", "peer", "name", second.interface)
        _call("ip", "link", "add", first.interface, *pair)
        for host in (first, second):
            _call("ip", "link", "set", host.interface, "netns", host.name)
            there = ("ip", "-n", host.name)
            _call(*there, "addr", "add", f"{host.address}/24", "dev", host.interface)
            for interface in ("lo", host.interface):
                _call(*there, "link", "set", interface, "up")
    except subprocess.CalledProcessError as error:
        _remove(made)
        pytest.skip(f"this machine gives no network namespaces: {error.stderr.strip()}")
    try:
        yield first, second
    finally:
        _remove(made)


def _remove(hosts: list[Host]) -> None:
    for host in hosts:
        shutil.rmtree(host.folder, ignore_errors=True)
        subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)
    with suppress(OSError):
        Path("/etc/netns").rmdir()
