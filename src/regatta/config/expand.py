"""A study becomes a list of runs: entry x seed, and x fold where the data have folds. The run id is
a hash of what determines the trained weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from regatta.config.load import entry_train, imported_seeds
from regatta.config.schema import DataSection, EntrySection, ProtocolSection, Study, TrainSection

TRAINING_RECORD_VERSION = 2
"""Raised when the trainer changes so that old weights are no longer what the same study would
give."""

FOLDED = ("loso", "subject-kfold")
"""Designs in which every sample is judged once, each fold's by its own models."""
DEFAULT_FOLDS = 5

_KNOWN_LATER = {
    "mix_share",
    "schedule",
    "clip_norms",
    "loss",
    "gradient_conflict",
    "gradient_conflict_per",
    "freeze_experts_epochs",
    "adapt_lr",
    "positions",
    "fresh_samples",
}
"""Keys of a recipe that count only where they are changed: older runs knew nothing of them."""
_NOT_IN_RUN_ID = {
    "log_every_steps",
    "loader_threads",
    "frame_cache_gib",
    "checkpoint_every_steps",
    "keep_every_epochs",
}


@dataclass(frozen=True)
class RunSpec:
    """One model to train and judge: entry x seed (x fold), with its own recipe."""

    run_id: str
    entry: EntrySection
    seed: int
    train: TrainSection
    content_hash: str
    fold: int | None = None
    """Counted from 0; None where the data have one split."""
    needs: tuple[str, ...] = ()
    """Ids of the runs that must be trained before."""

    @property
    def label(self) -> str:
        fold = "" if self.fold is None else f" fold {self.fold}"
        return f"{self.entry.name} seed {self.seed}{fold}"


def expand_study(study: Study) -> list[RunSpec]:
    """All runs in the order entries x seeds x folds; ids are stable over machines and key order.

    An imported entry has a run for every seed that it may have; only some may be there.
    """
    return [
        _run(study, entry, seed, fold)
        for entry in study.entries
        for seed in imported_seeds(study, entry)
        for fold in ([None] if entry.is_imported else folds_of(study.data))
    ]


def trained_runs(study: Study) -> list[RunSpec]:
    """The runs of `expand_study` that are trained and judged here."""
    return [spec for spec in expand_study(study) if not spec.entry.is_imported]


def with_dependants(runs: Sequence[RunSpec], run_ids: Sequence[str]) -> list[str]:
    """These runs and all that are built on them, in the order of `runs`; unknown ones first."""
    known, found = {spec.run_id for spec in runs}, set(run_ids)
    while more := {spec.run_id for spec in runs if found & set(spec.needs)} - found:
        found |= more
    unknown = [run_id for run_id in run_ids if run_id not in known]
    return [*unknown, *(spec.run_id for spec in runs if spec.run_id in found)]


def entry_of(study: Study, name: str) -> EntrySection:
    """The entry of this name; the study was checked to have it."""
    return next(entry for entry in study.entries if entry.name == name)


def folds_of(data: DataSection) -> list[int] | list[None]:
    """Numbers of the folds that every entry and seed is trained on; [None] for a single split."""
    return [None] if data.design not in FOLDED else list(range(data.folds or DEFAULT_FOLDS))


def data_settings(study: Study) -> dict[str, Any]:
    """What of a study decides its samples and their parts."""
    settings = study.data.model_dump(mode="json")
    if study.partition is not None:
        settings["partition"] = study.partition.model_dump(mode="json")
    return settings


def protocol_id(protocol: ProtocolSection) -> str:
    """Folder name of a protocol's predictions: name and hash of all that changes what is judged."""
    return f"{protocol.name}-{_hash(judging_settings(protocol))[:8]}"


def judging_settings(protocol: ProtocolSection) -> dict[str, Any]:
    """The settings of a protocol that change what is judged, or how."""
    return protocol.model_dump(mode="json", exclude={"motion_samples", "film_samples"})


def _run(study: Study, entry: EntrySection, seed: int, fold: int | None) -> RunSpec:
    train = entry_train(study, entry)
    content = {
        "version": TRAINING_RECORD_VERSION,
        "data": study.data.model_dump(mode="json"),
        "entry": entry.model_dump(mode="json", exclude={"train", "needs", "role", "part"}),
        "train": _recipe(train),
        "seed": seed,
    }
    if study.partition is not None:
        content["partition"] = study.partition.model_dump(mode="json")
    if entry.part is not None:
        # An expert draws its own first weights, and may have fewer classes.
        content["part"] = [entry.part, entry.role]
    if fold is not None:
        content["fold"] = fold
    needed = [_run(study, entry_of(study, name), seed, fold) for name in entry.needs]
    if needed:
        content["needs"] = [spec.content_hash for spec in needed]
    if entry.is_imported:
        # No recipe of this study has made it, so none may move it to another folder.
        content = {"imported": entry.name, "seed": seed}
    digest = _hash(content)
    part = "" if fold is None else f"-fold{fold}"
    run_id = f"{entry.name}-s{seed}{part}-{digest[:8]}"
    needs = tuple(spec.run_id for spec in needed)
    return RunSpec(run_id, entry, seed, train, digest, fold, needs)


def _recipe(train: TrainSection) -> dict[str, Any]:
    """What of a recipe decides the trained weights."""
    usual = TrainSection().model_dump(mode="json")
    return {
        key: value
        for key, value in train.model_dump(mode="json").items()
        if key not in _NOT_IN_RUN_ID and not (key in _KNOWN_LATER and value == usual[key])
    }


def _hash(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()
