"""Which parameters of a model are trained, at which rate, and which parts stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from torch import nn

from regatta.core.errors import ConfigError
from regatta.core.registry import nearest
from regatta.models.spec import ModelSpec, clean_key

POSITION_NAMES = ("position_embeddings", "time_embeddings", "cls_token")


def parameter_groups(
    module: nn.Module,
    spec: ModelSpec,
    *,
    lr: float,
    head_lr_factor: float,
    weight_decay: float,
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters as optimizer groups: each exactly once, empty groups left out.

    Biases, norms and position embeddings (one axis, or named so) are not decayed. The head learns
    at lr * head_lr_factor only when the backbone is pretrained; otherwise all parts are as new.
    Each group has `name`, `params`, `lr` and `weight_decay`.

    Args:
        lr_factors: component -> factor on lr, in place of the head's; the longest component that
            holds a parameter counts. A component is a dotted part of parameter names: `layers.1`
            holds `layers.1.weight` and not `layers.11.weight`.
    Raises:
        ConfigError: a component holds no trained parameter; names the nearest that does.
    """
    trained = {
        clean_key(key): parameter
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    factors = dict(lr_factors or {})
    _refuse_unknown(factors, trained)
    own = {"head": head_lr_factor if spec.pretrained else 1.0, "backbone": 1.0}
    groups: dict[str, dict[str, Any]] = {}
    for key, parameter in trained.items():
        holders = [component for component in factors if _holds(component, key)]
        part = "head" if key.startswith(spec.head_prefixes) else "backbone"
        place = max(holders, key=len) if holders else part
        decays = parameter.ndim > 1 and key.rsplit(".", 1)[-1] not in POSITION_NAMES
        # The slash keeps a component that is called `head` apart from the head's own group.
        name = (f"{place}/" if holders else part) + ("" if decays else "_no_decay")
        group = groups.setdefault(
            name,
            {
                "name": name,
                "params": [],
                "lr": lr * (factors[place] if holders else own[part]),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[name] for name in sorted(groups)]


def freeze_encoder(module: nn.Module, spec: ModelSpec) -> None:
    """Let only the head (`spec.head_prefixes`) be trained.

    Raises:
        ConfigError: the model has no head, so that nothing would be trained.
    """
    for key, parameter in module.named_parameters():
        parameter.requires_grad_(clean_key(key).startswith(spec.head_prefixes))
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError(
            f"nothing is left to train: {spec.name} has no parameter under "
            f"{', '.join(spec.head_prefixes) or 'a head'}",
            where="train.freeze_encoder",
            hint="set train.freeze_encoder: false for this entry",
        )


def train_only(part: nn.Module, *, of: nn.Module) -> None:
    """Freeze the parameters of `of` that `part` does not hold."""
    held = {id(parameter) for parameter in part.parameters()}
    for parameter in of.parameters():
        if id(parameter) not in held:
            parameter.requires_grad_(False)


def set_training_mode(module: nn.Module, spec: ModelSpec, *, frozen: bool) -> None:
    """Training mode; of a frozen encoder for the head alone.

    Dropout or batch statistics in a frozen encoder would change its features from step to step.
    """
    module.train()
    if frozen:
        for name, part in module.named_modules():
            part.training = f"{clean_key(name)}.".startswith(spec.head_prefixes)


def _holds(component: str, key: str) -> bool:
    return f"{key}.".startswith(f"{component.rstrip('.')}.")


def _refuse_unknown(components: Iterable[str], keys: Iterable[str]) -> None:
    known = dict.fromkeys(
        component
        for key in keys
        for component in accumulate(key.split("."), lambda whole, part: f"{whole}.{part}")
    )
    for component in components:
        if component.rstrip(".") not in known:
            close = nearest(component.rstrip("."), known)
            outermost = dict.fromkeys(name.partition(".")[0] for name in known)
            raise ConfigError(
                f"no trained parameter lies in '{component}'",
                where=f"train.lr_factors.{component}",
                hint=(f"did you mean '{close}'? " if close else "")
                + f"this model's components: {', '.join(outermost)}",
            )
