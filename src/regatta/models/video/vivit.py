"""ViViT model 1: joint space-time attention over tubelets (Arnab et al. 2021, arXiv:2103.15691)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.hf_video import PREFIX, choose_size, library_spec, transformer_arguments
from regatta.models.positions import describe_change, resize_space_time
from regatta.models.spec import (
    CheckpointLayout,
    ModelSpec,
    Size,
    State,
    check_divides,
    describe_config,
)

PUBLISHED = "google/vivit-b-16x2-kinetics400@refs/pr/3"
"""The hub's own safetensors conversion; the main branch of that repository holds only a pickle."""
POSITION_KEY = f"{PREFIX}vivit.embeddings.position_embeddings"
PUBLISHED_NAMES = (
    ("encoder.layer.", "layers."),
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)
"""(part of a published key, the library's own); files are written the published way."""


@MODELS.register("vivit")
def vivit(
    *,
    size: Size = "base",
    frames: int | None = None,
    image_size: int | None = None,
    tubelet: int | None = None,
    dropout: float = 0.0,
) -> ModelSpec:
    """ViViT with joint attention over all tubelets, classified from its class token.

    Args:
        size: base = the published ViViT-B/16x2; tiny trains on a CPU in seconds.
        frames: frames per clip, 32 by default, a multiple of `tubelet`.
        image_size: pixels per side, a multiple of the patch (16; tiny 8).
        tubelet: frames that one token spans: 2, and 4 for tiny (128 tokens instead of 256).
        dropout: share of activations dropped after every layer.
    """
    shape = choose_size(size)
    frames = 32 if frames is None else frames
    image_size = shape.image_size if image_size is None else image_size
    tubelet = (4 if size == "tiny" else 2) if tubelet is None else tubelet
    check_divides("the tubelet", tubelet, "frames", frames)
    arguments = transformer_arguments(shape, image_size=image_size) | {
        "tubelet_size": [tubelet, shape.patch, shape.patch],
        # The published `gelu_fast` is this function, written out in five passes over memory.
        "hidden_act": "gelu_pytorch_tanh",
    }
    target = (frames // tubelet, image_size // shape.patch)

    def fit_positions(state: State, config: dict[str, Any]) -> dict[str, str]:
        return fit_vivit_positions(state, config, target=target)

    options = {"frames": frames, "image_size": image_size, "tubelet": tubelet, "dropout": dropout}
    return library_spec(
        _build_library_model,
        config=describe_config("vivit", size, **options),
        arguments=arguments,
        normalisation=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        published=PUBLISHED,
        layout=CheckpointLayout(
            load_names=PUBLISHED_NAMES,
            save_names=tuple((ours, published) for published, ours in PUBLISHED_NAMES),
            fit_positions=fit_positions,
            # Without `offset: false` the library's processor shifts by -1 before mean and std.
            processor={"image_processor_type": "VivitImageProcessor", "offset": False},
        ),
    )


def fit_vivit_positions(
    state: State, config: dict[str, Any], *, target: tuple[int, int]
) -> dict[str, str]:
    """Resize the embeddings [1, 1 + T * G * G, C] in place; what was done.

    The checkpoint's own T and G stand in its `config`: N tokens alone do not tell them apart.
    """
    table = state.get(POSITION_KEY)
    source = _grid(config)
    if table is None or source is None or table.dim() != 3:
        return {}
    steps, grid = source
    if source == target or table.shape[1] != 1 + steps * grid * grid:
        return {}
    patches = resize_space_time(table[:, 1:], source=source, target=target)
    state[POSITION_KEY] = torch.cat([table[:, :1], patches], dim=1)
    return {POSITION_KEY: describe_change(source, target)}


def _grid(config: dict[str, Any]) -> tuple[int, int] | None:
    try:
        tubelet, patch, _ = config["tubelet_size"]
        return int(config["num_frames"]) // int(tubelet), int(config["image_size"]) // int(patch)
    except (KeyError, TypeError, ValueError):
        return None


def _build_library_model(arguments: dict[str, Any]) -> nn.Module:
    from transformers import VivitConfig, VivitForVideoClassification

    return VivitForVideoClassification(VivitConfig(**arguments))
