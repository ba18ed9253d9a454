"""Promises of `regatta train` under torchrun on several machines that share the runs folder.

Real torchrun, real workers, real video files; each torchrun stands for a machine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from regatta.core.files import read_json, read_json_lines
from tests.cli.torchrun_home import RECIPE, SMALL, WHAT, Home, open_home, sets
from tests.orchestrate.toy import wait_until

pytestmark = pytest.mark.slow
LONG_EPOCHS = 40


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One folder for all: the clips are generated once."""
    with open_home(tmp_path_factory.mktemp("nodes")) as opened:
        yield opened


@dataclass
class Machines:
    """Two torchruns of one group; any of them can be started again."""

    home: Home
    ranks_each: int
    restarts: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """One machine's torchrun."""
        group = (
            "--nnodes=2",
            f"--max-restarts={self.restarts}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint=127.0.0.1:{self.port}",
            "--local-addr=127.0.0.1",
            "--rdzv-id=pair",
        )
        # Else a torchrun that comes later waits for an address that was given in the first round.
        apart = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        variables = apart if self.restarts else {}
        ranks = self.ranks_each
        return self.home.start(*arguments, ranks=ranks, group=group, variables=variables)

    def start_both(self, *arguments: str) -> list[subprocess.Popen[str]]:
        first = self.start(*arguments)
        # Who comes first is the first machine, and the one where torchruns find each other.
        wait_until(self._has_begun, "the first torchrun listens")
        return [first, self.start(*arguments)]

    def _has_begun(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def words(name: str, *, epochs: int) -> list[str]:
    begin = ["train", "--name", name, "--model", "videomae", "--epochs", str(epochs)]
    # A machine's threads are shared among its own processes, and sums over fewer round differently.
    return [*begin, *WHAT, *RECIPE, *sets(**{"launch.threads_per_run": 1})]


def finish(home: Home, children: list[subprocess.Popen[str]]) -> str:
    """The outputs of both, once they have ended well."""
    ends = [home.end(child) for child in children]
    assert [code for code, _ in ends] == [0, 0], ends
    return "".join(output for _, output in ends)


def learned(home: Home, name: str) -> dict[str, Any]:
    """What a training has come to: bytes of the weights, losses and metrics of every step."""
    run = home.run(name)
    files = sorted(path for path in run.model.rglob("*") if path.is_file())
    keys = ("epoch", "step", "split", "loss", "accuracy", "train_loss", "val_loss", "val_accuracy")
    lines = read_json_lines(run.metrics)
    return {
        "weights": {path.name: sha256(path.read_bytes()).hexdigest() for path in files},
        "metrics": [{key: line[key] for key in keys if key in line} for line in lines],
    }


def test_two_machines_train_the_same_as_one(home: Home):
    code, output = home.call(*words("one", epochs=2), ranks=4)
    assert code == 0, output
    machines = Machines(home, ranks_each=2)
    output = finish(home, machines.start_both(*words("pair", epochs=2)))
    assert output.count("torchrun, 4 processes on 2 machines") == 1
    results = read_json(home.run("pair").training_results)
    assert (results["world"], results["samples_seen"]) == (4, 2 * SMALL["train_clips"])
    assert learned(home, "pair") == learned(home, "one")
    assert left_behind(home, "pair") == []


def left_behind(home: Home, name: str) -> list[Path]:
    """Files that only a living group has: meeting files, and the lease."""
    files = [path for path in (home.path / "runs").iterdir() if path.is_file()]
    return files + [path for path in [home.study(name).lease] if path.exists()]


def wait_for_step(home: Home, name: str, step: int, children: list[subprocess.Popen[str]]) -> None:
    def has_come() -> bool:
        assert not any(child.poll() for child in children), [home.end(c) for c in children]
        return home.study(name).study_yaml.is_file() and home.status(name).step > step

    wait_until(has_come, f"step {step} is done", seconds=240)


def test_a_run_outlives_a_killed_worker_a_signal_and_a_lost_machine(home: Home):
    code, output = home.call(*words("calm", epochs=LONG_EPOCHS), ranks=2)
    assert code == 0, output
    storm = words("storm", epochs=LONG_EPOCHS)
    machines = Machines(home, ranks_each=1)
    children = machines.start_both(*storm)
    wait_for_step(home, "storm", 20, children)
    (worker,) = home.processes(rank="1", worker=True)
    os.kill(worker, signal.SIGKILL)
    wait_for_step(home, "storm", 50, children)
    children[1].terminate()
    ends = [home.end(child) for child in children]
    assert "starting again (1 of 2 restarts)" in "".join(output for _, output in ends)
    assert [code != 0 for code, _ in ends] == [True, True]
    status = home.status("storm")
    assert (status.state, status.exit_code) == ("interrupted", 143)
    assert "is saved" in (status.message or "")
    wait_until(lambda: not home.processes(), "no process is left")
    assert left_behind(home, "storm") == []
    machines = Machines(home, ranks_each=1, restarts=3)
    first, second = machines.start_both(*storm)
    wait_for_step(home, "storm", status.step + 20, [first, second])
    second.kill()
    home.end(second)
    third = machines.start(*storm)
    finish(home, [first, third])
    assert learned(home, "storm") == learned(home, "calm")
    assert left_behind(home, "storm") == []
