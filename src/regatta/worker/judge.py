"""Judge several trained runs together on a share of the samples: one decode of each video, one
change of each window of signals, serves them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from regatta import __version__
from regatta.config.expand import judging_settings, protocol_id
from regatta.config.schema import ProtocolSection, Study
from regatta.core.errors import DataError, RecordError, StopRequested
from regatta.core.files import read_json, write_json
from regatta.core.registry import ORACLES
from regatta.core.signals import StopFlag
from regatta.data.manifest import Manifest, Sample
from regatta.data.windows import WindowStore
from regatta.evaluation.grid import EntryInput, choose_samples
from regatta.evaluation.image_protocols import resolve_image_protocol
from regatta.evaluation.judge import judge_parts
from regatta.evaluation.judge_windows import judge_windows
from regatta.evaluation.judged_parts import JudgeCost
from regatta.evaluation.part_files import finalize_predictions, write_ceiling
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.protocols import Protocol, resolve_protocol
from regatta.evaluation.scene_protocols import resolve_scene_protocol
from regatta.evaluation.window_protocols import (
    AS_RECORDED,
    WindowProtocol,
    resolve_window_protocol,
    signal_facts,
)
from regatta.records.fingerprint import SETTINGS
from regatta.records.predictions import UNKNOWN_FOLDER, file_hash, read_run_predictions
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.worker.film import record_film
from regatta.worker.image_judging import ImageBench, judge_image_runs, open_elsewhere
from regatta.worker.motion import measure_motion
from regatta.worker.run_data import RunData, load_fold_data
from regatta.worker.scene_judging import SceneBench, judge_scene_runs
from regatta.worker.status_writer import StatusWriter
from regatta.worker.trained_model import load_trained

_DECODER_PACKAGE = {"pyav": "av", "torchcodec": "torchcodec"}


@dataclass(frozen=True)
class Bench:
    """What all entries of one judging share."""

    study: Study
    protocol: Protocol | WindowProtocol
    manifest: Manifest
    store: WindowStore | None
    """None for videos."""
    samples: list[Sample]
    fingerprint: dict[str, Any]

    @property
    def unknown(self) -> list[Sample]:
        """Samples of classes that were kept from the models, judged beside the test split."""
        judges_test = self.study.protocol.split == "test"
        return self.manifest.split("unknown") if judges_test else []


def judge(
    folder: StudyFolder,
    run_ids: list[str],
    *,
    shard: tuple[int, int],
    device: torch.device,
    threads: int,
    stop: StopFlag,
    status: StatusWriter,
) -> None:
    """Write the missing prediction parts of this shard; the last shard to end completes the runs.

    Raises:
        RegattaError: the first run that could not be judged, after all others were.
    """
    study = folder.study()
    data = load_fold_data(folder, run_ids)
    manifest, store = data.manifest, data.store
    if data.images is not None or data.scenes is not None:
        _judge_stored(folder, run_ids, study, data, device, shard, stop, status)
        return
    bench = _bench(study, manifest, store)
    with torch.inference_mode():
        entries = [_entry(folder.run(run_id), bench, device) for run_id in run_ids]
        protocol = bench.protocol
        if isinstance(protocol, WindowProtocol):
            judge_all = partial(_judge_windows, protocol=protocol)
        else:
            judge_all = partial(_judge_clips, protocol=protocol, threads=threads)
        cost = judge_all(entries, bench, device=device, shard=shard, stop=stop, status=status)
    if shard[0] == 0 and store is None:
        # Before anything is marked as complete: a finished study starts no worker again.
        poll = partial(_keep_going, stop, status)
        measure_motion(folder, study, manifest, bench.samples, poll=poll)
        _record_film(folder, bench, [e for e in entries if e.run_id not in cost.failed], poll=poll)
    judged = [entry for entry in entries if entry.run_id not in cost.failed]
    whole = [_complete(entry, bench, folder.run(entry.run_id)) for entry in judged]
    _end(folder, run_ids, cost, whole, status)


def _end(
    folder: StudyFolder,
    run_ids: list[str],
    cost: JudgeCost,
    whole: Iterable[bool],
    status: StatusWriter,
) -> None:
    if cost.failed:
        raise next(iter(cost.failed.values()))
    if all(whole):
        StatusWriter([folder.run(run_id).status for run_id in run_ids]).end(state="done", phase="")
    else:
        # Another shard is still at work and will say so when it ends.
        status.end(state="queued", phase="judge")


def _judge_stored(
    folder: StudyFolder,
    run_ids: list[str],
    study: Study,
    data: RunData,
    device: torch.device,
    shard: tuple[int, int],
    stop: StopFlag,
    status: StatusWriter,
) -> None:
    """Judge runs on images or scenes, which the study keeps in a store."""
    runs = [folder.run(run_id) for run_id in run_ids]
    samples = _judged_samples(study.protocol, data.manifest)
    fingerprint = _fingerprint(study, data.manifest, samples)
    # Not inference mode: no gradient, as maps of scenes need, flows through weights loaded in it.
    with torch.no_grad():
        whole, cost = _stored_judge(folder, study, data, samples, fingerprint)(
            runs,
            device=device,
            shard=shard,
            autocast=torch.bfloat16 if _has_bf16(device) else None,
            stop=stop,
            status=status,
        )
    for run in runs:
        if whole.get(run.run_id) and _is_plain_test(study):
            _note_test_accuracy(run, run.predictions(fingerprint["protocol"]))
    _end(folder, run_ids, cost, whole.values(), status)


def _stored_judge(
    folder: StudyFolder,
    study: Study,
    data: RunData,
    samples: list[Sample],
    fingerprint: dict[str, Any],
) -> Callable[..., tuple[dict[str, bool], JudgeCost]]:
    """What judges runs on the images or scenes of this data."""
    if data.images is not None:
        images, protocol = data.images, resolve_image_protocol(study.protocol)
        elsewhere, notes = open_elsewhere(protocol, images, len(samples))
        bench = ImageBench(
            study, protocol, data.manifest, images, samples, fingerprint, elsewhere, notes
        )
        return partial(judge_image_runs, bench=bench)
    assert data.scenes is not None
    protocol = resolve_scene_protocol(study.protocol)
    scenes = SceneBench(
        study, protocol, data.manifest, data.scenes, samples, fingerprint, folder.scenes
    )
    return partial(judge_scene_runs, bench=scenes)


def _judge_clips(
    entries: list[JudgedEntry],
    bench: Bench,
    *,
    protocol: Protocol,
    device: torch.device,
    shard: tuple[int, int],
    threads: int,
    stop: StopFlag,
    status: StatusWriter,
) -> JudgeCost:
    section = bench.study.protocol
    return judge_parts(
        entries,
        bench.samples,
        protocol,
        batch_size=section.batch_size,
        part_samples=section.part_samples,
        device=device,
        shard=shard,
        resize=None if section.resize == "crop" else section.resize,
        autocast=torch.bfloat16 if _has_bf16(device) else None,
        decode_threads=threads,
        decoder=bench.study.data.decoder,
        stop=stop,
        report=status.update,
    )


def _judge_windows(
    entries: list[JudgedEntry],
    bench: Bench,
    *,
    protocol: WindowProtocol,
    device: torch.device,
    shard: tuple[int, int],
    stop: StopFlag,
    status: StatusWriter,
) -> JudgeCost:
    assert bench.store is not None
    section = bench.study.protocol
    judge_on = partial(
        judge_windows,
        facts=signal_facts(bench.manifest, bench.store),
        batch_size=section.batch_size,
        part_samples=section.part_samples,
        device=device,
        shard=shard,
        autocast=torch.bfloat16 if _has_bf16(device) else None,
        stop=stop,
        report=status.update,
    )
    cost = judge_on(entries, bench.samples, protocol=protocol)
    alive = [entry for entry in entries if entry.run_id not in cost.failed]
    if bench.unknown and alive:
        beside = [replace(entry, folder=entry.folder / UNKNOWN_FOLDER) for entry in alive]
        cost.failed |= judge_on(beside, bench.unknown, protocol=AS_RECORDED).failed
    return cost


def _keep_going(stop: StopFlag, status: StatusWriter) -> None:
    """Show life; leave when a stop was asked for."""
    if stop.requested:
        hint = "run the same command again: finished parts are kept"
        raise StopRequested("stopped while measuring motion or keeping film-strips", hint=hint)
    status.update({"phase": "judge"})


def _record_film(
    folder: StudyFolder, bench: Bench, entries: list[JudgedEntry], *, poll: Callable[[], None]
) -> None:
    assert isinstance(bench.protocol, Protocol)
    section, named = bench.study.protocol, {spec.run_id: spec for spec, _ in folder.runs()}
    inputs = {}
    for entry in entries:
        resize = entry.spec.resize if section.resize == "crop" else section.resize
        name = named[entry.run_id].entry.name
        inputs[name] = EntryInput(entry.spec.frames, entry.spec.image_size, resize)
    record_film(
        folder,
        bench.study,
        bench.protocol,
        bench.samples,
        inputs,
        manifest_hash=bench.fingerprint["manifest"],
        poll=poll,
    )


def _bench(study: Study, manifest: Manifest, store: WindowStore | None) -> Bench:
    section = study.protocol
    samples = _judged_samples(section, manifest)
    fingerprint = _fingerprint(study, manifest, samples)
    if store is not None:
        protocol = resolve_window_protocol(section)
    else:
        protocol = resolve_protocol(section)
        fingerprint[SETTINGS]["average"] = protocol.average
        decoder = study.data.decoder
        fingerprint["decoder"] = f"{decoder} {version(_DECODER_PACKAGE[decoder])}"
        fingerprint["resize"] = section.resize
    return Bench(study, protocol, manifest, store, samples, fingerprint)


def _judged_samples(section: ProtocolSection, manifest: Manifest) -> list[Sample]:
    samples = sorted(manifest.split(section.split), key=lambda sample: sample.sample_id)
    if not samples:
        raise DataError(
            f"the {section.split} split has no sample",
            hint="give the data set a test split, or judge with protocol.split: validation",
        )
    return choose_samples(samples, section.sample_size, section.sample_seed)


def _fingerprint(study: Study, manifest: Manifest, samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "manifest": manifest.hash(),
        "protocol": protocol_id(study.protocol),
        SETTINGS: judging_settings(study.protocol),
        "sample_ids": len(samples),
        "code": __version__,
    }


def _entry(run: RunFolder, bench: Bench, device: torch.device) -> JudgedEntry:
    module, spec, classes = load_trained(run)
    if classes != bench.manifest.classes:
        raise RecordError("this model was trained on other classes", where=run.model)
    own: dict[str, Any] = {"weights": file_hash(run.model / "model.safetensors")}
    if isinstance(bench.protocol, Protocol):
        own |= {"frames": spec.frames, "image_size": spec.image_size, "model_resize": spec.resize}
    return JudgedEntry(
        run.run_id,
        module.to(device).eval(),
        spec,
        run.predictions(bench.fingerprint["protocol"]),
        {**bench.fingerprint, **own},
    )


def _complete(entry: JudgedEntry, bench: Bench, run: RunFolder) -> bool:
    """Mark the run's predictions as whole once all shards are done, the oracle's ceiling beside
    them, and the accuracy among its training results."""
    if isinstance(bench.protocol, Protocol):
        _note_ceiling(entry, bench, bench.protocol)
    finalize = partial(
        finalize_predictions,
        part_samples=bench.study.protocol.part_samples,
        classes=bench.manifest.classes,
        fingerprint=entry.fingerprint,
    )
    if bench.unknown and not finalize(
        entry.folder / UNKNOWN_FOLDER, samples=bench.unknown, conditions=AS_RECORDED.conditions
    ):
        return False
    whole = finalize(entry.folder, samples=bench.samples, conditions=bench.protocol.conditions)
    if whole and _is_plain_test(bench.study):
        _note_test_accuracy(run, entry.folder)
    return whole


def _is_plain_test(study: Study) -> bool:
    """Whether the study judges the whole test split as it is: what `test_acc` stands for."""
    section = study.protocol
    return section.name == "plain" and section.split == "test" and section.sample_size is None


def _note_test_accuracy(run: RunFolder, judged: Path) -> None:
    """Fill in `test_acc` of training_results.json; harmless to repeat."""
    if not run.is_trained():
        return
    found = read_run_predictions(judged, run_id=run.run_id, entry="", seed=0)
    accuracy, results = float(found.correct()[0].mean()), read_json(run.training_results)
    if results.get("test_acc") != accuracy:
        write_json(run.training_results, {**results, "test_acc": accuracy})


def _note_ceiling(entry: JudgedEntry, bench: Bench, protocol: Protocol) -> None:
    """Write ceiling.json once, where the source knows what an ideal reader can see."""
    data = bench.study.data
    if data.source not in ORACLES.names() or (entry.folder / "ceiling.json").is_file():
        return
    write_ceiling(
        entry.folder,
        bench.samples,
        protocol,
        model_frames=entry.spec.frames,
        oracle=ORACLES.get(data.source),
        options=data.options,
    )


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
