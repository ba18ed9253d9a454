"""What a recipe comes to for one run: its rates, and the settings that cannot go together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from regatta.config.schema import TrainSection
from regatta.core.errors import ConfigError
from regatta.models.spec import ModelSpec
from regatta.training.schedule import count_steps, count_warmup_steps, lr_factor


@dataclass(frozen=True)
class Rates:
    """The learning rate of every optimizer step of a run."""

    effective_batch: int
    """Samples of one optimizer step: batch size x accumulate x devices."""
    base_lr: float
    """Highest rate, after the scaling rule and before factors of components."""
    total_steps: int
    warmup_steps: int
    min_fraction: float

    def describe(self, train: TrainSection) -> str:
        """One line for the log."""
        devices = self.effective_batch // (train.batch_size * train.accumulate)
        scaled = "" if train.scale_lr == "none" else f" ({train.lr:g}, {train.scale_lr} rule)"
        return (
            f"effective batch {self.effective_batch} = {train.batch_size} x {train.accumulate} "
            f"accumulated x {devices} device(s); learning rate {self.base_lr:g}{scaled}"
        )

    def factor(self, step: int) -> float:
        """What every rate is multiplied by in optimizer step `step`, counted from 0."""
        return lr_factor(
            step,
            total_steps=self.total_steps,
            warmup_steps=self.warmup_steps,
            min_fraction=self.min_fraction,
        )


def plan_rates(train: TrainSection, *, micro_batches: int, devices: int) -> Rates:
    """The rates of a run with `micro_batches` per epoch and device.

    Raises:
        ConfigError: `min_lr` is above the rate that it ends.
    """
    steps_per_epoch = count_steps(micro_batches, accumulate=train.accumulate)
    total = train.epochs * steps_per_epoch
    base = scaled_lr(train, devices=devices)
    if train.warmup_epochs is None:
        warmup = count_warmup_steps(total, fraction=train.warmup_fraction)
    else:
        warmup = min(total, math.floor(train.warmup_epochs * steps_per_epoch + 0.5))
    return Rates(
        effective_batch=effective_batch(train, devices=devices),
        base_lr=base,
        total_steps=total,
        warmup_steps=warmup,
        min_fraction=_min_fraction(train, base),
    )


def effective_batch(train: TrainSection, *, devices: int) -> int:
    """Samples of one optimizer step."""
    return train.batch_size * train.accumulate * devices


def scaled_lr(train: TrainSection, *, devices: int) -> float:
    """`lr` for the effective batch, which may be larger than the one that it was chosen for.

    Sources: linear, Goyal et al. 2017, Accurate large minibatch SGD, section 2.1; sqrt,
    Krizhevsky 2014, One weird trick, section 5.
    """
    times = effective_batch(train, devices=devices) / train.scale_lr_batch
    return train.lr * {"none": 1.0, "linear": times, "sqrt": math.sqrt(times)}[train.scale_lr]


def check_recipe(train: TrainSection, spec: ModelSpec, *, on_features: bool = False) -> None:
    """ConfigError for settings that cannot go together.

    Args:
        on_features: the head alone is trained, on vectors of a frozen encoder.
    """
    if train.cutmix and (on_features or spec.reads == "features"):
        instead = "use train.mixup" + (", or set train.feature_cache: false" if on_features else "")
        raise ConfigError(
            "cutmix cuts out a part of a picture or a span of time; features have neither",
            where="train.cutmix",
            hint=instead,
        )


def check_batch(train: TrainSection, *, devices: int, class_counts: Sequence[int] | None) -> None:
    """ConfigError when one step of all devices takes more samples than there are to train on."""
    if class_counts is None or not train.epochs:
        return
    samples, together = sum(class_counts), train.batch_size * devices
    if 0 < samples < together:
        beside = f" on {devices} devices" if devices > 1 else ""
        raise ConfigError(
            f"batch size {train.batch_size}{beside} is more than the {samples} training samples",
            where="train.batch_size",
            hint=f"choose between 1 and {max(1, samples // devices)}",
        )


def _min_fraction(train: TrainSection, base_lr: float) -> float:
    if train.min_lr is None:
        return train.min_lr_fraction
    if train.min_lr > base_lr:
        raise ConfigError(
            f"train.min_lr {train.min_lr:g} is above the learning rate {base_lr:g} that it ends",
            where="train.min_lr",
            hint=f"choose at most {base_lr:g}",
        )
    return train.min_lr / base_lr
