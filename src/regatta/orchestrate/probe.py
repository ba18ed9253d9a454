"""What an entry costs on this machine, measured in a child process and remembered.

The file of a measurement is named by a hash of all that it depends on, so that nothing has to be
thrown away: other settings, another device or another torch are another file.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from regatta.config.expand import TRAINING_RECORD_VERSION
from regatta.config.load import entry_train
from regatta.config.schema import EntrySection, Study
from regatta.core.bound_exec import bound_command
from regatta.core.errors import RecordError, RegattaError
from regatta.core.files import read_json, write_json
from regatta.orchestrate.bound_process import BoundProcess
from regatta.orchestrate.devices import Machine, Placement, host_memory
from regatta.orchestrate.local import task_environment
from regatta.orchestrate.processes import signal_group
from regatta.records.run_folder import StudyFolder

PROBE_COMMAND = (sys.executable, "-m", "regatta.worker.probe")
MEASURING_SECONDS = 12.0
"""Of steps and passes, after torch is imported."""
LIMIT_SECONDS = 30.0
"""Of the whole process; then it is ended, and what it has told so far is kept."""
MEMORY_SHARE = 0.9
"""Of the free memory that a measurement may take."""
CLASSES_BEFORE_READING = 10
DISTURBED_SECONDS = 600.0
"""How long a measurement is believed that other work has disturbed."""
SPARE_CORES = 0.3
"""Other work that takes this much of what the threads should have disturbs no measurement."""
VERSION = 1
"""Raised when the probe measures otherwise, so that older files are left alone."""
_TRAIN_KEYS = {
    *("batch_size", "optimizer", "precision", "clip_norm", "class_weights", "ema", "mixup"),
    *("cutmix", "freeze_encoder", "feature_cache", "augment", "augment_options"),
    *("gradient_checkpointing", "deterministic", "compile", "compile_mode"),
    *("loader_threads", "frame_cache_gib"),
}
"""Keys of the recipe that change what a step or a clip costs."""

Status = Literal["ok", "timed out", "out of memory", "failed"]


@dataclass(frozen=True)
class Probe:
    """What was measured of an entry; None = not measured.

    Seconds are per sample and of the model alone; `load_seconds` is what the training loader needs
    for a clip that is decoded. host_gib, device_gib: the highest of this process, the device's as
    torch reserved it. kept_bytes: what a finished run leaves; disk_bytes: the most that it needs.
    """

    status: Status
    message: str = ""
    train_seconds: float | None = None
    train_batch: int | None = None
    train_note: str = ""
    encode_seconds: float | None = None
    encode_batch: int | None = None
    encode_note: str = ""
    judge_seconds: float | None = None
    judge_batch: int | None = None
    judge_note: str = ""
    load_seconds: float | None = None
    passes_per_sample: int | None = None
    host_gib: float | None = None
    device_gib: float | None = None
    memory_is_whole: bool = False
    """Whether the highest memory is that of steps with whole batches."""
    parameters: int | None = None
    precision: str = ""
    model_bytes: int | None = None
    checkpoint_bytes: int | None = None
    kept_bytes: int | None = None
    disk_bytes: int | None = None
    batch_size: int | None = None
    stages: tuple[str, ...] = ()
    threads: int = 1
    device: str = ""
    others_cores: float = 0.0
    """CPU cores that other work kept busy meanwhile."""
    is_disturbed: bool = False
    """Whether that left too few for this measurement."""

    @property
    def trains_in_steps(self) -> bool:
        """False for a model that is solved for."""
        return not self.stages or "step" in self.stages


def probe_folder() -> Path:
    """Where measurements are kept: under $XDG_CACHE_HOME, or ~/.cache."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore a relative one.
    root = Path(given) if os.path.isabs(given) else Path("~/.cache").expanduser()
    return root / "regatta" / "probes"


@dataclass(frozen=True)
class ProbeTarget:
    """One entry on one kind of device, and what its shapes depend on."""

    study: Study
    entry: EntrySection
    place: Placement
    device_name: str
    threads: int
    folder: StudyFolder | None = None
    """Of the study, when its data are read."""
    window: tuple[int, int] | None = None
    classes: int | None = None
    manifest_hash: str = ""

    @property
    def path(self) -> Path:
        """The file of this measurement."""
        train = entry_train(self.study, self.entry).model_dump(mode="json", include=_TRAIN_KEYS)
        data = self.study.data
        content = {
            "version": [VERSION, TRAINING_RECORD_VERSION],
            "entry": self.entry.model_dump(mode="json", include={"model", "size", "options"}),
            "train": train,
            "protocol": self.study.protocol.model_dump(
                mode="json", include={"name", "options", "batch_size"}
            ),
            "data": [self.manifest_hash, data.decoder, self.window, self.classes],
            "device": [self.place.device.partition(":")[0], self.device_name, self.threads],
            "torch": torch_version(),
        }
        digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return probe_folder() / f"{digest[:32]}.json"


def probe_target(
    study: Study,
    entry: EntrySection,
    *,
    machine: Machine,
    place: Placement,
    threads: int,
    folder: StudyFolder | None,
) -> ProbeTarget:
    """The measurement of an entry at a place.

    Args:
        folder: of the study, when its data are read with these settings; else None.
    """
    facts = read_json(folder.data_json) if folder else {}
    is_signal = folder is not None and folder.windows.is_file()
    name = next((g.name for g in machine.gpus if g.index in place.gpu_ids[:1]), cpu_name())
    return ProbeTarget(
        study,
        entry,
        place,
        name,
        threads,
        folder,
        window_of(folder) if folder and is_signal else None,
        len(facts["classes"]) if "classes" in facts else None,
        facts.get("manifest_hash", ""),
    )


