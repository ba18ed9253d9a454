"""One separate job of expert fusion as one writes it by hand: its experts, its fusion, its test.

    python benchmarks/plain_fusion.py JOB.json

A job trains its own experts, each on its part, then puts them into one fusion and trains that.
Every picture goes through Pillow one by one (`plain_pictures`), every epoch ends with a pass over
the judged pictures, and the best weights are written. Networks, first weights, recipes and parts
are those of the study that it stands beside, which writes JOB.json; networks are built by Regatta,
so that both sides compute the same.

With `fixed` in the job, pictures come in Regatta's order and dropout takes its seeds, so that both
sides must end with the same weights.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_pictures import Pictures, Stock
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from regatta.config.schema import EntrySection
from regatta.core.seeds import derive_seed, stream
from regatta.models.spec import resolve_model

TEST_BATCH, CPU = 250, torch.device("cpu")
Recipe = dict[str, Any]
"""Keys of `train:`, all of them."""


@dataclass
class Job:
    """What one separate job trains, and how.

    judged: part that every epoch ends with: `test` as the reference study does, or `validation`.
    workers: processes of the DataLoader.
    """

    stock: Stock
    experts: list[dict[str, Any]]
    fusion: dict[str, Any]
    classes: int
    judged: str = "test"
    fixed: bool = False
    workers: int = 0
    device: torch.device = CPU
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started


def run_job(job: Job, folder: Path) -> dict[str, Any]:
    """Train experts and fusion, test the fusion, and return its figures."""
    experts = [
        train_expert(job, planned, folder / f"expert-{number}.safetensors")
        for number, planned in enumerate(job.experts)
    ]
    system = train_fusion(job, experts, folder / "fusion.safetensors")
    with job.clock("last test"):
        right = accuracy(job, system, "test")
    return {"seconds": dict(job.seconds), "accuracy": right}


def train_expert(job: Job, planned: dict[str, Any], path: Path) -> nn.Module:
    expert = build(planned, job.classes)
    train(job, expert, planned, stage="experts", path=path)
    return expert


def train_fusion(job: Job, experts: Sequence[nn.Module], path: Path) -> nn.Module:
    system = build(job.fusion, job.classes)
    for number, expert in enumerate(experts):
        system.get_submodule(f"experts.{number}").load_state_dict(expert.state_dict())
    train(job, system, job.fusion, stage="fusion", path=path)
    return system


def build(planned: dict[str, Any], classes: int) -> nn.Module:
    """The network of a planned run with the first weights that Regatta gives it."""
    entry = EntrySection.model_validate({**planned["entry"], "checkpoint": "none"})
    return resolve_model(entry, classes, seed=planned["seed"]).build(classes)


def train(job: Job, module: nn.Module, planned: dict[str, Any], *, stage: str, path: Path) -> None:
    """Train, judge after every epoch, and leave the module with its best weights."""
    recipe, best, kept = planned["train"], -1.0, module.state_dict()
    module.to(job.device)
    optimizer = build_optimizer(module, recipe)
    parameters = list(module.parameters())
    steps = math.ceil(len(job.stock.rows[planned["part"]]) / recipe["batch_size"])
    rng, step = np.random.default_rng(planned["seed"]), 0
    for epoch in range(recipe["epochs"]):
        with job.clock(stage):
            module.train()
            for inputs, labels in batches(job, planned, epoch):
                if job.fixed:
                    torch.manual_seed(derive_seed(planned["seed"], "step", step, 0))
                factor = rate_factor(step, recipe["epochs"] * steps, steps, recipe)
                for group in optimizer.param_groups:
                    group["lr"] = group["base"] * factor
                optimizer.zero_grad()
                loss = loss_of(module, inputs.to(job.device), labels.to(job.device), recipe, rng)
                loss.backward()
                clip(module, parameters, recipe)
                optimizer.step()
                step += 1
        with job.clock(f"{stage} judged"):
            found = accuracy(job, module, job.judged)
        with job.clock(stage):
            if found > best:
                best = found
                save_file(module.state_dict(), path)
                kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict(kept)


def batches(job: Job, planned: dict[str, Any], epoch: int) -> DataLoader:
    recipe = planned["train"]
    change = None if recipe["augment"] == "none" else recipe["augment_options"]
    pictures = Pictures(job.stock, planned["part"], change)
    order: Any = None
    if job.fixed:
        order = stream(planned["seed"], "order", epoch).permutation(len(pictures)).tolist()
    return DataLoader(
        pictures,
        batch_size=recipe["batch_size"],
        shuffle=order is None,
        sampler=order,
        num_workers=job.workers,
        pin_memory=job.device.type == "cuda",
    )


def build_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Experts and the rest each at their rate; vectors are not decayed."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        factor = recipe["lr_factors"].get("experts.", 1.0) if name.startswith("experts.") else 1.0
        groups[factor, parameter.ndim > 1].append(parameter)
    listed = [
        {
            "params": members,
            "base": recipe["lr"] * factor,
            "weight_decay": recipe["weight_decay"] if decays else 0.0,
        }
        for (factor, decays), members in groups.items()
    ]
    if recipe["optimizer"] == "sgd":
        momentum = recipe["momentum"]
        return torch.optim.SGD(
            listed, lr=recipe["lr"], momentum=momentum, nesterov=True, fused=True
        )
    return torch.optim.AdamW(listed, lr=recipe["lr"], betas=tuple(recipe["betas"]), fused=True)


def rate_factor(step: int, total: int, per_epoch: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to its least share."""
    warm = min(total, round(recipe["warmup_epochs"] * per_epoch))
    if step < warm:
        return (step + 1) / warm
    peak = max(warm - 1, 0)
    if total - 1 <= peak:
        return 1.0
    least = recipe["min_lr_fraction"]
    angle = math.pi * (step - peak) / (total - 1 - peak)
    return least + (1 - least) * 0.5 * (1 + math.cos(angle))


