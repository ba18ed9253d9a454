"""TimeSformer: divided space-time attention (Bertasius et al. 2021, arXiv:2102.05095)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.attention import SdpaSelfAttention
from regatta.models.hf_video import PREFIX, choose_size, library_spec, transformer_arguments
from regatta.models.positions import describe_change, resize_space, resize_time
from regatta.models.spec import (
    CheckpointLayout,
    ModelSpec,
    Size,
    State,
    check_divides,
    describe_config,
)

SPACE_KEY = f"{PREFIX}timesformer.embeddings.position_embeddings"
TIME_KEY = f"{PREFIX}timesformer.embeddings.time_embeddings"
PUBLISHED = "facebook/timesformer-base-finetuned-k400@refs/pr/5"
"""The hub's own safetensors conversion; the main branch of that repository holds only a pickle."""


@MODELS.register("timesformer")
def timesformer(
    *,
    size: Size = "base",
    frames: int | None = None,
    image_size: int | None = None,
    dropout: float = 0.0,
) -> ModelSpec:
    """TimeSformer with space and time attention in turn, classified from its class token.

    Args:
        size: base = the published 12 layers of width 768; tiny trains on a CPU in seconds.
        frames: frames per clip, 8 by default.
        image_size: pixels per side, a multiple of the patch (16; tiny 8).
        dropout: share of activations dropped after every layer.
    """
    shape = choose_size(size)
    frames = 8 if frames is None else frames
    image_size = shape.image_size if image_size is None else image_size
    check_divides("one frame:", 1, "frames", frames)
    arguments = transformer_arguments(shape, image_size=image_size) | {
        "patch_size": shape.patch,
        "attention_type": "divided_space_time",
    }

    def fit_positions(state: State, _config: dict[str, Any]) -> dict[str, str]:
        return fit_timesformer_positions(state, frames=frames, grid=image_size // shape.patch)

    return library_spec(
        _build_library_model,
        config=describe_config(
            "timesformer", size, frames=frames, image_size=image_size, dropout=dropout
        ),
        arguments=arguments,
        normalisation=((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        published=PUBLISHED,
        layout=CheckpointLayout(
            fit_positions=fit_positions,
            processor={"image_processor_type": "VideoMAEImageProcessor"},
        ),
    )


def fit_timesformer_positions(state: State, *, frames: int, grid: int) -> dict[str, str]:
    """Resize the space [1, 1 + G * G, C] and time [1, T, C] embeddings in place; what was done."""
    done = {}
    space = state.get(SPACE_KEY)
    if space is not None and space.dim() == 3:
        side = math.isqrt(max(0, space.shape[1] - 1))
        if side and side * side == space.shape[1] - 1 and side != grid:
            patches = resize_space(space[:, 1:], grid)
            state[SPACE_KEY] = torch.cat([space[:, :1], patches], dim=1)
            done[SPACE_KEY] = describe_change((1, side), (1, grid))
    time = state.get(TIME_KEY)
    if time is not None and time.dim() == 3 and time.shape[1] != frames:
        state[TIME_KEY] = resize_time(time, frames)
        done[TIME_KEY] = describe_change((time.shape[1], grid), (frames, grid))
    return done


def _build_library_model(arguments: dict[str, Any]) -> nn.Module:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    hf = TimesformerForVideoClassification(TimesformerConfig(**arguments))
    for attention in list(hf.modules()):
        written_out = getattr(attention, "attention", None)
        if isinstance(written_out, nn.Module) and hasattr(written_out, "qkv"):
            attention.attention = SdpaSelfAttention(written_out)
    return hf
