"""What the runs of a study are known to take before any of them starts here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from regatta.config.expand import RunSpec, trained_runs
from regatta.config.schema import Study
from regatta.orchestrate.admission import Need
from regatta.orchestrate.devices import Machine, find_slots
from regatta.orchestrate.estimates import estimate_entries
from regatta.orchestrate.plan import Resources, Task, devices_of_run, is_prepared
from regatta.orchestrate.probe import Probe, ProbeTarget, probe_target, remembered
from regatta.records.run_folder import StudyFolder


def threads_of_entries(
    folder: StudyFolder, study: Study, threads_for: Callable[[Task], int]
) -> dict[str, int]:
    """Entry -> CPU threads of one of its training processes, as the launcher gives them."""
    threads = {}
    for spec in trained_runs(study):
        if spec.entry.name not in threads:
            one = Resources(
                devices_of_run(study.launch, spec), one_process=spec.train.parallel == "dp"
            )
            task = Task("", "train", (), folder.path, resources=one)
            threads[spec.entry.name] = threads_for(task)
    return threads


def entry_targets(
    study: Study,
    specs: list[RunSpec],
    *,
    machine: Machine,
    threads: Mapping[str, int],
    prepared: StudyFolder | None,
) -> dict[str, ProbeTarget]:
    """Entry -> what a probe of it measures, on the first device that the study may use."""
    one = study.launch.model_copy(update={"devices": min(1, study.launch.devices)})
    place = find_slots(one, runs=1, machine=machine)[0]
    return {
        spec.entry.name: probe_target(
            study,
            spec.entry,
            machine=machine,
            place=place,
            threads=threads[spec.entry.name],
            folder=prepared,
        )
        for spec in specs
    }


def measured_needs(
    folder: StudyFolder, study: Study, *, machine: Machine, threads_for: Callable[[Task], int]
) -> dict[str, Need]:
    """Entry (the `memory_key` of its training) -> memory that earlier runs or probes have shown.

    Measures nothing; what `regatta check` measured before the data were read counts too.
    """
    first: dict[str, RunSpec] = {}
    for spec in trained_runs(study):
        first.setdefault(spec.entry.name, spec)
    threads = threads_of_entries(folder, study, threads_for)
    prepared = [folder, None] if is_prepared(folder, study) else [None]
    probes: dict[str, Probe] = {}
    for place in prepared:
        targets = entry_targets(
            study, list(first.values()), machine=machine, threads=threads, prepared=place
        )
        for name, target in targets.items():
            probe = remembered(target)
            if probe is not None:
                probes.setdefault(name, probe)
    estimates = estimate_entries(folder, study, probes, None)
    return {name: Need(e.host_gib, e.device_gib) for name, e in estimates.items()}
