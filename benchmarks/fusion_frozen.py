"""Fusions of frozen experts on one cached pass, beside runs that push every picture through them.

    .venv/bin/python benchmarks/fusion_frozen.py [--epochs 30] [--repeats 1]
    .venv/bin/python benchmarks/fusion_frozen.py --quick

Six fusion types with two seeds on the same four experts, which stay as they are.
  cached    the product's own worker with `fusion.frozen`: the first run encodes each picture once
            per expert and keeps the features, all others find them. Timed from the worker's start
            to its results, for all runs one after the other: reading, building, validation,
            checkpoints and saving are counted.
  separate  a plain loop per run with everything in memory and nothing saved: the experts without
            gradients, the fusion, its loss, AdamW; all pictures pass through all experts in every
            epoch, and the validation pictures after it.

Both sides run in this process, so neither pays starts of processes. Pictures are not changed at
random on either side. First each pair must end with the same weights of the fusion and its head
after a short training; then the sides are timed in turn. `--same-trainer` puts our own worker
without its cache in the place of the plain loop.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fusion_matrix import planned
from plain_fusion import build, build_optimizer, clip, loss_of, rate_factor
from plain_pictures import CLASSES, write_cifar
from safetensors.torch import load_file
from torch import nn

from regatta.config.expand import RunSpec
from regatta.config.load import study_from_mapping
from regatta.core.seeds import derive_seed, stream
from regatta.core.signals import StopFlag
from regatta.data.image_store import ImageStore
from regatta.data.manifest import Manifest
from regatta.data.transforms import normalise
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter
from regatta.worker.train import train

TYPES = [
    "multiplicative",
    "multiplicativeAddition",
    "multiplicativeShifted",
    "TransformerBase",
    "concatenation",
    "simpleAddition",
]
CHECK_EPOCHS, TOLERANCE, TARGET = 2, 1e-5, 5.0
CPU = torch.device("cpu")
Weights = dict[str, dict[str, torch.Tensor]]
"""Of each run, by its id: what lies under `head.`."""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_cifar(root / "data", train=options.train, test=100)
        check_equal(root, options)
        seconds: dict[str, list[float]] = {"cached": [], "separate": []}
        for turn in range(options.repeats):
            for side, found in seconds.items():
                bench = open_bench(root / f"{side}-{turn}", root, options, options.epochs, side)
                started = time.perf_counter()
                bench.train_all()
                found.append(time.perf_counter() - started)
        report(seconds, options)


@dataclass(frozen=True)
class Bench:
    """A study whose experts are trained and whose fusions are not."""

    folder: StudyFolder
    fusions: list[tuple[RunSpec, RunFolder]]
    run_one: Callable[[StudyFolder, RunSpec, RunFolder], dict[str, torch.Tensor]]

    def train_all(self) -> Weights:
        return {spec.run_id: self.run_one(self.folder, spec, run) for spec, run in self.fusions}


def open_bench(
    place: Path, root: Path, options: argparse.Namespace, epochs: int, side: str
) -> Bench:
    """Prepare a study in `place` and train its experts, untimed."""
    cached = side == "cached"
    seeds = list(range(options.seeds))
    fixed: dict[str, Any] = {"mixup": 0.0, "feature_cache": cached, "warmup_epochs": 1}
    content = {
        "name": "frozen",
        "data": {"source": "cifar10", "root": str(root / "data")},
        "fusion": {
            "size": options.size,
            "families": [options.family],
            "types": TYPES[: options.types],
            "frozen": True,
            "baselines": [],
            "expert_train": {"epochs": 1, "batch_size": 64, "warmup_epochs": 0},
            "fusion_train": {**fixed, "epochs": epochs, "early_stopping_patience": None},
        },
        "seeds": seeds,
        "protocol": {"name": "image-robustness", "options": {"corruptions": "none"}},
        "launch": {"device": "cpu"},
    }
    folder = open_study(place, study_from_mapping(content))
    with quiet():
        prepare(folder, StopFlag(), StatusWriter([]))
        for spec, run in folder.runs():
            if not spec.needs:
                train_ours(folder, spec, run)
    fusions = [(spec, run) for spec, run in folder.runs() if spec.needs]
    plain = side == "separate" and not options.same_trainer
    return Bench(folder, fusions, train_plain if plain else train_ours)


def quiet() -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    return stack


def train_ours(folder: StudyFolder, spec: RunSpec, run: RunFolder) -> dict[str, torch.Tensor]:
    with quiet():
        status = StatusWriter([run.status])
        train(folder, spec.run_id, device=CPU, stop=StopFlag(), status=status)
    return under_head(load_file(run.model / "model.safetensors"))


def train_plain(folder: StudyFolder, spec: RunSpec, run: RunFolder) -> dict[str, torch.Tensor]:  # noqa: ARG001
    """What one writes by hand; the order of pictures and the seeds of dropout are ours."""
    plan, recipe = planned(spec), spec.train.model_dump(mode="json")
    parts = resident(folder, spec)
    system = build(plan, CLASSES)
    for number, needed in enumerate(spec.needs):
        expert = system.get_submodule(f"experts.{number}")
        expert.load_state_dict(load_file(folder.run(needed).model / "model.safetensors"))
    system.get_submodule("experts").requires_grad_(False)
    head: Any = system.get_submodule("head")
    optimizer, parameters = build_optimizer(head, recipe), list(head.parameters())
    (images, labels), validation = parts
    steps, step, best = -(-len(images) // recipe["batch_size"]), 0, (-1.0, 0.0)
    kept: dict[str, torch.Tensor] = {}
    rng = stream(0, "unused")
    for epoch in range(recipe["epochs"]):
        order = torch.from_numpy(stream(spec.seed, "order", epoch).permutation(len(images)))
        system.eval()
        head.train()
        for rows in order.split(recipe["batch_size"]):
            torch.manual_seed(derive_seed(spec.seed, "step", step, 0))
            factor = rate_factor(step, recipe["epochs"] * steps, steps, recipe)
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * factor
            optimizer.zero_grad()
            loss_of(system, images[rows], labels[rows], recipe, rng).backward()
            clip(head, parameters, recipe)
            optimizer.step()
            step += 1
        found = judge(system, *validation)
        if found > best:
            best = found
            kept = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    return under_head(kept)


def judge(system: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Accuracy of the global head and minus its loss: what the best epoch is chosen by."""
    system.eval()
    with torch.inference_mode():
        scores = torch.cat([system(block)[:, 0] for block in images.split(128)])
        loss = nn.functional.cross_entropy(scores, labels)
    return (scores.argmax(1) == labels).double().mean().item(), -loss.item()


