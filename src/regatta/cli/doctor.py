"""`regatta doctor`: what this machine has, what is wrong with it, and the cure for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

import typer

from regatta.cli import doctor_machine as machine
from regatta.cli import doctor_packages as packages
from regatta.cli.arguments import RUNS, AsJson, Runs
from regatta.cli.finding import Finding

AT_ONCE = 4
"""Looks that are taken side by side: most wait for a child that imports a library."""


def doctor(runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Look at Python, torch and its driver, decoders, trackers, folders, memory, limits, clock and
    schedulers; name the cure for each problem. Exit code 3 when something is bad."""
    looks: list[Callable[[], Finding]] = [
        packages.python,
        packages.torch,
        packages.gpu_tools,
        packages.video_models,
        packages.torchvision,
        packages.pyav,
        packages.torchcodec,
        packages.trackers,
        machine.memory,
        machine.shared_memory,
        partial(machine.runs_folder, runs),
        machine.temporary_folder,
        machine.weights_folder,
        machine.own_cache,
        machine.limits,
        partial(machine.clock, runs),
        packages.slurm,
        packages.ray,
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        findings = list(pool.map(lambda look: look(), looks))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            for line in _lines(finding):
                typer.echo(line)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(3)


def _lines(finding: Finding) -> list[str]:
    lines = [f"{finding.state:<5} {finding.topic:<15} {finding.found}"]
    if finding.where and finding.state != "good":
        lines.append(f"{'':<21} where: {finding.where}")
    if finding.cure:
        lines.append(f"{'':<21} next:  {finding.cure}")
    return lines
