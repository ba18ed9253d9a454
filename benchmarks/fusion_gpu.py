"""Expert fusion on a GPU: each family's step, four experts at once, and the time to an accuracy.

    .venv/bin/python benchmarks/fusion_gpu.py [--root data/cifar10-images.zip]
    .venv/bin/python benchmarks/fusion_gpu.py --cpu-smoke

The second line runs the whole script on a CPU with toy sizes; its numbers mean nothing. Without a
GPU the first prints "not measured: no GPU" and ends well.

  families  the trainer's own step of every family at base size: fp32, bf16, and bf16 with networks
            in channels-last order: pictures per second and the share of the published bf16 peak, a
            step being three forward passes. The first loss of each must agree with fp32's.
  experts   four experts of one shape, each on batches of its own: one after the other, stacked with
            torch.func (the way that Regatta does not go), and as four processes that share the GPU
            (the way that it does). Plain loops, so that the ways alone differ; stacked and in turn
            must end with the same weights after two steps in double precision.
  accuracy  `regatta train` of one resnet18 on CIFAR-10 (`--root`: a folder or zip of images, or the
            binary release): seconds of training until validation reaches 90 %, and the best one.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as processes
from gpu import PUBLISHED_PEAKS, show_peak, time_steps
from plain_pictures import CLASSES, write_cifar
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from regatta.config.fusion_recipes import FAMILIES, expert_recipe, family_of
from regatta.config.schema import EntrySection, TrainSection
from regatta.core.files import read_json
from regatta.data.window_loader import WindowBatch
from regatta.models.spec import ModelSpec, count_flops, resolve_model
from regatta.records.run_folder import StudyFolder
from regatta.training.distributed import Ranks
from regatta.training.loop import build_parts
from regatta.training.precision import reproducible_math
from regatta.training.profile import synchronise
from regatta.training.step import StepParts, take_step

LOSS_TOLERANCE, WEIGHT_TOLERANCE = 0.05, 1e-9
EXPERTS, RATE = 4, 0.01
TARGET_ACCURACY = 0.90
Steps = Callable[[], object]


def main() -> None:
    options = _options()
    if not options.cpu_smoke and not torch.cuda.is_available():
        print("not measured: no GPU (--cpu-smoke runs the script on a CPU)")
        return
    device = torch.device("cpu" if options.cpu_smoke else "cuda")
    name = "CPU" if options.cpu_smoke else torch.cuda.get_device_name(device)
    peak = next((value for key, value in PUBLISHED_PEAKS.items() if key in name), None)
    print(f"{name}, torch {torch.__version__}, {options.size} networks, batch {options.batch_size}")
    if "families" in options.parts:
        show_peak(device, peak)
        for family in FAMILIES:
            compare_formats(family.model, options, device, peak)
    if "experts" in options.parts:
        compare_experts(options, device)
    if "accuracy" in options.parts:
        time_to_accuracy(options)


def build(model: str, size: str, device: torch.device, seed: int = 0) -> tuple[nn.Module, Any]:
    section = EntrySection.model_validate({"model": model, "size": size, "checkpoint": "none"})
    spec = resolve_model(section, CLASSES, seed=seed)
    return spec.build(CLASSES).to(device).train(), spec


def pictures(count: int, device: torch.device, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return images.to(device), labels.to(device)


def compare_formats(
    model: str, options: argparse.Namespace, device: torch.device, peak: float | None
) -> None:
    """One line per format: the first loss held against fp32's, then the speed."""
    module, spec = build(model, options.size, device)
    flops = 3 * count_flops(module, spec)
    print(f"\n{model}: {flops / 1e9:.2f} GFLOP per picture and step")
    images, labels = pictures(options.batch_size, device)
    batch = WindowBatch(images, labels, [str(n) for n in range(len(images))])
    expected = None
    for title, precision, is_last in (
        ("fp32", "fp32", False),
        ("bf16", "bf16", False),
        ("bf16, channels last", "bf16", True),
    ):
        own = copy.deepcopy(module)
        if is_last:
            own = own.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        try:
            with reproducible_math(device, deterministic=False):
                parts = parts_of(own, spec, precision, options.batch_size, device)
                loss = one_step(parts, batch)
                expected = loss if expected is None else expected
                if abs(loss - expected) > LOSS_TOLERANCE * abs(expected):
                    print(f"  {title:<20} not timed: first loss {loss:.3f}, fp32 {expected:.3f}")
                    continue
                seconds = time_steps(
                    lambda parts=parts: one_step(parts, batch), device, steps=options.steps
                )
        except torch.OutOfMemoryError:
            print(f"  {title:<20} not measured: out of memory")
            continue
        middle = statistics.median(seconds)
        speed = len(images) / middle
        share = f"{100 * flops * speed / peak:.1f} % of the bf16 peak" if peak else "peak not known"
        spread = f"{1000 * min(seconds):.1f}-{1000 * max(seconds):.1f}"
        print(f"  {title:<20} {1000 * middle:8.1f} ms ({spread}) {speed:9.1f} pictures/s, {share}")


