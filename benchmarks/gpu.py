"""What a GPU makes of base-size models: judging the 75-cell grid, and one training step.

    .venv/bin/python benchmarks/gpu.py [--clips 64] [--threads 16]
    .venv/bin/python benchmarks/gpu.py --device cpu --size tiny --clips 2 --batch-sizes 2

The second line is a dry run of the whole script.

Random weights, bf16 autocast, fused AdamW, 400 classes. Three parts:

  peak      what a large bf16 matrix product reaches here, beside the device's published peak.
  training  one optimizer step of each model per batch size: clips per second and the share of the
            published peak, a step being three forward passes (target for a ViT-B of 16 frames:
            40 %). Then, at the best batch size, what torch.compile and each SDPA back end change;
            every variant must give the logits of plain eager code within bf16's rounding before it
            is timed.
  judging   TimeSformer, VideoMAE and ViViT together on generated 320x240 XviD clips of about 186
            frames: clips per second, where the time goes, and the minutes that 3,783 test videos
            would take (target: 10).

Prints "not measured" for what the device cannot do. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from judging import GRID, MODELS, make_clips
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from regatta.config.schema import EntrySection
from regatta.data.transforms import normalise
from regatta.evaluation.judge import judge_parts
from regatta.evaluation.predict import JudgedEntry
from regatta.models.spec import ModelSpec, count_flops, resolve_model
from regatta.training.loss import training_loss_sum
from regatta.training.profile import synchronise

CLASSES = 400
PUBLISHED_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bf16 operations per second, from the makers' data sheets."""
TARGET_STEP_SHARE = 0.40
TARGET_MINUTES = 10.0
TEST_VIDEOS = 3783
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
TOLERANCE = 0.05
"""Largest difference of logits, as a share of their spread, that bf16 rounding explains."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["tiny", "small", "base"], default="base")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--parts", nargs="+", default=["peak", "training", "judging"])
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("not measured: torch sees no GPU here (--device cpu makes a dry run)")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {options.size} models, bf16")
    peak = next((value for key, value in PUBLISHED_PEAKS.items() if key in name), None)
    if "peak" in options.parts:
        show_peak(device, peak)
    if "training" in options.parts:
        for model in MODELS:
            compare_steps(model, options, device, peak)
    if "judging" in options.parts:
        judge_grid(options, device)


def show_peak(device: torch.device, published: float | None) -> None:
    side = 8192 if device.type == "cuda" else 512
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    seconds = statistics.median(time_steps(lambda: left @ left, device, steps=10))
    reached = 2 * side**3 / seconds
    known = f"{published / 1e12:.0f}" if published else "not known"
    print(f"peak: a {side} x {side} product {reached / 1e12:.1f} TFLOP/s, published {known}")


def time_steps(
    step: Callable[[], object], device: torch.device, *, steps: int, warm: int = 3
) -> list[float]:
    """Seconds of each step once warm."""
    for _ in range(warm):
        step()
    seconds = []
    for _ in range(steps):
        synchronise(device)
        started = time.perf_counter()
        step()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def build(model: str, size: str, device: torch.device) -> tuple[nn.Module, ModelSpec]:
    section = EntrySection.model_validate({"model": model, "size": size, "checkpoint": "none"})
    spec = resolve_model(section, CLASSES, seed=0)
    return spec.build(CLASSES).to(device), spec


def make_batch(spec: ModelSpec, count: int, device: torch.device) -> torch.Tensor:
    """uint8 clips [B, T, 3, S, S], as they come from the loader."""
    shape = (count, spec.frames, 3, spec.image_size, spec.image_size)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)


def logits_of(module: nn.Module, spec: ModelSpec, videos: torch.Tensor) -> torch.Tensor:
    with torch.autocast(videos.device.type, dtype=torch.bfloat16):
        return module(normalise(videos, spec.mean, spec.std)).float()


def training_step(
    module: nn.Module, spec: ModelSpec, videos: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """One step as the trainer takes it: forward, backward, clip, fused AdamW."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=videos.device.type == "cuda")
    labels = torch.arange(len(videos), device=videos.device) % CLASSES

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        logits = logits_of(module, spec, videos)
        loss = training_loss_sum(logits, labels, label_smoothing=0.0) / len(videos)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss

    return step


