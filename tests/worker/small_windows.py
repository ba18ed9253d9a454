"""A study on generated windows that is small enough for a test: real files, real worker code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from regatta.config.load import study_from_mapping
from regatta.core.signals import StopFlag
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter
from regatta.worker.train import train

TRAIN = {"epochs": 2, "batch_size": 16, "lr": 1e-3, "freeze_encoder": True, "augment": "none"}


def drawn(name: str, *, train: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """An entry with the smallest encoder at random weights."""
    return {
        "name": name,
        "model": "har-vit",
        "checkpoint": "none",
        "options": {"encoder": "vit-micro", "head": [16], **options},
        "train": train or {},
    }


def small_study(
    root: Path, entries: list[dict[str, Any]], *, name: str = "small", **train: Any
) -> StudyFolder:
    """A prepared study: 6 subjects, 6 classes, 2 windows of each."""
    study = study_from_mapping(
        {
            "name": name,
            "data": {
                "source": "har-synthetic",
                "root": str(root / "data"),
                "options": {"subjects": 6, "windows_per_class": 2},
                "validation_groups": 1,
            },
            "entries": entries,
            "train": {**TRAIN, **train},
        }
    )
    folder = open_study(root / "runs", study)
    prepare(folder, StopFlag(), StatusWriter([]))
    return folder


def train_entry(folder: StudyFolder, name: str, *, stop: StopFlag | None = None) -> RunFolder:
    """Train the first run of an entry, as a worker process would."""
    torch.set_num_threads(1)
    spec, run = next(pair for pair in folder.runs() if pair[0].entry.name == name)
    status = StatusWriter([run.status])
    train(folder, spec.run_id, device=torch.device("cpu"), stop=stop or StopFlag(), status=status)
    return run
