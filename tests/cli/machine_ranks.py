"""Ranks of a toy study on several machines, started as torchrun or Slurm would start them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regatta.core.files import PARTIAL_SUFFIX
from tests.orchestrate.toy import Toy, toy_mapping, wait_until

RANK_COMMAND = (sys.executable, str(Path(__file__).with_name("slurm_rank.py")))


_STARTED: list[subprocess.Popen[str]] = []


def end_ranks() -> None:
    """End what a failed test has left running."""
    while _STARTED:
        child = _STARTED.pop()
        child.kill()
        if child.stdout and not child.stdout.closed:
            child.communicate()


class MachineRanks:
    """As many ranks as `machines` holds numbers: [2, 1] is two on one machine, one on another."""

    def __init__(self, root: Path, *, machines: Sequence[int] = (1, 1)) -> None:
        mapping = toy_mapping(("ann",))
        self.toy = Toy(root, {**mapping, "train": {"epochs": 1, "parallel": "ddp"}})
        self.machines, self.world = machines, sum(machines)
        self.toy.order({"train:ann": ["hold"] * self.world})
        self.toy.prepare()

    def _place(self, rank: int) -> tuple[int, int]:
        """Number of the rank's machine, and its own number there."""
        node = next(n for n in range(self.world) if rank < sum(self.machines[: n + 1]))
        return node, rank - sum(self.machines[:node])

    def torchrun(self, rank: int) -> dict[str, Any]:
        """Variables that torchrun gives to a rank."""
        node, local = self._place(rank)
        return {
            "TORCHELASTIC_RUN_ID": "toy",
            "TORCHELASTIC_RESTART_COUNT": node,
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": 29400,
            "RANK": rank,
            "WORLD_SIZE": self.world,
            "LOCAL_RANK": local,
            "LOCAL_WORLD_SIZE": self.machines[node],
            "GROUP_RANK": node,
        }

    def slurm(self, rank: int) -> dict[str, Any]:
        """Variables that srun gives to a task."""
        node, local = self._place(rank)
        return {
            "SLURM_JOB_ID": 7,
            "SLURM_STEP_ID": 0,
            "SLURM_STEP_NUM_TASKS": self.world,
            "SLURM_STEP_TASKS_PER_NODE": ",".join(map(str, self.machines)),
            "SLURM_PROCID": rank,
            "SLURM_LOCALID": local,
            "SLURM_NODEID": node,
        }

    def start(
        self,
        rank: int,
        *,
        slurm: bool = False,
        runs: Path | None = None,
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """One rank; `before` is put before its command line."""
        given = self.slurm(rank) if slurm else self.torchrun(rank)
        arguments = [str(self.toy.file), "--runs", str(runs or self.toy.runs_root)]
        command = [*RANK_COMMAND, *arguments] if slurm else self.toy.command("train", *arguments)
        child = subprocess.Popen(
            [*before, *command],
            env={
                **self.toy.environment(),
                **{key: str(value) for key, value in given.items()},
                "REGATTA_MEETING_SECONDS": "30",
                **(variables or {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        _STARTED.append(child)
        return child

    def meeting_files(self) -> list[Path]:
        found = [path for path in self.toy.runs_root.iterdir() if path.is_file()]
        return [path for path in found if path.suffix != PARTIAL_SUFFIX]

    def wait_for_workers(self) -> list[dict[str, Any]]:
        return wait_until(
            lambda: len(found := self.toy.starts("train")) == self.world and found, "the workers"
        )


def ends(children: Sequence[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit codes and outputs of all, once they have ended."""
    outputs = [child.communicate(timeout=90)[0] for child in children]
    return [child.returncode for child in children], outputs
