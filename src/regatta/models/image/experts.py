"""Trained classifiers of images as parts of another model: what they are, and their weights.

Shapes: d_k features of expert k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from regatta.config.options import typed_options
from regatta.core.errors import ConfigError, WeightsError
from regatta.core.registry import MODELS
from regatta.models.contracts import Backbone
from regatta.models.key_report import list_keys
from regatta.models.spec import ModelSpec, Size, State, make_spec


def as_backbone(module: nn.Module) -> Backbone:
    """`module` as the contract says; ConfigError for a model that does not show its features."""
    if not isinstance(module, Backbone):
        raise ConfigError(f"{type(module).__name__} cannot be an expert: it shows no features")
    return module


def families_of(family: str | None, families: list[str] | None, experts: int) -> list[str]:
    """The model of each expert."""
    if (family is None) == (families is None):
        raise ConfigError(
            "a fusion needs `family` (one model for all experts) or `families` (one for each)",
            where="options.family",
        )
    if experts < 1:
        raise ConfigError(f"a fusion needs at least 1 expert, not {experts}")
    listed = families if families is not None else [str(family)] * experts
    if len(listed) != experts:
        raise ConfigError(
            f"families names {len(listed)} models for {experts} experts", where="options.families"
        )
    for name in listed:
        MODELS.check(name, where="options.family")
        known = MODELS.listed.get(name)
        if name == "fusion" or (known is not None and known.kind != "image"):
            raise ConfigError(
                f"{name} cannot be an expert: experts are single classifiers of images",
                where="options.family",
            )
    return listed


def expert_specs(
    size: Size, families: list[str], image_size: int, options: dict[str, Any]
) -> list[ModelSpec]:
    if "image_size" in options:
        raise ConfigError(
            "image_size is the fusion's own option", where="options.expert_options.image_size"
        )
    for name in families:
        typed_options(
            MODELS.get(name),
            options,
            where="options.expert_options",
            owner=f"model {name}",
            reserved=("size", "image_size"),
        )
    return [make_spec(name, size, {**options, "image_size": image_size}) for name in families]


def feature_dims_of(specs: Sequence[ModelSpec]) -> list[int]:
    """Of each expert, read from the model itself."""
    dims: dict[str, int] = {}
    with torch.device("meta"):
        for spec in specs:
            if spec.name not in dims:
                dims[spec.name] = as_backbone(spec.build(2)).feature_dim
    return [dims[spec.name] for spec in specs]


def put_weights(
    what: str, module: nn.Module, state: Mapping[str, torch.Tensor], source: object
) -> None:
    """Load a trained backbone's state into `module`.

    Args:
        what: the module in words, for messages.
        source: where the state comes from.
    Raises:
        WeightsError: other tensors or classes, or numbers that are not finite; nothing is changed.
    """
    target: State = module.state_dict()
    theirs, ours = state.get("head.weight"), target["head.weight"]
    absent, extra = sorted(set(target) - set(state)), sorted(set(state) - set(target))
    reshaped = [
        f"{key} ({list(state[key].shape)} in the weights, {list(target[key].shape)} in the fusion)"
        for key in target
        if key in state and state[key].shape != target[key].shape
    ]
    only_head = not absent and not extra and all(item.startswith("head.") for item in reshaped)
    if only_head and theirs is not None and theirs.shape[0] != ours.shape[0]:
        raise WeightsError(
            f"the weights for {what} answer {theirs.shape[0]} classes, its own head in the fusion "
            f"{ours.shape[0]}",
            where=source,
            hint="give expert_classes the class counts that the experts were trained for, and set "
            "own_heads: true where they are not all classes",
        )
    parts = {"missing": absent, "unexpected": extra, "of another shape": reshaped}
    told = "; ".join(f"{word}: {list_keys(keys)}" for word, keys in parts.items() if keys)
    if told:
        raise WeightsError(
            f"the weights do not fit {what}: {told}",
            where=source,
            hint="the expert's model, size and options must be those of the fusion's experts",
        )
    bad = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise WeightsError(f"NaN or infinite weights for {what}: {list_keys(bad)}", where=source)
    module.load_state_dict(dict(state))
