"""`regatta report`: figures, tables and one HTML page."""

from __future__ import annotations

import typer

from regatta.cli.arguments import RUNS, Runs, Target, find_study


def report(target: Target = None, runs: Runs = RUNS) -> None:
    """Write the report of a compared study; prints the path of the page."""
    from regatta.report.page import write_report

    typer.echo(write_report(find_study(target, runs)))
