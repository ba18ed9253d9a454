"""How much memory a piece of work takes, and a limit on it that spares the rest of the machine."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What /proc/PID/clear_refs takes to bring VmHWM down to VmRSS; see proc(5)."""
_OUT_OF_MEMORY_WORDS = (
    "DefaultCPUAllocator",
    "bad_alloc",
    "out of memory",
    "ALLOC_FAILED",
    "not enough memory",
    "could not create a primitive",
    "could not create a memory",
)


@dataclass(frozen=True)
class MemoryUse:
    """Bytes. On a GPU: allocated, and reserved by torch's cache. On a CPU: resident."""

    at_rest: int
    peak: int
    reserved: int | None


class MemoryMeter:
    """Measures from `begin` to `use`; on a CPU this whole process, so give each work its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._at_rest = 0

    def begin(self) -> None:
        """Note what is held now, and forget earlier peaks."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._at_rest = torch.cuda.memory_allocated(self._device)
            return
        gc.collect()
        _trim_heap()
        with suppress(OSError):  # a kernel or sandbox without it: the peak since the start counts
            _CLEAR_REFS.write_text(_RESET_PEAK)
        self._at_rest = resident_bytes()

    def use(self) -> MemoryUse:
        """What was taken since `begin`."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            return MemoryUse(self._at_rest, peak, torch.cuda.max_memory_reserved(self._device))
        peak = _status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return MemoryUse(self._at_rest, max(peak, resident_bytes()), None)


def _trim_heap() -> None:
    """Give freed memory back: the allocator would serve the measured work from it, unseen."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def resident_bytes() -> int:
    """Memory of this process now; 0 where the system does not say."""
    return _status_bytes("VmRSS")


def limit_memory(limit_bytes: int) -> None:
    """Let this process hold about `limit_bytes`: allocations beyond fail instead of freezing the
    host.

    The limit is on address space, which torch reserves more of than it uses: what is mapped now
    but not held is added. Call it once thread pools and libraries are there.
    """
    mapped = _status_bytes("VmSize")
    if not mapped:
        return
    room = max(0, limit_bytes - resident_bytes())
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped + room
    resource.setrlimit(
        resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or the host.

    Libraries below torch say so in a plain RuntimeError: only the text tells it from others.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in _OUT_OF_MEMORY_WORDS
    )


def _status_bytes(key: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is none."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)