def compare_steps(
    model: str, options: argparse.Namespace, device: torch.device, peak: float | None
) -> None:
    module, spec = build(model, options.size, device)
    flops = 3 * count_flops(module, spec)
    print(f"\n{model}: {spec.frames} frames, {flops / 1e9:.0f} GFLOP per clip and step")
    speeds: dict[int, float] = {}
    for batch_size in options.batch_sizes:
        videos = make_batch(spec, batch_size, device)
        try:
            seconds = time_steps(training_step(module, spec, videos), device, steps=options.steps)
        except torch.OutOfMemoryError:
            print(f"  batch {batch_size:3d}: not measured, out of memory")
            torch.cuda.empty_cache()
            continue
        speeds[batch_size] = batch_size / statistics.median(seconds)
        show_step(f"batch {batch_size:3d}", batch_size, seconds, flops, peak)
    if speeds:
        best = max(speeds, key=lambda count: speeds[count])
        compare_variants(module, spec, make_batch(spec, best, device), options.steps, flops, peak)
        if peak:
            share = speeds[best] * flops / peak
            verdict = "met" if share >= TARGET_STEP_SHARE else "MISSED"
            goal = f"target {100 * TARGET_STEP_SHARE:.0f} %: {verdict}"
            print(f"  best: {100 * share:.1f} % of the published peak, {goal}")


def show_step(title: str, clips: int, seconds: list[float], flops: int, peak: float | None) -> None:
    middle = statistics.median(seconds)
    share = f"{100 * clips * flops / middle / peak:5.1f} % of peak" if peak else "peak not known"
    spread = f"{1000 * min(seconds):.1f}-{1000 * max(seconds):.1f}"
    print(
        f"  {title:<18} {1000 * middle:8.1f} ms ({spread}) {clips / middle:8.1f} clips/s  {share}"
    )


def compare_variants(
    module: nn.Module,
    spec: ModelSpec,
    videos: torch.Tensor,
    steps: int,
    flops: int,
    peak: float | None,
) -> None:
    """The same step with each attention back end and compiled, once its logits are the same."""
    module.eval()
    with torch.inference_mode():
        expected = logits_of(module, spec, videos)
    variants: dict[str, tuple[nn.Module, AbstractContextManager[object]]] = {
        f"sdpa {name}": (module, sdpa_kernel(backend)) for name, backend in BACKENDS.items()
    }
    # Compiling for minutes says nothing about the small models of a dry run on a CPU.
    if videos.device.type == "cuda":
        variants["torch.compile"] = (torch.compile(module), nullcontext())  # pyright: ignore[reportArgumentType]
    for title, (variant, context) in variants.items():
        try:
            with context:
                module.eval()
                with torch.inference_mode():
                    found = logits_of(variant, spec, videos)
                apart = float((found - expected).abs().max() / expected.std())
                if not apart <= TOLERANCE:
                    print(f"  {title:<18} not timed: logits differ by {apart:.3f} of their spread")
                    continue
                module.train()
                step = training_step(variant, spec, videos)
                show_step(
                    title, len(videos), time_steps(step, videos.device, steps=steps), flops, peak
                )
                # Training moved the weights: the next variant is held against the new ones.
                module.eval()
            with torch.inference_mode():
                expected = logits_of(module, spec, videos)
        except RuntimeError as error:
            print(f"  {title:<18} not measured: {str(error).splitlines()[0][:70]}")


def judge_grid(options: argparse.Namespace, device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        samples = make_clips(root / "clips", "xvid", options.clips)
        entries = []
        for model in MODELS:
            module, spec = build(model, options.size, device)
            entries.append(JudgedEntry(model, module.eval(), spec, root / model))
        for batch_size in options.batch_sizes:
            fresh = [replace(e, folder=root / f"{e.run_id}-{batch_size}") for e in entries]
            started = time.perf_counter()
            cost = judge_parts(
                fresh,
                samples,
                GRID,
                batch_size=batch_size,
                part_samples=16,
                device=device,
                autocast=torch.bfloat16,
                decode_threads=options.threads,
            )
            wall = time.perf_counter() - started
            minutes = TEST_VIDEOS * wall / len(samples) / 60
            forward = sum(cost.forward_seconds.values())
            verdict = "met" if minutes <= TARGET_MINUTES else "MISSED"
            # Small models on a CPU are neither.
            goal = f", target {TARGET_MINUTES:.0f}: {verdict}" if device.type == "cuda" else ""
            print(
                f"\njudging, batch {batch_size}: {len(samples)} videos in {wall:.1f} s "
                f"(decode {cost.decode_seconds:.1f} s over {options.threads} threads, "
                f"prepare {cost.preprocess_seconds:.1f} s, forward {forward:.1f} s); "
                f"{TEST_VIDEOS} videos would take {minutes:.1f} min{goal}"
            )


if __name__ == "__main__":
    main()
