"""Processes that decode whole files for the scan: one that is lost to a file costs only that file.

A decoder may crash, or never come back. A thread that met such a file would take its process with
it, or be held for ever. So each thread of the scan has a process: it is told a path and answers
with what the file holds, and meanwhile shows that it is alive. What ends it, or silences it, twice
is a fault of the file.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from regatta.core.errors import DecodeError, EnvironmentFault, StopRequested
from regatta.data.decode import Probe, probe

SILENT_SECONDS = 120.0
"""A process whose decoder gives no frame for so long is ended."""
MEMORY_BYTES = 8 << 30
"""Most that a process may reserve, beside what it had when it began."""
ATTEMPTS = 2
_POLL_SECONDS = 0.2
_BEAT_SECONDS = 1.0
_STOPPED = frozenset({signal.SIGINT, signal.SIGTERM})


class ScanProcesses:
    """As many processes as files are decoded at the same time; safe with several threads."""

    def __init__(self, stop: Callable[[], bool] | None = None) -> None:
        self._stop = stop
        self._idle: list[_ScanProcess] = []

    def probe(self, path: Path) -> Probe:
        """What `regatta.data.decode.probe` finds, from a process.

        Raises:
            DecodeError: as there; the decoder crashes on the file, or gives no frame for a long
                time.
            StopRequested: `stop()` became true.
            EnvironmentFault: processes cannot be started, or are killed from outside.
        """
        for attempt in range(1, ATTEMPTS + 1):
            process = self._take()
            answer = process.ask(path, self._stop)
            if "lost" not in answer:
                self._idle.append(process)
                break
            process.end()
            if attempt == ATTEMPTS:
                raise _loss(path, answer)
        if "problem" in answer:
            raise DecodeError(answer["problem"], where=path)
        return Probe(**answer["probe"])

    def _take(self) -> _ScanProcess:
        try:
            return self._idle.pop()
        except IndexError:
            return _ScanProcess()

    def close(self) -> None:
        """End all processes; only while none is asked."""
        while self._idle:
            self._idle.pop().end()


class _ScanProcess:
    """One process, from its first file to its end."""

    def __init__(self) -> None:
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # An interrupt from the terminal is for those who started us, and they for us.
                process_group=0,
            )
        except OSError as error:
            raise EnvironmentFault(
                f"no process can be started to decode files: {error.strerror}",
                hint="raise the limit on processes (ulimit -u, or pids.max of the control group)",
            ) from error
        self._rest = b""

    def ask(self, path: Path, stop: Callable[[], bool] | None) -> dict[str, Any]:
        """The answer on a file: `probe`, `problem`, or `lost` = how this process was lost."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(os.fspath(path)).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            return self._gone()
        silent = 0.0
        while silent < SILENT_SECONDS:
            began = time.monotonic()
            line = self._line()
            if line == b"":
                return self._gone()
            if line is not None and line != b".\n":
                return json.loads(line)
            # By looks, not by the clock: whoever halts the scan for an hour must not end it.
            waited = min(time.monotonic() - began, 2 * _POLL_SECONDS)
            silent = silent + waited if line is None else 0.0
            if stop is not None and stop():
                self.end()
                raise StopRequested("stopped while decoding", where=path)
        return {"lost": 0}

    def _line(self) -> bytes | None:
        """The next whole line; b"" at the end of all, None when none has come for a moment."""
        assert self._child.stdout is not None
        if b"\n" not in self._rest:
            if not select.select([self._child.stdout], [], [], _POLL_SECONDS)[0]:
                return None
            piece = os.read(self._child.stdout.fileno(), 1 << 16)
            if not piece:
                return b""
            self._rest += piece
        line, found, rest = self._rest.partition(b"\n")
        if not found:
            return None
        self._rest = rest
        return line + found

    def _gone(self) -> dict[str, Any]:
        return {"lost": self._child.wait()}

    def end(self) -> None:
        """Kill and reap; safe to call twice."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def _loss(path: Path, answer: dict[str, Any]) -> Exception:
    """What to raise for a file that was in hand when its process was lost again and again."""
    code = -answer["lost"]
    if code == 0:
        problem = f"the decoder hangs: no frame for {SILENT_SECONDS:.0f} seconds, {ATTEMPTS} times"
        return DecodeError(problem, where=path)
    if code in _STOPPED:
        return StopRequested("stopped while decoding", where=path)
    if code == signal.SIGKILL or code not in signal.valid_signals():
        how = "was killed" if code > 0 else f"ended with exit code {-code}"
        return EnvironmentFault(
            f"the process that decodes files {how} {ATTEMPTS} times",
            where=path,
            hint="host memory may have run out: end what else runs here, then try again; it says "
            "nothing of this file",
        )
    name = signal.Signals(code).name
    return DecodeError(f"the decoder crashes on it ({name}, {ATTEMPTS} times)", where=path)


def main() -> None:
    """Answer paths from standard input until it ends, also while a decoder hangs."""
    # The scan decides when to stop; it ends this process itself.
    for number in _STOPPED:
        signal.signal(number, signal.SIG_IGN)
    _limit_this_process()
    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    paths: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_take_requests, args=[paths], daemon=True).start()
    while True:
        print(json.dumps(_answer(Path(paths.get()), answers)), file=answers, flush=True)


def _take_requests(paths: SimpleQueue[str]) -> None:
    for line in sys.stdin.buffer:
        paths.put(json.loads(line))
    # The scan is over, or dead.
    os._exit(0)


def _answer(path: Path, answers: TextIO) -> dict[str, Any]:
    told = time.monotonic()

    def beat() -> bool:
        nonlocal told
        if time.monotonic() - told >= _BEAT_SECONDS:
            print(".", file=answers, flush=True)
            told = time.monotonic()
        return False

    try:
        return {"probe": asdict(probe(path, stop=beat))}
    except DecodeError as error:
        return {"problem": error.what}
    except MemoryError:
        return {"problem": f"decoding needs more than {MEMORY_BYTES / 2**30:g} GiB of memory"}


def _limit_this_process() -> None:
    """A file that makes the decoder reserve without end gets an error, and the machine goes on."""
    own = Path("/proc/self/statm")
    reserved = int(own.read_text().split()[0]) * resource.getpagesize() if own.is_file() else 0
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = reserved + MEMORY_BYTES
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    # One that crashes leaves its name, not its memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
