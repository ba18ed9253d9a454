"""The training loop: load or begin, then per epoch train, validate, keep the best, save."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.models.parameters import freeze_encoder, parameter_groups, train_only
from regatta.models.spec import ModelSpec, enable_gradient_checkpointing
from regatta.records.run_folder import RunFolder
from regatta.training.batches import BatchSource
from regatta.training.components import (
    SystemParts,
    clip_components,
    split_experts,
    system_parts,
    trained_parameters,
)
from regatta.training.distributed import ONE_PROCESS, Ranks, spread_over_devices
from regatta.training.ema import WeightAverage
from regatta.training.energy import EnergyMeter, open_meter
from regatta.training.gradient_conflict import conflict_rule
from regatta.training.loss import class_weights
from regatta.training.mix import Mixing
from regatta.training.motion_loss import recipe_loss
from regatta.training.optimizers import build_optimizer
from regatta.training.precision import choose_precision, reproducible_math
from regatta.training.progress import Progress
from regatta.training.rank_watch import Patience, RankWatch
from regatta.training.recipe import (
    asked_of_experts,
    check_batch,
    check_recipe,
    no_experts_error,
    plan_rates,
    scaled_lr,
)
from regatta.training.records import MetricsLog
from regatta.training.run import TrainingRun
from regatta.training.state import TrainerState
from regatta.training.step import Preparation, StepParts, gradient_hold, own_gradients


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
    whole: nn.Module | None = None,
    observe: Callable[[dict[str, Any]], None] | None = None,
    class_counts: Sequence[int] | None = None,
    seconds_before: float = 0.0,
    meter: EnergyMeter | None = None,
    patience: Patience | None = None,
) -> dict[str, Any]:
    """Train one run to its end, from its last checkpoint if it has one. A trained run is read back.

    Killed at any moment and started again it gives what it would have given uninterrupted: bit for
    bit on a CPU with the same number of threads, within rounding on a GPU. Returns the content of
    training_results.json, which is written last.

    Args:
        module: with its first weights, on any device.
        train_loader, validation: this rank's share; see `batches.BatchSource`.
        folder: must hold run.json with the run's content hash.
        device, ranks: of this process, from `distributed.process_group`.
        report: called on rank 0 with the keys of a status, about once a second; see progress.py.
        whole: the model that is saved, counted and judged, of which `module` is the part that is
            trained (the head, on cached features); None = `module` itself.
        observe: called on rank 0 with every record that is appended to metrics.jsonl.
        class_counts: training samples of each class.
        seconds_before: spent on what the first epoch stands on, as encoding; part of its time. Its
            energy is not known, so that of the run is then not measured.
        meter: of this rank; None = of the counters that this machine has.
        patience: of several ranks, when they stand still; see rank_watch.py.
    Raises:
        StopRequested: after a checkpoint, when `stop` was set on any rank.
        NonFiniteError, OutOfMemoryError: see guards.py. DiskError, RecordError: see checkpoint.py.
        ConfigError: settings that cannot go together, or a batch larger than the training set.
    """
    if folder.is_trained():
        return read_json(folder.training_results)
    check_recipe(train, spec, on_features=whole is not None)
    check_batch(train, devices=ranks.world, class_counts=class_counts)
    rates = plan_rates(train, micro_batches=len(train_loader), devices=ranks.world)
    with reproducible_math(device, deterministic=train.deterministic):
        saved = _saved_model(module, train, whole=whole, ranks=ranks)
        weights_K = class_weights(train, class_counts, classes)
        said = report if ranks.is_first else _say_nothing
        parts = build_parts(
            module, spec, train, device=device, ranks=ranks, whole=whole, class_weights_K=weights_K
        )
        run = TrainingRun(
            module=module,
            whole=saved,
            frozen=train.freeze_encoder and whole is None,
            spec=spec,
            train=train,
            rates=rates,
            train_loader=train_loader,
            validation=validation,
            folder=folder,
            log=MetricsLog(folder.metrics, observe or _say_nothing),
            seed=seed,
            classes=classes,
            stop=stop,
            parts=parts,
            meter=meter or open_meter(device, all_gpus=train.parallel == "dp"),
            state=_first_state(seconds_before),
            average=None if train.ema is None else WeightAverage(module, train.ema),
            watch=RankWatch(ranks, patience=patience or _patience(train)),
            progress=Progress(said, rates.total_steps, train.epochs),
        )
        return _to_the_end(run)


def _to_the_end(run: TrainingRun) -> dict[str, Any]:
    with run.watch:
        run.load_or_begin()
        # A stop that was asked for while the model was loaded need not wait for a step.
        run.leave_if_asked()
        while not run.is_finished():
            run.train_epoch()
            run.validate_epoch()
            run.save()
            run.leave_if_asked()
        return run.finish()


def _patience(train: TrainSection) -> Patience:
    # A batch of another size is compiled anew in the middle of an epoch, which takes minutes.
    return Patience(least=Patience.unmeasured) if train.compile else Patience()


def _first_state(seconds_before: float) -> TrainerState:
    return TrainerState(
        train_seconds=seconds_before,
        epoch_seconds=seconds_before,
        energy_joules=None if seconds_before else 0.0,
    )


def _saved_model(
    module: nn.Module, train: TrainSection, *, whole: nn.Module | None, ranks: Ranks
) -> nn.Module:
    """What is saved and counted, taken before anything is spread over devices."""
    if whole is not None:
        return whole
    # Sharding cuts a module up where it stands: what is saved and counted stays whole.
    cuts_up = train.parallel == "fsdp" and ranks.world > 1
    return copy.deepcopy(module) if cuts_up else module


def build_parts(
    module: nn.Module,
    spec: ModelSpec,
    train: TrainSection,
    *,
    device: torch.device,
    ranks: Ranks,
    whole: nn.Module | None = None,
    class_weights_K: torch.Tensor | None = None,
) -> StepParts:
    """Move the module to its device and build what trains it from the recipe.

    Args:
        whole: the model that `module` is a part of, as a head on cached features; the part is too
            small to be cut over ranks.
    """
    precision = choose_precision(train.precision, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if train.freeze_encoder:
        freeze_encoder(whole or module, spec)
    if whole is not None:
        train_only(module, of=whole)
    module.to(device)
    if train.gradient_checkpointing:
        enable_gradient_checkpointing(module)
    parallel = train.parallel if whole is None else "ddp"
    # First, because sharding puts other parameters in the place of those that are there.
    spread = spread_over_devices(module, ranks, parallel=parallel, precision=precision.name)
    groups = parameter_groups(
        whole or module,
        spec,
        lr=scaled_lr(train, devices=ranks.world),
        head_lr_factor=train.head_lr_factor,
        weight_decay=train.weight_decay,
        lr_factors=train.lr_factors,
    )
    trained = trained_parameters(whole or module)
    groups, group_is_experts = split_experts(groups, trained)
    system = system_parts(whole or module, trained, groups)
    _refuse_without_experts(train, spec, system)
    parameters = [parameter for group in groups for parameter in group["params"]]
    has_graphs = train.compile and train.compile_mode != "default" and device.type == "cuda"
    if has_graphs:
        own_gradients(parameters)
    called = torch.compile(spread, mode=train.compile_mode) if train.compile else spread
    weights_K = None if class_weights_K is None else class_weights_K.to(device)
    mixes = train.mixup > 0 or train.cutmix > 0
    return StepParts(
        module=called,  # pyright: ignore[reportArgumentType]
        hold_gradients=gradient_hold(spread),
        parameters=parameters,
        optimizer=build_optimizer(groups, train, device=device),
        base_rates=[group["lr"] for group in groups],
        scaler=precision.new_scaler(),
        preparation=Preparation(device, precision, spec.mean, spec.std),
        ranks=ranks,
        loss=recipe_loss(train, module, weights_K),
        mixing=Mixing(train.mixup, train.cutmix, train.mix_share) if mixes else None,
        clip_norm=train.clip_norm,
        full_samples=train.batch_size * train.accumulate,
        keeps_gradients=has_graphs,
        clipped=clip_components(trained, clip_norm=train.clip_norm, clip_norms=train.clip_norms),
        system=system,
        conflict=conflict_rule(train, trained),
        group_is_experts=group_is_experts,
    )


def _refuse_without_experts(
    train: TrainSection, spec: ModelSpec, system: SystemParts | None
) -> None:
    """As `check_recipe` does from the spec, but of the module itself."""
    asked = asked_of_experts(train)
    if asked and not (system and system.experts):
        raise no_experts_error(asked[0], spec)


def _say_nothing(record: dict[str, Any]) -> None:
    """Rank 0 alone reports."""
