"""What one run of each entry takes: time, memory and disk, from what was measured and nothing else.

Runs of the same entry that were trained or judged are the best evidence; a probe comes second;
without either a number is None, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from regatta.config.expand import RunSpec, protocol_id, trained_runs
from regatta.config.schema import Study
from regatta.core.files import files_below, read_json
from regatta.core.registry import SOURCES
from regatta.orchestrate.probe import Probe
from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import RunFolder, StudyFolder

NOT_MEASURED = "not measured"
CONTEXT_GIB = 0.5
"""Of a GPU's memory that a CUDA process takes beside what torch reserves."""


@dataclass(frozen=True)
class Counts:
    """Samples that a run of the study meets; None before the data are read."""

    train: int
    validation: int
    judged: int


@dataclass(frozen=True)
class Estimate:
    """What one run of an entry takes; None = not measured. Times are at most: training may stop
    early, and clips that are the same are judged once."""

    entry: str
    train_seconds: float | None = None
    train_basis: str = NOT_MEASURED
    epoch_seconds_per_1000: float | None = None
    """Of training alone, for data whose size is not known yet."""
    judge_seconds: float | None = None
    judge_basis: str = NOT_MEASURED
    host_gib: float | None = None
    host_basis: str = NOT_MEASURED
    device_gib: float | None = None
    kept_bytes: int | None = None
    disk_bytes: int | None = None
    notes: tuple[str, ...] = ()


def count_samples(folder: StudyFolder, study: Study) -> Counts | None:
    """From the record of the data; None before they are read."""
    if not folder.data_json.is_file():
        return None
    counts = read_json(folder.data_json).get("counts") or {}
    sizes = {
        split: sum(counts.get(split, {}).values()) for split in ("train", "validation", "test")
    }
    judged = sizes[study.protocol.split]
    return Counts(
        sizes["train"], sizes["validation"], min(judged, study.protocol.sample_size or judged)
    )


def estimate_entries(
    folder: StudyFolder, study: Study, probes: Mapping[str, Probe], counts: Counts | None
) -> dict[str, Estimate]:
    """Entry -> what one of its runs takes."""
    found = {}
    for spec in trained_runs(study):
        if spec.entry.name not in found:
            siblings = [folder.run(s.run_id) for s in trained_runs(study) if s.entry == spec.entry]
            probe = probes.get(spec.entry.name)
            found[spec.entry.name] = _estimate(study, spec, siblings, probe, counts)
    return found


def _estimate(
    study: Study,
    spec: RunSpec,
    siblings: list[RunFolder],
    probe: Probe | None,
    counts: Counts | None,
) -> Estimate:
    estimate = Estimate(spec.entry.name)
    if probe is not None:
        estimate = _from_probe(estimate, study, spec, probe, counts)
    estimate = _from_runs(estimate, study, spec, siblings, counts)
    if study.launch.memory_gib_per_run is not None:
        fixed = study.launch.memory_gib_per_run
        estimate = replace(estimate, host_gib=fixed, host_basis="launch.memory_gib_per_run")
    return estimate


def _from_probe(
    estimate: Estimate, study: Study, spec: RunSpec, probe: Probe, counts: Counts | None
) -> Estimate:
    notes = [note for note in (probe.train_note, probe.encode_note, probe.judge_note) if note]
    basis = "probe"
    if probe.status != "ok":
        notes.append(f"the probe {_went(probe)}")
        basis = f"{NOT_MEASURED}: the probe {_went(probe)}"
    if not probe.trains_in_steps:
        notes.append("it is solved for, not trained in steps")
    if probe.is_disturbed:
        notes.append(f"other work kept {probe.others_cores:.1f} cores busy meanwhile")
    is_video = _kind(study) == "video"
    if is_video and probe.load_seconds is None:
        notes.append("without decoding")
    times = _training_times(spec, probe, counts)
    processes = max(1, round(study.launch.devices)) if spec.train.parallel != "none" else 1
    cache = spec.train.frame_cache_gib if is_video else 0.0
    host = None if probe.host_gib is None else (probe.host_gib + cache) * processes
    judge = None
    if counts and probe.judge_seconds is not None and probe.passes_per_sample:
        judge = counts.judged * probe.passes_per_sample * probe.judge_seconds
    return replace(
        estimate,
        train_seconds=times[0],
        epoch_seconds_per_1000=times[1],
        train_basis=basis if times[1] is None else "probe",
        judge_seconds=judge,
        judge_basis=basis if probe.judge_seconds is None else "probe",
        host_gib=host,
        host_basis=basis if host is None else "probe" + (" and frame cache" if cache else ""),
        device_gib=None if not probe.device_gib else probe.device_gib + CONTEXT_GIB,
        kept_bytes=probe.kept_bytes,
        disk_bytes=probe.disk_bytes,
        notes=tuple(dict.fromkeys(notes)),
    )


