"""Several experts and what fuses them: one module with a global and E individual answers.

Shapes: B images, E experts, d_k features of expert k, d the largest of them, K classes, K_k classes
of expert k's own head.

Names of parameters: `experts.<k>.*` whole backbones with their own heads, `head.adapters.<k>.*`
where the experts' dimensions differ, `head.fusion.*`, `head.own.<k>.*` new individual heads
(`own_heads` only), `head.classifier.*` the global head.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from regatta.config.fusion_names import canonical_fusion
from regatta.core.errors import ConfigError, WeightsError
from regatta.core.registry import MODELS
from regatta.models.image.experts import (
    as_backbone,
    expert_specs,
    families_of,
    feature_dims_of,
    put_weights,
)
from regatta.models.image.fusion_types import Addition, Fusion, check_fusion, make_fusion
from regatta.models.spec import ModelSpec, Size, describe_config, image_spec

Head = Literal["linear", "deep"]
DEEP_HEAD_DROPOUT = 0.5
DOCUMENTED_HIDDEN = 1.5
"""`hidden: doc`, in feature dimensions."""


@MODELS.register("fusion")
def fusion(
    *,
    size: Size = "base",
    family: str | None = None,
    families: list[str] | None = None,
    experts: int = 4,
    type: str = "multiplicative",
    hidden: int | Literal["doc"] | None = None,
    addition: Addition = "softmax",
    depth: int = 1,
    head: Head = "linear",
    own_heads: bool = False,
    expert_classes: list[int] | None = None,
    image_size: int = 32,
    expert_options: dict[str, Any] | None = None,
) -> ModelSpec:
    """Experts of one family or several, their features fused into one answer.

    Args:
        size: of every expert.
        family: model that all experts are.
        families: model of each expert, in place of `family`, where they differ.
        experts: how many.
        type: fusion type, `regatta.config.fusion_names.FUSION_TYPES`.
        hidden: h of the fusion; by default d, the features' dimension; doc = 1.5 d.
        addition: softmax = sums have learned weights; plain = they have none.
        depth: of TransformerBase: one self-attention, or an encoder of 2 layers.
        head: global head: linear, or deep = Linear, ReLU, Dropout 0.5, Linear.
        own_heads: every expert gets a new head for all classes; its own takes no part.
        expert_classes: classes of the experts' own heads as they were trained; by default all.
        image_size: pixels per side.
        expert_options: further options of the experts' models.
    Raises:
        UnknownNameError: unknown family, fusion type or option of an expert.
        ConfigError: numbers that contradict each other, or that the fusion type cannot have.
    """
    specs = expert_specs(
        size, families_of(family, families, experts), image_size, expert_options or {}
    )
    kind = canonical_fusion(type, where="options.type")
    dims = feature_dims_of(specs)
    width = round(DOCUMENTED_HIDDEN * max(dims)) if hidden == "doc" else hidden
    settings = {"hidden": width, "addition": addition, "depth": depth}
    check_fusion(kind, experts=experts, dim=max(dims), **settings)
    _check_expert_classes(expert_classes, experts, own_heads=own_heads)

    def build(num_classes: int) -> nn.Module:
        own_classes = expert_classes or [num_classes] * experts
        _check_answers(own_classes, num_classes, own_heads=own_heads)
        return FusionModel(
            [spec.build(classes) for spec, classes in zip(specs, own_classes, strict=True)],
            num_classes,
            make_fusion(kind, experts=experts, dim=max(dims), **settings),
            deep_head=head == "deep",
            own_heads=own_heads,
            identity=[spec.config for spec in specs],
        )

    config = describe_config(
        "fusion",
        size,
        family=family,
        families=families,
        experts=experts,
        type=kind,
        hidden=hidden,
        addition=addition,
        depth=depth,
        head=head,
        own_heads=own_heads,
        expert_classes=expert_classes,
        image_size=image_size,
        expert_options=expert_options,
    )
    return image_spec("fusion", build, image_size=image_size, config=config)


class FusionModel(nn.Module):
    """Logits [B, 1 + E, K] of images [B, 3, H, W]: the global head's, then each expert's.

    Is `head(stack(encode_channel(x, k) for k in feature_channels))`, so that frozen experts run
    once per image (`contracts.EncodesOnce`). What is encoded of an expert are its features, zeros
    up to d, and the logits of its own head; with own heads of the fusion, features alone. So no
    parameter of an expert stands under `head` as well.
    """

    def __init__(
        self,
        experts: Sequence[nn.Module],
        num_classes: int,
        fusion_of_features: Fusion,
        *,
        deep_head: bool,
        own_heads: bool,
        identity: list[dict[str, Any]],
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.own_heads = own_heads
        self.head = FusionHead(
            fusion_of_features,
            [as_backbone(expert).feature_dim for expert in experts],
            num_classes,
            deep=deep_head,
            own_heads=own_heads,
        )
        self.head_names = ("global", *(f"expert-{k}" for k in range(len(experts))))
        self.feature_channels = tuple(range(len(experts)))
        self._identity = identity
        if own_heads:
            for expert in experts:
                # Parameters that never get a gradient would stop distributed training.
                as_backbone(expert).head.requires_grad_(False)

    @property
    def encoder(self) -> nn.ModuleList:
        """The experts."""
        return self.experts

    @property
    def largest_product(self) -> torch.Tensor | None:
        """Largest absolute value of the last forward's product, a tensor on its device."""
        return self.head.fusion.largest_product

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        encoded = [self.encode_channel(images_BCHW, k) for k in self.feature_channels]
        return self.head(torch.stack(encoded, dim=1))

    def encode_channel(self, images_BCHW: torch.Tensor, channel: int) -> torch.Tensor:
        """What the head needs of expert `channel`: [B, d + K], or [B, d] with own heads."""
        expert = as_backbone(self.experts[channel])
        missing = self.head.dim - expert.feature_dim
        if self.own_heads:
            return F.pad(expert.features(images_BCHW), (0, missing))
        features_Bd, logits_BK = expert.features_and_logits(images_BCHW)
        return torch.cat([F.pad(features_Bd, (0, missing)), logits_BK], dim=1)

    def encoding_identity(self) -> dict[str, Any]:
        """JSON of everything beside weights and buffers that `encode_channel` depends on."""
        return {"experts": self._identity, "own_heads": self.own_heads}

    def load_expert(
        self,
        expert: int,
        state: Mapping[str, torch.Tensor],
        *,
        family: str | None = None,
        source: object = None,
    ) -> None:
        """Put a trained backbone in the place of expert number `expert`, its head included.

        Args:
            state: its state dict, under the backbone's own keys.
            family: model that `state` is of, where the caller knows it.
            source: where it comes from, for messages.
        Raises:
            WeightsError: another family, other tensors or classes, or numbers that are not finite;
                nothing is changed then.
        """
        ours = self._identity[expert]["name"]
        if family is not None and family != ours:
            raise WeightsError(
                f"expert {expert} of the fusion is {ours}, the weights are of {family}",
                where=source,
                hint="name the expert's own model as the fusion's family",
            )
        put_weights(f"expert {expert} ({ours})", self.experts[expert], state, source)