def resident(folder: StudyFolder, spec: RunSpec) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Normalised pictures and labels of the run's part and of validation."""
    store, manifest = ImageStore.load(folder.images), Manifest.load(folder.manifest)
    labels = {sample.sample_id: sample.label for sample in manifest.samples}
    all_labels = torch.tensor([labels[name] for name in store.ids])
    found = store.part(str(spec.entry.part)), store.rows(manifest.split("validation"))
    return [
        (normalise(store.images[rows], store.mean, store.std), all_labels[rows]) for rows in found
    ]


def under_head(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith("head.")}


def check_equal(root: Path, options: argparse.Namespace) -> None:
    """Stop unless each run ends with the same fusion and head on both sides, and has moved."""
    benches = {
        side: open_bench(root / f"check-{side}", root, options, CHECK_EPOCHS, side)
        for side in ("cached", "separate")
    }
    found = {side: bench.train_all() for side, bench in benches.items()}
    ids = [[spec.label for spec, _ in bench.fusions] for bench in benches.values()]
    if ids[0] != ids[1]:
        raise SystemExit("the sides have other runs")
    gaps = [largest(a, b) for a, b in zip(*(w.values() for w in found.values()), strict=True)]
    first = [
        under_head(build(planned(s), CLASSES).state_dict()) for s, _ in benches["cached"].fusions
    ]
    moved = [largest(a, b) for a, b in zip(first, found["cached"].values(), strict=True)]
    if max(gaps) > TOLERANCE or min(moved) < 100 * TOLERANCE:
        words = ", ".join(f"{name} {gap:.1e}" for name, gap in zip(ids[0], gaps, strict=True))
        raise SystemExit(f"the sides learn differently: {words}; moved {min(moved):.1e}")
    print(
        f"  equal: fusions and heads of {len(gaps)} runs within {max(gaps):.1e} after "
        f"{CHECK_EPOCHS} epochs, which moved them by {min(moved):.1e} or more",
        flush=True,
    )


def largest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    if one.keys() != other.keys():
        raise SystemExit(f"other tensors: {sorted(one.keys() ^ other.keys())[:4]}")
    return max((tensor - other[key]).abs().max().item() for key, tensor in one.items())


def report(seconds: dict[str, list[float]], options: argparse.Namespace) -> None:
    pairs = zip(seconds["separate"], seconds["cached"], strict=True)
    ratios = [slow / fast for slow, fast in pairs]
    middle = statistics.median(ratios)
    met = "met" if middle >= TARGET else "MISSED"
    against = "our worker without its cache" if options.same_trainer else "plain loops"
    print(
        f"{options.types} types x {options.seeds} seeds, {options.epochs} epochs, "
        f"{options.family} {options.size}: cached {statistics.median(seconds['cached']):.1f} s, "
        f"{against} {statistics.median(seconds['separate']):.1f} s"
    )
    print(f"ratio {middle:.1f} ({min(ratios):.1f}-{max(ratios):.1f}), target {TARGET:g} x: {met}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--family", default="resnet")
    parser.add_argument("--size", choices=["tiny", "small", "base"], default="tiny")
    parser.add_argument("--types", type=int, default=6, help="the first so many of six")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--train", type=int, default=4000, help="training pictures, in all")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--same-trainer", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer pictures and epochs")
    options = parser.parse_args()
    if options.quick:
        options.train, options.epochs = 1600, 8
    torch.set_num_threads(1)
    return options


if __name__ == "__main__":
    main()
