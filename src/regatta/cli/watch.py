"""`regatta watch`: follow a study until it is over."""

from __future__ import annotations

import time

import typer

from regatta.cli.arguments import RUNS, Runs, Target, find_study
from regatta.core.signals import StopFlag

WATCH_SECONDS = 1.0


def watch(target: Target = None, runs: Runs = RUNS) -> None:
    """Follow a study: a live table, or plain lines in a pipe. Ctrl-C ends the watching only."""
    from regatta.orchestrate.snapshot import StudyReader
    from regatta.orchestrate.watch import open_display, summary

    stop, reader = StopFlag().install(), StudyReader(find_study(target, runs))
    display = open_display()
    try:
        while True:
            view = reader.read(curves=True)
            display.show(view)
            if view.is_over or view.problem or stop.requested:
                break
            time.sleep(WATCH_SECONDS)
        display.message(summary(view))
        if view.is_over and view.counts.keys() - {"done", "failed", "imported"}:
            display.message("go on with: regatta run <study file>")
    finally:
        display.close()
    if stop.requested:
        raise typer.Exit(stop.exit_code)
