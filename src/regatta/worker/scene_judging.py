"""Judge runs on scenes: all on the same changed pictures, each through its own cameras; then what
is known of the scenes, where the models looked, and what they would say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from regatta.config.schema import ProtocolSection, Study
from regatta.core.errors import RecordError, StopRequested
from regatta.core.signals import StopFlag
from regatta.data.manifest import Manifest, Sample
from regatta.data.scene_store import SceneStore
from regatta.evaluation.explain import write_explanations
from regatta.evaluation.judge_scenes import (
    complete_scenes,
    judge_elsewhere,
    judge_scenes,
    judged_views,
)
from regatta.evaluation.judged_parts import JudgeCost, ood_entry
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.scene_ood import OodScenes, open_ood_scenes
from regatta.evaluation.scene_protocols import UNCHANGED, SceneProtocol, fit_protocol
from regatta.evaluation.scene_truth import renders_again, write_scene_truth
from regatta.records.judging_notes import write_judging_notes
from regatta.records.predictions import file_hash, read_run_predictions
from regatta.records.run_folder import RunFolder
from regatta.worker.scene_attention import attention_samples, write_attention
from regatta.worker.status_writer import StatusWriter
from regatta.worker.trained_model import load_trained

SCENE_PART = 64
"""Scenes of a prediction file, at least: their pictures are in memory twice."""


@dataclass(frozen=True)
class SceneBench:
    """What all runs of one judging share."""

    study: Study
    protocol: SceneProtocol
    manifest: Manifest
    store: SceneStore
    samples: list[Sample]
    fingerprint: dict[str, Any]
    folder: Path
    """Where what is known of the scenes goes."""

    @property
    def part_samples(self) -> int:
        return scene_part_samples(self.study.protocol)


def scene_part_samples(section: ProtocolSection) -> int:
    """Scenes of one prediction file."""
    return max(section.part_samples, SCENE_PART)


def judge_scene_runs(
    runs: Sequence[RunFolder],
    bench: SceneBench,
    *,
    device: torch.device,
    shard: tuple[int, int],
    autocast: torch.dtype | None,
    stop: StopFlag,
    status: StatusWriter,
) -> tuple[dict[str, bool], JudgeCost]:
    """Write the missing parts of this shard; the last shard to end completes the runs.

    Returns:
        Run id -> whether all its predictions are whole; the runs that failed are in the cost.
    """
    entries = [_entry(run, bench, device) for run in runs]
    protocol, elsewhere = _fitted(bench, entries)
    settings: dict[str, Any] = {
        "batch_size": bench.study.protocol.batch_size,
        "part_samples": bench.part_samples,
        "device": device,
        "shard": shard,
        "autocast": autocast,
        "stop": stop,
        "report": status.update,
    }
    cost = judge_scenes(entries, bench.samples, bench.store, protocol, **settings)
    alive = [entry for entry in entries if entry.run_id not in cost.failed]
    cost.failed |= judge_elsewhere(alive, elsewhere, **settings).failed
    alive = [entry for entry in alive if entry.run_id not in cost.failed]
    poll = partial(_keep_going, stop, status)
    if shard[0] == 0:
        # Before anything is marked as complete: a finished study starts no worker again.
        write_scene_truth(bench.folder, bench.store, bench.manifest)
        for entry in alive if protocol.attention else []:
            _write_attention(entry, bench, device, poll)
    whole = {entry.run_id: _complete(entry, bench, protocol, elsewhere, poll) for entry in alive}
    return whole, cost


def _entry(run: RunFolder, bench: SceneBench, device: torch.device) -> JudgedEntry:
    module, spec, classes = load_trained(run)
    if classes != bench.manifest.classes:
        raise RecordError("this model was trained on other classes", where=run.model)
    return JudgedEntry(
        run.run_id,
        module.to(device).eval(),
        spec,
        run.predictions(bench.fingerprint["protocol"]),
        {**bench.fingerprint, "weights": file_hash(run.model / "model.safetensors")},
    )


def _fitted(
    bench: SceneBench, entries: Sequence[JudgedEntry]
) -> tuple[SceneProtocol, list[OodScenes]]:
    """The protocol as this data allows it, and the scenes outside the training ranges."""
    store, settings = bench.store, bench.store.settings
    protocol = fit_protocol(
        bench.protocol,
        frames=settings.frames,
        views=judged_views(entries),
        can_render=renders_again(store, store.rows(bench.samples)),
        settings=settings,
    )
    for note in protocol.notes:
        print(note, flush=True)
    count = len(bench.samples)
    classes = bench.manifest.classes
    return protocol, open_ood_scenes(protocol.ood, settings, count=count, classes=classes)


def _write_attention(
    entry: JudgedEntry, bench: SceneBench, device: torch.device, poll: partial[None]
) -> None:
    seed, count = bench.study.protocol.sample_seed, bench.protocol.attention_samples
    chosen = attention_samples(bench.samples, count, seed)
    write_attention(entry, bench.store, chosen, device=device, poll=poll)


def _complete(
    entry: JudgedEntry,
    bench: SceneBench,
    protocol: SceneProtocol,
    elsewhere: Sequence[OodScenes],
    poll: partial[None],
) -> bool:
    """Mark the predictions as whole; those on the data's own scenes come last, after their answers
    in words: a run that is judged is never judged again, so nothing may be missing then."""
    common: dict[str, Any] = {
        "part_samples": bench.part_samples,
        "classes": bench.manifest.classes,
    }
    write_judging_notes(entry.folder, protocol.notes)
    beside = [
        complete_scenes(ood_entry(entry, ood), ood.samples, UNCHANGED, **common)
        for ood in elsewhere
    ]
    explain = partial(_write_explanations, entry, bench, poll) if protocol.explain else None
    return all(beside) and complete_scenes(entry, bench.samples, protocol, **common, first=explain)


def _write_explanations(
    entry: JudgedEntry, bench: SceneBench, poll: partial[None], record: dict[str, Any]
) -> None:
    found = read_run_predictions(entry.folder, run_id=entry.run_id, entry="", seed=0, record=record)
    row_of = {name: row for row, name in enumerate(bench.store.ids)}
    rows = [row_of[str(name)] for name in found.sample_ids]
    views = list(entry.spec.views)
    asked = write_explanations(
        entry.folder,
        found,
        bench.store.cameras.select(views),
        bench.store.pixels[rows][:, views],
        wording=bench.protocol.wording,
        poll=poll,
    )
    if bench.protocol.wording is not None:
        told = (
            f"{asked.accepted} texts worded, {asked.refused} refused, {asked.unanswered} unanswered"
        )
        print(f"{entry.run_id}: {told}", *asked.problems[:3], sep="; ", flush=True)


def _keep_going(stop: StopFlag, status: StatusWriter) -> None:
    """Show life; leave when a stop was asked for."""
    if stop.requested:
        hint = "run the same command again: finished parts are kept"
        raise StopRequested("stopped while looking at what models look at", hint=hint)
    status.update({"phase": "judge"})