def parts_of(
    module: nn.Module, spec: ModelSpec, precision: Any, batch_size: int, device: torch.device
) -> StepParts:
    train = TrainSection(
        batch_size=batch_size, optimizer="sgd", lr=RATE, label_smoothing=0.1, precision=precision
    )
    return build_parts(module, spec, train, device=device, ranks=Ranks(device=device))


def one_step(parts: StepParts, batch: WindowBatch) -> float:
    steps = iter([batch])
    return take_step(parts, steps, micro_batches=1, stop_asked=lambda: False, seed=0).loss


def compare_experts(options: argparse.Namespace, device: torch.device) -> None:
    """Milliseconds of one step of all four experts, each way."""
    print(f"\n{EXPERTS} experts, resnet18 {options.size}, batch {options.batch_size} each")
    check_stacked(options, device)
    count, steps = options.batch_size, options.steps
    autocast = device.type == "cuda"
    models, batches = experts_on(device, options.size, count)
    in_turn = time_steps(steps_in_turn(models, batches, autocast), device, steps=steps)
    models, batches = experts_on(device, options.size, count)
    stacked = time_steps(steps_stacked(models, batches, autocast)[0], device, steps=steps)
    packed = packed_seconds(options, device)
    found = {
        "one after the other": statistics.median(in_turn),
        "stacked by torch.func": statistics.median(stacked),
        "as processes": packed,
    }
    base = found["one after the other"]
    for title, seconds in found.items():
        speed = EXPERTS * count / seconds
        print(
            f"  {title:<22} {1000 * seconds:8.1f} ms {speed:9.1f} pictures/s  "
            f"{base / seconds:5.2f} x"
        )


Batch = tuple[torch.Tensor, torch.Tensor]


def experts_on(device: torch.device, size: str, count: int) -> tuple[list[nn.Module], list[Batch]]:
    models = [build("resnet18", size, device, seed=k)[0] for k in range(EXPERTS)]
    raw = [pictures(count, device, seed=k) for k in range(EXPERTS)]
    return models, [(images.float() / 255 - 0.5, labels) for images, labels in raw]


def sgd(parameters: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=RATE, momentum=0.9, nesterov=True, fused=True)


def steps_in_turn(models: list[nn.Module], batches: list[Batch], autocast: bool) -> Steps:
    optimizers = [sgd(list(model.parameters())) for model in models]

    def step() -> None:
        for model, (images, labels), optimizer in zip(models, batches, optimizers, strict=True):
            optimizer.zero_grad()
            with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=autocast):
                loss = functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()

    return step


