"""The trainer on a GPU: number formats, compiling, DDP on one device, and a frozen encoder's pass.

    .venv/bin/python benchmarks/gpu_training.py [--batch-size 16]
    .venv/bin/python benchmarks/gpu_training.py --device cpu --size tiny --batch-size 2 --steps 2

The second line is a dry run of the whole script. Every step is the trainer's own (`take_step` on
the parts that `build_parts` makes), on one batch that is already on the device.

  precision  fp32 (TF32 off and on), bf16 and fp16: samples per second, peak memory, share of the
             published peak. The first loss of each must agree with fp32's within its rounding.
  compile    bf16 with torch.compile beside plain bf16, same check.
  ddp        bf16 inside DistributedDataParallel over one process beside the plain module: what its
             bookkeeping costs. Weights after the steps must be equal.
  encoder    windows per second of a frozen ViT-B/16 that draws and encodes 9 channels, bf16 against
             fp32 (target: 3 x); features must agree within bf16's rounding.

Prints "not measured" for what the device cannot do.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from gpu import PUBLISHED_PEAKS, build, make_batch, time_steps
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from regatta.config.schema import EntrySection, TrainSection
from regatta.data.loader import Batch
from regatta.models.spec import ModelSpec, count_flops, resolve_model
from regatta.training.distributed import Ranks
from regatta.training.loop import build_parts
from regatta.training.precision import reproducible_math
from regatta.training.step import StepParts, gradient_hold, take_step

MODELS = ("videomae", "r3d18")
LOSS_TOLERANCE = {"fp32": 1e-6, "fp32, TF32": 5e-3, "bf16": 0.05, "fp16": 0.01}
"""Largest relative difference of the first loss that the format's rounding explains."""
FEATURE_TOLERANCE = 0.05
"""Largest mean difference of features, as a share of their spread, that bf16 rounding explains."""
TARGET_ENCODER = 3.0


def main() -> None:
    options = _parser().parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("not measured: torch sees no GPU here (--device cpu makes a dry run)")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = next((value for key, value in PUBLISHED_PEAKS.items() if key in name), None)
    print(f"{name}, torch {torch.__version__}, {options.size} models, batch {options.batch_size}")
    for model in MODELS:
        size = options.size if model == "videomae" or options.size == "tiny" else "base"
        module, spec = build(model, size, device)
        compare_formats(module, spec, options, device, peak)
        compare_ddp(module, spec, options, device)
    compare_encoder(options, device)


def batch_for(spec: ModelSpec, count: int, device: torch.device) -> Batch:
    clips = make_batch(spec, count, device)
    labels = torch.arange(count, device=device)
    names = [str(number) for number in range(count)]
    return Batch(clips, labels, names, epoch=0, position=0, is_last_of_epoch=True)


def parts_for(
    module: nn.Module, spec: ModelSpec, batch_size: int, device: torch.device, **recipe: Any
) -> StepParts:
    train = TrainSection(batch_size=batch_size, lr=1e-5, deterministic=False, **recipe)
    return build_parts(module, spec, train, device=device, ranks=Ranks(device=device))


def one_step(parts: StepParts, batch: Batch) -> float:
    outcome = take_step(parts, iter([batch]), micro_batches=1, stop_asked=lambda: False, seed=0)
    return outcome.loss


def compare_formats(
    module: nn.Module,
    spec: ModelSpec,
    options: argparse.Namespace,
    device: torch.device,
    peak: float | None,
) -> None:
    """One line per format: first loss held against fp32's, then speed and memory."""
    print(f"\n{spec.name}: {spec.input_words}")
    batch = batch_for(spec, options.batch_size, device)
    flops = 3 * count_flops(module, spec) * options.batch_size
    variants: dict[str, dict[str, Any]] = {
        "fp32": {"precision": "fp32"},
        "fp32, TF32": {"precision": "fp32"},
        "bf16": {"precision": "bf16"},
        "fp16": {"precision": "fp16"},
        "bf16, compiled": {"precision": "bf16", "compile": True},
    }
    expected = None
    for title, recipe in variants.items():
        if device.type != "cuda" and (title in ("fp16", "fp32, TF32") or "compile" in recipe):
            print(f"  {title:<16} not measured on a CPU")
            continue
        with reproducible_math(device, deterministic=title == "fp32"):
            try:
                parts = parts_for(copy.deepcopy(module), spec, options.batch_size, device, **recipe)
                loss = one_step(parts, batch)
                expected = loss if expected is None else expected
                apart = abs(loss - expected) / abs(expected)
                if apart > LOSS_TOLERANCE[title.removesuffix(", compiled")]:
                    print(f"  {title:<16} not timed: its first loss differs by {apart:.3f}")
                    continue
                seconds = time_parts(parts, batch, device, options.steps)
            except torch.OutOfMemoryError:
                print(f"  {title:<16} not measured: out of memory")
                continue
        show(title, seconds, options.batch_size, flops, peak, device)


