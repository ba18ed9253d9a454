"""Studies of fusions that are small enough for a test: real pictures, real worker code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from regatta.config.load import study_from_mapping
from regatta.core.seeds import stream
from regatta.core.signals import StopFlag
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.worker.judge import judge
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter
from regatta.worker.train import train

SIZE = 16
CLASSES = ("north", "east", "south", "west")
CPU = torch.device("cpu")


def picture(label: int, number: int, *, size: int = SIZE) -> np.ndarray:
    """uint8 [size, size, 3]: noise, and one bright quarter that says the class."""
    rng, half = stream(7, "picture", label, number), size // 2
    pixels = rng.integers(0, 120, (size, size, 3), dtype=np.uint8)
    row, column = divmod(label, 2)
    pixels[row * half : (row + 1) * half, column * half : (column + 1) * half] += 120
    return pixels


def write_pictures(root: Path, *, train: int = 30, test: int = 10, validation: int = 0) -> Path:
    """Split folders of four classes, so many PNG files of each class."""
    for split, count in {"train": train, "test": test, "val": validation}.items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            for number in range(count):
                folder.mkdir(parents=True, exist_ok=True)
                shown = picture(label, 1000 * len(split) + number)
                Image.fromarray(shown).save(folder / f"{number:03}.png")
    return root


def fusion_mapping(root: Path, **sections: Any) -> dict[str, Any]:
    """Two experts, two fusions, one single network and stacking; a section's keys go over these."""
    step = {"epochs": 1, "batch_size": 24, "warmup_epochs": 0}
    content: dict[str, Any] = {
        "name": "small",
        "data": {"source": "image-folder", "root": str(root), "options": {"image_size": SIZE}},
        "partition": {"experts": 2, "unique": 0.3, "holdout": 0.4, "validation": 0.2},
        "fusion": {
            "families": ["resnet"],
            "types": ["multiplicative", "concatenation"],
            "size": "tiny",
            "options": {"image_size": SIZE},
            "baselines": ["full", "stacking"],
            "expert_train": step,
            "fusion_train": step,
        },
        "seeds": [0],
        "protocol": {
            "name": "image-robustness",
            "batch_size": 40,
            "options": {"noise": [0.1], "corruptions": "none", "ood": ["gaussian-noise"]},
        },
        "compare": {"replicates": 100},
        "launch": {"threads_per_run": 1},
    }
    for name, keys in sections.items():
        mapped = isinstance(keys, Mapping) and isinstance(content.get(name), dict)
        content[name] = {**content[name], **keys} if mapped else keys
    return content


def open_prepared(runs_root: Path, content: Mapping[str, Any]) -> StudyFolder:
    """The study's folder with its data read, as the first worker leaves it."""
    folder = open_study(runs_root, study_from_mapping(dict(content)))
    prepare(folder, StopFlag(), StatusWriter([]))
    return folder


def run_of(folder: StudyFolder, name: str, *, seed: int = 0) -> RunFolder:
    return next(r for s, r in folder.runs() if (s.entry.name, s.seed) == (name, seed))


def train_named(folder: StudyFolder, *names: str, stop: StopFlag | None = None) -> None:
    """Train these entries in their order, or all, as worker processes would."""
    torch.set_num_threads(1)
    known = {spec.entry.name: (spec, run) for spec, run in folder.runs()}
    for name in names or known:
        spec, run = known[name]
        status = StatusWriter([run.status])
        train(folder, spec.run_id, device=CPU, stop=stop or StopFlag(), status=status)


def judge_all(folder: StudyFolder) -> None:
    runs = [run for _, run in folder.runs() if run.is_trained()]
    judge(
        folder,
        [run.run_id for run in runs],
        shard=(0, 1),
        device=CPU,
        threads=1,
        stop=StopFlag(),
        status=StatusWriter([run.status for run in runs]),
    )
