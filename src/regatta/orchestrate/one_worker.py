"""One worker process outside a race: a command waits for it, and it cannot outlive the command."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from regatta.config.schema import Study
from regatta.core.errors import RunError
from regatta.core.signals import StopFlag
from regatta.orchestrate.bound_process import start_bound
from regatta.orchestrate.finish import last_error
from regatta.orchestrate.plan import WORKER_COMMAND, is_prepared
from regatta.orchestrate.processes import signal_group
from regatta.records.run_folder import StudyFolder

_POLL_SECONDS = 0.1


def read_data(
    folder: StudyFolder,
    study: Study,
    *,
    echo: Callable[[str], None],
    env: Mapping[str, str],
    stop: StopFlag,
) -> None:
    """Do the first task of the study, unless it is done. For who holds the study's lease.

    Raises:
        RunError: with the worker's own words.
    """
    if is_prepared(folder, study):
        return
    echo("reading the data")
    command = [*WORKER_COMMAND, "prepare", "--study", str(folder.path)]
    run_worker(command, log=folder.prepare_log, env=env, stop=stop)


def run_worker(
    command: list[str],
    *,
    log: Path,
    env: Mapping[str, str],
    stop: StopFlag,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Run a worker to its end; a stop ends it at once, for it has nothing to save.

    Raises:
        RunError: with the exit code and the last error of its log.
    """
    log.unlink(missing_ok=True)
    child = start_bound(command, log=log, env=dict(env))
    try:
        while child.poll() is None and not stop.requested:
            tick()
            time.sleep(_POLL_SECONDS)
    finally:
        if child.poll() is None:
            signal_group(child.pid, signal.SIGKILL)
        child.wait()
    tick()
    if child.returncode and not stop.requested:
        text = last_error(log) or f"exit code {child.returncode}"
        # An error of ours has told its place and next step already.
        error = RunError(text, where=None if "\n" in text else log)
        error.exit_code = child.returncode if child.returncode > 0 else 1
        raise error
