"""Parts of a model that are clipped, watched or scheduled apart from the rest.

A component is a dotted part of parameter names: `experts.0` holds `experts.0.stem.weight` and not
`experts.01.weight`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import nn

from regatta.core.errors import ConfigError
from regatta.core.registry import nearest
from regatta.models.contracts import HasHeads
from regatta.models.spec import clean_key

EXPERTS = "experts"
RATE_COLUMNS = {
    "experts_lr": (EXPERTS,),
    "fusion_lr": ("head.fusion", "head"),
    "global_head_lr": ("head.classifier", "head"),
}
"""Column of metrics.jsonl -> the component whose rate it shows, or the next one if that is absent.
"""
NORM_COLUMNS = {"grad_norm_experts": EXPERTS, "grad_norm_fusion": "head"}


@dataclass(frozen=True)
class Component:
    """Parameters whose gradients have a norm of their own."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    limit: float | None = None
    """What the norm is clipped to; None = not clipped."""


@dataclass(frozen=True)
class SystemParts:
    """What is told apart in a model with several heads."""

    experts: tuple[nn.Parameter, ...]
    """Those that are trained."""
    watched: tuple[Component, ...]
    """Whose gradient norms are recorded, each under the name of its column."""
    rate_groups: dict[str, int | None]
    """Column -> number of the optimizer group that it shows; None = it is not trained."""


def holds(component: str, key: str) -> bool:
    """Whether the parameter `key` lies in `component`."""
    return f"{key}.".startswith(f"{component.rstrip('.')}.")


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name, without the prefixes of wrappers, -> parameter that is trained."""
    named = module.named_parameters()
    return {clean_key(key): parameter for key, parameter in named if parameter.requires_grad}


def clip_components(
    trained: Mapping[str, nn.Parameter],
    *,
    clip_norm: float | None,
    clip_norms: Mapping[str, float],
) -> tuple[Component, ...]:
    """The components that are clipped each alone, and the rest; none where all is clipped as one.

    The longest component that holds a parameter counts, as for rates.

    Raises:
        ConfigError: a component holds no trained parameter; names the nearest that does.
    """
    if not clip_norms:
        return ()
    _refuse_unknown(clip_norms, trained)
    members: dict[str, list[nn.Parameter]] = {}
    for key, parameter in trained.items():
        holders = [component for component in clip_norms if holds(component, key)]
        members.setdefault(max(holders, key=len, default=""), []).append(parameter)
    return tuple(
        Component(name, tuple(parameters), clip_norms.get(name, clip_norm))
        for name, parameters in members.items()
    )


def system_parts(
    module: nn.Module, trained: Mapping[str, nn.Parameter], groups: Sequence[dict[str, Any]]
) -> SystemParts | None:
    """What is told apart in `module`, or None when it has one head.

    Args:
        module: the whole model, also where its head alone is trained.
        groups: of the optimizer.
    """
    if not isinstance(module, HasHeads):
        return None
    group_of = {
        id(parameter): number
        for number, group in enumerate(groups)
        for parameter in group["params"]
    }
    watched = [
        Component(column, tuple(held))
        for column, component in NORM_COLUMNS.items()
        if (held := _held_by(component, trained))
    ]
    rate_groups: dict[str, int | None] = {}
    for column, components in RATE_COLUMNS.items():
        found = [held[0] for component in components if (held := _held_by(component, trained))]
        rate_groups[column] = group_of[id(found[0])] if found else None
    return SystemParts(tuple(_held_by(EXPERTS, trained)), tuple(watched), rate_groups)


def split_experts(
    groups: Sequence[dict[str, Any]], trained: Mapping[str, nn.Parameter]
) -> tuple[list[dict[str, Any]], tuple[bool, ...]]:
    """Optimizer groups that hold parameters of experts or others, never both; which are experts'.

    A group that holds one kind alone stays as it is.
    """
    experts = {id(parameter) for parameter in _held_by(EXPERTS, trained)}
    split = [
        ({**group, "params": members}, is_experts)
        for group in groups
        for is_experts in (True, False)
        if (members := [p for p in group["params"] if (id(p) in experts) is is_experts])
    ]
    return [group for group, _ in split], tuple(is_experts for _, is_experts in split)


def rest_experts(module: nn.Module) -> None:
    """Put the experts of `module` in evaluation mode: statistics stay, dropout is off."""
    for name, part in module.named_modules():
        if holds(EXPERTS, clean_key(name)):
            part.training = False


def _held_by(component: str, trained: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for key, parameter in trained.items() if holds(component, key)]


def _refuse_unknown(components: Iterable[str], keys: Iterable[str]) -> None:
    known = dict.fromkeys(
        component
        for key in keys
        for component in accumulate(key.split("."), lambda whole, part: f"{whole}.{part}")
    )
    for component in components:
        name = component.rstrip(".")
        if name not in known:
            close = nearest(name, known)
            outermost = dict.fromkeys(key.partition(".")[0] for key in known)
            raise ConfigError(
                f"no trained parameter lies in '{component}'",
                where=f"train.clip_norms.{component}",
                hint=(f"did you mean '{close}'? " if close else "")
                + f"this model's components: {', '.join(outermost)}",
            )
