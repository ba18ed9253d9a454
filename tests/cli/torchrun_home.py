"""A folder in which real trainings run under torchrun, on one "machine" or several."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regatta.config.expand import expand_study
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.records.status import Status, read_status
from tests.orchestrate.toy import wait_until

SMALL = {"train_clips": 16, "validation_clips": 4, "test_clips": 4, "frames": 16}
WHAT = ["--data", "rotors", "--size", "tiny", "--checkpoint", "none", "--device", "cpu"]
RECIPE = ["--batch-size", "3", "--lr", "1e-3", "--parallel", "ddp"]


@dataclass
class Home:
    """A folder to work in; every process of it carries a variable by which it is found again."""

    path: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self,
        *arguments: str,
        ranks: int,
        group: Sequence[str] = ("--standalone",),
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """A verb under torchrun, or without it for `ranks` 0.

        group: torchrun's options. before: put before the command line.
        """
        torchrun = ["torch.distributed.run", *group, f"--nproc_per_node={ranks}", "-m"]
        child = subprocess.Popen(
            [*before, sys.executable, "-m", *(torchrun if ranks else []), "regatta", *arguments],
            cwd=self.path,
            env={**os.environ, "REGATTA_TEST_HOME": str(self.path), **(variables or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(child)
        return child

    def call(self, *arguments: str, ranks: int) -> tuple[int, str]:
        return self.end(self.start(*arguments, ranks=ranks))

    def end(self, child: subprocess.Popen[str]) -> tuple[int, str]:
        output, _ = child.communicate(timeout=180)
        return child.returncode, output

    def processes(self, *, rank: str | None = None, worker: bool = False) -> list[int]:
        """Living processes of this home, of one rank if named, only workers if asked."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                is_worker = b"regatta.worker" in (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            mine = f"REGATTA_TEST_HOME={self.path}".encode() in variables
            ranked = rank is None or f"RANK={rank}".encode() in variables
            if mine and ranked and (is_worker or not worker):
                found.append(int(entry.name))
        return found

    def study(self, name: str) -> StudyFolder:
        return StudyFolder(self.path / "runs" / name)

    def run(self, name: str, entry: str = "videomae") -> RunFolder:
        folder = self.study(name)
        specs = expand_study(folder.study())
        return folder.run(next(spec.run_id for spec in specs if spec.entry.name == entry))

    def status(self, name: str) -> Status:
        return read_status(self.run(name).status)


def sets(**keys: Any) -> list[str]:
    options = {f"data.options.{key}": value for key, value in SMALL.items()}
    pairs = {**options, **keys}.items()
    return [part for key, value in pairs for part in ("--set", f"{key}={value}")]


@contextmanager
def open_home(path: Path) -> Iterator[Home]:
    """A home in `path`. At the end no process of it is left."""
    folder = Home(path)
    try:
        yield folder
        wait_until(lambda: not folder.processes(), "every process is gone")
    finally:
        for child in folder.started:
            child.kill()
        for pid in folder.processes():
            os.kill(pid, signal.SIGKILL)
