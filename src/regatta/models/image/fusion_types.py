"""How the features of several experts become one vector: the fusion types.

Shapes: B samples, E experts, d features of each, h hidden features. A fusion takes features
[B, E, d] and gives z [B, d]. Every type normalises the experts' features (or does not), combines
them into one vector, and puts that through Linear, ReLU, Dropout, Linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from regatta.config.fusion_names import FUSION_TYPES, canonical_fusion
from regatta.core.errors import ConfigError
from regatta.models.image.stable_products import (
    GatedProduct,
    GeometricProduct,
    ProductRecord,
    in_float32,
)

Addition = Literal["softmax", "plain"]
HEADS = 8
"""Of the attention over experts."""
DROPOUT = 0.2


@dataclass(frozen=True)
class FusionSetting:
    """What a fusion is built from."""

    experts: int
    dim: int
    hidden: int
    addition: Addition = "softmax"
    depth: int = 1


@dataclass(frozen=True)
class Combination:
    """How a type combines."""

    combine: nn.Module
    """[B, E, d] -> [B, inputs]."""
    inputs: int
    normalises: bool = True
    """Every expert's features pass through a LayerNorm of their own first."""


FUSIONS: dict[str, Callable[[FusionSetting], Combination]] = {}


def register_fusion(
    name: str,
) -> Callable[[Callable[[FusionSetting], Combination]], Callable[[FusionSetting], Combination]]:
    """Decorate the function that makes the combination of a type; its name must stand in
    `regatta.config.fusion_names`."""
    if name not in FUSION_TYPES:
        raise ConfigError(f"fusion type '{name}' is not listed in regatta.config.fusion_names")

    def remember(
        function: Callable[[FusionSetting], Combination],
    ) -> Callable[[FusionSetting], Combination]:
        FUSIONS[name] = function
        return function

    return remember


def make_fusion(
    name: str,
    *,
    experts: int,
    dim: int,
    hidden: int | None = None,
    addition: Addition = "softmax",
    depth: int = 1,
) -> Fusion:
    """A fusion of features [B, experts, dim] into [B, dim], with random weights.

    Args:
        name: one of `regatta.config.fusion_names.FUSION_TYPES`, in any spelling of it.
        hidden: h; None = dim.
        addition: how the types with a sum weigh it: learned softmax weights that start equal, or
            all 1.
        depth: of TransformerBase: 1 = one self-attention, 2 = an encoder of two layers.
    Raises:
        UnknownNameError: no such type.
        ConfigError: see `check_fusion`.
    """
    check_fusion(name, experts=experts, dim=dim, hidden=hidden, addition=addition, depth=depth)
    setting = FusionSetting(experts, dim, dim if hidden is None else hidden, addition, depth)
    return Fusion(FUSIONS[canonical_fusion(name)](setting), setting)


def check_fusion(
    name: str,
    *,
    experts: int,
    dim: int,
    hidden: int | None = None,
    addition: Addition = "softmax",
    depth: int = 1,
) -> None:
    """ConfigError for settings that no fusion can have, or that this type would not act on."""
    kind = canonical_fusion(name)
    if experts < 1:
        raise ConfigError(f"a fusion needs at least 1 expert, not {experts}")
    if hidden is not None and hidden < 1:
        raise ConfigError(f"hidden must be at least 1, not {hidden}")
    if depth not in (1, 2):
        raise ConfigError(f"depth must be 1 or 2, not {depth}")
    if depth == 2 and kind != "TransformerBase":
        raise ConfigError(f"depth: 2 is for TransformerBase alone, and the type is {kind}")
    if addition != "softmax" and kind not in ("multiplicativeAddition", "simpleAddition"):
        raise ConfigError(
            f"addition: {addition} is for multiplicativeAddition and simpleAddition, and the type "
            f"is {kind}"
        )
    if kind == "TransformerBase" and dim % HEADS:
        allowed = ", ".join(str(heads) for heads in range(1, HEADS) if dim % heads == 0)
        raise ConfigError(
            f"TransformerBase has {HEADS} heads, which do not divide the feature dimension {dim} "
            f"(divided by {allowed} heads)",
            hint=f"choose experts whose feature dimension is a multiple of {HEADS}, or another "
            "fusion type",
        )


