"""Effective batch 64 as 4 micro-batches of 16, beside one batch of 64: same weights, less memory.

    .venv/bin/python benchmarks/accumulation.py [--model timesformer] [--steps 4]

A tiny video model without batch norm, dropout off, on the CPU. Each side is a process of its own
that takes the steps with the product's trainer (`train_run`) and prints its peak resident memory
over what the process held before its first step. The weights of both must agree within 1e-6: the
sums are the same, rounded in another order. With SGD, because Adam divides each gradient by its own
size: the keys' bias of an attention, whose true gradient is 0, would walk by rounding alone. (A
model with batch norm, cnn1d say, does not agree and cannot: its statistics are those of 16 samples
in one side and of 64 in the other.) About a minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from regatta.config.schema import EntrySection, TrainSection
from regatta.core.files import write_json
from regatta.core.seeds import stream
from regatta.core.signals import StopFlag
from regatta.data.window_loader import WindowBatch, WindowLoader
from regatta.models.spec import resolve_model
from regatta.records.run_folder import RunFolder
from regatta.training.guards import peak_memory_gib
from regatta.training.loop import train_run

CPU = torch.device("cpu")
CLASSES = ["a", "b", "c", "d"]
EFFECTIVE, TOLERANCE = 64, 1e-6
SIDES = {"1 x 64": 1, "4 x 16": 4}


@dataclass(frozen=True)
class OneClip:
    """The least validation."""

    batch: WindowBatch

    def __len__(self) -> int:
        return 1

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[WindowBatch]:  # noqa: ARG002
        yield self.batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="timesformer")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        take_steps(options.model, options.steps, options.side, options.folder)
        return
    with tempfile.TemporaryDirectory() as root:
        compare(options.model, options.steps, Path(root))


def compare(model: str, steps: int, root: Path) -> None:
    peaks: dict[str, float] = {}
    moved = 0.0
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for name, accumulate in SIDES.items():
        folder = root / str(accumulate)
        command = [sys.executable, __file__, "--model", model, "--steps", str(steps)]
        command += ["--side", str(accumulate), "--folder", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        said = json.loads(done.stdout)
        peaks[name], moved = said["mib"], said["moved"]
        weights[name] = load_file(folder / "model" / "model.safetensors")
    one, four = weights.values()
    gap = max(
        (one[key] - four[key]).abs().max().item() for key in one if one[key].is_floating_point()
    )
    if gap > TOLERANCE or moved < 100 * TOLERANCE:
        raise SystemExit(f"the sides learn differently: weights differ by {gap:.1e}")
    print(f"{model}, {steps} steps of {EFFECTIVE} clips")
    print(f"  equal: weights within {gap:.1e} of each other, moved by up to {moved:.1e}")
    for name, mib in peaks.items():
        print(f"  {name}: {mib:6.0f} MiB over the process before its first step")
    print(f"  accumulated takes {peaks['4 x 16'] / peaks['1 x 64']:.2f} of the memory")


def take_steps(model: str, steps: int, accumulate: int, path: Path) -> None:
    """Train in this process and print the memory that it took."""
    torch.set_num_threads(1)
    entry = EntrySection.model_validate(
        {
            "model": model,
            "size": "tiny",
            "checkpoint": "none",
            "options": {"frames": 8, "image_size": 64},
        }
    )
    spec = resolve_model(entry, len(CLASSES), seed=0)
    clips = stream(0, "clips").integers(0, 256, (steps * EFFECTIVE, 8, 3, 64, 64), dtype="uint8")
    labels = stream(0, "labels").integers(0, len(CLASSES), len(clips))
    train = TrainSection(
        epochs=1,
        batch_size=EFFECTIVE // accumulate,
        accumulate=accumulate,
        optimizer="sgd",
        lr=0.1,
        head_lr_factor=1.0,
    )
    inputs, ids = torch.from_numpy(clips), [str(number) for number in range(len(clips))]
    loader = WindowLoader(
        inputs, labels.tolist(), ids, batch_size=train.batch_size, seed=0, device=CPU
    )
    folder = RunFolder(path)
    write_json(folder.run_json, {"run_id": "a", "content_hash": "a"})
    module = spec.build(len(CLASSES))
    turn_dropout_off(module)
    first = [parameter.detach().clone() for parameter in module.parameters()]
    before = peak_memory_gib(CPU)
    train_run(
        module=module,
        spec=spec,
        train=train,
        train_loader=loader,
        validation=OneClip(WindowBatch(inputs[:1], torch.from_numpy(labels[:1]), ids[:1])),
        folder=folder,
        device=CPU,
        seed=0,
        classes=CLASSES,
        stop=StopFlag(),
        report=lambda _: None,
    )
    mib = 1024 * (peak_memory_gib(CPU) - before)
    pairs = zip(first, module.parameters(), strict=True)
    moved = max((old - new).abs().max().item() for old, new in pairs)
    print(json.dumps({"mib": mib, "moved": moved}))


def turn_dropout_off(module: torch.nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0


if __name__ == "__main__":
    main()
