"""Files of picture encoders: the published ViT layout, and our own.

Shapes: G patches per picture side, T = G x G patches, d width.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from regatta.models.encoder_files import EncoderFiles
from regatta.models.positions import resize_space
from regatta.models.sensor.encoders import EncoderShape
from regatta.models.spec import CheckpointLayout, State

POSITION_KEY = "encoder.position_embeddings"
PUBLISHED_NAMES = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "position_embeddings"),
    ("embeddings.patch_embeddings.projection.", "stem."),
    ("encoder.layer.", "blocks."),
    (".attention.attention.", ".attention."),
    (".attention.output.dense.", ".attention.output."),
    (".intermediate.dense.", ".mlp_in."),
    (".output.dense.", ".mlp_out."),
    (".layernorm_before.", ".norm_attention."),
    (".layernorm_after.", ".norm_mlp."),
    ("layernorm.", "norm."),
)
"""Keys of the library's ViT, as published, and ours; replaced in this order."""


def encoder_layout(
    name: str, shape: EncoderShape, *, side: int, allow_keys: tuple[str, ...]
) -> CheckpointLayout:
    """How checkpoints of an encoder are read for pictures of `side` pixels."""
    is_vit = shape.mlp_norm == "pre" and not shape.stem_norm

    def fit_positions(state: State, _config: dict[str, Any]) -> dict[str, str]:
        return _fit_positions(state, grid=side // shape.patch, extra=int(shape.class_token))

    return CheckpointLayout(
        encoder=EncoderFiles(
            name=name,
            names=PUBLISHED_NAMES if is_vit else (),
            prefix_in_file="vit." if is_vit else "",
            unused=("classifier.", "pooler.") if is_vit else (),
        ),
        allow_keys=allow_keys,
        architecture=_published_settings(shape) if is_vit else {},
        fit_positions=fit_positions,
        # No library publishes the other layout, so there is nothing that its config could say.
        config_optional=not is_vit,
    )


def _published_settings(shape: EncoderShape) -> dict[str, Any]:
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.mlp,
        "patch_size": shape.patch,
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": shape.epsilon,
        "qkv_bias": True,
    }


def _fit_positions(state: State, *, grid: int, extra: int) -> dict[str, str]:
    """Resize the table of a checkpoint [1, extra + T, d] to `grid` patches per side, bicubic."""
    table = state.get(POSITION_KEY)
    if table is None or table.dim() != 3:
        return {}
    tokens = table.shape[1] - extra
    side = math.isqrt(max(0, tokens))
    if side == grid or side < 1 or side * side != tokens:
        return {}
    patches = resize_space(table[:, extra:], grid)
    state[POSITION_KEY] = torch.cat([table[:, :extra], patches], dim=1)
    return {POSITION_KEY: f"{side}x{side} -> {grid}x{grid} patches"}
