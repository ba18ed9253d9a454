"""`regatta check`: what a study would do, and what is wrong with it, before anything starts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer

from regatta.cli.arguments import RUNS, AsJson, Overrides, Runs, StudyFile
from regatta.config.expand import RunSpec
from regatta.config.schema import Study
from regatta.core.errors import ConfigError, EnvironmentFault


def check(
    study_file: StudyFile, overrides: Overrides = None, runs: Runs = RUNS, as_json: AsJson = False
) -> None:
    """Validate a study file and show its runs, devices and space; starts nothing, writes
    nothing."""
    from regatta.cli.choose import check_trained_here
    from regatta.config.load import dump_study, load_study
    from regatta.evaluation.protocols import check_protocol
    from regatta.orchestrate.devices import this_machine
    from regatta.orchestrate.plan import fit_to_machine, plan_study
    from regatta.records.run_folder import StudyFolder, check_ours

    study = load_study(study_file, overrides)
    check_trained_here(study)
    check_protocol(study)
    check_data_folder(study)
    check_checkpoint_folders(study)
    folder = StudyFolder(runs / study.name)
    check_ours(folder, study)
    plan_study(folder, fit_to_machine(study, this_machine(study.launch)))
    check_entry_options(study)
    facts = _facts(study, runs)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(dump_study(study))
    for run in facts["runs"]:
        typer.echo(f"run {run['run_id']:<32} {run['state']}")
    slots = facts["slots"]
    typer.echo(f"{len(facts['runs'])} runs, {len(slots)} at a time on {', '.join(slots)}")
    if study.launch.share:
        typer.echo(_sharing(study, places=len(slots)))
    typer.echo(f"judging: {facts['protocol']}")
    typer.echo(f"folder: {facts['folder']} ({facts['free_gib']:.0f} GiB free)")


def check_data_folder(study: Study) -> None:
    """ConfigError unless the folder that the source would read is there."""
    from regatta.core.registry import SOURCES

    listed = SOURCES.listed.get(study.data.source)
    if listed is None or listed.generates:
        return
    root = Path(study.data.root or Path("data") / study.data.source)
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise ConfigError(
            f"the data folder {problem}",
            where=root.absolute(),
            hint="set data.root in the study file, or --set data.root=/path/to/videos",
        )


def check_entry_options(study: Study) -> None:
    """ConfigError for what the models themselves refuse. They need torch, so a child process asks
    them."""
    from regatta.config.load import dump_study

    child = subprocess.run(
        [sys.executable, "-m", "regatta.worker.option_check"],
        input=dump_study(study),
        capture_output=True,
        text=True,
        check=False,
    )
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


def _facts(study: Any, runs: Path) -> dict[str, Any]:
    from regatta.config.expand import expand_study, protocol_id
    from regatta.core.files import existing_parent
    from regatta.orchestrate.devices import find_slots, this_machine
    from regatta.orchestrate.plan import start_together
    from regatta.records.run_folder import StudyFolder

    folder = StudyFolder(runs / study.name)
    protocol = protocol_id(study.protocol)
    place = existing_parent(folder.path)
    machine = this_machine(study.launch)
    launch = start_together(study, machine)
    most = max(machine.cores, len(study.trained_entries))
    return {
        "study": study.name,
        "runs": [
            {
                "run_id": spec.run_id,
                "entry": spec.entry.name,
                "seed": spec.seed,
                "state": _state(folder, spec, protocol),
            }
            for spec in expand_study(study)
        ],
        "slots": [str(slot) for slot in find_slots(launch, runs=most, machine=machine)],
        "protocol": protocol,
        "folder": str(folder.path),
        "free_gib": shutil.disk_usage(place).free / 2**30,
    }


def _state(folder: Any, spec: RunSpec, protocol: str) -> str:
    run = folder.run(spec.run_id)
    if spec.entry.is_imported:
        return "imported" if run.is_judged(protocol) else "not imported"
    if run.is_trained() and run.is_judged(protocol):
        return "done already"
    return "trained already, to be judged" if run.is_trained() else "to be trained and judged"
