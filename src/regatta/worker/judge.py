"""Judge several trained runs together on a share of the samples: one decode of each video serves
them all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from regatta import __version__
from regatta.config.expand import protocol_id
from regatta.config.schema import Study
from regatta.core.errors import DataError, RecordError, StopRequested
from regatta.core.registry import ORACLES
from regatta.core.signals import StopFlag
from regatta.data.manifest import Manifest, Sample
from regatta.evaluation.grid import choose_samples
from regatta.evaluation.judge import judge_parts
from regatta.evaluation.part_files import finalize_predictions, write_ceiling
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.protocols import Protocol, resolve_protocol
from regatta.models.weights import load_model
from regatta.records.predictions import file_hash
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.worker.motion import measure_motion
from regatta.worker.status_writer import StatusWriter

_DECODER_PACKAGE = {"pyav": "av", "torchcodec": "torchcodec"}


@dataclass(frozen=True)
class Bench:
    """What all entries of one judging share."""

    study: Study
    protocol: Protocol
    samples: list[Sample]
    classes: list[str]
    fingerprint: dict[str, Any]


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
    manifest = Manifest.load(folder.manifest)
    bench = _bench(study, manifest)
    with torch.inference_mode():
        entries = [_entry(folder.run(run_id), bench, manifest, device) for run_id in run_ids]
        section = study.protocol
        cost = judge_parts(
            entries,
            bench.samples,
            bench.protocol,
            batch_size=section.batch_size,
            part_samples=section.part_samples,
            device=device,
            shard=shard,
            resize=None if section.resize == "crop" else section.resize,
            autocast=torch.bfloat16 if _has_bf16(device) else None,
            decode_threads=threads,
            decoder=study.data.decoder,
            stop=stop,
            report=status.update,
        )
    if shard[0] == 0:
        # Before anything is marked as complete: a finished study starts no worker again.
        poll = partial(_keep_going, stop, status)
        measure_motion(folder, study, manifest, bench.samples, poll=poll)
    whole = [_complete(entry, bench) for entry in entries if entry.run_id not in cost.failed]
    if cost.failed:
        raise next(iter(cost.failed.values()))
    if all(whole):
        StatusWriter([folder.run(run_id).status for run_id in run_ids]).end(state="done", phase="")
    else:
        # Another shard is still at work and will say so when it ends.
        status.end(state="queued", phase="judge")


def _keep_going(stop: StopFlag, status: StatusWriter) -> None:
    """Show life; leave when a stop was asked for."""
    if stop.requested:
        hint = "run the same command again: finished parts are kept"
        raise StopRequested("stopped while measuring motion", hint=hint)
    status.update({"phase": "judge"})


def _bench(study: Study, manifest: Manifest) -> Bench:
    section = study.protocol
    samples = sorted(manifest.split(section.split), key=lambda sample: sample.sample_id)
    if not samples:
        raise DataError(
            f"the {section.split} split has no sample",
            hint="give the data set a test split, or judge with protocol.split: validation",
        )
    samples = choose_samples(samples, section.sample_size, section.sample_seed)
    return Bench(
        study,
        resolve_protocol(section),
        samples,
        manifest.classes,
        {
            "manifest": manifest.hash(),
            "protocol": protocol_id(section),
            "sample_ids": len(samples),
            "decoder": f"{study.data.decoder} {version(_DECODER_PACKAGE[study.data.decoder])}",
            "resize": section.resize,
            "code": __version__,
        },
    )


def _entry(run: RunFolder, bench: Bench, manifest: Manifest, device: torch.device) -> JudgedEntry:
    module, spec, classes = load_model(run.model)
    if classes != manifest.classes:
        raise RecordError("this model was trained on other classes", where=run.model)
    return JudgedEntry(
        run.run_id,
        module.to(device).eval(),
        spec,
        run.predictions(bench.fingerprint["protocol"]),
        {**bench.fingerprint, "weights": file_hash(run.model / "model.safetensors")},
    )


def _complete(entry: JudgedEntry, bench: Bench) -> bool:
    """Mark the run's predictions as whole once all shards are done, the oracle's ceiling beside
    them."""
    data = bench.study.data
    if data.source in ORACLES.names() and not (entry.folder / "ceiling.json").is_file():
        write_ceiling(
            entry.folder,
            bench.samples,
            bench.protocol,
            model_frames=entry.spec.frames,
            oracle=ORACLES.get(data.source),
            options=data.options,
        )
    return finalize_predictions(
        entry.folder,
        samples=bench.samples,
        conditions=bench.protocol.conditions,
        part_samples=bench.study.protocol.part_samples,
        classes=bench.classes,
        fingerprint=entry.fingerprint,
    )


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
