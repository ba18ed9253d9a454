"""`regatta train`: the training half of `run`."""

from __future__ import annotations

import typer

from regatta.cli.arguments import RUNS, Overrides, Runs, StudyFile
from regatta.cli.run import Restart, launch


def train(
    study: StudyFile, overrides: Overrides = None, runs: Runs = RUNS, restart: Restart = None
) -> None:
    """Train what is not trained yet; judging and comparing are left to `evaluate` or `run`."""
    code = launch(study, overrides=overrides, runs=runs, restart=restart, only=("prepare", "train"))
    if code:
        raise typer.Exit(code)
