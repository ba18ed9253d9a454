"""What the supervisor writes about runs: before, between and after the lives of their workers.

A worker owns its run's status while it lives; everything here is written when it does not.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from regatta.core.errors import DiskError, LeaseHeldError
from regatta.core.files import disk_error, write_json
from regatta.orchestrate.causes import Failure
from regatta.orchestrate.processes import kill_tree
from regatta.orchestrate.snapshot import has_begun, next_phase, resting_state, status_of
from regatta.records.run_folder import RunFolder
from regatta.records.status import (
    LIVE,
    RESUME,
    ProcessId,
    Status,
    process_identity,
    this_process,
    write_status,
)

SUPERVISED_VARIABLE = "REGATTA_SUPERVISED"
"""Set in every worker that a supervisor starts, to the study folder."""
ORPHAN_SECONDS = 3.0
_CLEAN: dict[str, Any] = {
    "process": None,
    "cause": None,
    "message": None,
    "next_step": None,
    "exit_code": None,
    "seconds_left": None,
}


def write_settled(run: RunFolder, protocol: str, *, waiting: bool) -> Status:
    """Write the state that the run's files prove; `waiting` = a launch will go on with it."""
    before = status_of(run)
    if run.is_judged(protocol):
        if before.state == "done":
            return before
        return write_status(run.status, replace(before, **{**_CLEAN, "state": "done", "phase": ""}))
    state = "queued" if waiting else resting_state(run)
    if before.state == state == "interrupted":
        return before
    after = replace(before, **{**_CLEAN, "state": state, "phase": next_phase(run)})
    return before if after == before else write_status(run.status, after)


def write_starting(run: RunFolder, *, phase: str, attempts: int) -> None:
    """Claim the run for the worker that is about to start.

    The supervisor's own identity stands in until the worker writes its own: should both die now,
    observers see it.
    """
    fields = {
        **_CLEAN,
        "state": "starting",
        "phase": phase,
        "attempts": attempts,
        "process": asdict(this_process()),
        # What an earlier phase or attempt had reached says nothing about this one.
        "step": 0,
        "total_steps": 0,
        "samples_per_second": None,
        "place": "",
    }
    write_status(run.status, replace(status_of(run), **fields))


def write_failed(run: RunFolder, failure: Failure, *, attempts: int) -> None:
    """The final word on a run that is given up."""
    fields = {
        **_CLEAN,
        "state": "failed",
        "attempts": attempts,
        "cause": failure.cause,
        "message": failure.message,
        "next_step": failure.next_step,
        "exit_code": failure.exit_code,
    }
    write_status(run.status, replace(status_of(run), **fields))


def write_retrying(run: RunFolder, failure: Failure) -> None:
    """Queued again after a failed attempt, with the reason in view."""
    fields = {**_CLEAN, "state": "queued", "cause": failure.cause, "message": failure.message}
    write_status(run.status, replace(status_of(run), **fields))


def write_requeued(run: RunFolder, *, times: int) -> None:
    """Queued again by the scheduler, after what was reached has been saved."""
    often = f" for the {times}th time" if times > 3 else ("", " again", " a third time")[times - 1]
    fields = {
        **_CLEAN,
        "state": "queued",
        "cause": "requeued",
        "message": f"the scheduler took its job away{often}; saved and queued again",
    }
    write_status(run.status, replace(status_of(run), **fields))


def write_lost(run: RunFolder, message: str) -> None:
    """Of a run whose process is gone without a word."""
    fields = {**_CLEAN, "state": "lost", "cause": "lost", "message": message, "next_step": RESUME}
    write_status(run.status, replace(status_of(run), **fields))


def write_stopped(run: RunFolder, *, exit_code: int | None, was_running: bool) -> None:
    """Interrupted if it was at work, else waiting; a worker's own words on its stop are kept."""
    before = status_of(run)
    fields = {
        "state": "interrupted" if was_running else resting_state(run),
        "phase": before.phase or next_phase(run),
        "process": None,
        "seconds_left": None,
        "cause": "stopped",
        "message": before.message if before.state == "interrupted" else None,
        "next_step": (before.state == "interrupted" and before.next_step) or RESUME,
        "exit_code": exit_code,
    }
    write_status(run.status, replace(before, **fields))


