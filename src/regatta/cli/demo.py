"""`regatta demo`: three small models on generated videos, from nothing to a report."""

from __future__ import annotations

from importlib.resources import as_file, files

import typer

from regatta.cli.arguments import RUNS, Overrides, Runs


def demo(overrides: Overrides = None, runs: Runs = RUNS) -> None:
    """Race three small video models on generated clips; needs no data, no download, no GPU."""
    from regatta.cli.run import launch

    with as_file(files("regatta.cli") / "studies" / "quickstart.yaml") as study_file:
        typer.echo(
            "demo: generated rotor videos, three tiny video transformers, 25 sampling conditions"
        )
        code = launch(study_file, overrides=overrides, runs=runs)
    if code:
        raise typer.Exit(code)
