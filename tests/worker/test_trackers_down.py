"""A tracker whose server is down, slow or asks for a login costs a run neither time nor result."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from regatta.worker.trackers import FINISH_SECONDS
from tests.training.tiny_training import outcome

REPOSITORY = Path(__file__).parents[2]
MOST_SECONDS = 2.0
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")


@dataclass
class Stub:
    """A server on the loopback that does what `answer` does with each connection."""

    port: int = 0
    connections: list[socket.socket] = field(default_factory=list)


def never_answer(_connection: socket.socket) -> None:
    """The client waits for the first byte."""


def ask_for_a_login(connection: socket.socket) -> None:
    connection.recv(65536)
    body = b'{"errors":[{"message":"user is not logged in"}]}'
    head = f"HTTP/1.1 401 Unauthorized\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + body)
    connection.shutdown(socket.SHUT_RDWR)


def drip(connection: socket.socket) -> None:
    connection.recv(65536)
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"{" * 1000:
        connection.sendall(bytes([byte]))
        time.sleep(0.2)


@contextmanager
def stub(answer: Callable[[socket.socket], None]) -> Iterator[Stub]:
    server, found = socket.create_server(("127.0.0.1", 0), backlog=64), Stub()
    found.port = server.getsockname()[1]

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):  # The client may be gone.
            answer(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            found.connections.append(connection)
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)
        for connection in found.connections:
            connection.close()


def run_with(
    path: Path,
    names: str,
    environment: dict[str, str] | None = None,
    *,
    before: tuple[str, ...] = (),
) -> dict:
    """What `waiting_run` says of a run, its stderr beside it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    home = path.parent / "home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [*before, sys.executable, "-m", "tests.worker.waiting_run", str(path), names],
        cwd=REPOSITORY,
        env={
            **clean,
            "HOME": str(home),
            "TORCHINDUCTOR_CACHE_DIR": str(home / "torch"),
            **(environment or {}),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "said": done.stderr}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing mirrors."""
    path = tmp_path_factory.mktemp("alone") / "run"
    assert run_with(path, "")["records"] > 6
    return path


def check_harmless(told: dict, path: Path, alone: Path) -> None:
    print(f"waited {told['longest']:.4f} s while training, {told['end']:.1f} s at the end")
    assert told["records"] > 6
    assert told["longest"] < MOST_SECONDS
    assert told["end"] < FINISH_SECONDS + 5
    assert outcome(path) == outcome(alone)


ONLINE = {"WANDB_MODE": "online", "WANDB_API_KEY": "x" * 40}


@pytest.mark.fault(26)
@pytest.mark.slow
@needs_wandb
@pytest.mark.parametrize(
    "answer",
    [
        never_answer,
        pytest.param(ask_for_a_login, marks=pytest.mark.soak),
        pytest.param(drip, marks=pytest.mark.soak),
    ],
)
def test_a_server_that_is_slow_or_asks_for_a_login_holds_up_no_training(
    tmp_path: Path, alone: Path, answer: Callable[[socket.socket], None], no_leaks: None
):
    path = tmp_path / "run"
    with stub(answer) as server:
        url = f"http://127.0.0.1:{server.port}"
        told = run_with(path, "wandb,tensorboard", {**ONLINE, "WANDB_BASE_URL": url})
        assert server.connections, "the tracker did not ask the server"
    check_harmless(told, path, alone)
    assert told["said"].count("tracker wandb failed and is left alone") == 1
    assert "tracker tensorboard" not in told["said"]
    assert list((path / "logs").glob("events.out.tfevents.*"))


@pytest.mark.fault(26)
@pytest.mark.slow
@pytest.mark.soak
@needs_wandb
def test_a_server_that_is_down_holds_up_no_training(tmp_path: Path, alone: Path, no_leaks: None):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    path, url = tmp_path / "run", f"http://127.0.0.1:{port}"
    told = run_with(path, "wandb", {**ONLINE, "WANDB_BASE_URL": url})
    check_harmless(told, path, alone)
    assert "tracker wandb failed and is left alone" in told["said"]


@pytest.mark.fault(26)
@pytest.mark.slow
@pytest.mark.soak
@needs_wandb
def test_a_tracker_that_wants_a_key_from_the_keyboard_gets_none(
    tmp_path: Path, alone: Path, no_leaks: None
):
    path = tmp_path / "run"
    with stub(never_answer) as server:
        url = f"http://127.0.0.1:{server.port}"
        told = run_with(path, "wandb", {"WANDB_MODE": "online", "WANDB_BASE_URL": url})
    check_harmless(told, path, alone)
    assert "tracker wandb failed and is left alone" in told["said"]


@pytest.mark.fault(26)
def test_a_mirror_that_may_not_write_is_named_and_left_alone(tmp_path: Path, alone: Path):
    path = tmp_path / "run"
    (path / "logs").mkdir(parents=True)
    mount = f"mount -t tmpfs -o ro,size=64k none '{path / 'logs'}' && exec \"$@\""
    before = ("unshare", "-m", "sh", "-c", mount, "sh")
    if not shutil.which("unshare") or subprocess.run([*before, "true"], check=False).returncode:
        pytest.skip("the kernel lets this user mount nothing")
    told = run_with(path, "tensorboard", before=before)
    check_harmless(told, path, alone)
    assert told["said"].count("tracker tensorboard failed and is left alone") == 1
    assert "Read-only file system" in told["said"]