def time_parts(parts: StepParts, batch: Batch, device: torch.device, steps: int) -> list[float]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return time_steps(lambda: one_step(parts, batch), device, steps=steps)


def show(
    title: str,
    seconds: list[float],
    count: int,
    flops: int,
    peak: float | None,
    device: torch.device,
) -> None:
    middle = statistics.median(seconds)
    memory = "not measured"
    if device.type == "cuda":
        memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
    share = f"{100 * flops / middle / peak:.1f} % of the bf16 peak" if peak else "peak not known"
    print(
        f"  {title:<16} {1000 * middle:8.1f} ms ({1000 * min(seconds):.1f}-"
        f"{1000 * max(seconds):.1f}) {count / middle:8.1f} samples/s, memory {memory}, {share}"
    )


def compare_ddp(
    module: nn.Module, spec: ModelSpec, options: argparse.Namespace, device: torch.device
) -> None:
    """The same steps plain and inside DDP over one process."""
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"})
    on_gpu = device.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", rank=0, world_size=1)
    try:
        batch = batch_for(spec, options.batch_size, device)
        plain = parts_for(copy.deepcopy(module), spec, options.batch_size, device)
        inner = copy.deepcopy(module)
        parts = parts_for(inner, spec, options.batch_size, device)
        wrapped = DistributedDataParallel(inner, gradient_as_bucket_view=True)
        spread = replace(parts, module=wrapped, hold_gradients=gradient_hold(wrapped))
        sides = {"plain": plain, "ddp": spread}
        seconds = {
            title: time_parts(side, batch, device, options.steps) for title, side in sides.items()
        }
        pairs = zip(plain.parameters, spread.parameters, strict=True)
        apart = max(float((a - b).detach().abs().max()) for a, b in pairs)
        ratios = [s / p for p, s in zip(seconds["plain"], seconds["ddp"], strict=True)]
        print(
            f"  ddp, one process {100 * (statistics.median(ratios) - 1):+.1f} % time "
            f"({100 * (min(ratios) - 1):+.1f} to {100 * (max(ratios) - 1):+.1f}); "
            f"weights apart by {apart:.1e}"
        )
    finally:
        dist.destroy_process_group()


def compare_encoder(options: argparse.Namespace, device: torch.device) -> None:
    """A frozen encoder's pass over windows, bf16 against fp32."""
    encoder = "vit-b16" if options.size == "base" else "vit-micro"
    section = EntrySection.model_validate(
        {"model": "har-vit", "checkpoint": "none", "options": {"encoder": encoder}}
    )
    spec = resolve_model(section, 6, seed=0, window=(9, 128))
    module: Any = spec.build(6).to(device).eval()
    windows = torch.randn(options.windows, 9, 128, device=device)
    module.fit_statistics(windows)

    def encode(dtype: torch.dtype | None) -> torch.Tensor:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
        ):
            return torch.stack([module.encode_channel(windows, c) for c in range(9)], dim=1)

    exact = encode(None)
    apart = float((encode(torch.bfloat16) - exact).float().abs().mean() / exact.std())
    print(f"\nencoder {encoder}, {options.windows} windows of 9 channels")
    if not apart <= FEATURE_TOLERANCE:
        print(f"  not timed: features differ by {apart:.3f} of their spread")
        return
    seconds = {
        name: time_steps(lambda dtype=dtype: encode(dtype), device, steps=options.steps)
        for name, dtype in {"fp32": None, "bf16": torch.bfloat16}.items()
    }
    ratios = [slow / fast for slow, fast in zip(seconds["fp32"], seconds["bf16"], strict=True)]
    for name, values in seconds.items():
        print(f"  {name} {options.windows / statistics.median(values):9.1f} windows/s")
    verdict = "met" if statistics.median(ratios) >= TARGET_ENCODER else "MISSED"
    goal = f"target {TARGET_ENCODER:g} x: {verdict}" if device.type == "cuda" else "a dry run"
    print(
        f"  bf16 is {statistics.median(ratios):.2f} x ({min(ratios):.2f}-{max(ratios):.2f}), {goal}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["tiny", "base"], default="base")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    return parser


if __name__ == "__main__":
    main()
