"""Why a task ended as it did: cause, message, next step, and whether another try makes sense."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from regatta.core.errors import RegattaError
from regatta.orchestrate.local import Ended
from regatta.records.in_hand import Held, last_crash
from regatta.records.status import RESUME, Status

STOPPED_CODES = frozenset({130, 143, -signal.SIGINT, -signal.SIGTERM})
"""A worker that is told to stop before it listens dies of the signal itself."""
_NEVER_RETRIED = {2: "config", 3: "environment"}
_RETRIED_CAUSES = frozenset({"crash", "stall", "killed", "port"})
"""Everything else was raised on purpose, and would be met again at the same place."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written
_TAIL_BYTES = 16_384
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERROR_LINE = re.compile(r"^(?:[\w.]*(?:Error|Exception|Fault|Interrupt|Exit)\b|error:)")


@dataclass(frozen=True)
class Failure:
    """One failed attempt. `alone`: the next try runs beside nothing else, and is the only one."""

    cause: str
    message: str
    next_step: str
    exit_code: int | None
    retry: bool
    alone: bool = False
    file: str | None = None
    """The file that a decoder crashed or hung on."""

    def after(self, before: Failure | None) -> Failure:
        """This failure behind an earlier one of its task: a file is given one more chance, and who
        is killed again is told of memory."""
        if before is not None and self.file is not None and before.file == self.file:
            return replace(self, message=f"{self.message}, for the second time", retry=False)
        if before is not None and self.cause == before.cause == "killed" and not self.alone:
            step = f"{RESUME}; if nobody killed it, memory may have run out: {_LESS_MEMORY}"
            return replace(self, next_step=step)
        return self


def diagnose(
    ended: Ended,
    *,
    status: Status | None,
    log: Path,
    log_start: int,
    stalled_seconds: float | None = None,
    held: Sequence[Held] = (),
) -> Failure:
    """Explain an attempt that did not do its work.

    Args:
        status: what the worker last wrote of itself, None for a task without.
        log_start: size of the log when the attempt began, so that no older error is blamed.
        stalled_seconds: set when the supervisor killed it for its silence.
        held: the files that its threads had in hand, the longest without a sign of life first.
    """
    code = ended.exit_code
    decoder = _by_decoder(ended, log, log_start, stalled_seconds, held)
    if decoder is not None:
        return decoder
    if stalled_seconds is not None:
        message = f"no sign of life for {stalled_seconds:.0f} s; killed, stacks are in {log.name}"
        step = f"see where it stood in {log}; a slow step needs a larger launch.stall_seconds"
        return Failure("stall", message, step, code, retry=True)
    told = status if status is not None and status.state == "failed" else None
    if told and told.cause == "out_of_memory":
        message = f"{told.message or 'out of memory'} ({ended.memory_text})"
        return Failure(
            "out_of_memory", message, told.next_step or _LESS_MEMORY, code, True, alone=True
        )
    if code < 0:
        return _by_signal(ended, log, log_start)
    if code == 0:
        message = "the worker ended without finishing its work and without an error"
        return Failure("crash", message, f"see {log}", code, retry=True)
    cause = (told and told.cause) or _NEVER_RETRIED.get(code, "crash")
    message = (told and told.message) or last_error_line(log, log_start) or f"exit code {code}"
    step = (told and told.next_step) or f"see {log}, then run the same command again"
    if _FULL_SHARED_MEMORY.search(message) and _NO_ROOM.search(message):
        step = _more_shared_memory()
    retry = cause in _RETRIED_CAUSES and code not in _NEVER_RETRIED
    return Failure(cause, message, step, code, retry=retry)


_ANOTHER_FILE = (
    "look at it with: regatta data check; replace it, or take it out of the data folder or list"
)


