"""What `regatta doctor` says of the machine: memory, folders and disks, limits, and the clock."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

from regatta.cli.finding import Finding
from regatta.core.files import existing_parent
from regatta.orchestrate.devices import GIB, cpu_cores, free_processes, host_memory
from regatta.orchestrate.probe import probe_folder

MIB = 2**20
RUNS_GIB, TEMP_MIB, CACHE_GIB = 2.0, 100.0, 2.0
"""Free space below which a folder is too full: of runs, temporary files, downloaded weights."""
SMALL_SHARED_MIB = 64
"""What containers get unless they are told otherwise."""
LITTLE_SHARED_MIB = 16
LOW_FILES, FEW_FILES = 256, 1024
FEW_PROCESSES = 256
CLOCK_SECONDS = 5.0
LIMITED_SHARE = 0.5
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written


def memory() -> Finding:
    """Cores and memory, and a control group that allows much less than there is."""
    allowed = host_memory()
    machine_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    found = f"{cpu_cores()} cores, {allowed.total_gib:.0f} GiB, {allowed.available_gib:.1f} free"
    if allowed.total_gib < 1:
        cure = "allow more: docker run --memory=8g, or sbatch --mem=8G"
        return Finding("cores, memory", "bad", found, cure, "the control group's memory limit")
    if allowed.total_gib < LIMITED_SHARE * machine_gib:
        return Finding(
            "cores, memory",
            "note",
            f"{found}; the control group allows this much of {machine_gib:.0f} GiB",
            "if that is not meant: docker run --memory=..., or sbatch --mem=...",
        )
    return Finding("cores, memory", "good", found)


def shared_memory(folder: Path = SHARED_MEMORY) -> Finding:
    """For clips that runs share, and processes of one run."""
    use = "only launch.share and multi-GPU runs use it"
    if not folder.is_dir():
        return Finding("shared memory", "note", f"no {folder}; {use}")
    space = shutil.disk_usage(folder)
    found = f"{space.total / MIB:.0f} MiB, {space.free / MIB:.0f} free; {use}"
    if space.total > SMALL_SHARED_MIB * MIB and space.free > LITTLE_SHARED_MIB * MIB:
        return Finding("shared memory", "good", found)
    cure = f"docker run --shm-size=2g, or: mount -o remount,size=2g {folder}"
    return Finding("shared memory", "note", f"small: {found}", cure, str(folder))


def runs_folder(runs: Path) -> Finding:
    """Where results go: writable, and with room."""
    place = existing_parent(runs)
    trouble = write_trouble(place)
    if trouble:
        return Finding(
            "disk", "bad", f"{place} cannot be written: {trouble}", "choose another --runs"
        )
    free = shutil.disk_usage(place).free / GIB
    cure = "free some space, or choose another --runs: base-size checkpoints take several GiB a run"
    if free >= RUNS_GIB:
        return Finding("disk", "good", f"{free:.0f} GiB free under {place}")
    return Finding("disk", "bad", f"{free * 1024:.0f} MiB free under {place}", cure, str(place))


def temporary_folder() -> Finding:
    """Where Python and torch put what they need for a moment."""
    cure = "free some space there, or: export TMPDIR=/another/folder"
    try:
        place = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Finding("temp folder", "bad", f"no folder can be written: {error.strerror}", cure)
    given = os.environ.get("TMPDIR")
    if given and Path(given).absolute() != place.absolute():
        found = f"TMPDIR is {given}, which cannot be written; {place} is used"
        return Finding("temp folder", "bad", found, "export TMPDIR=/a/writable/folder", given)
    free = shutil.disk_usage(place).free / MIB
    if free < TEMP_MIB:
        return Finding("temp folder", "bad", f"{free:.0f} MiB free", cure, str(place))
    return Finding("temp folder", "good", f"{free / 1024:.0f} GiB free under {place}")


def weights_folder() -> Finding:
    """Where published weights are downloaded to."""
    place = weights_cache()
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        there = "exists" if place.is_dir() else "does not exist"
        return Finding(
            "weights cache",
            "note",
            f"HF_HUB_OFFLINE is set: checkpoints come from {place} alone, which {there}",
            "unset HF_HUB_OFFLINE to download others",
        )
    above = existing_parent(place)
    trouble = write_trouble(above)
    if trouble:
        return Finding(
            "weights cache",
            "note",
            f"{above} cannot be written: {trouble}; published weights cannot be downloaded",
            "export HF_HOME=/a/writable/folder",
            str(place),
        )
    free = shutil.disk_usage(above).free / GIB
    if free < CACHE_GIB:
        cure = "free some space, or: export HF_HOME=/another/folder"
        return Finding("weights cache", "note", f"{free * 1024:.0f} MiB free", cure, str(place))
    return Finding("weights cache", "good", f"{free:.0f} GiB free under {place}")


def weights_cache() -> Path:
    """The hub's folder, as huggingface_hub finds it."""
    named = os.environ.get("HF_HUB_CACHE")
    home = os.environ.get("HF_HOME")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named or (f"{home}/hub" if home else f"{base}/huggingface/hub")).expanduser()


def own_cache() -> Finding:
    """Where measurements of `regatta check` are kept; without it they are made each time."""
    place = probe_folder()
    trouble = write_trouble(existing_parent(place))
    if trouble:
        cure = "export XDG_CACHE_HOME=/a/writable/folder"
        found = f"cannot be written: {trouble}; regatta check measures anew each time"
        return Finding("own cache", "note", found, cure, str(place))
    return Finding("own cache", "good", str(place))


def write_trouble(folder: Path) -> str:
    """Why no file can be written in `folder`; "" when one can."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def limits() -> Finding:
    """Open files, and processes with their threads."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    own, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    left = free_processes()
    counts = [n for n in (left, None if own == resource.RLIM_INFINITY else own) if n is not None]
    processes = min(counts, default=None)
    found = f"{files if files != resource.RLIM_INFINITY else 'any number of'} open files, "
    found += f"{processes} processes" if processes is not None else "processes without limit"
    if files != resource.RLIM_INFINITY and files < FEW_FILES:
        state = "bad" if files < LOW_FILES else "note"
        return Finding("limits", state, found, "ulimit -n 4096, in the shell that starts Regatta")
    if processes is not None and processes < FEW_PROCESSES:
        cure = "ulimit -u 4096; in a container: docker run --pids-limit=-1"
        return Finding("limits", "bad", found, cure, "ulimit -u, or the control group's pids.max")
    return Finding("limits", "good", found)


def clock(runs: Path, *, now: float | None = None) -> Finding:
    """Whether this machine and the disk agree on the time: file times tell who is alive."""
    place = existing_parent(runs)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".probe-") as file:
            file.write(b"x")
            file.flush()
            off = os.fstat(file.fileno()).st_mtime - (time.time() if now is None else now)
    except OSError as error:
        return Finding("clock", "note", f"not compared with the disk's: {error.strerror}")
    if abs(off) <= CLOCK_SECONDS:
        return Finding("clock", "good", "agrees with the disk's")
    ahead = "ahead" if off > 0 else "behind"
    cure = "set the clocks of this machine and of the file server: timedatectl set-ntp true"
    found = f"files written now are dated {abs(off):.0f} s {ahead}"
    return Finding("clock", "bad", found, cure, str(place))
