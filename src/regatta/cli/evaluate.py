"""`regatta evaluate`: the judging half of `run`."""

from __future__ import annotations

import typer

from regatta.cli.arguments import RUNS, Overrides, Runs, StudyFile
from regatta.cli.run import launch


def evaluate(study: StudyFile, overrides: Overrides = None, runs: Runs = RUNS) -> None:
    """Judge every trained run that this protocol has not judged yet, then compare and report."""
    code = launch(study, overrides=overrides, runs=runs, only=("prepare", "judge"))
    if code:
        raise typer.Exit(code)
