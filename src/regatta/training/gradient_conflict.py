"""Two losses on the same experts: gradients that oppose each other lose what they have in common.

Source: Yu et al. 2020, Gradient surgery for multi-task learning, algorithm 1, for two tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.training.components import EXPERTS, holds
from regatta.training.loss import BatchLoss

Scope = Literal["vector", "tensor"]


def combine_gradients(
    first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], *, per: Scope
) -> list[torch.Tensor]:
    """The sum of two tasks' gradients after each gave up its part against the other.

    Where g1.g2 < 0: g1 - (g1.g2 / |g2|^2) g2 and g2 - (g1.g2 / |g1|^2) g1, both of the original
    gradients; else the plain sum. Products are summed in float64 and nothing waits for the device.

    Args:
        first, second: the same shapes in the same order.
        per: `vector` takes all tensors together as one gradient, `tensor` each alone.
    """
    pairs = list(zip(first, second, strict=True))
    if not pairs:
        return []
    products = torch.stack([_products(one, other) for one, other in pairs])
    if per == "vector":
        products = products.sum(dim=0, keepdim=True).expand(len(pairs), 3)
    weights = (1.0 - _opposition(products)).unbind()
    return [
        one * weight[0].to(one.dtype) + other * weight[1].to(other.dtype)
        for (one, other), weight in zip(pairs, weights, strict=True)
    ]


def _products(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """g1.g2, |g1|^2 and |g2|^2, float64 [3]."""
    a, b = one.detach().double().flatten(), other.detach().double().flatten()
    return torch.stack([a @ b, a @ a, b @ b])


def _opposition(products_N3: torch.Tensor) -> torch.Tensor:
    """g1.g2 over the squared norms of g1 and g2, [N, 2]; 0 where they do not oppose each other.

    What g2 gives up is a multiple of g1, so that all of g1 in the sum is (1 - this) g1.
    """
    dot_N1, norms_N2 = products_N3[:, :1], products_N3[:, 1:]
    # Opposed gradients are not zero, so the floor never counts where the quotient does.
    quotient = dot_N1 / norms_N2.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(dot_N1 < 0, quotient, torch.zeros_like(quotient))


@dataclass(frozen=True)
class ConflictRule:
    """Whose gradients of the two losses are told apart, and how they are joined."""

    experts: tuple[nn.Parameter, ...]
    others: tuple[nn.Parameter, ...]
    alpha: float
    """Weight of the experts' own losses."""
    per: Scope

    def begin_step(self) -> TaskGradients:
        return TaskGradients(self)


@dataclass
class TaskGradients:
    """The experts' own losses of one optimizer step, apart from the global one in `.grad`."""

    rule: ConflictRule
    own: dict[int, torch.Tensor] = field(default_factory=dict)
    """Parameter's id -> sum of the gradients of alpha x the experts' own losses."""

    def backward(self, result: BatchLoss, scaler: torch.amp.GradScaler, *, samples: int) -> None:
        """Add the gradients of one micro-batch: two backward passes through one graph."""
        individual = result.second_loss
        assert result.first_loss is not None
        assert individual is not None
        scaler.scale(result.first_loss / samples).backward(retain_graph=individual.requires_grad)
        if not individual.requires_grad:
            return
        parameters = (*self.rule.experts, *self.rule.others)
        scaled = scaler.scale(self.rule.alpha * individual / samples)
        found = torch.autograd.grad(scaled, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                before = self.own.get(id(parameter))
                self.own[id(parameter)] = gradient if before is None else before + gradient

    @torch.no_grad()
    def join(self) -> None:
        """Leave in `.grad` what the optimizer step takes: resolved for experts, summed for all."""
        experts = [p for p in self.rule.experts if p.grad is not None or id(p) in self.own]
        first = [torch.zeros_like(p) if p.grad is None else p.grad for p in experts]
        second = [self._own(p) for p in experts]
        joined = combine_gradients(first, second, per=self.rule.per)
        for parameter, gradient in zip(experts, joined, strict=True):
            parameter.grad = gradient
        for parameter in self.rule.others:
            if id(parameter) in self.own:
                own = self.own[id(parameter)]
                parameter.grad = own if parameter.grad is None else parameter.grad + own

    def _own(self, parameter: nn.Parameter) -> torch.Tensor:
        found = self.own.get(id(parameter))
        return torch.zeros_like(parameter) if found is None else found


def conflict_rule(train: TrainSection, trained: Mapping[str, nn.Parameter]) -> ConflictRule | None:
    """What the recipe asks for; None = one loss, one backward pass."""
    if train.gradient_conflict == "none":
        return None
    is_expert = {key: holds(EXPERTS, key) for key in trained}
    return ConflictRule(
        experts=tuple(parameter for key, parameter in trained.items() if is_expert[key]),
        others=tuple(parameter for key, parameter in trained.items() if not is_expert[key]),
        alpha=train.loss.alpha,
        per=train.gradient_conflict_per,
    )
