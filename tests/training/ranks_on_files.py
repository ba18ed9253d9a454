"""Any number of ranks on real video files; each rank writes what it saw to FOLDER/saw-<rank>.json.

torchrun --nproc_per_node=3 -m tests.training.ranks_on_files FOLDER BATCH_SIZE
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regatta.data.clip_recipe import ClipRecipe
from regatta.data.loader import Batch, ClipLoader
from regatta.data.manifest import Sample
from regatta.data.video_files import write_video
from regatta.training.distributed import ONE_PROCESS, Ranks, process_group
from regatta.training.loop import train_run
from regatta.training.precision import choose_precision
from regatta.training.step import Preparation
from regatta.training.validation import validate
from tests.training.tiny_training import CLASSES, tiny_net, tiny_run, tiny_spec

TRAINED, VALIDATED, EPOCHS = 7, 5, 3
CPU = torch.device("cpu")


def write_samples(folder: Path) -> list[Sample]:
    """XviD files of 6 to 9 frames whose class is the colour channel that is brighter."""
    return [_sample(folder, number) for number in range(TRAINED + VALIDATED)]


def _sample(folder: Path, number: int) -> Sample:
    rng = np.random.default_rng(number)
    frames, label = 6 + number % 4, number % len(CLASSES)
    images = rng.integers(60, 150, (frames, 32, 48, 3), dtype=np.uint8)
    images[..., label] += 60
    path = write_video(folder / f"v{number:02d}.avi", images, fps=10, codec="mpeg4")
    return Sample(
        sample_id=path.name,
        path=str(path),
        label=label,
        label_name=CLASSES[label],
        group=f"g{number}",
        split="train" if number < TRAINED else "validation",
        start_frame=0,
        frames=frames,
        fps=10.0,
        width=48,
        height=32,
        duration_seconds=frames / 10,
        content_hash=sha256(path.read_bytes()).hexdigest(),
    )


@dataclass
class Noted:
    """A loader that notes which samples this rank was given in each epoch."""

    loader: ClipLoader
    seen: dict[int, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.loader)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for batch in self.loader.batches(epoch, start=start):
            self.seen.setdefault(epoch, []).extend(batch.sample_ids)
            yield batch


def train_on_files(root: Path, path: Path, *, batch_size: int, ranks: Ranks = ONE_PROCESS) -> dict:
    """Score first weights, then train with random crops and temporal jitter; what this rank saw."""
    records = json.loads((root / "samples.json").read_text())
    samples = [Sample(**record) for record in records]

    def loader(split: str, augment: Any) -> Noted:
        share: dict[str, Any] = {"batch_size": batch_size, "rank": ranks.rank, "world": ranks.world}
        recipe = ClipRecipe(frames=2, image_size=4, resize="crop", augment=augment)
        chosen = [sample for sample in samples if sample.split == split]
        return Noted(ClipLoader(chosen, recipe=recipe, seed=7, threads=1, **share))

    train, validation = loader("train", "standard"), loader("validation", "none")
    spec = tiny_spec()
    preparation = Preparation(CPU, choose_precision("fp32", CPU), spec.mean, spec.std)
    score = validate(
        tiny_net(seed=3, dropout=0.0),
        validation,
        num_classes=3,
        preparation=preparation,
        ranks=ranks,
        keep_going=lambda: True,
    )
    run = tiny_run(path, epochs=EPOCHS, batch_size=batch_size)
    run |= {"module": tiny_net(dropout=0.0), "train_loader": train, "validation": validation}
    train_run(**{**run, "ranks": ranks})
    scores = asdict(score) if score else {}
    numbers = {key: value for key, value in scores.items() if isinstance(value, (int, float))}
    return {"seen": train.seen, "score": numbers}


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(root: Path, batch_size: int) -> None:
    with one_thread(), process_group("ddp", CPU, timeout_seconds=60) as ranks:
        path = root / f"world-{ranks.world}"
        saw = train_on_files(root, path, batch_size=batch_size, ranks=ranks)
        (path / f"saw-{ranks.rank}.json").write_text(json.dumps(saw))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
    # As the worker does: threads of gloo that outlive the group can abort the interpreter's end.
    sys.stdout.flush()
    os._exit(0)
