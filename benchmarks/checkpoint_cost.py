"""What the resume points of a training cost, as a share of its time.

    .venv/bin/python benchmarks/checkpoint_cost.py [--steps 60] [--repeats 3] [--folder /tmp]

`train_run` itself at its default: one resume point per epoch, and one in each epoch beside it where
`--every` says so. The other side is the same training whose saves do nothing. Two cases on one
thread of a CPU: the 1-D network on signals (batch 32) and a tiny VideoMAE on clips (batch 8).

First both sides must end with the same weights, bit for bit: saving reads and changes nothing.
Then they are timed in turn, two epochs of `--steps` each; printed are the median ratio of their
times, which other programs on the machine disturb, and the share that a clock around each save
gives, which they disturb less: seconds of all saves / seconds of the training. A save waits for the
disk (fsync of every file), so the folder should be on the disk that runs are kept on. The share of
an epoch of any other length follows from the two: save / (save + steps x step). The target is 2 %.
About two minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from training_step import CLASSES, CPU, RATE, Case, OneBatch, clips, signals

from regatta.config.schema import TrainSection
from regatta.core.files import write_json
from regatta.core.signals import StopFlag
from regatta.records.run_folder import RunFolder
from regatta.training.loop import train_run
from regatta.training.run import TrainingRun

EPOCHS, TARGET = 2, 0.02


@dataclass
class Found:
    """Of one training: seconds of each save, of all of it, and what it learned."""

    saves: list[float] = field(default_factory=list)
    seconds: float = 0.0
    weights: str = ""
    megabytes: float = 0.0


@contextmanager
def saves_by(save: Callable[[TrainingRun], None]) -> Iterator[None]:
    original = TrainingRun.save
    setattr(TrainingRun, "save", save)  # noqa: B010 - a benchmark takes away what it measures
    try:
        yield
    finally:
        setattr(TrainingRun, "save", original)  # noqa: B010


def train(case: Case, root: Path, *, saves: bool, every: int | None) -> Found:
    found, save = Found(), TrainingRun.save

    def timed(run: TrainingRun) -> None:
        began = time.perf_counter()
        if saves:
            save(run)
        found.saves.append(time.perf_counter() - began)

    recipe = TrainSection(
        epochs=EPOCHS, batch_size=case.batch, lr=RATE, checkpoint_every_steps=every
    )
    with tempfile.TemporaryDirectory(dir=root) as path, saves_by(timed):
        folder = RunFolder(Path(path))
        write_json(folder.run_json, {"run_id": "a", "content_hash": "a"})
        began = time.perf_counter()
        train_run(
            module=case.build(),
            spec=case.spec,
            train=recipe,
            train_loader=case.loader(),
            validation=OneBatch(case),
            folder=folder,
            device=CPU,
            seed=0,
            classes=CLASSES,
            stop=StopFlag(),
            report=lambda _: None,
        )
        found.seconds = time.perf_counter() - began
        found.weights = sha256((folder.model / "model.safetensors").read_bytes()).hexdigest()
        slots = folder.checkpoints.glob("slot-*/*")
        found.megabytes = sum(file.stat().st_size for file in slots) / 2e6
    return found


def compare(case: Case, root: Path, *, repeats: int, every: int | None) -> float:
    """Print what was found, and return the share."""
    pairs = [
        (
            train(case, root, saves=True, every=every),
            train(case, root, saves=False, every=every),
        )
        for _ in range(repeats)
    ]
    learned = {found.weights for pair in pairs for found in pair}
    if len(learned) != 1:
        raise SystemExit("with and without resume points the weights differ")
    steps = EPOCHS * len(case.loader())
    with_saves = [found for found, _ in pairs]
    save = statistics.median(seconds for found in with_saves for seconds in found.saves)
    share = statistics.median(sum(found.saves) / found.seconds for found in with_saves)
    ratio = statistics.median(full.seconds / bare.seconds for full, bare in pairs)
    step = statistics.median(bare.seconds for _, bare in pairs) / steps
    print(f"{case.name}: equal weights, bit for bit, in {2 * repeats} trainings")
    print(
        f"  {len(with_saves[0].saves)} saves of {with_saves[0].megabytes:.1f} MB in {steps} steps: "
        f"{1000 * save:.1f} ms a save, {1000 * step:.1f} ms a step"
    )
    print(f"  with / without saves: {ratio:.3f}; share of the saves: {100 * share:.2f} %")
    least = save * (1 - TARGET) / TARGET / step
    print(f"  at most {100 * TARGET:.0f} % where {least:.0f} steps or more lie between two saves")
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description="What resume points cost")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of an epoch")
    parser.add_argument("--every", type=int, default=None, help="train.checkpoint_every_steps")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for make in (signals, clips):
        case = make(arguments.steps)
        compare(case, arguments.folder, repeats=arguments.repeats, every=arguments.every)


if __name__ == "__main__":
    main()
