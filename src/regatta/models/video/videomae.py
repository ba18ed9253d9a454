"""VideoMAE's encoder, joint space-time attention (Tong et al. 2022, arXiv:2203.12602)."""

from __future__ import annotations

from typing import Any

from torch import nn

from regatta.core.registry import MODELS
from regatta.models.hf_video import PREFIX, choose_size, library_spec, transformer_arguments
from regatta.models.positions import describe_change
from regatta.models.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CheckpointLayout,
    ModelSpec,
    Size,
    State,
    check_divides,
    describe_config,
)

PUBLISHED = "MCG-NJU/videomae-base-finetuned-kinetics@488eb9a0565f257b32866000305c8178965eb9f6"
TABLE_KEY = f"{PREFIX}videomae.embeddings.position_embeddings"


@MODELS.register("videomae")
def videomae(
    *,
    size: Size = "base",
    frames: int | None = None,
    image_size: int | None = None,
    tubelet: int = 2,
    dropout: float = 0.0,
) -> ModelSpec:
    """VideoMAE's encoder, classified from the mean of its tokens after a norm (`fc_norm`).

    Args:
        size: base = the published 12 layers of width 768; tiny trains on a CPU in seconds.
        frames: frames per clip, 16 by default, a multiple of `tubelet`.
        image_size: pixels per side, a multiple of the patch (16; tiny 8).
        tubelet: frames that one token spans.
        dropout: share of activations dropped after every layer.
    """
    shape = choose_size(size)
    frames = 16 if frames is None else frames
    image_size = shape.image_size if image_size is None else image_size
    check_divides("the tubelet", tubelet, "frames", frames)
    arguments = transformer_arguments(shape, image_size=image_size) | {
        "patch_size": shape.patch,
        "tubelet_size": tubelet,
        "use_mean_pooling": True,
    }

    def fit_positions(_state: State, config: dict[str, Any]) -> dict[str, str]:
        source = _grid(config, shape.patch, tubelet)
        target = (frames // tubelet, image_size // shape.patch)
        if source is None or source == target:
            return {}
        # The hub layout has no place for this table: the library always computes it from the
        # configuration, so any other table would be lost when the fine-tuned model is shared.
        return {TABLE_KEY: f"sin-cos table computed anew: {describe_change(source, target)}"}

    options = {"frames": frames, "image_size": image_size, "tubelet": tubelet, "dropout": dropout}
    return library_spec(
        _build_library_model,
        config=describe_config("videomae", size, **options),
        arguments=arguments,
        normalisation=(IMAGENET_MEAN, IMAGENET_STD),
        published=PUBLISHED,
        layout=CheckpointLayout(
            # Published files keep the biases beside the projections; unmapped, they load as zeros.
            load_names=(
                ("attention.attention.q_bias", "attention.attention.query.bias"),
                ("attention.attention.v_bias", "attention.attention.value.bias"),
            ),
            # A key bias adds one number to all scores of a query, and softmax removes it again.
            without_effect=("attention.attention.key.bias",),
            fit_positions=fit_positions,
            processor={"image_processor_type": "VideoMAEImageProcessor"},
        ),
    )


def _grid(config: dict[str, Any], patch: int, tubelet: int) -> tuple[int, int] | None:
    try:
        return int(config["num_frames"]) // tubelet, int(config["image_size"]) // patch
    except (KeyError, TypeError, ValueError):
        return None


def _build_library_model(arguments: dict[str, Any]) -> nn.Module:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    hf = VideoMAEForVideoClassification(VideoMAEConfig(**arguments))
    for attention in hf.modules():
        if isinstance(key := getattr(attention, "key", None), nn.Linear):
            # Older releases of the library give the keys a bias, which no published file has.
            key.register_parameter("bias", None)
    embeddings = hf.videomae.embeddings
    table = embeddings.position_embeddings
    # A plain attribute stays on the CPU and is copied to the device in every forward pass.
    del embeddings.position_embeddings
    embeddings.register_buffer("position_embeddings", table, persistent=False)
    return hf