def window_of(folder: StudyFolder) -> tuple[int, int] | None:
    """(channels, samples) from the head of the file of windows; None when it cannot be read."""
    try:
        with open(folder.windows, "rb") as file:
            # safetensors: eight bytes of length, then that much JSON.
            size = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(min(size, 1 << 30)))
        _, channels, samples = head["signals"]["shape"]
    except (OSError, ValueError, KeyError):
        return None
    return int(channels), int(samples)


def cpu_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor as the system names it, or "cpu"."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "cpu"
    return next(
        (ln.partition(":")[2].strip() for ln in lines if ln.startswith("model name")), "cpu"
    )


def torch_version() -> str:
    """The installed torch, without importing it; "" when there is none."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def remembered(target: ProbeTarget) -> Probe | None:
    """An earlier measurement; None when there is none, its file is damaged, or other work has
    disturbed it some time ago."""
    try:
        probe = _from_json(read_json(target.path))
        age = time.time() - target.path.stat().st_mtime
    except (RecordError, OSError):
        return None
    return None if probe.is_disturbed and age > DISTURBED_SECONDS else probe


def measure(
    target: ProbeTarget,
    *,
    say: Callable[[str], None] = lambda _: None,
    command: tuple[str, ...] = PROBE_COMMAND,
    limit_seconds: float = LIMIT_SECONDS,
) -> Probe:
    """The remembered measurement, or a new one.

    A measurement that found no memory or failed is made again the next time: what else runs here
    may be the reason. A cache that cannot be written costs time only.
    """
    known = remembered(target)
    if known is not None:
        return known
    say(f"measuring {target.entry.name} (at most about {limit_seconds:.0f} s)")
    probe = _run(target, command, limit_seconds)
    if probe.status in ("ok", "timed out"):
        try:
            write_json(target.path, asdict(probe))
        except RegattaError as error:
            say(f"the measurement is not kept: {error.what} ({error.where})")
    return probe


def _run(target: ProbeTarget, command: tuple[str, ...], limit_seconds: float) -> Probe:
    request = {
        "study": target.study.model_dump(mode="json"),
        "entry": target.entry.name,
        "folder": str(target.folder.path.absolute()) if target.folder else None,
        "window": target.window,
        "classes": max(2, target.classes or CLASSES_BEFORE_READING),
        "memory_gib": MEMORY_SHARE * host_memory().available_gib,
        "seconds": MEASURING_SECONDS,
    }
    words = ["--device", target.place.device, "--threads", str(target.threads)]
    env = {**os.environ, **task_environment(target.place, target.threads)}
    # Through a file, because a child that dies early must not break our writing.
    with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+") as complaints:
        asked.write(json.dumps(request))
        asked.seek(0)
        child: BoundProcess[str] = BoundProcess(
            bound_command(os.getpid(), [*command, *words]),
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=env,
            start_new_session=True,
        )
        before = _busy_seconds()
        output, is_late = _until_end(child, limit_seconds)
        others = _others_cores(before)
        complaints.seek(0)
        last = (complaints.read().strip().splitlines() or [""])[-1][:300]
    late_after = limit_seconds if is_late else None
    probe = _judged(output, child.returncode, last, target, late_after)
    room = (os.cpu_count() or 1) - others
    disturbed = room < target.threads - SPARE_CORES
    return replace(probe, others_cores=round(others, 2), is_disturbed=disturbed)


def _busy_seconds() -> tuple[float, float, float]:
    """(now, seconds that all cores were busy since boot, seconds of our ended children)."""
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        # user nice system idle iowait irq softirq steal, in ticks
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        ticks = []
    idle = sum(ticks[3:5])
    busy = (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK") if ticks else 0.0
    return time.monotonic(), busy, own.ru_utime + own.ru_stime


def _others_cores(before: tuple[float, float, float]) -> float:
    """Cores that others kept busy since then, on average."""
    seconds, busy, own = (b - a for a, b in zip(before, _busy_seconds(), strict=True))
    return max(0.0, (busy - own) / max(seconds, 1e-3))


def _until_end(child: subprocess.Popen[str], limit_seconds: float) -> tuple[str, bool]:
    """What it printed, and whether it was ended for being late; nothing of it is left."""
    is_late = False
    try:
        output, _ = child.communicate(timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        is_late = True
        signal_group(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
    except BaseException:
        signal_group(child.pid, signal.SIGKILL)
        child.communicate()
        raise
    return output, is_late


def _judged(
    output: str, code: int, last: str, target: ProbeTarget, late_after: float | None
) -> Probe:
    """What the child told, with a status that says how far it came."""
    told: dict[str, Any] = {"threads": target.threads, "device": target.device_name}
    for line in output.splitlines():
        try:
            told |= json.loads(line)
        except (ValueError, TypeError):
            continue  # the line that was being written when it was ended
    if late_after is not None:
        told |= {"status": "timed out", "message": f"ended after {late_after:.0f} s"}
    elif "status" not in told:
        # The kernel ends a process that takes too much with SIGKILL.
        status = "out of memory" if code == -signal.SIGKILL else "failed"
        told |= {"status": status, "message": last or f"exit code {code}"}
    if not told.get("memory_is_whole"):
        told |= {"host_gib": None, "device_gib": None}
    return _from_json(told)


def _from_json(content: Any) -> Probe:
    """Raises RecordError for what is no measurement."""
    names = {field.name for field in fields(Probe)}
    if not isinstance(content, dict) or "status" not in content:
        raise RecordError("this is no measurement")
    known = {key: value for key, value in content.items() if key in names}
    if any(isinstance(v, str) for k, v in known.items() if k.endswith(("seconds", "gib", "bytes"))):
        raise RecordError("a measurement holds text for a number")
    return Probe(**{**known, "stages": tuple(known.get("stages", ()))})
