"""Promises to somebody at a terminal: Ctrl-C stops well, is told once, and can be repeated."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.orchestrate.toy import HOLDING, Toy, processes_of, toy_mapping, wait_until

CTRL_C = b"\x03"


@dataclass
class Terminal:
    """A terminal of its own with one program in its foreground, as a shell leaves it."""

    toy: Toy
    verb: str
    screen: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        self.keyboard, inside = pty.openpty()
        self.child = subprocess.Popen(
            [
                "setsid",
                "--ctty",
                "--wait",
                *self.toy.command(self.verb, *self.toy.arguments(self.verb)),
            ],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env=self.toy.environment(),
            start_new_session=True,
        )
        os.close(inside)
        os.set_blocking(self.keyboard, False)

    def press(self, key: bytes) -> None:
        """Press a key: the terminal itself turns Ctrl-C into SIGINT for all of its foreground."""
        os.write(self.keyboard, key)

    def look(self) -> bytes:
        """All that has been shown so far."""
        try:
            while chunk := os.read(self.keyboard, 65_536):
                self.screen += chunk
        except OSError:
            pass
        return self.screen

    def close(self) -> None:
        """Close the window."""
        os.close(self.keyboard)

    def code(self, *, seconds: float = 20) -> int:
        """Exit code of the program; what it shows meanwhile is read, or it would block."""
        deadline = time.monotonic() + seconds
        while self.child.poll() is None:
            assert time.monotonic() < deadline, self.screen.decode(errors="replace")
            self.look()
            time.sleep(0.02)
        self.look()
        return self.child.returncode


def at_work(toy: Toy, order: str, verb: str = "supervise", *, step: int = HOLDING) -> Terminal:
    toy.prepare()
    toy.order({"train:ann": [order]})
    terminal = Terminal(toy, verb)
    wait_until(lambda: terminal.look() and toy.status("ann").step == step, "ann is at work")
    return terminal


@pytest.mark.fault(7)
@pytest.mark.parametrize("verb", ["supervise", "run"])
def test_ctrl_c_saves_says_one_thing_and_ends_with_130(tmp_path: Path, verb: str, no_leaks: None):
    toy = Toy(tmp_path, toy_mapping(("ann",)))
    terminal = at_work(toy, "hold", verb)
    terminal.press(CTRL_C)
    assert terminal.code() == 130, terminal.screen
    assert terminal.screen.count(b"stopping:") == 1
    assert b"Traceback" not in terminal.screen
    assert b"KeyboardInterrupt" not in terminal.screen
    status = toy.status("ann")
    assert (status.state, status.cause) == ("interrupted", "stopped")
    assert status.next_step
    assert not toy.folder.lease.exists()
    toy.order({})
    assert toy.call("supervise").code == 0
    assert [start["begin"] for start in toy.starts("train")] == [0, 2]


@pytest.mark.fault(7)
def test_a_second_ctrl_c_ends_at_once_what_does_not_listen(tmp_path: Path, no_leaks: None):
    toy = Toy(tmp_path, toy_mapping(("ann",), grace_seconds=600))
    terminal = at_work(toy, "deaf")
    terminal.press(CTRL_C)
    wait_until(lambda: b"stopping:" in terminal.look(), "the first is taken up")
    terminal.press(CTRL_C)
    assert terminal.code() == 130, terminal.screen
    assert terminal.screen.count(b"stopping:") == 1
    assert b"Traceback" not in terminal.screen
    assert toy.status("ann").state == "interrupted"


@pytest.mark.fault(7)
def test_three_at_once_leave_nobody_behind(tmp_path: Path, no_leaks: None):
    toy = Toy(tmp_path, toy_mapping(("ann",), grace_seconds=600))
    terminal = at_work(toy, "deaf")
    # Faster than the supervisor looks: it leaves at once, and the kernel ends its workers.
    for _ in range(3):
        terminal.press(CTRL_C)
        time.sleep(0.05)
    assert terminal.code() == 130, terminal.screen
    assert b"Traceback" not in terminal.screen
    wait_until(lambda: not processes_of(toy.root), "nobody is left", seconds=15)
    toy.order({})
    assert toy.call("supervise").code == 0
    assert [start["begin"] for start in toy.starts("train")] == [0, 2]


@pytest.mark.fault(7)
def test_a_closed_terminal_is_a_request_to_stop(tmp_path: Path, no_leaks: None):
    toy = Toy(tmp_path, toy_mapping(("ann",)))
    terminal = at_work(toy, "hold", "run")
    terminal.close()
    # The kernel sends SIGHUP to the leader of the terminal's session.
    assert terminal.child.wait(timeout=20) == 143
    wait_until(lambda: not processes_of(toy.root), "nobody is left", seconds=15)
    status = toy.status("ann")
    assert (status.state, status.cause) == ("interrupted", "stopped")
    assert not toy.folder.lease.exists()


@pytest.mark.fault(7)
@pytest.mark.parametrize("way", ["module", "command"])
def test_ctrl_c_while_it_is_being_loaded_shows_no_trace(way: str):
    script = "import sys; sys.argv[0] = 'regatta'; from regatta.cli.main import main; main()"
    program = ["-m", "regatta"] if way == "module" else ["-c", script]
    child = subprocess.Popen(
        [sys.executable, "-X", "importtime", *program, "ls"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stderr
    for line in child.stderr:
        if "click" in line:
            break
    child.send_signal(signal.SIGINT)
    _, rest = child.communicate(timeout=20)
    assert child.returncode in {-signal.SIGINT, 130}
    assert "Traceback" not in rest
    assert "KeyboardInterrupt" not in rest