def _by_decoder(
    ended: Ended,
    log: Path,
    log_start: int,
    stalled_seconds: float | None,
    held: Sequence[Held],
) -> Failure | None:
    """The failure of an attempt that ended inside a decoder; None where nothing proves that."""
    if not held:
        return None
    code = ended.exit_code
    if stalled_seconds is not None:
        # What else was in hand had only just been opened.
        if held[0].seconds < stalled_seconds / 2:
            return None
        path = held[0].path
        message = f"the decoder hangs on {path}: nothing for {held[0].seconds:.0f} s"
        return Failure("decoder_hang", message, _ANOTHER_FILE, code, retry=True, file=path)
    crash = last_crash(log, log_start)
    found = [each for each in held if crash is not None and each.thread == crash.thread]
    # A bus error is the mark of memory that a full disk does not back.
    if crash is None or not found or crash.what.startswith("Bus"):
        return None
    path = found[0].path
    message = f"the decoder crashed on {path} ({crash.what})"
    return Failure("decoder_crash", message, _ANOTHER_FILE, code, retry=True, file=path)


_LESS_MEMORY = (
    "lower train.frame_cache_gib, train.loader_threads, train.batch_size or launch.max_parallel "
    "(fewer runs at once), or set launch.memory_gib_per_run"
)
_FULL_SHARED_MEMORY = re.compile(rf"{SHARED_MEMORY}|shared memory", re.IGNORECASE)
_NO_ROOM = re.compile(r"no space|not enough|too small|insufficient|cannot allocate", re.IGNORECASE)


def _more_shared_memory() -> str:
    """The next step where shared memory is full, with its size here."""
    try:
        space = shutil.disk_usage(SHARED_MEMORY)
        sizes = f" ({space.free / 2**20:.0f} of {space.total / 2**20:.0f} MiB are free)"
    except OSError:
        sizes = ""
    return (
        f"shared memory is too small{sizes}: start the container with --shm-size=1g, or: "
        f"mount -o remount,size=1g {SHARED_MEMORY}"
    )


def _by_signal(ended: Ended, log: Path, log_start: int) -> Failure:
    number = -ended.exit_code
    named = {each.value: each.name for each in signal.Signals}
    name = named.get(number, f"signal {number}")
    if number == signal.SIGKILL and ended.oom_kills > 0:
        message = f"the host ran out of memory and killed it; {ended.memory_text}"
        return Failure("out_of_memory", message, _LESS_MEMORY, ended.exit_code, True, alone=True)
    if number == signal.SIGKILL and ended.memory_was_low:
        message = f"by SIGKILL, possibly because host memory ran out: {ended.memory_text}"
        return Failure("killed", message, _LESS_MEMORY, ended.exit_code, True, alone=True)
    if number == signal.SIGKILL:
        message = f"by SIGKILL from outside; {ended.memory_text}"
        return Failure("killed", message, RESUME, ended.exit_code, retry=True)
    line = last_error_line(log, log_start)
    message = f"ended by {name}" + (f"; last words: {line}" if line else "")
    step = f"see {log}"
    if number == signal.SIGBUS:
        step = f"the disk is full, or {_more_shared_memory()}"
    return Failure("crash", message, step, ended.exit_code, retry=True)


def failure_of(error: RegattaError) -> Failure:
    """Of what was raised on purpose, and would be met again at the same place."""
    where = f" ({error.where})" if error.where else ""
    return Failure(
        error.cause, f"{error.what}{where}", error.hint or RESUME, error.exit_code, retry=False
    )


def lacking_runs(missing: Sequence[str]) -> Failure:
    """Of a run that could not start because runs that it builds on are not trained."""
    return Failure(
        "needs",
        f"it needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not trained",
        f"mend {missing[0]} (regatta status says why it failed), then run the same command again",
        None,
        retry=False,
    )


def last_error_line(log: Path, start: int = 0) -> str:
    """The last line of a log that names an error, else its last words; "" when there are none.

    Args:
        start: offset in bytes that the attempt's own output begins at.
    """
    try:
        with open(log, "rb") as handle:
            size = handle.seek(0, 2)
            # A log that was cut or replaced meanwhile is read from its tail.
            begin = start if start <= size else 0
            handle.seek(max(begin, size - _TAIL_BYTES))
            text = handle.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [_ANSI.sub("", line).rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    chosen = named[-1] if named else (lines[-1] if lines else "")
    return chosen.strip().removeprefix("error: ")[:500]
