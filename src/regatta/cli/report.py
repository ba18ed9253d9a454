"""`regatta report`: figures, tables and one HTML page, on request also as PDF."""

from __future__ import annotations

from typing import Annotated

import typer

from regatta.cli.arguments import RUNS, AsJson, Runs, Target, find_study

AsPdf = Annotated[
    bool,
    typer.Option(
        "--pdf",
        help="Also print the page to report.pdf, with an installed Chromium, Chrome or Edge "
        "(variable CHROME_PATH names another).",
    ),
]


def report(
    target: Target = None, runs: Runs = RUNS, pdf: AsPdf = False, as_json: AsJson = False
) -> None:
    """Write the report of a compared study; prints the path of the page."""
    from regatta.report.page import write_report
    from regatta.report.pdf import find_browser, print_page

    folder = find_study(target, runs)
    # Asked first: drawing takes long, and a missing browser is known at once.
    browser = find_browser() if pdf else None
    paths = {"page": write_report(folder)}
    if browser is not None:
        from regatta.core.signals import StopFlag

        stop = StopFlag().install()
        paths["pdf"] = print_page(
            paths["page"], folder.report / "report.pdf", browser=browser, stop=stop
        )
    if as_json:
        import json

        typer.echo(json.dumps({name: str(path) for name, path in paths.items()}, indent=1))
        return
    for path in paths.values():
        typer.echo(path)
