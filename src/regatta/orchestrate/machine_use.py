"""How busy this machine and its GPUs are, for a display: never waits for an answer."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from regatta.orchestrate.devices import GIB, Memory, host_memory

EVERY_SECONDS = 3.0
"""The machine is looked at this often at most."""
GIVE_UP_SECONDS = 20.0
_QUERY = "index,utilization.gpu,memory.used,memory.total"


@dataclass(frozen=True)
class GpuUse:
    """One GPU: share of time that it worked (None = it does not tell), and its memory in GiB."""

    index: int
    busy: float | None
    used_gib: float
    total_gib: float


@dataclass(frozen=True)
class MachineUse:
    """`busy` is the share of all cores that worked since the last look; None at the first."""

    cores: int
    busy: float | None
    memory: Memory
    gpus: tuple[GpuUse, ...] = ()


@dataclass
class MachineGauge:
    """Reads the machine's use now and then; between two readings it repeats the last."""

    _looked_at: float = 0.0
    _ticks: tuple[int, int] = (0, 0)
    _use: MachineUse | None = None
    _gpus: tuple[GpuUse, ...] = ()
    _asked: subprocess.Popen[str] | None = None
    _asked_at: float = 0.0
    _smi: str | None = field(default_factory=lambda: shutil.which("nvidia-smi"))

    def read(self) -> MachineUse:
        """The machine's use, at most a few seconds old."""
        now = time.monotonic()
        if self._use is not None and now - self._looked_at < EVERY_SECONDS:
            return self._use
        self._looked_at = now
        self._take_answer(now)
        if self._smi and self._asked is None:
            self._ask(now)
        worked, all_ticks = _cpu_ticks()
        passed = all_ticks - self._ticks[1]
        first = self._ticks[1] == 0
        busy = None if first or passed <= 0 else (worked - self._ticks[0]) / passed
        self._ticks = worked, all_ticks
        self._use = MachineUse(os.cpu_count() or 1, busy, host_memory(), self._gpus)
        return self._use

    def close(self) -> None:
        """End a question that nobody waits for any more."""
        if self._asked is not None:
            self._asked.kill()
            self._answer(self._asked)
            self._asked = None

    @staticmethod
    def _answer(asked: subprocess.Popen[str]) -> str:
        """What a command has said that is over; a child of it may hold its output open for ever."""
        try:
            return asked.communicate(timeout=0.5)[0]
        except subprocess.TimeoutExpired:
            if asked.stdout:
                asked.stdout.close()
            return ""

    def _ask(self, now: float) -> None:
        command = [str(self._smi), f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        try:
            # Its answer is read at a later look: a driver may think about it for seconds.
            self._asked = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            self._smi = None
        self._asked_at = now

    def _take_answer(self, now: float) -> None:
        if self._asked is None:
            return
        if self._asked.poll() is None:
            if now - self._asked_at > GIVE_UP_SECONDS:
                self.close()
                self._smi = None
            return
        answer = self._answer(self._asked)
        self._gpus = parse_gpus(answer) if self._asked.returncode == 0 else ()
        if self._asked.returncode:
            self._smi = None
        self._asked = None


def parse_gpus(answer: str) -> tuple[GpuUse, ...]:
    """GPUs from the lines of nvidia-smi (MiB); lines that are none of a GPU are left out."""
    found = []
    for row in csv.reader(answer.splitlines(), skipinitialspace=True):
        try:
            index, used, total = int(row[0]), float(row[2]), float(row[3])
        except (IndexError, ValueError):
            continue
        busy = float(row[1]) / 100 if row[1].strip().isdigit() else None
        found.append(GpuUse(index, busy, used * 2**20 / GIB, total * 2**20 / GIB))
    return tuple(found)


def _cpu_ticks() -> tuple[int, int]:
    """Ticks in which any core worked, and ticks in all, since boot; (0, 0) without /proc."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return 0, 0
    ticks = [int(word) for word in first.split()[1:9]]
    idle = sum(ticks[3:5])
    return sum(ticks) - idle, sum(ticks)