def steps_stacked(
    models: list[nn.Module], batches: list[Batch], autocast: bool
) -> tuple[Steps, dict[str, torch.Tensor]]:
    """All experts as one, and their stacked parameters."""
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")
    images = torch.stack([images for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    optimizer = sgd(list(parameters.values()))

    def forward(own: Any, statistics_of: Any, shown: torch.Tensor) -> torch.Tensor:
        return functional_call(skeleton, (own, statistics_of), (shown,))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=autocast):
            logits = vmap(forward, randomness="different")(parameters, buffers, images)
            # The sum of four means: every expert gets the gradient of its own.
            loss = EXPERTS * functional.cross_entropy(logits.flatten(0, 1), labels)
        loss.backward()
        optimizer.step()

    return step, parameters


def check_stacked(options: argparse.Namespace, device: torch.device) -> None:
    """Stop unless two steps in turn and two stacked ones give the same weights."""
    with reproducible_math(device, deterministic=True):
        # In fp32 rounding alone is 1 % of what two steps move.
        models, floats = experts_on(device, options.size, min(16, options.batch_size))
        models = [model.double() for model in models]
        batches = [(images.double(), labels) for images, labels in floats]
        step, parameters = steps_stacked(models, batches, autocast=False)
        plain = steps_in_turn(models, batches, autocast=False)
        for run in (step, plain):
            for _ in range(2):
                run()
    gaps = [
        (parameters[name][k] - tensor).abs().max().item()
        for k, model in enumerate(models)
        for name, tensor in model.named_parameters()
    ]
    if max(gaps) > WEIGHT_TOLERANCE:
        raise SystemExit(f"stacked experts learn differently: {max(gaps):.1e}")
    print(f"  equal: stacked and in turn within {max(gaps):.1e} after 2 steps in fp64")


def packed_seconds(options: argparse.Namespace, device: torch.device) -> float:
    """Seconds of a step of four processes that share the device, from the first begin to the last
    end."""
    context = processes.get_context("spawn")
    gate, results = context.Barrier(EXPERTS), context.Queue()
    job = (device.type, options.size, options.batch_size, options.steps, gate, results)
    workers = [context.Process(target=packed_expert, args=(k, *job)) for k in range(EXPERTS)]
    for worker in workers:
        worker.start()
    spans = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    return (max(end for _, end in spans) - min(begin for begin, _ in spans)) / options.steps


def packed_expert(
    number: int, kind: str, size: str, count: int, steps: int, gate: Any, results: Any
) -> None:
    torch.set_num_threads(1)
    device = torch.device(kind)
    models, batches = experts_on(device, size, count)
    own = slice(number, number + 1)
    step = steps_in_turn(models[own], batches[own], autocast=kind == "cuda")
    for _ in range(3):
        step()
    synchronise(device)
    gate.wait()
    # The monotonic clock is one for all processes of a machine.
    began = time.monotonic()
    for _ in range(steps):
        step()
    synchronise(device)
    results.put((began, time.monotonic()))


def time_to_accuracy(options: argparse.Namespace) -> None:
    """Train one network through the product and read its records."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if options.root is None and not options.cpu_smoke:
            print("\naccuracy: not measured: give --root, a folder or zip of CIFAR-10's images")
            return
        root = options.root or write_cifar(place / "data", train=1000, test=100)
        binary = (root / "test_batch.bin").is_file() or (root / "cifar-10-batches-bin").is_dir()
        recipe = expert_recipe(family_of("resnet"), reference=False)
        recipe |= {"epochs": options.epochs, "warmup_epochs": min(5, options.epochs // 5)}
        content = {
            "name": "accuracy",
            "data": {"source": "cifar10" if binary else "image-folder", "root": str(root)},
            "entries": [{"model": "resnet18", "size": options.size, "train": recipe}],
            "protocol": {"name": "image-robustness"},
            "launch": {"device": "cpu" if options.cpu_smoke else "cuda"},
        }
        (place / "study.yaml").write_text(json.dumps(content))
        command = [sys.executable, "-m", "regatta", "train", str(place / "study.yaml")]
        done = subprocess.run(
            [*command, "--runs", str(place / "runs")], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"training ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        ((_, run),) = StudyFolder(place / "runs" / "accuracy").runs()
        history = read_json(run.training_results)["history"]
    show_accuracy(history["val_acc"], history["epoch_times"])


def show_accuracy(accuracies: list[float], seconds: list[float]) -> None:
    share = [a / 100 if max(accuracies) > 1 else a for a in accuracies]
    reached = next((n for n, value in enumerate(share) if value >= TARGET_ACCURACY), None)
    print(f"\nresnet18: {len(share)} epochs in {sum(seconds):.0f} s, best {max(share):.3f}")
    if reached is None:
        print(f"  {TARGET_ACCURACY:.0%} of validation was not reached")
    else:
        spent = sum(seconds[: reached + 1])
        print(f"  {TARGET_ACCURACY:.0%} of validation in epoch {reached + 1}, after {spent:.0f} s")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--size", choices=["tiny", "small", "base"], default="base")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30, help="of the training to an accuracy")
    parser.add_argument("--root", type=Path, help="CIFAR-10: zip or folder of images, or binary")
    parser.add_argument("--parts", nargs="+", default=["families", "experts", "accuracy"])
    parser.add_argument("--cpu-smoke", action="store_true", help="toy sizes on a CPU")
    options = parser.parse_args()
    if options.cpu_smoke:
        options.size, options.batch_size, options.steps, options.epochs = "tiny", 16, 2, 1
        torch.set_num_threads(1)
    return options


if __name__ == "__main__":
    main()
