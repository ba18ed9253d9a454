"""The training loop: load or begin, then per epoch train, validate, keep the best, save."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.models.spec import ModelSpec, enable_gradient_checkpointing, parameter_groups
from regatta.records.run_folder import RunFolder
from regatta.training.batches import BatchSource
from regatta.training.distributed import ONE_PROCESS, Ranks, spread_over_ranks
from regatta.training.optimizers import build_adamw
from regatta.training.precision import choose_precision, reproducible_math
from regatta.training.progress import Progress
from regatta.training.run import TrainingRun
from regatta.training.schedule import count_steps
from regatta.training.step import Preparation, StepParts, gradient_hold


def train_run(
    *,
    module: nn.Module,
    spec: ModelSpec,
    train: TrainSection,
    train_loader: BatchSource,
    validation: BatchSource,
    folder: RunFolder,
    device: torch.device,
    seed: int,
    classes: list[str],
    stop: StopFlag,
    report: Callable[[dict[str, Any]], None],
    ranks: Ranks = ONE_PROCESS,
) -> dict[str, Any]:
    """Train one run to its end, from its last checkpoint if it has one. A trained run is read back.

    Killed at any moment and started again it gives what it would have given uninterrupted: bit for
    bit on a CPU with the same number of threads, within rounding on a GPU.

    Args:
        module: with its first weights, on any device.
        train_loader, validation: this rank's share; see `batches.BatchSource`.
        folder: must hold run.json with the run's content hash.
        device: of this process; with several, `ranks.device`.
        report: called on rank 0 with the keys of a status, about once a second; see progress.py.
        ranks: from `distributed.process_group`.

    Returns:
        The content of training_results.json, which is written last.

    Raises:
        StopRequested: after a checkpoint, when `stop` was set on any rank.
        NonFiniteError, OutOfMemoryError: see guards.py.
        DiskError, RecordError: see checkpoint.py.
    """
    if folder.is_trained():
        return read_json(folder.training_results)
    with reproducible_math(device, deterministic=train.deterministic):
        parts = build_parts(module, spec, train, device=device, ranks=ranks)
        run = TrainingRun(
            module=module,
            spec=spec,
            train=train,
            train_loader=train_loader,
            validation=validation,
            folder=folder,
            seed=seed,
            classes=classes,
            stop=stop,
            parts=parts,
            progress=Progress(
                report if ranks.is_first else _say_nothing,
                total_steps=train.epochs
                * count_steps(len(train_loader), accumulate=train.accumulate),
                epochs=train.epochs,
            ),
        )
        run.load_or_begin()
        while not run.is_finished():
            run.train_epoch()
            run.validate_epoch()
            run.save()
            run.leave_if_asked()
        return run.finish()


def build_parts(
    module: nn.Module, spec: ModelSpec, train: TrainSection, *, device: torch.device, ranks: Ranks
) -> StepParts:
    """Move the module to its device and build what trains it from the recipe."""
    precision = choose_precision(train.precision, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    module.to(device)
    if train.gradient_checkpointing:
        enable_gradient_checkpointing(module)
    groups = parameter_groups(
        module,
        spec,
        lr=train.lr,
        head_lr_factor=train.head_lr_factor,
        weight_decay=train.weight_decay,
    )
    spread = spread_over_ranks(module, ranks)
    return StepParts(
        module=torch.compile(spread) if train.compile else spread,  # pyright: ignore[reportArgumentType]
        hold_gradients=gradient_hold(spread),
        parameters=[parameter for group in groups for parameter in group["params"]],
        optimizer=build_adamw(groups, betas=train.betas, device=device),
        base_rates=[group["lr"] for group in groups],
        scaler=precision.new_scaler(),
        preparation=Preparation(device, precision, spec.mean, spec.std),
        ranks=ranks,
        label_smoothing=train.label_smoothing,
        clip_norm=train.clip_norm,
        full_samples=train.batch_size * train.accumulate,
    )


def _say_nothing(progress: dict[str, Any]) -> None:
    """Rank 0 alone reports."""
