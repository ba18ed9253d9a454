"""What a recipe comes to for one run: its rates, and the settings that cannot go together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from regatta.config.schema import TrainSection
from regatta.core.errors import ConfigError
from regatta.models.spec import ModelSpec
from regatta.training.schedule import (
    constant_factor,
    count_steps,
    count_warmup_steps,
    lr_factor,
    restart_factor,
)


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
    schedule: Literal["cosine", "constant", "restarts"] = "cosine"

    def describe(self, train: TrainSection) -> str:
        """One line for the log."""
        devices = self.effective_batch // (train.batch_size * train.accumulate)
        scaled = "" if train.scale_lr == "none" else f" ({train.lr:g}, {train.scale_lr} rule)"
        return (
            f"effective batch {self.effective_batch} = {train.batch_size} x {train.accumulate} "
            f"accumulated x {devices} device(s); learning rate {self.base_lr:g}{scaled}"
        )

    def factor(self, step: int, *, of_experts: bool = False) -> float:
        """What every rate is multiplied by in optimizer step `step`, counted from 0.

        Args:
            of_experts: of the parameters of a fusion's experts, which alone follow restarts.
        """
        warmup, total, least = self.warmup_steps, self.total_steps, self.min_fraction
        if self.schedule == "constant":
            return constant_factor(step, warmup_steps=warmup)
        cosine = restart_factor if of_experts and self.schedule == "restarts" else lr_factor
        return cosine(step, total_steps=total, warmup_steps=warmup, min_fraction=least)


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
        schedule=train.schedule,
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
    _check_places(train, spec)
    asked = asked_of_experts(train)
    if asked and not has_experts(spec):
        raise no_experts_error(asked[0], spec)
    if asked and (train.freeze_encoder or on_features):
        raise ConfigError(
            f"frozen experts do not learn, so {asked[0]} can do nothing",
            where=asked[0],
            hint="leave it out, or set train.freeze_encoder: false",
        )
    if train.gradient_conflict == "pcgrad":
        _check_conflict(train)


def _check_places(train: TrainSection, spec: ModelSpec) -> None:
    if spec.kind != "scene" and train.select_by in ("rmse", "joint"):
        raise ConfigError(
            f"{spec.name} says no places, which select_by: {train.select_by} is about",
            where="train.select_by",
            hint="choose accuracy, balanced_accuracy or macro_f1",
        )
    if spec.kind == "scene" and (train.mixup or train.cutmix):
        raise ConfigError(
            "mixed scenes have no place of their own to learn",
            where="train.mixup" if train.mixup else "train.cutmix",
            hint="leave mixup and cutmix out for models that say places",
        )


def has_experts(spec: ModelSpec) -> bool:
    """Whether a model is made of experts: it then has an option `experts`."""
    return "experts" in spec.config.get("options", {})


def no_experts_error(key: str, spec: ModelSpec) -> ConfigError:
    """What a key of the recipe ends in that only experts can obey."""
    return ConfigError(
        f"{spec.name} has no experts, which {key} is about",
        where=key,
        hint="leave it out, or set it for the entries that fuse experts",
    )


def asked_of_experts(train: TrainSection) -> list[str]:
    """Keys of the recipe that only experts can obey, where they are set."""
    asked = {
        "train.gradient_conflict": train.gradient_conflict != "none",
        "train.freeze_experts_epochs": train.freeze_experts_epochs > 0,
        "train.schedule": train.schedule == "restarts",
    }
    return [key for key, is_set in asked.items() if is_set]


def _check_conflict(train: TrainSection) -> None:
    """Two backward passes go through one graph, which compiled code does not keep and DDP does not
    exchange."""
    for key, is_set in (
        (f"train.parallel: {train.parallel}", train.parallel != "none"),
        ("train.compile: true", train.compile),
    ):
        if is_set:
            raise ConfigError(
                f"train.gradient_conflict: pcgrad does not go with {key}",
                where="train.gradient_conflict",
                hint="train this entry on one device and uncompiled (train.parallel: none, "
                "train.compile: false), or set train.gradient_conflict: none",
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
