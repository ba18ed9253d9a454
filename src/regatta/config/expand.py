"""A study becomes a list of runs: entry x seed. The run id is a hash of what determines the trained
weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from regatta.config.load import entry_train
from regatta.config.schema import EntrySection, ProtocolSection, Study, TrainSection

TRAINING_RECORD_VERSION = 1
"""Raised when the trainer changes so that old weights are no longer what the same study would
give."""

_NOT_IN_RUN_ID = {"log_every_steps", "loader_threads", "frame_cache_gib", "checkpoint_every_steps"}


@dataclass(frozen=True)
class RunSpec:
    """One model to train and judge: entry x seed, with its own recipe."""

    run_id: str
    entry: EntrySection
    seed: int
    train: TrainSection
    content_hash: str

    @property
    def label(self) -> str:
        return f"{self.entry.name} seed {self.seed}"


def expand_study(study: Study) -> list[RunSpec]:
    """All runs in the order entries x seeds; ids are stable over machines and key order."""
    return [_run(study, entry, seed) for entry in study.entries for seed in study.seeds]


def protocol_id(protocol: ProtocolSection) -> str:
    """Folder name of a protocol's predictions: name and hash of all that changes what is judged."""
    judged = protocol.model_dump(mode="json", exclude={"motion_samples"})
    return f"{protocol.name}-{_hash(judged)[:8]}"


def _run(study: Study, entry: EntrySection, seed: int) -> RunSpec:
    train = entry_train(study, entry)
    recipe = {k: v for k, v in train.model_dump(mode="json").items() if k not in _NOT_IN_RUN_ID}
    content = {
        "version": TRAINING_RECORD_VERSION,
        "data": study.data.model_dump(mode="json"),
        "entry": entry.model_dump(mode="json", exclude={"train"}),
        "train": recipe,
        "seed": seed,
    }
    digest = _hash(content)
    return RunSpec(f"{entry.name}-s{seed}-{digest[:8]}", entry, seed, train, digest)


def _hash(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()
