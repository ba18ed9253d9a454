"""`regatta status`: what every run is doing, from the records alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from regatta.cli.arguments import RUNS, AsJson, Runs, Target, find_study, study_folders

if TYPE_CHECKING:
    from regatta.orchestrate.snapshot import StudyView


def status(target: Target = None, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Show the state of one study, or of every study under --runs."""
    from regatta.orchestrate.silence import mark_silent
    from regatta.orchestrate.snapshot import StudyReader, study_json

    folders = [find_study(target, runs)] if target else study_folders(runs)
    views = [mark_silent(StudyReader(folder).read()) for folder in folders]
    if as_json:
        import json

        typer.echo(json.dumps({"studies": [study_json(view) for view in views]}, indent=1))
        return
    if not views:
        typer.echo(f"no study has been run under {runs}; start one with: regatta run study.yaml")
    for view in views:
        typer.echo("\n".join(status_lines(view)))


def status_lines(view: StudyView) -> list[str]:
    """The study in lines: a summary, one per run, and the next step of each that needs one."""
    from regatta.orchestrate.words import describe, is_in_trouble, summary

    lines = [summary(view)]
    width = max((len(run.run_id) for run in view.runs), default=0)
    for run in view.runs:
        lines.append(f"  {run.run_id:<{width}}  {describe(run.status)}")
        if run.status.next_step and is_in_trouble(run.status):
            lines.append(f"  {'':<{width}}  next: {run.status.next_step}")
    if view.report:
        lines.append(f"  report: {view.report}")
    return lines
