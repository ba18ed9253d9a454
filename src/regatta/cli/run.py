"""`regatta run`: train, judge, compare and report what is missing of a study."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regatta.cli.arguments import RUNS, AsJson, Overrides, Runs, StudyFile, reopen
from regatta.core.signals import StopFlag

if TYPE_CHECKING:
    from regatta.orchestrate.plan import TaskKind
    from regatta.orchestrate.snapshot import StudyReader

Restart = Annotated[
    list[str] | None,
    typer.Option(
        "--restart",
        metavar="RUN_ID",
        help="Delete this run's checkpoints and results first, so that it starts over.",
    ),
]


def run(
    study: StudyFile,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    restart: Restart = None,
    as_json: AsJson = False,
) -> None:
    """Run a study: finish what is missing, redo nothing, print the path of the report last."""
    code = launch(study, overrides=overrides, runs=runs, restart=restart, as_json=as_json)
    if code:
        raise typer.Exit(code)


def launch(
    study_file: Path,
    *,
    overrides: list[str] | None = None,
    runs: Path = RUNS,
    restart: list[str] | None = None,
    as_json: bool = False,
    only: tuple[TaskKind, ...] = ("prepare", "train", "judge"),
    worker_command: tuple[str, ...] | None = None,
    cli_command: tuple[str, ...] | None = None,
) -> int:
    """`run` as a function: returns the exit code.

    Args:
        only: kinds of tasks to do; without `judge` nothing is compared or reported either.
        worker_command: started for each task in place of `python -m regatta.worker`.
        cli_command: started with `compare` and `report` in place of `python -m regatta`.
    """
    from regatta.orchestrate.finish import (
        CLI_COMMAND,
        finish_study,
        report_is_current,
        report_page,
    )
    from regatta.orchestrate.plan import WORKER_COMMAND
    from regatta.orchestrate.snapshot import StudyReader
    from regatta.orchestrate.supervise import run_study
    from regatta.orchestrate.watch import open_display
    from regatta.records.run_folder import open_study

    stop = _listen_for_stop()
    study, runs_root = reopen(study_file, overrides, runs)
    folder = open_study(runs_root, study)
    reader, display = StudyReader(folder), open_display(sys.stderr if as_json else sys.stdout)

    def show() -> None:
        display.show(reader.read(curves=True))

    def finish(code: int) -> int:
        show()
        finished = finish_study(
            folder, study, stop=stop, echo=display.message, command=cli_command or CLI_COMMAND
        )
        return finished if stop.requested else code or finished

    try:
        code = run_study(
            folder,
            study,
            stop=stop,
            echo=display.message,
            tick=show,
            restart=restart or (),
            then=finish if "judge" in only else None,
            only=only,
            worker_command=worker_command or WORKER_COMMAND,
        )
        show()
    finally:
        display.close()
    if as_json:
        _print_json(reader, code)
    elif "judge" in only and not stop.requested and report_is_current(folder, study):
        display.message(str(report_page(folder)))
    return code


def _listen_for_stop() -> StopFlag:
    stop = StopFlag().install()
    # A closed terminal is a request to stop, unless nohup said otherwise.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: stop.request("SIGTERM"))
    return stop


def _print_json(reader: StudyReader, code: int) -> None:
    import json

    from regatta.orchestrate.snapshot import study_json

    typer.echo(json.dumps({**study_json(reader.read()), "exit_code": code}, indent=1))
