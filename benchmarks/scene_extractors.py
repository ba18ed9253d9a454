"""A training step of each extractor of scenes: time, parameters, multiply-adds.

    .venv/bin/python benchmarks/scene_extractors.py [--sizes tiny small base] [--threads 1]

A plain loop over the model `trajectory`: uint8 pictures are normalised, cross-entropy and the
scaled position error are summed, AdamW steps. First every extractor must be a fair entry: a scene
alone gets the answer that it gets beside others (1e-3 of the largest), the loss is finite, and
every parameter gets a gradient. Then the extractors take steps in turn, so that a drift of the
machine favours none; medians of wall time are printed, on a CPU of processor time, too. On a GPU
the same script runs with bf16 autocast and also prints the peak of memory.

Batches are of 16 scenes; on a CPU of 2 at base size (it is slow).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from regatta.config.schema import EntrySection
from regatta.core.seeds import stream
from regatta.data.transforms import normalise
from regatta.models.scene.trajectory import Trajectory
from regatta.models.spec import ModelSpec, count_flops, count_parameters, resolve_model
from regatta.training.profile import synchronise

CLASSES, RATE, DECAY, CLIP = 4, 1e-3, 1e-4, 1.0
EXTRACTORS = ("i3d", "slowfast", "transformer", "magvit")
EXTENTS = {"tiny": (16, 32), "small": (32, 64), "base": (32, 64)}
"""Frames and pixels per side."""
STEPS = {"tiny": 6, "small": 1, "base": 1}
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Case:
    name: str
    spec: ModelSpec
    module: Trajectory
    pictures: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    device: torch.device

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def loss(self) -> torch.Tensor:
        inputs = normalise(self.pictures, self.spec.mean, self.spec.std)
        with self.autocast():
            answers = self.module(inputs)
        scaled = (answers[:, CLASSES:] - self.targets) / self.module.position_sd.flatten()
        of_class = functional.cross_entropy(answers[:, :CLASSES], self.labels)
        return of_class + scaled.square().mean()


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for size in options.sizes:
        batch = options.batch or (2 if size == "base" and device.type == "cpu" else 16)
        frames, side = EXTENTS[size]
        views = len(options.views)
        print(f"{size}, {frames} frames, {side} px, {views} camera(s), batch {batch}, {device}")
        cases = [make_case(n, size, options.views, batch, device) for n in options.extractors]
        for case in cases:
            check_case(case)
        print("  checked: scenes do not touch each other, every parameter learns", flush=True)
        time_in_turn(cases, options.repeats, STEPS[size])


def make_case(name: str, size: str, views: list[int], batch: int, device: torch.device) -> Case:
    frames, side = EXTENTS[size]
    entry = EntrySection.model_validate(
        {
            "model": "trajectory",
            "size": size,
            "options": {"extractor": name, "views": views, "frames": frames, "image_size": side},
        }
    )
    spec = resolve_model(entry, CLASSES, seed=0)
    rng = stream(0, "scenes")
    shape = (batch, *spec.input_shape)
    pictures = torch.from_numpy(rng.integers(0, 256, shape, dtype="uint8"))
    labels = torch.from_numpy(rng.integers(0, CLASSES, batch))
    targets = torch.from_numpy(rng.uniform(-1, 1, (batch, 3))).float()
    module = cast("Trajectory", spec.build(CLASSES))
    module.fit_targets(targets[:, None])
    tensors = (pictures.to(device), labels.to(device), targets.to(device))
    return Case(name, spec, module.to(device).train(), *tensors, device)


def check_case(case: Case) -> None:
    """Stop unless the entry is fair, see above; leaves no gradient behind."""
    loss = case.loss()
    loss.backward()
    without = [key for key, p in case.module.named_parameters() if p.grad is None]
    if not loss.isfinite() or without:
        raise SystemExit(f"{case.name}: loss {loss.item()}, no gradient for {without}")
    case.module.zero_grad()
    case.module.eval()
    inputs = normalise(case.pictures[:2], case.spec.mean, case.spec.std)
    with torch.no_grad():
        both, alone = case.module(inputs), case.module(inputs[:1])
    case.module.train()
    gap = ((both[:1] - alone).abs().max() / both.abs().max()).item()
    if gap > TOLERANCE:
        raise SystemExit(f"{case.name}: a scene alone is answered otherwise, by {gap:.1e}")


def time_in_turn(cases: list[Case], repeats: int, steps: int) -> None:
    """Print what a step of each case costs, the median over turns."""
    takes = {case.name: stepper(case) for case in cases}
    found: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    for turn in range(repeats + 1):
        for case in cases if turn % 2 else reversed(cases):
            seconds = seconds_of(takes[case.name], steps, case.device)
            if turn:
                found[case.name].append(seconds)
    for case in cases:
        wall, processor = (statistics.median(side) for side in zip(*found[case.name], strict=True))
        macs = count_flops(case.module, case.spec) / 2
        line = (
            f"  {case.name:<12} {count_parameters(case.module) / 1e6:6.2f} M parameters "
            f"({count_parameters(case.module.extractor) / 1e6:.2f} M extractor), "
            f"{macs / 1e6:9.1f} M multiply-adds a scene, {1000 * wall:8.1f} ms a step, "
            f"{1 / wall:6.2f} steps/s"
        )
        if case.device.type == "cuda":
            line += f", peak {peak_gib(takes[case.name]):.2f} GiB beside what lies there"
        else:
            line += f", {1000 * processor:8.1f} ms of processor time"
        print(line, flush=True)


def stepper(case: Case) -> Callable[[], float]:
    """What takes one step and returns its loss."""
    parameters = list(case.module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        loss = case.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        return loss.item()

    return step


def seconds_of(step: Callable[[], float], steps: int, device: torch.device) -> tuple[float, float]:
    """Wall and processor seconds of a step."""
    synchronise(device)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    synchronise(device)
    return (time.perf_counter() - wall) / steps, (time.process_time() - processor) / steps


def peak_gib(step: Callable[[], float]) -> float:
    """GiB that a step takes at most beside what is kept between steps."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    kept = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - kept) / 2**30


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", choices=list(EXTENTS), default=["tiny", "base"])
    parser.add_argument("--extractors", nargs="+", choices=EXTRACTORS, default=list(EXTRACTORS))
    parser.add_argument("--views", nargs="+", type=int, default=[0], help="cameras")
    parser.add_argument("--batch", type=int, help="scenes; by default 16, 2 for base on a CPU")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
