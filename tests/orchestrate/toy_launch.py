"""The verbs with the toy worker in place of the real one; errors end as in `cli.main`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from regatta.cli import status, stop, watch
from regatta.cli.arguments import RUNS, AsJson, Overrides, Runs, StudyFile
from regatta.cli.run import Detach, Restart, launch
from regatta.config.load import load_study
from regatta.core.errors import RegattaError
from regatta.core.signals import StopFlag
from regatta.orchestrate.supervise import run_study
from regatta.records.run_folder import open_study
from tests.orchestrate.toy import CLI_COMMAND, WORKER_COMMAND, register_toys


def run(
    study: StudyFile,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    restart: Restart = None,
    as_json: AsJson = False,
    detach: Detach = False,
) -> None:
    code = launch(
        Path(study),
        overrides=overrides,
        runs=runs,
        restart=restart,
        as_json=as_json,
        worker_command=WORKER_COMMAND,
        cli_command=CLI_COMMAND,
        detach=detach,
    )
    raise typer.Exit(code)


def train(study: StudyFile, runs: Runs = RUNS) -> None:
    raise typer.Exit(
        launch(study, runs=runs, only=("prepare", "train"), worker_command=WORKER_COMMAND)
    )


def supervise(study: StudyFile, runs: Runs = RUNS) -> None:
    """The supervisor alone: no comparison, no report."""
    chosen = load_study(study)
    code = run_study(
        open_study(runs, chosen),
        chosen,
        stop=StopFlag().install(),
        echo=lambda text: print(text, flush=True),
        worker_command=WORKER_COMMAND,
    )
    raise typer.Exit(code)


if __name__ == "__main__":
    register_toys()
    app = typer.Typer()
    for verb in (run, train, supervise, status.status, stop.stop, watch.watch):
        app.command()(verb)
    try:
        app()
    except RegattaError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
