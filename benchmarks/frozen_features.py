"""Twenty epochs on cached features of a frozen encoder, beside twenty that encode in every epoch.

    .venv/bin/python benchmarks/frozen_features.py [--epochs 20] [--repeats 1] [--encoder vit-tiny]

Generated windows (9 channels x 128 samples, 6 classes), drawn as pictures and shown to a vision
transformer with random weights; the head alone is trained. Both sides are the product's own worker
code in one process with one thread, and differ in `train.feature_cache` alone. Every repeat of the
cached side begins with an empty cache.

First a short training of both sides must give the same losses, accuracies and weights; then the
sides are timed in turn. Printed: seconds of each side from the worker's start to its results
(reading, building and saving included), their ratio, the ratio of processor time, which a busy
machine disturbs least, and what all epochs on cached features cost in passes of the encoder over
the training and validation windows. About 5 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from regatta.config.load import study_from_mapping
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.records.run_folder import open_study
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter
from regatta.worker.train import train

CHECK_EPOCHS = 2
TOLERANCE = 1e-5
TARGET_RATIO, TARGET_PASSES = 12.0, 1.3


@dataclass(frozen=True)
class Outcome:
    """One training: its weights, its results, wall and processor seconds."""

    weights: dict[str, torch.Tensor]
    results: dict[str, Any]
    wall: float
    processor: float

    @property
    def passes(self) -> float:
        """All seconds of training in units of one pass of the encoder over all windows."""
        first, *later = self.results["history"]["epoch_times"]
        return self.results["train_seconds"] / (first - statistics.median(later))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--encoder", default="vit-tiny")
    parser.add_argument("--side", type=int, default=96, help="pixels of a picture")
    parser.add_argument("--windows", type=int, default=6, help="of each class and subject")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        check_equal(*(run(root / side, side, options, CHECK_EPOCHS) for side in ("cached", "anew")))
        outcomes: dict[str, list[Outcome]] = {"cached": [], "anew": []}
        for repeat in range(options.repeats):
            for side, found in outcomes.items():
                found.append(run(root / f"{side}-{repeat}", side, options, options.epochs))
    print_ratios(outcomes["cached"], outcomes["anew"], epochs=options.epochs)


def run(root: Path, side: str, options: argparse.Namespace, epochs: int) -> Outcome:
    """Prepare a study and time the training of its one run."""
    study = study_from_mapping(
        {
            "name": "bench",
            "data": {
                "source": "har-synthetic",
                "root": str(root / "data"),
                "options": {"subjects": 8, "windows_per_class": options.windows},
                "validation_groups": 1,
            },
            "entries": [
                {
                    "model": "har-vit",
                    "checkpoint": "none",
                    "options": {"encoder": options.encoder, "image_size": options.side},
                }
            ],
            "train": {
                "epochs": epochs,
                "batch_size": 16,
                "lr": 1e-3,
                "freeze_encoder": True,
                "feature_cache": side == "cached",
                "augment": "none",
            },
        }
    )
    folder = open_study(root / "runs", study)
    prepare(folder, StopFlag(), StatusWriter([]))
    ((spec, place),) = folder.runs()
    status = StatusWriter([place.status])
    wall, processor = time.perf_counter(), time.process_time()
    with redirect_stdout(io.StringIO()):
        train(folder, spec.run_id, device=torch.device("cpu"), stop=StopFlag(), status=status)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    weights = load_file(place.model / "model.safetensors")
    return Outcome(weights, read_json(place.training_results), wall, processor)


def check_equal(cached: Outcome, anew: Outcome) -> None:
    """Leave with an error unless both sides trained the same model."""
    gaps = {
        key: (tensor - anew.weights[key]).abs().max().item()
        for key, tensor in cached.weights.items()
    }
    for key in ("train_loss", "val_loss", "val_acc"):
        pairs = zip(cached.results["history"][key], anew.results["history"][key], strict=True)
        gaps[key] = max(abs(one - two) for one, two in pairs)
    worst = max(gaps, key=lambda key: gaps[key])
    if cached.weights.keys() != anew.weights.keys() or gaps[worst] > TOLERANCE:
        sys.exit(f"the sides differ by {gaps[worst]:.2g} in {worst}")
    print(
        f"equal: {len(cached.weights)} tensors, losses and accuracies of {CHECK_EPOCHS} epochs "
        f"within {TOLERANCE:g}; largest difference {gaps[worst]:.2g}",
        flush=True,
    )


def print_ratios(cached: list[Outcome], anew: list[Outcome], *, epochs: int) -> None:
    walls = [statistics.median(side.wall for side in found) for found in (cached, anew)]
    shares = [two.wall / one.wall for one, two in zip(cached, anew, strict=True)]
    processor = [two.processor / one.processor for one, two in zip(cached, anew, strict=True)]
    passes = statistics.median(side.passes for side in cached)
    print(f"{epochs} epochs cached {walls[0]:.1f} s, encoded in every epoch {walls[1]:.1f} s")
    print(
        f"ratio {statistics.median(shares):.1f} (lowest {min(shares):.1f}, highest "
        f"{max(shares):.1f}; target {TARGET_RATIO:g}), of processor time "
        f"{statistics.median(processor):.1f}"
    )
    print(f"{epochs} epochs cost {passes:.2f} encoder passes (target at most {TARGET_PASSES:g})")


if __name__ == "__main__":
    main()
