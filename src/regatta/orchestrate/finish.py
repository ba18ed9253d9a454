"""After the last run: compare and report, each in a child, only when something has changed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import regatta
from regatta.config.expand import expand_study, protocol_id
from regatta.config.schema import Study
from regatta.core.errors import RecordError
from regatta.core.files import read_json, write_json
from regatta.core.signals import StopFlag
from regatta.orchestrate.bound_process import start_bound
from regatta.orchestrate.causes import last_error_line
from regatta.orchestrate.processes import cpu_ticks, descendants, signal_group
from regatta.orchestrate.snapshot import status_of
from regatta.records.run_folder import StudyFolder

CLI_COMMAND = (sys.executable, "-m", "regatta")
GRACE_SECONDS = 5.0
_POLL_SECONDS, _LOOK_SECONDS = 0.1, 2.0
_READ_BYTES = 1 << 20


def report_page(folder: StudyFolder) -> Path:
    return folder.report / "report.html"


def finish_study(
    folder: StudyFolder,
    study: Study,
    *,
    stop: StopFlag,
    echo: Callable[[str], None],
    command: tuple[str, ...] = CLI_COMMAND,
) -> int:
    """Compare what is judged and write the report, unless both stand for exactly these predictions.

    The statistics need libraries that a supervisor should not carry, hence the children.

    Returns:
        0, the exit code of the child that failed, or 130/143 when stopped.
    """
    inputs = _inputs(folder, study)
    if not inputs["judged"]:
        echo("nothing is judged, so there is nothing to compare")
        return 0
    if report_is_current(folder, study):
        return 0
    limit = study.launch.stall_seconds
    for verb in ("compare", "report"):
        code = _run_verb(folder, verb, limit=limit, stop=stop, echo=echo, command=command)
        if code:
            return code
    write_json(_inputs_file(folder), inputs)
    return 0


def _inputs(folder: StudyFolder, study: Study) -> dict[str, Any]:
    """Everything that results and report are made from."""
    protocol = protocol_id(study.protocol)
    judged, unfinished = {}, {}
    for spec in expand_study(study):
        run = folder.run(spec.run_id)
        if run.is_judged(protocol):
            complete = run.predictions(protocol) / "complete.json"
            judged[spec.run_id] = sha256(complete.read_bytes()).hexdigest()
        else:
            status = status_of(run)
            unfinished[spec.run_id] = [status.state, status.cause, status.message]
    return {
        "version": regatta.__version__,
        "protocol": protocol,
        "title": study.title,
        "compare": study.compare.model_dump(mode="json"),
        "judged": judged,
        "unfinished": unfinished,
    }


def _inputs_file(folder: StudyFolder) -> Path:
    return folder.report / "inputs.json"


def report_is_current(folder: StudyFolder, study: Study) -> bool:
    """Whether results and report stand for exactly the predictions and settings that there are."""
    if not report_page(folder).is_file() or not (folder.results / "comparison.json").is_file():
        return False
    try:
        return read_json(_inputs_file(folder)) == _inputs(folder, study)
    except RecordError:
        return False


def last_error(log: Path) -> str:
    """The last error of ours in a log, with its place and next step; else its last error line."""
    text = "\n" + _end_of(log).rstrip()
    _, ours, block = text.rpartition("\nerror: ")
    return block if ours else last_error_line(log)


def _end_of(log: Path) -> str:
    """The last part of a log; a child that complains without end must not fill our memory."""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _READ_BYTES))
        return file.read().decode("utf-8", errors="replace")


@dataclass
class _Stillness:
    """How long a process and all below it have computed nothing and written nothing."""

    pid: int
    log: Path
    seen: tuple[int, int] = (-1, -1)
    since: float = 0.0
    looked_at: float = float("-inf")

    def seconds(self) -> float:
        now = time.monotonic()
        if now - self.looked_at >= _LOOK_SECONDS:
            self.looked_at = now
            below = [process.pid for process in descendants([self.pid])[self.pid]]
            found = (cpu_ticks([self.pid, *below]), self.log.stat().st_size)
            if found != self.seen:
                self.seen, self.since = found, now
        return now - self.since


def _run_verb(
    folder: StudyFolder,
    verb: str,
    *,
    limit: float,
    stop: StopFlag,
    echo: Callable[[str], None],
    command: tuple[str, ...],
) -> int:
    log = folder.path / f"{verb}.log"
    log.unlink(missing_ok=True)
    echo(f"{verb}: working")
    child = start_bound([*command, verb, str(folder.path)], log=log, env={})
    kill_at, stillness, stalled = float("inf"), _Stillness(child.pid, log), False
    while child.poll() is None:
        if not stalled and stillness.seconds() > limit:
            stalled, kill_at = True, time.monotonic()
        if stop.requested and kill_at == float("inf"):
            child.terminate()
            kill_at = time.monotonic() + GRACE_SECONDS
        if time.monotonic() >= kill_at:
            signal_group(child.pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    if stop.requested:
        return stop.exit_code
    if stalled:
        echo(f"{verb}: failed: no sign of life for {limit:g} s, it was ended; see {log}")
        return 1
    if child.returncode:
        echo(f"{verb}: failed: {last_error(log) or f'exit code {child.returncode}, see {log}'}")
        return child.returncode if child.returncode > 0 else 1
    if verb == "compare":
        echo(_end_of(log).rstrip())
    return 0