class FusionHead(nn.Module):
    """What follows the experts: adapters, fusion, global head, and new individual heads.

    Args:
        feature_dims: d_k of each expert; where they differ, a linear adapter takes each to the
            largest.
        deep: the global head has a hidden layer, as wide as the features.
    """

    def __init__(
        self,
        fusion_of_features: Fusion,
        feature_dims: Sequence[int],
        num_classes: int,
        *,
        deep: bool,
        own_heads: bool,
    ) -> None:
        super().__init__()
        self.feature_dims = tuple(feature_dims)
        self.dim = max(feature_dims)
        self.num_classes = num_classes
        self.adapters = None
        if len(set(feature_dims)) > 1:
            self.adapters = nn.ModuleList(nn.Linear(dim, self.dim) for dim in feature_dims)
        self.fusion = fusion_of_features
        self.own = None
        if own_heads:
            self.own = nn.ModuleList(nn.Linear(dim, num_classes) for dim in feature_dims)
        # Last, as the outputs of a saved model are counted at the last tensor of its head.
        self.classifier = _global_head(self.dim, num_classes, deep=deep)

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """[B, E, d + K] (or [B, E, d]), see `FusionModel.encode_channel` -> [B, 1 + E, K]."""
        features = [encoded[:, k, :dim] for k, dim in enumerate(self.feature_dims)]
        if self.adapters is None:
            fused_Bd = self.fusion(encoded[..., : self.dim])
        else:
            adapted = [adapt(x_Bd) for adapt, x_Bd in zip(self.adapters, features, strict=True)]
            fused_Bd = self.fusion(torch.stack(adapted, dim=1))
        if self.own is None:
            individual_BEK = encoded[..., self.dim :]
        else:
            answers = [own(x_Bd) for own, x_Bd in zip(self.own, features, strict=True)]
            individual_BEK = torch.stack(answers, dim=1)
        global_BK = self.classifier(fused_Bd)
        return torch.cat([global_BK[:, None], individual_BEK.to(global_BK.dtype)], dim=1)


def _global_head(dim: int, num_classes: int, *, deep: bool) -> nn.Module:
    last = nn.Linear(dim, num_classes)
    if not deep:
        return last
    return nn.Sequential(
        OrderedDict(
            hidden=nn.Linear(dim, dim),
            relu=nn.ReLU(),
            dropout=nn.Dropout(DEEP_HEAD_DROPOUT),
            last=last,
        )
    )


def _check_expert_classes(classes: list[int] | None, experts: int, *, own_heads: bool) -> None:
    if classes is None:
        return
    if len(classes) != experts or min(classes) < 1:
        raise ConfigError(
            f"expert_classes must hold {experts} class counts, one per expert, not {classes}",
            where="options.expert_classes",
        )
    if not own_heads and len(set(classes)) > 1:
        _check_answers(classes, max(classes), own_heads=False)


def _check_answers(own_classes: Sequence[int], num_classes: int, *, own_heads: bool) -> None:
    """ConfigError when an expert's own head cannot be its individual answer."""
    other = next((count for count in own_classes if count != num_classes), None)
    if other is not None and not own_heads:
        raise ConfigError(
            f"an expert's own head has {other} classes, the fusion has {num_classes}",
            where="options.expert_classes",
            hint="set own_heads: true, which gives every expert a new head for all classes",
        )