class Fusion(nn.Module):
    """Normalise, combine, then Linear -> h, ReLU, Dropout 0.2, Linear -> d."""

    def __init__(self, combination: Combination, setting: FusionSetting) -> None:
        super().__init__()
        dim, hidden = setting.dim, setting.hidden
        self.norms = None
        if combination.normalises:
            self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(setting.experts))
        self.combine = combination.combine
        self.mlp = nn.Sequential(
            nn.Linear(combination.inputs, hidden),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden, dim),
        )

    def forward(self, features_BEd: torch.Tensor) -> torch.Tensor:
        if self.norms is not None:
            features_BEd = torch.stack(
                [
                    norm(in_float32(features_BEd[:, expert]))
                    for expert, norm in enumerate(self.norms)
                ],
                dim=1,
            )
        return self.mlp(self.combine(features_BEd))

    @property
    def largest_product(self) -> torch.Tensor | None:
        """Largest absolute value that the last forward's product had, a tensor on its device;
        None before it, and for types without a product."""
        record = getattr(self.combine, "record", None)
        return record.value if isinstance(record, ProductRecord) else None


class Product(nn.Module):
    """prod_k (x_k + shift), then + sum where one is given."""

    def __init__(self, *, shift: float = 0.0, added: WeightedSum | None = None) -> None:
        super().__init__()
        self.shift = shift
        self.added = added
        self.record = ProductRecord()

    def forward(self, features_BEd: torch.Tensor) -> torch.Tensor:
        factors = [x_Bd + self.shift for x_Bd in in_float32(features_BEd).unbind(dim=1)]
        # Not torch.prod: its gradient looks for zeros on the host, which waits for the device.
        product_Bd = self.record(reduce(torch.mul, factors))
        return product_Bd if self.added is None else product_Bd + self.added(features_BEd)


class WeightedSum(nn.Module):
    """sum_k softmax(w)_k x_k with w learned from zeros; plain: sum_k x_k."""

    def __init__(self, experts: int, *, addition: Addition) -> None:
        super().__init__()
        self.weights_E = nn.Parameter(torch.zeros(experts)) if addition == "softmax" else None

    def forward(self, features_BEd: torch.Tensor) -> torch.Tensor:
        if self.weights_E is None:
            return features_BEd.sum(dim=1)
        return (features_BEd * self.weights_E.softmax(dim=0)[:, None]).sum(dim=1)


class Attention(nn.Module):
    """Self-attention with 8 heads over the experts as tokens: [B, E, d] -> [B, E, d].

    No residual and no norm; dropout 0.2 on the attention weights (Vaswani et al. 2017).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.query_key_value.weight)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens_BEd: torch.Tensor) -> torch.Tensor:
        batch, experts, dim = tokens_BEd.shape
        projected = self.query_key_value(tokens_BEd).view(batch, experts, 3, HEADS, dim // HEADS)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(
            query, key, value, dropout_p=DROPOUT if self.training else 0.0
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, experts, dim))


class EncoderLayer(nn.Module):
    """One layer of a transformer's encoder, norms after the sums (Vaswani et al. 2017)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(hidden, dim)
        )
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens_BEd: torch.Tensor) -> torch.Tensor:
        attended = self.norm1(tokens_BEd + self.dropout(self.attention(tokens_BEd)))
        return self.norm2(attended + self.dropout(self.feed_forward(attended)))


class MeanOfTokens(nn.Module):
    """The mean over the experts of what `layers` make of them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, features_BEd: torch.Tensor) -> torch.Tensor:
        return self.layers(features_BEd).mean(dim=1)


@register_fusion("multiplicative")
def _multiplicative(setting: FusionSetting) -> Combination:
    return Combination(Product(), setting.dim)


@register_fusion("multiplicativeAddition")
def _multiplicative_addition(setting: FusionSetting) -> Combination:
    added = WeightedSum(setting.experts, addition=setting.addition)
    return Combination(Product(added=added), setting.dim)


@register_fusion("multiplicativeShifted")
def _multiplicative_shifted(setting: FusionSetting) -> Combination:
    return Combination(Product(shift=1.0), setting.dim)


@register_fusion("TransformerBase")
def _transformer(setting: FusionSetting) -> Combination:
    if setting.depth == 1:
        return Combination(MeanOfTokens(Attention(setting.dim)), setting.dim)
    layers = (EncoderLayer(setting.dim, setting.hidden) for _ in range(setting.depth))
    return Combination(MeanOfTokens(*layers), setting.dim)


@register_fusion("concatenation")
def _concatenation(setting: FusionSetting) -> Combination:
    return Combination(nn.Flatten(), setting.experts * setting.dim)


@register_fusion("simpleAddition")
def _simple_addition(setting: FusionSetting) -> Combination:
    added = WeightedSum(setting.experts, addition=setting.addition)
    return Combination(added, setting.dim, normalises=setting.addition == "plain")


@register_fusion("multiplicativeGeometric")
def _geometric(setting: FusionSetting) -> Combination:
    return Combination(GeometricProduct(), setting.dim)


@register_fusion("multiplicativeGated")
def _gated(setting: FusionSetting) -> Combination:
    return Combination(GatedProduct(setting.experts, setting.dim), setting.dim)
