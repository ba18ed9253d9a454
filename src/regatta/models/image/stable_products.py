"""Products of experts' features whose size stays that of one factor.

Shapes: B samples, E experts, d features. For four independent unit normals a plain product has
kurtosis 81 against 3, and values near 70 in a million draws; these two do not.
All is computed in float32 at least, under autocast too.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import nn

SOFTENING = 0.1
"""Added to x^2 before its root, so that the slope at 0 is bounded."""
FIRST_GATE = 0.5
LARGEST_TANH = 1.0 - 1e-4
"""Keeps log1p away from -inf."""


def in_float32(values: torch.Tensor) -> torch.Tensor:
    """Half precision as float32; wider types as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class ProductRecord(nn.Module):
    """The largest absolute value of the last product, for messages on losses that are not
    finite; a tensor on the device, so that nothing waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.value: torch.Tensor | None = None

    def forward(self, product: torch.Tensor) -> torch.Tensor:
        if not product.is_meta:
            self.value = product.detach().abs().amax()
        return product


class GeometricProduct(nn.Module):
    """prod_k x_k / (x_k^2 + 0.1)^((E - 1) / (2 E)): for large values the signed geometric mean."""

    def __init__(self) -> None:
        super().__init__()
        self.record = ProductRecord()

    def forward(self, features_BEd: torch.Tensor) -> torch.Tensor:
        x_BEd = in_float32(features_BEd)
        experts = x_BEd.shape[1]
        roots_BEd = x_BEd / (x_BEd.square() + SOFTENING) ** ((experts - 1) / (2 * experts))
        return self.record(reduce(torch.mul, roots_BEd.unbind(dim=1)))


class GatedProduct(nn.Module):
    """exp(sum_k log1p(tanh(a_k x_k))) - 1 + mean_k x_k: gates in (0, 2), multiplied as logarithms.

    a_k is learned per feature and starts at 0.5.
    """

    def __init__(self, experts: int, dim: int) -> None:
        super().__init__()
        # One vector per expert: a matrix would be decayed towards closed gates.
        self.slopes = nn.ParameterList(torch.full((dim,), FIRST_GATE) for _ in range(experts))
        self.record = ProductRecord()

    def forward(self, features_BEd: torch.Tensor) -> torch.Tensor:
        x_BEd = in_float32(features_BEd)
        slopes_Ed = torch.stack(list(self.slopes))
        gates_BEd = torch.tanh(slopes_Ed * x_BEd).clamp(-LARGEST_TANH, LARGEST_TANH)
        product_Bd = self.record(torch.expm1(torch.log1p(gates_BEd).sum(dim=1)))
        return product_Bd + x_BEd.mean(dim=1)
