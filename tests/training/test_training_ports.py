"""Trainings of several processes that start together on one machine do not meet each other."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regatta.orchestrate.causes import diagnose
from regatta.orchestrate.devices import Placement
from regatta.orchestrate.local import Ended, _group_command, start_bound
from regatta.orchestrate.plan import Resources, Task
from regatta.records.status import Status
from regatta.training.distributed import PortTakenError, process_group

REPOSITORY = Path(__file__).parents[2]
RANKS = 2


def start_together(
    count: int, command: tuple[str, ...], root: Path
) -> list[tuple[subprocess.Popen[bytes], Path]]:
    """So many groups of two ranks, as the launcher of this machine starts them."""
    started = []
    for number in range(count):
        log = root / f"group-{number}.log"
        task = Task(str(number), "prepare", command, log, resources=Resources(devices=RANKS))
        argv = _group_command(task, Placement("cpu"), threads=1)
        env = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        started.append((start_bound(argv, log=log, env=env), log))
    return started


def check_round(started: list[tuple[subprocess.Popen[bytes], Path]]) -> None:
    """Every group has both of its ranks and nobody else's, at a port of its own."""
    ports = []
    for child, log in started:
        code = child.wait(timeout=600)
        text = log.read_text()
        assert code == 0, text
        said = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        assert sorted(each["RANK"] for each in said) == ["0", "1"], text
        assert [each["came"] for each in said] == [RANKS] * RANKS
        assert len({each["MASTER_PORT"] for each in said}) == 1
        ports.append(said[0]["MASTER_PORT"])
    assert len(set(ports)) == len(started)


@pytest.mark.slow
@pytest.mark.fault(23)
@pytest.mark.usefixtures("no_leaks")
def test_groups_that_start_together_have_ports_of_their_own(tmp_path: Path):
    script = str(REPOSITORY / "tests/training/meet_once.py")
    check_round(start_together(3, (sys.executable, script, "--light"), tmp_path))


@pytest.mark.soak
@pytest.mark.fault(23)
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("number", range(20))
def test_eight_groups_of_torch_that_start_together_never_clash(tmp_path: Path, number: int):
    command = (sys.executable, "-m", "tests.training.meet_once")
    check_round(start_together(8, command, tmp_path / str(number)))


@pytest.mark.fault(23)
def test_a_port_that_another_process_took_is_named_and_the_training_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        numbers = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        for key, value in {**numbers, "MASTER_PORT": port}.items():
            monkeypatch.setenv(key, value)
        with (
            pytest.raises(PortTakenError, match="took the port") as caught,
            process_group("ddp", torch.device("cpu"), timeout_seconds=5),
        ):
            pass
    error = caught.value
    assert f"127.0.0.1:{port}" in str(error)
    status = Status(state="failed", cause=error.cause, message=error.what, exit_code=1)
    ended = Ended("a", error.exit_code, 0.1, 0, False, "")
    failure = diagnose(ended, status=status, log=tmp_path / "log.txt", log_start=0)
    assert (failure.cause, failure.retry) == ("port", True)
