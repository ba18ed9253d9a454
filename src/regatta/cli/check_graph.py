"""What `regatta check` finds out about a study beyond its words: its graph, its cost, its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from regatta.config.expand import RunSpec, expand_study, protocol_id, trained_runs
from regatta.config.launch import time_minutes
from regatta.config.schema import Study
from regatta.core.errors import MissingExtraError
from regatta.core.files import existing_parent
from regatta.orchestrate.devices import Machine, find_slots, make_pool, this_machine
from regatta.orchestrate.estimates import Estimate, count_samples, estimate_entries
from regatta.orchestrate.local import LocalLauncher
from regatta.orchestrate.needs import entry_targets, threads_of_entries
from regatta.orchestrate.plan import (
    Plan,
    fit_to_machine,
    is_prepared,
    plan_study,
    start_together,
)
from regatta.orchestrate.probe import Probe, measure, remembered
from regatta.orchestrate.totals import total
from regatta.records.run_folder import StudyFolder


@dataclass(frozen=True)
class Site:
    """This machine, and what would start where on it."""

    study: Study
    """With the devices written down that its runs take."""
    machine: Machine
    plan: Plan
    slots: tuple[str, ...]
    threads: dict[str, int]
    """Entry -> CPU threads of a training process."""


def look_at_machine(folder: StudyFolder, study: Study) -> Site:
    """Where the runs of a study with launch.on: local stand; raises as `regatta run` would."""
    machine = this_machine(study.launch)
    study = fit_to_machine(study, machine)
    launch = start_together(study, machine)
    specs = trained_runs(study)
    launcher = LocalLauncher(machine, launch, runs=len(specs))
    try:
        shards = launcher.judge_shards(min(1, launch.devices))
        plan = plan_study(folder, study, judge_shards=shards)
        threads = threads_of_entries(folder, study, launcher.threads_for)
    finally:
        launcher.close()
    most = max(machine.cores, len(study.trained_entries))
    slots = find_slots(launch, runs=most, machine=machine)
    return Site(study, machine, plan, tuple(map(str, slots)), threads)


def look_at_cluster(folder: StudyFolder, study: Study) -> dict[str, Any]:
    """What each job asks of the cluster of launch.on, as far as it can be known here.

    Raises:
        EnvironmentFault, ConfigError: the cluster is not there, or lacks what the study asks for.
    """
    launch = study.launch
    asked = {
        "on": launch.on,
        "devices": launch.devices,
        "nodes": launch.nodes,
        "threads": launch.threads_per_run,
        "memory_gib": launch.memory_gib_per_run,
        "most_at_once": launch.max_parallel,
    }
    if launch.on == "ray":
        if find_spec("ray") is None:
            raise MissingExtraError(
                "ray is not installed",
                where="launch.on: ray",
                hint="pip install -c constraints.txt 'regatta[ray]', or set launch.on=local",
            )
        plan_study(folder, study)
        return {**asked, "address": launch.address}
    from regatta.orchestrate.slurm import DEFAULT_CPUS, most_at_once, stage_sizes
    from regatta.orchestrate.slurm_facts import check_slurm

    facts = check_slurm(launch)
    plan = plan_study(folder, study, judge_shards=most_at_once(launch))
    return {
        **asked,
        "threads": launch.threads_per_run or DEFAULT_CPUS,
        "stages": stage_sizes(study, plan, most_in_array=facts.most_in_array),
        "partition": facts.partition.name,
        "minutes": time_minutes(launch.time) if launch.time else facts.minutes,
        "takes_gpus": facts.gpus,
    }


def measure_entries(
    folder: StudyFolder,
    site: Site,
    *,
    say: Callable[[str], None],
    may_measure: bool,
) -> dict[str, Probe]:
    """Entry -> its measurement, remembered or new; entries whose runs tell enough are left out."""
    targets = entry_targets(
        site.study,
        _worth_measuring(folder, site.study),
        machine=site.machine,
        threads=site.threads,
        prepared=folder if is_prepared(folder, site.study) else None,
    )
    found = {
        name: measure(target, say=say) if may_measure else remembered(target)
        for name, target in targets.items()
    }
    return {name: probe for name, probe in found.items() if probe}


def _worth_measuring(folder: StudyFolder, study: Study) -> list[RunSpec]:
    """One run of each entry that has something to do and no run that shows what it costs."""
    protocol, chosen = protocol_id(study.protocol), {}
    specs = trained_runs(study)
    for entry in study.trained_entries:
        runs = [folder.run(spec.run_id) for spec in specs if spec.entry == entry]
        trained = [run.is_trained() for run in runs]
        judged = [run.is_judged(protocol) for run in runs]
        if not any(trained) or not any(judged):
            chosen[entry.name] = next(spec for spec in specs if spec.entry == entry)
    return list(chosen.values())


def gather_facts(
    folder: StudyFolder,
    study: Study,
    place: Site | dict[str, Any],
    *,
    say: Callable[[str], None],
    may_measure: bool,
) -> dict[str, Any]:
    """All that `regatta check` shows, as JSON.

    Args:
        place: what `look_at_machine` or `look_at_cluster` found.
    """
    protocol, free = protocol_id(study.protocol), _free_bytes(folder.path)
    site = place if isinstance(place, Site) else None
    probes = measure_entries(folder, site, say=say, may_measure=may_measure) if site else {}
    counts = count_samples(folder, study) if is_prepared(folder, study) else None
    estimates = estimate_entries(folder, study, probes, counts)
    return {
        "study": study.name,
        "runs": _runs(folder, study, protocol),
        "slots": list(site.slots) if site else [],
        "threads": site.threads if site else {},
        "prepared": is_prepared(folder, study),
        "samples": asdict(counts) if counts else None,
        "protocol": protocol,
        "entries": {name: asdict(estimate) for name, estimate in estimates.items()},
        "probes": {name: asdict(probe) for name, probe in probes.items()},
        "totals": _totals(site, estimates, free) if site else None,
        "cluster": None if site else place,
        "folder": str(folder.path),
        "free_gib": free / 2**30,
    }


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(existing_parent(path)).free


def _totals(site: Site, estimates: Mapping[str, Estimate], free: int) -> dict[str, Any]:
    launch = start_together(site.study, site.machine)
    runs = len(trained_runs(site.study))
    found = total(
        site.study,
        site.plan,
        estimates,
        machine=site.machine,
        make_pool=partial(make_pool, site.machine, launch, runs=runs),
        disk_free_bytes=free,
    )
    return asdict(found)


def _runs(folder: StudyFolder, study: Study, protocol: str) -> list[dict[str, Any]]:
    """Every run in the order of the study, with its level: one that needs no other stands in 1."""
    specs = expand_study(study)
    by_id, level = {spec.run_id: spec for spec in specs}, {}

    def level_of(run_id: str) -> int:
        if run_id not in level:
            level[run_id] = 1 + max(map(level_of, by_id[run_id].needs), default=0)
        return level[run_id]

    return [
        {
            "run_id": spec.run_id,
            "entry": spec.entry.name,
            "seed": spec.seed,
            "fold": spec.fold,
            "state": _state(folder, spec, protocol),
            "level": level_of(spec.run_id),
            "needs": list(spec.needs),
            "needs_entries": list(spec.entry.needs),
        }
        for spec in specs
    ]


def _state(folder: StudyFolder, spec: RunSpec, protocol: str) -> str:
    run = folder.run(spec.run_id)
    if spec.entry.is_imported:
        return "imported" if run.is_judged(protocol) else "not imported"
    if run.is_trained() and run.is_judged(protocol):
        return "done already"
    return "trained already, to be judged" if run.is_trained() else "to be trained and judged"
