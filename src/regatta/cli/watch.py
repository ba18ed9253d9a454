"""`regatta watch`: follow studies until they are over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regatta.cli.arguments import RUNS, Runs, Target, find_study, study_folders
from regatta.core.signals import StopFlag

if TYPE_CHECKING:
    from pathlib import Path

    from regatta.orchestrate.snapshot import StudyView
    from regatta.records.run_folder import StudyFolder

WATCH_SECONDS = 1.0
QUEUE_SECONDS = 60.0
_NO_NEWS = frozenset({"heartbeat", "process"})
"""Fields of a status that change while nothing happens."""

AsChanges = Annotated[
    bool,
    typer.Option(
        "--json", help="One JSON object per line and change of a run; with --once one object."
    ),
]
Once = Annotated[bool, typer.Option("--once", help="Show how things stand and leave.")]


def watch(
    target: Target = None, runs: Runs = RUNS, as_json: AsChanges = False, once: Once = False
) -> None:
    """Follow a study, or every study that is running: a live table, or plain lines in a pipe.

    Reads records only, so it works from any machine that sees the folder; a run whose heartbeat is
    older than launch.stall_seconds is shown as silent. Ctrl-C ends the watching only.
    """
    stop = StopFlag().install()
    readers = [_reader(folder) for folder in _chosen(target, runs)]
    if as_json:
        _tell_changes(readers, stop, once=once)
    else:
        _show(readers, stop, once=once)
    if stop.requested:
        raise typer.Exit(stop.exit_code)


Read = Callable[[], "StudyView"]


def _chosen(target: Path | None, runs: Path) -> list[StudyFolder]:
    """The study that was named; else all that are running, else the only one there is."""
    from regatta.orchestrate.snapshot import StudyReader

    if target is None:
        folders = study_folders(runs)
        views = [(folder, StudyReader(folder).read()) for folder in folders]
        running = [folder for folder, view in views if not view.problem and not view.is_over]
        if running:
            return running
    return [find_study(target, runs)]


def _reader(folder: StudyFolder) -> Read:
    """Reads the study again and again, and marks runs that are silent for too long."""
    from regatta.orchestrate.silence import SilenceWatch, stall_seconds
    from regatta.orchestrate.snapshot import StudyReader

    reader, silence = StudyReader(folder), SilenceWatch(stall_seconds(folder))
    queue = _Queue(folder)
    return lambda: queue.mark(silence.mark(reader.read(curves=True)))


class _Queue:
    """Asks the scheduler now and then, where there is one, whether jobs of a study are still there.

    Records alone cannot tell: nobody writes that a job was cancelled by hand.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._ask_at = 0.0
        self._told: Callable[[StudyView], StudyView] = lambda view: view

    def mark(self, view: StudyView) -> StudyView:
        if not view.jobs or view.supervised:
            return view
        if time.monotonic() >= self._ask_at:
            from regatta.orchestrate.slurm_study import with_queue

            self._told = with_queue(self._folder)
            self._ask_at = time.monotonic() + QUEUE_SECONDS
        return self._told(view)


def _is_final(views: Sequence[StudyView], stop: StopFlag, *, once: bool) -> bool:
    return once or stop.requested or all(view.is_over or view.problem for view in views)


def _show(readers: Sequence[Read], stop: StopFlag, *, once: bool) -> None:
    from regatta.orchestrate.watch import open_display
    from regatta.orchestrate.words import summary

    display = open_display()
    try:
        while True:
            views = [read() for read in readers]
            display.show(*views)
            if _is_final(views, stop, once=once):
                break
            time.sleep(WATCH_SECONDS)
        for view in views:
            display.message(summary(view))
            if view.is_over and view.counts.keys() - {"done", "failed", "imported"}:
                display.message("go on with: regatta run <study file>")
    finally:
        display.close()


def _tell_changes(readers: Sequence[Read], stop: StopFlag, *, once: bool) -> None:
    import json

    from regatta.orchestrate.snapshot import study_json

    if once:
        typer.echo(json.dumps({"studies": [study_json(read()) for read in readers]}, indent=1))
        return
    said: dict[tuple[str, str], dict[str, Any]] = {}
    while True:
        views = [read() for read in readers]
        for view in views:
            for run in study_json(view)["runs"]:
                key, news = (view.name, run["run_id"]), _news(run)
                if said.get(key) != news:
                    said[key] = news
                    typer.echo(json.dumps({"time": time.time(), "study": view.name, **run}))
        if _is_final(views, stop, once=once):
            break
        time.sleep(WATCH_SECONDS)
    for view in views:
        facts = {key: value for key, value in study_json(view).items() if key != "runs"}
        typer.echo(json.dumps({"time": time.time(), "study": view.name, **facts}))


def _news(run: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key not in _NO_NEWS}
