"""How much energy training took, from counters that the hardware keeps; None = not measured.

A counter does not know who caused what it counts:

gpu board    each GPU board of the run, whatever else ran on it meanwhile; not the host. NVIDIA,
             Volta or newer, through the optional package nvidia-ml-py (module `pynvml`).
cpu package  the CPU packages of the machine with everything that ran on them meanwhile, other runs
             included; memory beside the package, disks and GPUs are not in it. Linux powercap
             (`intel-rapl`, also for AMD), which only root may read on most machines.

A run on a GPU is never given its host's number instead: it would leave out the larger part.
"""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

GPU_BOARD, CPU_PACKAGE = "gpu board", "cpu package"
POWERCAP = Path("/sys/class/powercap")
READ_SECONDS = 20.0
"""Between two readings while a run works; a package counter begins anew after minutes at least."""
MOST_WATTS = 1000.0
"""More than any CPU package draws: what it would take this long cannot have hidden a whole turn."""


@dataclass(frozen=True)
class Counters:
    """Counters of one kind.

    read: joules since some moment in the past, one per counter; None when one cannot be read.
    ranges: joules after which each begins anew at 0; inf = never.
    """

    source: str
    """GPU_BOARD or CPU_PACKAGE."""
    read: Callable[[], list[float] | None]
    ranges: list[float]


class EnergyMeter:
    """Joules between two calls of `take`; `poll` in between keeps counters from turning unseen."""

    def __init__(
        self, counters: Counters | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counters, self._clock = counters, clock
        self._joules: float | None = 0.0
        self._last, self._at = self._read(), clock()

    @property
    def source(self) -> str | None:
        return self._counters.source if self._counters else None

    def poll(self) -> None:
        """Read the counters if that was not done for a while; costs nothing otherwise."""
        if self._counters and self._clock() - self._at >= READ_SECONDS:
            self._add()

    def take(self) -> float | None:
        """Joules since the last call, or since the meter was made; None = not measured."""
        self._add()
        joules, self._joules = self._joules, 0.0
        return joules

    def _read(self) -> list[float] | None:
        return self._counters.read() if self._counters else None

    def _add(self) -> None:
        before, began = self._last, self._at
        self._last, self._at = self._read(), self._clock()
        if self._counters is None or self._joules is None or before is None or self._last is None:
            self._joules = None
            return
        seconds = self._at - began
        for first, last, span in zip(before, self._last, self._counters.ranges, strict=True):
            spent = joules_between(first, last, span=span, seconds=seconds)
            self._joules = None if spent is None or self._joules is None else self._joules + spent


def joules_between(first: float, last: float, *, span: float, seconds: float) -> float | None:
    """What a counter counted between two readings; None when it may have turned unseen.

    Args:
        span: joules after which it begins anew at 0; inf = never.
        seconds: between the readings.
    """
    if seconds * MOST_WATTS > span:
        return None
    spent = last - first if last >= first else last - first + span
    return spent if math.isfinite(spent) else None


def whole_energy(shares: Sequence[float | None]) -> float | None:
    """What every rank's counters counted together; None when one of them measured nothing."""
    known = [joules for joules in shares if joules is not None]
    return sum(known) if len(known) == len(shares) else None


def open_meter(
    device: torch.device, *, all_gpus: bool = False, powercap: Path = POWERCAP
) -> EnergyMeter:
    """The meter of this process's part in a run; one that measures nothing where nothing counts.

    Of the processes of one machine that train together on its CPU only the first counts.

    Args:
        all_gpus: the process drives every GPU that it sees.
        powercap: folder of the kernel's power zones.
    """
    if device.type == "cuda":
        first = device.index or 0
        numbers = range(torch.cuda.device_count()) if all_gpus else [first]
        return EnergyMeter(gpu_counters(gpu_names(numbers)))
    if device.type != "cpu":
        return EnergyMeter(None)
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        return EnergyMeter(Counters(CPU_PACKAGE, list, []))
    return EnergyMeter(package_counters(powercap))


def package_counters(root: Path = POWERCAP) -> Counters | None:
    """The CPU packages of this machine; None where there are none or one cannot be read.

    Only zones at the top are counted: those below them (cores, memory) are parts of one, and a
    platform zone (`psys`) holds the packages once more.
    """
    zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    try:
        packages = [z for z in zones if (z / "name").read_text().startswith("package")]
        ranges = [_joules(zone / "max_energy_range_uj") for zone in packages]
    except (OSError, ValueError):
        return None
    counters = Counters(
        CPU_PACKAGE, lambda: _read_files([z / "energy_uj" for z in packages]), ranges
    )
    return counters if packages and counters.read() is not None else None


def _read_files(paths: Sequence[Path]) -> list[float] | None:
    try:
        return [_joules(path) for path in paths]
    except (OSError, ValueError):
        return None


def _joules(path: Path) -> float:
    return int(path.read_text()) / 1e6


def gpu_names(numbers: Sequence[int]) -> list[str]:
    """Names that hold whatever CUDA_VISIBLE_DEVICES hides or reorders."""
    return [f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in numbers]


def gpu_counters(names: Sequence[str]) -> Counters | None:
    """The boards of these GPUs; None without `pynvml`, or where a GPU keeps no such counter."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByUUID(name) for name in names]
    except nvml.NVMLError:
        return None

    def read() -> list[float] | None:
        try:
            return [nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles]
        except nvml.NVMLError:
            return None

    counters = Counters(GPU_BOARD, read, [math.inf] * len(handles))
    return counters if handles and read() is not None else None
