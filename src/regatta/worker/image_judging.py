"""Judge runs on images: a few models in memory at a time, all on the same changed images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from regatta.config.schema import ProtocolSection, Study
from regatta.core.signals import StopFlag
from regatta.data.image_store import ImageStore
from regatta.data.manifest import Manifest, Sample
from regatta.data.sources.image_folder import read_pictures
from regatta.evaluation.image_protocols import UNCHANGED, ImageProtocol
from regatta.evaluation.judge_images import (
    complete_images,
    judge_elsewhere,
    judge_images,
)
from regatta.evaluation.judged_parts import JudgeCost, ood_entry
from regatta.evaluation.ood_sets import OodSet, ood_path, open_ood_sets
from regatta.evaluation.predict import JudgedEntry
from regatta.records.conditions import IMAGE_PART
from regatta.records.judging_notes import write_judging_notes
from regatta.records.predictions import file_hash
from regatta.records.run_folder import RunFolder
from regatta.worker.image_parts import AnswersAll
from regatta.worker.status_writer import StatusWriter
from regatta.worker.trained_model import load_trained

TOGETHER = 8
"""Models that are in memory at once: a study of fusions has dozens."""


@dataclass(frozen=True)
class ImageBench:
    """What all runs of one judging share."""

    study: Study
    protocol: ImageProtocol
    manifest: Manifest
    images: ImageStore
    samples: list[Sample]
    fingerprint: dict[str, Any]
    elsewhere: list[OodSet]
    notes: list[str]
    """What a reader of the results must know; see `records.judging_notes`."""

    @property
    def part_samples(self) -> int:
        return image_part_samples(self.study.protocol)


def image_part_samples(section: ProtocolSection) -> int:
    """Images of one prediction file."""
    return max(section.part_samples, IMAGE_PART)


def open_elsewhere(
    protocol: ImageProtocol, images: ImageStore, count: int
) -> tuple[list[OodSet], list[str]]:
    """The sets of images from elsewhere that are there, and what is to be said of the others.

    Raises:
        ConfigError: one holds images of another size.
    """
    shape = tuple(images.images.shape[1:])
    named = {item: ood_path(item) for item in protocol.ood}
    found, notes = {}, list(protocol.notes)
    for item, path in named.items():
        if path and Path(path).exists():
            pictures, damaged = read_pictures(Path(path), image_size=shape[-1])
            found[item] = torch.from_numpy(pictures)
            if damaged:
                names = ", ".join(one.path for one in damaged[:4])
                notes.append(f"{len(damaged)} images of {item} cannot be read: {names}")
    sets, absent = open_ood_sets(
        protocol.ood,
        found,
        count=count,
        shape=shape,
    )
    notes += [f"not measured, it is not there: {item}" for item in absent]
    for note in notes:
        print(note, flush=True)
    return sets, notes


def judge_image_runs(
    runs: Sequence[RunFolder],
    bench: ImageBench,
    *,
    device: torch.device,
    shard: tuple[int, int],
    autocast: torch.dtype | None,
    stop: StopFlag,
    status: StatusWriter,
) -> tuple[dict[str, bool], JudgeCost]:
    """Write the missing parts of this shard, some runs after others.

    Returns:
        Run id -> whether all its predictions are whole; the runs that failed are in the cost.
    """
    section, whole, total = bench.study.protocol, dict[str, bool](), JudgeCost()
    settings: dict[str, Any] = {
        "batch_size": section.batch_size,
        "part_samples": bench.part_samples,
        "device": device,
        "shard": shard,
        "autocast": autocast,
        "stop": stop,
        "report": status.update,
    }
    for start in range(0, len(runs), TOGETHER):
        entries = [image_entry(run, bench, device) for run in runs[start : start + TOGETHER]]
        cost = judge_images(entries, bench.samples, bench.images.select, bench.protocol, **settings)
        total.failed |= cost.failed
        alive = [entry for entry in entries if entry.run_id not in total.failed]
        total.failed |= judge_elsewhere(alive, bench.elsewhere, **settings).failed
        for entry in alive:
            if entry.run_id not in total.failed:
                whole[entry.run_id] = _complete(entry, bench)
    return whole, total


def image_entry(run: RunFolder, bench: ImageBench, device: torch.device) -> JudgedEntry:
    """A trained run as judging takes it; one that knows some classes answers over all."""
    module, spec, classes = load_trained(run)
    if classes != bench.manifest.classes:
        module = AnswersAll(module, classes, bench.manifest.classes)
    return JudgedEntry(
        run.run_id,
        module.to(device).eval(),
        spec,
        run.predictions(bench.fingerprint["protocol"]),
        {**bench.fingerprint, "weights": file_hash(run.model / "model.safetensors")},
    )


def _complete(entry: JudgedEntry, bench: ImageBench) -> bool:
    """Mark the predictions as whole; those on the data's own images come last."""
    common: dict[str, Any] = {
        "part_samples": bench.part_samples,
        "classes": bench.manifest.classes,
    }
    write_judging_notes(entry.folder, bench.notes)
    beside = [
        complete_images(ood_entry(entry, ood), ood.samples, UNCHANGED, **common)
        for ood in bench.elsewhere
    ]
    return all(beside) and complete_images(entry, bench.samples, bench.protocol, **common)
