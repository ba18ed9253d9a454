"""`regatta check`: what a study would do, and what is wrong with it, before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from regatta.cli.arguments import RUNS, AsJson, Overrides, Runs, StudyFile
from regatta.config.schema import Study
from regatta.core.errors import ConfigError, EnvironmentFault

OPTION_SECONDS = 600.0
"""Longest wait for the models' word on their options: importing torch takes most of it."""
NoProbe = Annotated[
    bool, typer.Option("--no-probe", help="Measure nothing; use what is known already.")
]

ReadData = Annotated[
    bool,
    typer.Option(
        "--read",
        help="Read the data first, as the first task of a run does: times are known then.",
    ),
]


def check(
    study_file: StudyFile,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    no_probe: NoProbe = False,
    read: ReadData = False,
    as_json: AsJson = False,
) -> None:
    """Validate a study file and show its runs, devices, memory, disk and time; starts no run and,
    without --read, writes nothing into the study's folder. Entries that were never measured here
    are, for about 20 s each; the figures are kept in ~/.cache/regatta."""
    from regatta.cli.check_graph import gather_facts, look_at_cluster, look_at_machine
    from regatta.cli.check_text import graph_lines, total_lines
    from regatta.cli.choose import check_trained_here
    from regatta.config.load import dump_study, load_study
    from regatta.evaluation.protocols import check_protocol
    from regatta.records.run_folder import StudyFolder, check_ours

    study = load_study(study_file, overrides)
    check_trained_here(study)
    check_protocol(study)
    check_data_folder(study)
    check_checkpoint_folders(study)
    folder = StudyFolder(runs / study.name)
    check_ours(folder, study)
    look = look_at_machine if study.launch.on == "local" else look_at_cluster
    place = look(folder, study)
    check_entry_options(study)
    if read:
        _read_data(runs, study)
    facts = gather_facts(folder, study, place, say=_say, may_measure=not no_probe)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(dump_study(study))
    for line in graph_lines(study, facts):
        typer.echo(line)
    typer.echo()
    typer.echo(_places(study, facts))
    if study.launch.share and study.launch.on == "local":
        typer.echo(_sharing(study, places=len(facts["slots"])))
    for line in total_lines(facts):
        typer.echo(line)


def _read_data(runs: Path, study: Study) -> None:
    """Do the first task of the study, unless it is done; the study is held meanwhile."""
    from regatta.core.signals import StopFlag
    from regatta.orchestrate.one_worker import read_data
    from regatta.records.run_folder import held_study

    stop = StopFlag()
    with stop.handling(), held_study(runs, study) as folder:
        read_data(folder, study, echo=_say, env={}, stop=stop)
    if stop.requested:
        raise typer.Exit(stop.exit_code)


def _say(text: str) -> None:
    """Progress, for who looks on; a log has no use for it."""
    if sys.stderr.isatty():
        typer.echo(text, err=True)


def _places(study: Study, facts: dict[str, Any]) -> str:
    """How many runs, and how many at a time."""
    count, slots = len(facts["runs"]), facts["slots"]
    runs = f"{count} run{'s' if count > 1 else ''}"
    if facts["cluster"]:
        limit = study.launch.max_parallel
        most = f"at most {limit} at a time" if limit else "as many at a time as the cluster gives"
        stages = facts["cluster"].get("stages")
        jobs = " -> ".join(f"{name} ({number})" for name, number in stages or ())
        return f"{runs} on {study.launch.on}, {most}" + (f"\njobs: {jobs}" if jobs else "")
    different = dict.fromkeys(slots)
    where = ", ".join(f"{slots.count(slot)} on {slot}" for slot in different)
    return f"{runs}, {len(slots)} at a time: {where}"


def check_data_folder(study: Study) -> None:
    """ConfigError unless the folder that the source would read is there."""
    from regatta.core.registry import SOURCES

    listed = SOURCES.listed.get(study.data.source)
    if listed is None or listed.generates:
        return
    root = Path(study.data.root or Path("data") / study.data.source)
    # Images may also come in one archive.
    is_archive = listed.kind == "image" and root.suffix.lower() == ".zip" and root.is_file()
    if not root.is_dir() and not is_archive:
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise ConfigError(
            f"the data folder {problem}",
            where=root.absolute(),
            hint="set data.root in the study file, or --set data.root=/path/to/data",
        )


def check_entry_options(study: Study) -> None:
    """ConfigError for what the models themselves refuse. They need torch, so a child process asks
    them."""
    from regatta.config.load import dump_study

    try:
        child = subprocess.run(
            [sys.executable, "-m", "regatta.worker.option_check"],
            input=dump_study(study),
            capture_output=True,
            text=True,
            check=False,
            timeout=OPTION_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFault(
            f"the models cannot be asked: no answer for {OPTION_SECONDS:g} s",
            hint="look at: regatta doctor",
        ) from error
    if child.returncode == 0:
        return
    try:
        found = json.loads(child.stdout)
    except ValueError as error:
        last = child.stderr.strip().rpartition("\n")[2]
        raise EnvironmentFault(
            f"the models cannot be asked: {last}", hint="look at: regatta doctor"
        ) from error
    raise ConfigError(found["what"], where=found["where"], hint=found["hint"])


def check_checkpoint_folders(study: Study) -> None:
    """ConfigError for a checkpoint that can only be a folder and is none; hub ids are not asked
    for."""
    for entry in study.entries:
        folder = Path(entry.checkpoint).expanduser()
        if entry.checkpoint.startswith(("/", "./", "../", "~")) and not folder.is_dir():
            raise ConfigError(
                "there is no such checkpoint folder",
                where=f"entries.{entry.name}.checkpoint: {folder.absolute()}",
                hint="name a folder with model.safetensors (and config.json for transformers), "
                "a hub id `org/name@revision`, or none",
            )


def _sharing(study: Study, *, places: int) -> str:
    """What `launch.share` will do here."""
    entries = len(study.trained_entries)
    if min(places, entries) < 2:
        return "launch.share: no two runs of a seed train at the same time, so nothing is shared"
    return (
        f"launch.share: {min(places, entries)} runs of a seed decode each clip once between them; "
        f"clips that wait take at most {study.launch.share_gib:g} GiB of memory"
    )
