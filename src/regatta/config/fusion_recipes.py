"""Recipes of expert fusion: one table of families, one of fusion types, one of image changes.

Rates, epochs and augmentation are those of the reference study on CIFAR-100, which trained with
SGD (Loshchilov and Hutter 2017, SGDR, for the cosine) and fused with AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from regatta.core.registry import unknown_name

Recipe = dict[str, Any]

JITTER: Recipe = {"policy": "jitter", "border": "reflect", "erasing": 0.25}
TRIVIAL: Recipe = {"policy": "trivial", "erasing": 0.25}


def _randaugment(operations: int, magnitude: int, erasing: float) -> Recipe:
    return {
        "policy": "randaugment",
        "operations": operations,
        "magnitude": magnitude,
        "erasing": erasing,
    }


@dataclass(frozen=True)
class Family:
    """One CNN family: its name in entries, in exported trees, and as a model."""

    name: str
    tree_name: str
    model: str
    weight_decay: float
    batch_size: int
    augment: Recipe
    synonyms: tuple[str, ...] = ()


FAMILIES: tuple[Family, ...] = (
    Family("densenet", "densenet", "densenet121", 1e-4, 64, _randaugment(2, 9, 0.1)),
    Family("resnet", "resnet", "resnet18", 1e-4, 128, JITTER),
    Family(
        "improved-wide-resnet",
        "improved_wide_resnet",
        "improved_wideresnet28_10",
        5e-4,
        128,
        _randaugment(3, 14, 0.3),
        ("wide-resnet", "wideresnet", "wrn", "wideresnet28-10", "improvedwideresnet"),
    ),
    Family("resnext", "resnext", "preact_resnext29_8x64d", 5e-4, 128, TRIVIAL),
)


def family_of(name: str, *, where: object = None) -> Family:
    """The family that `name` stands for; UnknownNameError with the nearest one."""
    wanted = name.lower().replace("_", "-")
    for family in FAMILIES:
        known = (family.name, family.model.replace("_", "-"), *family.synonyms)
        if wanted in known:
            return family
    raise unknown_name("CNN family", name, [family.name for family in FAMILIES], where)


def expert_recipe(family: Family, *, reference: bool) -> Recipe:
    """How an expert, and a single network on all data, is trained."""
    return {
        "epochs": 250,
        "batch_size": family.batch_size,
        "optimizer": "sgd",
        "lr": 0.1,
        "weight_decay": family.weight_decay,
        "warmup_epochs": 0 if reference else 5,
        "clip_norm": 1.0,
        "label_smoothing": 0.1,
        "cutmix": 1.0,
        "mix_share": 1.0 if reference else 0.5,
        "augment_options": family.augment,
    }


@dataclass(frozen=True)
class _Rates:
    """Of experts, and of fusion and head, before the adaptation to their feature dimension."""

    experts: float
    fusion: float
    weight_decay: float


_CAREFUL = _Rates(1e-4, 5e-4, 1e-4)
_USUAL = _Rates(1e-4, 1e-3, 1e-4)
_RATES = {
    "multiplicative": _CAREFUL,
    "multiplicativeShifted": _CAREFUL,
    "TransformerBase": _Rates(5e-5, 2e-4, 5e-4),
}
_ABLATION = _Rates(1e-5, 1e-3, 1e-4)


@dataclass(frozen=True)
class _Changes:
    """How the training images of a fusion are changed and mixed."""

    augment: Recipe
    mixup: float
    label_smoothing: float


_PLAIN = _Changes(JITTER, 0.2, 0.1)
_STRONG = _Changes(_randaugment(3, 14, 0.3), 0.3, 0.08)
_CHANGES = {
    "multiplicativeAddition": _STRONG,
    "concatenation": _STRONG,
    "TransformerBase": _Changes(TRIVIAL, 0.2, 0.05),
}


def fusion_recipe(
    fusion_type: str, *, recipe: str, same_augment: bool, experts_lr_scale: float
) -> Recipe:
    """How a fusion, its head and its experts are trained together.

    Args:
        fusion_type: canonical name.
        recipe: default, reference, or reference-ablation.
        same_augment: every type gets the changes of the plain product, so that fusion and
            augmentation are not confounded.
    """
    ablation, reference = recipe == "reference-ablation", recipe != "default"
    rates = _ABLATION if ablation else _RATES.get(fusion_type, _USUAL)
    changes = _PLAIN if same_augment else _CHANGES.get(fusion_type, _PLAIN)
    return {
        "epochs": 100,
        "batch_size": 128,
        "optimizer": "adamw",
        "lr": rates.fusion,
        "lr_factors": {"experts.": rates.experts * experts_lr_scale / rates.fusion},
        "weight_decay": rates.weight_decay,
        "schedule": "constant" if ablation else "cosine",
        "warmup_epochs": 0 if ablation else 1,
        "min_lr_fraction": 0.1,
        "clip_norm": 1.0,
        "clip_norms": {} if reference else {"experts.": 5.0},
        "early_stopping_patience": 15,
        "label_smoothing": changes.label_smoothing,
        "mixup": 0.0 if reference else changes.mixup,
        "cutmix": 1.0,
        "mix_share": 1.0 if reference else 2 / 3,
        "augment_options": changes.augment,
    }


def lr_adaptation(fusion_type: str, feature_dim: int) -> tuple[float, float]:
    """What the rates of experts, and of fusion and head, are multiplied by for this dimension.

    Source: the reference study's rules for wide and narrow features.
    """
    experts, fusion = 1.0, 1.0
    if feature_dim > 1000:
        experts, fusion = 0.7, 0.8
    elif feature_dim < 100:
        experts, fusion = 1.3, 1.2
    if fusion_type == "TransformerBase" and feature_dim > 500:
        experts *= 0.8
    if fusion_type == "multiplicative" and feature_dim < 500:
        experts *= 1.1
    return experts, fusion
