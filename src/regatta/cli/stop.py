"""`regatta stop`: ask a study, or one of its runs, to save and leave."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from regatta.cli.arguments import RUNS, Runs, find_study, study_folders
from regatta.core.errors import ConfigError, DataError
from regatta.core.files import path_under
from regatta.orchestrate.processes import signal_process
from regatta.orchestrate.snapshot import RunView, StudyReader, StudyView
from regatta.records.run_folder import StudyFolder
from regatta.records.status import LIVE, ProcessId

EXTRA_SECONDS = 15.0
"""Beyond the study's own grace time: a supervisor first kills, then writes its records."""

What = Annotated[
    Path | None,
    typer.Argument(
        help="A study folder, a study name or a run id; the only running study if left out.",
        show_default=False,
    ),
]


def stop(target: What = None, runs: Runs = RUNS) -> None:
    """Stop a running study, or one run of it: work is saved, `regatta run` goes on from there."""
    run_folder = _find_run(target, runs) if target else None
    if run_folder is not None:
        _stop_run(StudyFolder(run_folder.parent.parent), run_folder.name)
        return
    folders = [find_study(target, runs)] if target else study_folders(runs)
    views = [StudyReader(folder).read() for folder in folders]
    running = [view for view in views if view.supervised is not False or view.jobs]
    if not running:
        typer.echo(f"nothing is running under {target or runs}")
    elif len(running) > 1:
        names = ", ".join(view.name for view in running)
        raise ConfigError(
            f"several studies are running: {names}", where=runs, hint="name one of them"
        )
    else:
        _stop_study(running[0])


def _find_run(target: Path, runs: Path) -> Path | None:
    if target.is_dir() and target.parent.name == "runs" and (target / "run.json").is_file():
        return target
    for folder in study_folders(runs):
        try:
            path = path_under(folder.path / "runs", str(target))
        except DataError:
            return None
        if (path / "run.json").is_file():
            return path
    return None


def _stop_study(view: StudyView) -> None:
    supervisor = view.supervisor
    if view.jobs and not (supervisor and view.supervised):
        _stop_jobs(view)
        return
    if supervisor is None or view.supervised is None:
        where = supervisor.host if supervisor else "another host"
        raise ConfigError(
            f"{view.name} is run on {where}, which cannot be reached from here",
            where=view.path,
            hint=f"run the same command on {where}",
        )
    if not signal_process(supervisor, signal.SIGTERM):
        typer.echo(f"{view.name}: process {supervisor.pid} has just ended")
        return
    typer.echo(f"{view.name}: asked process {supervisor.pid} to stop; its runs save and leave")
    folder = StudyFolder(view.path)
    grace = folder.study().launch.grace_seconds
    if not _wait_for_end(supervisor, grace + EXTRA_SECONDS):
        typer.echo(f"{view.name}: process {supervisor.pid} is still busy after {grace:.0f} s")
        raise typer.Exit(1)
    after = StudyReader(folder).read()
    states = ", ".join(f"{count} {state}" for state, count in after.counts.items())
    typer.echo(f"{view.name}: stopped; {states}")


def _stop_jobs(view: StudyView) -> None:
    """Nobody looks on, so the cluster itself is asked."""
    from regatta.core.signals import StopFlag
    from regatta.orchestrate.slurm_study import stop_submission

    folder = StudyFolder(view.path)
    stop_submission(folder, folder.study(), typer.echo, again=StopFlag().install())
    after = StudyReader(folder).read()
    states = ", ".join(f"{count} {state}" for state, count in after.counts.items())
    typer.echo(f"{view.name}: stopped; {states}")


def _stop_run(folder: StudyFolder, run_id: str) -> None:
    view = StudyReader(folder).read()
    run = next((r for r in view.runs if r.run_id == run_id), None)
    if view.jobs and run and run.status.state in {"queued", *LIVE}:
        from regatta.orchestrate.slurm_study import stop_job_of

        if stop_job_of(folder, run_id, typer.echo):
            return
    if run and run.status.process and ProcessId(**run.status.process).is_alive() is None:
        raise ConfigError(
            f"{run_id} is at work on {run.status.process['host']}, out of reach from here",
            where=folder.path,
            hint=f"stop the whole study with: regatta stop {folder.path}",
        )
    if run is None or run.status.state not in LIVE or not run.status.process:
        typer.echo(f"{run_id} is not running" + (f" ({run.status.state})" if run else ""))
        return
    worker = ProcessId(**run.status.process)
    beside = _in_the_same_process(view, run)
    if worker == view.supervisor or beside:
        raise ConfigError(
            f"{run_id} shares its process with others, so it cannot be stopped alone",
            where=", ".join(beside) or None,
            hint=f"stop the whole study with: regatta stop {folder.path}",
        )
    if not signal_process(worker, signal.SIGTERM):
        typer.echo(f"{run_id}: its process has just ended")
        return
    typer.echo(f"{run_id}: asked process {worker.pid} to save and leave")
    if not _wait_for_end(worker, folder.study().launch.grace_seconds + EXTRA_SECONDS):
        typer.echo(f"{run_id}: process {worker.pid} is still busy")
        raise typer.Exit(1)
    typer.echo(f"{run_id}: stopped")


def _in_the_same_process(view: StudyView, run: RunView) -> list[str]:
    return [
        other.run_id
        for other in view.runs
        if other.run_id != run.run_id
        and other.status.process == run.status.process
        and other.status.state in LIVE
    ]


def _wait_for_end(process: ProcessId, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.is_alive():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True
