"""`regatta compare`: the statistics over the predictions that are on disk."""

from __future__ import annotations

import typer

from regatta.cli.arguments import RUNS, AsJson, Runs, Target, find_study


def compare(target: Target = None, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Compare the judged entries of a study: verdict, tables, CSV and JSON under results/."""
    import json

    from regatta.analysis.compare import compare_study
    from regatta.core.files import plain

    folder = find_study(target, runs)
    comparison = compare_study(folder)
    if as_json:
        typer.echo(json.dumps(plain(comparison), indent=1))
        return
    typer.echo(comparison["verdict"]["sentence"])
    typer.echo(f"results: {folder.results}")