def clip(module: nn.Module, parameters: list[nn.Parameter], recipe: Recipe) -> None:
    """All gradients as one, or experts and the rest apart."""
    limit = recipe["clip_norms"].get("experts.")
    if limit is None:
        nn.utils.clip_grad_norm_(parameters, recipe["clip_norm"])
        return
    named = list(module.named_parameters())
    for is_expert, norm in ((True, limit), (False, recipe["clip_norm"])):
        own = [p for name, p in named if name.startswith("experts.") is is_expert]
        nn.utils.clip_grad_norm_(own, norm)


def loss_of(
    module: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Cross-entropy, mixed as the recipe says; of a system with alpha times its experts' own."""
    mixed, partner, share = mix(inputs, recipe, rng)
    logits = module(mixed)
    loss = cross_entropy(logits, labels, recipe)
    if partner is None:
        return loss
    return share * loss + (1 - share) * cross_entropy(logits, labels[partner], recipe)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    smoothing = recipe["label_smoothing"]
    if logits.dim() == 2:
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    each = [
        functional.cross_entropy(logits[:, head], labels, label_smoothing=smoothing)
        for head in range(logits.shape[1])
    ]
    return each[0] + recipe["loss"]["alpha"] * torch.stack(each[1:]).sum()


def mix(
    inputs: torch.Tensor, recipe: Recipe, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor | None, float]:
    """Mixup or CutMix in a share of the steps: pictures, partners, share of the first label."""
    mixup, cutmix = recipe["mixup"], recipe["cutmix"]
    if not (mixup or cutmix) or rng.random() >= recipe["mix_share"]:
        return inputs, None, 1.0
    partner = torch.from_numpy(rng.permutation(len(inputs))).to(inputs.device)
    if mixup and (not cutmix or rng.random() < 0.5):
        share = float(rng.beta(mixup, mixup))
        return torch.lerp(inputs, inputs[partner], 1 - share), partner, share
    share, side = float(rng.beta(cutmix, cutmix)), inputs.shape[-1]
    cut, (row, column) = int(side * math.sqrt(1 - share)), rng.integers(side, size=2)
    top, left = max(0, row - cut // 2), max(0, column - cut // 2)
    bottom, right = min(side, row + cut // 2), min(side, column + cut // 2)
    mixed = inputs.clone()
    mixed[..., top:bottom, left:right] = inputs[partner][..., top:bottom, left:right]
    return mixed, partner, 1 - (bottom - top) * (right - left) / side**2


def accuracy(job: Job, module: nn.Module, part: str) -> float:
    """Share of right answers; of a system, those of its global head."""
    module.eval()
    right, pictures = 0, Pictures(job.stock, part, None)
    with torch.inference_mode():
        for inputs, labels in DataLoader(pictures, TEST_BATCH, num_workers=job.workers):
            logits = module(inputs.to(job.device))
            first = logits if logits.dim() == 2 else logits[:, 0]
            right += int((first.argmax(1).cpu() == labels).sum())
    return right / len(pictures)


def main() -> None:
    planned = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(planned["threads"])
    job = Job(
        Stock.load(Path(planned["stock"])),
        planned["experts"],
        planned["fusion"],
        planned["classes"],
        judged=planned["judged"],
        workers=planned["workers"],
        device=torch.device(planned["device"]),
    )
    folder = Path(planned["folder"])
    (folder / "result.json").write_text(json.dumps(run_job(job, folder)))


if __name__ == "__main__":
    main()