def write_abandoned(run: RunFolder, failure: Failure) -> None:
    """Of a run whose supervisor could not go on; no word where the same trouble forbids it."""
    before = status_of(run)
    fields = {
        **_CLEAN,
        "state": "interrupted" if before.state in LIVE else resting_state(run),
        "cause": failure.cause,
        "message": f"its supervisor could not go on: {failure.message}",
        "next_step": failure.next_step,
        "exit_code": failure.exit_code,
    }
    with suppress(DiskError):
        write_status(run.status, replace(before, **fields))


def remember_in_run_json(run: RunFolder, **facts: Any) -> None:
    """Add facts to run.json."""
    info = run.info()
    if any(info.get(key) != value for key, value in facts.items()):
        write_json(run.run_json, {**info, **facts})


def kept_threads(run: RunFolder) -> int | None:
    """Threads of the run's first start, once there is something to resume.

    Sums over another number of threads round differently.
    """
    threads = run.info().get("threads")
    return threads if isinstance(threads, int) and threads > 0 and has_begun(run) else None


def discard_run(run: RunFolder) -> None:
    """Delete everything of a run but its settings and its log, so that it starts over.

    Raises:
        DiskError.
    """
    try:
        # The markers go first: if deleting is cut short, the run counts as not judged, then as
        # untrained. Old predictions must never stand beside new weights.
        for marker in run.path.glob("predictions/*/complete.json"):
            marker.unlink()
        run.training_results.unlink(missing_ok=True)
        for path in run.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path not in {run.run_json, run.log}:
                path.unlink()
    except OSError as error:
        raise disk_error(error, run.path) from error


def end_orphan(run: RunFolder, study_path: Path, say: Callable[[str], None]) -> None:
    """Make sure that no worker of an earlier launch still works on the run.

    Raises:
        LeaseHeldError: a process of somebody else, or one on another host, works on it.
    """
    status = status_of(run)
    if status.state not in LIVE or not status.process:
        return
    worker = ProcessId(**status.process)
    if worker == this_process() or not _lives(worker, status, run):
        return
    if not _was_started_here(worker, study_path):
        raise LeaseHeldError(
            f"process {worker.pid} on {worker.host} is working on this run",
            where=run.path,
            hint=f"wait for it, or stop it with: regatta stop {run.run_id}",
        )
    # The kernel ends the workers of a killed supervisor; this one may be about to go.
    deadline = time.monotonic() + ORPHAN_SECONDS
    while worker.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    if worker.is_alive():
        say(f"{run.run_id}: ending process {worker.pid}, left over from an earlier launch")
        kill_tree(worker)


def _lives(worker: ProcessId, status: Status, run: RunFolder) -> bool:
    alive = worker.is_alive()
    if alive is not None:
        return alive
    # Elsewhere: believe a fresh heartbeat, there is nothing else to go by. Clocks differ, and jump:
    # one that still beats while we look lives, whatever its age.
    if time.time() - status.heartbeat < 300:
        return True
    deadline = time.monotonic() + ORPHAN_SECONDS
    while time.monotonic() < deadline:
        if status_of(run).heartbeat != status.heartbeat:
            return True
        time.sleep(0.2)
    return False


def _was_started_here(worker: ProcessId, study_path: Path) -> bool:
    marker = f"{SUPERVISED_VARIABLE}={study_path.resolve()}".encode()
    with suppress(OSError):
        if worker == process_identity(worker.pid):
            return marker in Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    return False


def append_note(log: Path, text: str) -> None:
    """One line with the time, appended to the supervisor's log.

    Raises:
        DiskError.
    """
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        with open(log, "a", encoding="utf-8") as handle:
            handle.write(f"{stamp} {text}\n")
    except OSError as error:
        raise disk_error(error, log) from error