def _went(probe: Probe) -> str:
    how = {"timed out": "was too slow", "out of memory": "found no memory", "failed": "failed"}
    return f"{how[probe.status]} ({probe.message})"


def _training_times(
    spec: RunSpec, probe: Probe, counts: Counts | None
) -> tuple[float | None, float | None]:
    """Seconds of a whole training, and of an epoch over 1000 samples."""
    if probe.train_seconds is None:
        return None, None
    train, loading = spec.train, probe.load_seconds or 0.0
    # A CPU decodes and computes with the same cores; beside a GPU the slower of the two counts.
    on_gpu = probe.device_gib is not None
    each = max(probe.train_seconds, loading) if on_gpu else probe.train_seconds + loading
    if counts is None:
        return None, 1000 * each
    samples = round(counts.train * train.label_fraction)
    whole = train.epochs * samples * each
    if "encode" in probe.stages:
        if probe.encode_seconds is None:
            return None, 1000 * each
        whole += (samples * train.augment_views + counts.validation) * probe.encode_seconds
    elif probe.judge_seconds is not None:
        whole += train.epochs * counts.validation * probe.judge_seconds
    return whole, 1000 * each


def _from_runs(
    estimate: Estimate,
    study: Study,
    spec: RunSpec,
    siblings: list[RunFolder],
    counts: Counts | None,
) -> Estimate:
    """The estimate with what earlier runs of the entry have shown in its place."""
    results = [read_json(run.training_results) for run in siblings if run.is_trained()]
    seconds = [r["train_seconds"] for r in results if r.get("train_seconds")]
    if seconds:
        told = f"{len(seconds)} trained run{'s' if len(seconds) > 1 else ''}"
        estimate = replace(estimate, train_seconds=median(seconds), train_basis=told, notes=())
    else:
        speeds = [speed for run in siblings for speed in training_speeds(run)]
        if speeds and counts:
            samples = spec.train.epochs * counts.train * spec.train.label_fraction
            estimate = replace(
                estimate, train_seconds=samples / median(speeds), train_basis="a run that began"
            )
    hosts = [g for run in siblings if (g := _fact(run, "peak_memory_gib"))]
    if hosts:
        estimate = replace(estimate, host_gib=max(hosts), host_basis="earlier runs")
    devices = [g for run in siblings if (g := _fact(run, "peak_device_gib"))]
    # What tensors held; torch keeps more of the device, so a probe's figure may be the larger.
    devices += [
        r["peak_memory_gib"] + CONTEXT_GIB
        for r in results
        if str(r.get("device", "")).startswith("cuda") and r.get("peak_memory_gib")
    ]
    if devices:
        estimate = replace(estimate, device_gib=max(*devices, estimate.device_gib or 0.0))
    sizes = [_size(run.path) for run in siblings if run.is_trained()]
    if sizes:
        estimate = replace(
            estimate, kept_bytes=max(sizes), disk_bytes=max(estimate.disk_bytes or 0, max(sizes))
        )
    protocol = protocol_id(study.protocol)
    walls = [w for run in siblings if run.is_judged(protocol) and (w := _wall(run, protocol))]
    if walls:
        told = f"{len(walls)} judged run{'s' if len(walls) > 1 else ''}"
        estimate = replace(estimate, judge_seconds=median(walls), judge_basis=told)
    return estimate


def training_speeds(run: RunFolder) -> list[float]:
    """Samples per second of the training steps that the run has logged."""
    records = [r for r in read_metrics(run.metrics) if r.get("split", "train") == "train"]
    return [speed for record in records if (speed := record.get("samples_per_second"))]


def _fact(run: RunFolder, name: str) -> float | None:
    return run.info().get(name) if run.run_json.is_file() else None


def _wall(run: RunFolder, protocol: str) -> float:
    """Seconds that judging the run took, its share of what it did together with others."""
    parts: dict[str, float] = {}
    for path in run.predictions(protocol).glob("cost-*.json"):
        for number, part in read_json(path)["parts"].items():
            parts[number] = part["wall_seconds"]
    return sum(parts.values())


def _size(folder: Path) -> int:
    return sum(facts.st_size for _, facts in files_below(folder))


def _kind(study: Study) -> str:
    listed = SOURCES.listed.get(study.data.source)
    return listed.kind if listed else "video"
