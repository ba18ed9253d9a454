"""AdamW, and its state as named tensors that need no pickle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from regatta.core.errors import RecordError


def build_adamw(
    groups: list[dict[str, Any]], *, betas: tuple[float, float], device: torch.device
) -> torch.optim.AdamW:
    """AdamW over parameter groups that each carry `params`, `lr` and `weight_decay`; fused on GPUs.

    Source: Loshchilov and Hutter 2019, Decoupled weight decay regularization, algorithm 2.
    """
    return torch.optim.AdamW(groups, betas=betas, fused=True if device.type == "cuda" else None)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, base_rates: Sequence[float], *, factor: float
) -> None:
    """Give every group its base rate times `factor`; called before each optimizer step."""
    for group, base in zip(optimizer.param_groups, base_rates, strict=True):
        group["lr"] = base * factor


def optimizer_record(
    optimizer: torch.optim.Optimizer, module: nn.Module
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimizer's state as tensors `<parameter name>/<key>` and JSON scalars of the same names.

    Group settings are left out: they follow from the recipe, and a saved `fused` flag of a GPU
    would break a resume elsewhere.
    """
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            target = tensors if isinstance(value, torch.Tensor) else scalars
            target[f"{name}/{key}"] = value
    return tensors, scalars


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    module: nn.Module,
    *,
    tensors: dict[str, torch.Tensor],
    scalars: dict[str, Any],
) -> None:
    """Put a record of `optimizer_record` back; devices and formats follow the optimizer's own.

    Raises:
        RecordError: the record names a parameter that the optimizer does not train.
    """
    by_name: dict[str, dict[str, Any]] = {}
    for full_name, value in {**tensors, **scalars}.items():
        name, _, key = full_name.rpartition("/")
        by_name.setdefault(name, {})[key] = value
    content = optimizer.state_dict()
    content["state"] = {}
    for name, index in _parameter_numbers(optimizer, module).items():
        if name in by_name:
            content["state"][index] = by_name.pop(name)
    if by_name:
        raise RecordError(
            f"the saved optimizer knows parameters that are not trained now: {sorted(by_name)[:5]}"
        )
    optimizer.load_state_dict(content)


def _parameter_numbers(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, int]:
    """Parameter name -> its number in the optimizer's state dict."""
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {id(parameter): number for number, parameter in enumerate(trained)}
    return {
        name: numbers[id(parameter)]
        for name, parameter in module.named_parameters()
        if id(parameter) in numbers
    }
