"""The library's video classifiers behind one thin module, and what their configurations share.

Shapes: B clips, T frames, 3 colours, H = W = image_size, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from regatta.core.errors import ConfigError
from regatta.models.spec import (
    CheckpointLayout,
    Colours,
    ModelSpec,
    Size,
    check_clip_shape,
    check_divides,
    check_dropout,
)

PREFIX = "hf."
"""The library's module is the attribute `hf`, so its keys are ours behind this prefix."""


@dataclass(frozen=True)
class TransformerSize:
    """One width and depth of the vision transformers; `base` is ViT-B as published."""

    width: int
    layers: int
    heads: int
    patch: int
    image_size: int


SIZES: dict[Size, TransformerSize] = {
    "tiny": TransformerSize(width=96, layers=4, heads=4, patch=8, image_size=32),
    "small": TransformerSize(width=384, layers=12, heads=6, patch=16, image_size=112),
    "base": TransformerSize(width=768, layers=12, heads=12, patch=16, image_size=224),
}


class HfVideoClassifier(nn.Module):
    """A library video classifier that takes exactly one clip shape and returns logits.

    Args:
        hf: `TimesformerForVideoClassification`, `VideoMAEForVideoClassification` or
            `VivitForVideoClassification`.
        frames: T of every clip.
        image_size: H and W of every clip.
    """

    def __init__(self, hf: nn.Module, *, frames: int, image_size: int) -> None:
        super().__init__()
        self.hf = hf
        self.frames = frames
        self.image_size = image_size

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] float -> logits [B, K]. Raises RunError for another T, H or W."""
        check_clip_shape(video_BTCHW, frames=self.frames, image_size=self.image_size)
        return self.hf(pixel_values=video_BTCHW).logits

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each transformer layer in the backward pass."""
        recompute_layers(self.hf)


def recompute_layers(library: Any) -> None:
    """Switch on the recomputation of layers in a library model."""
    # Reentrant checkpointing drops the gradients of a frozen input and clashes with DDP.
    options = {"use_reentrant": False}
    if hasattr(library, "activation_checkpointing_enable"):
        library.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:  # transformers before it renamed the method
        library.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def choose_size(size: str) -> TransformerSize:
    """The dimensions of a size name; ConfigError for another word."""
    if size not in SIZES:
        raise ConfigError(f"there is no size '{size}'", hint=f"known: {', '.join(SIZES)}")
    return SIZES[size]


def transformer_arguments(shape: TransformerSize, *, image_size: int) -> dict[str, Any]:
    """The arguments that all three library configurations name alike."""
    check_divides("the patch size", shape.patch, "image_size", image_size)
    return {
        "image_size": image_size,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.width,
        "initializer_range": initial_weight_std(shape.width),
    }


def initial_weight_std(width: int) -> float:
    """Standard deviation of random weights: 0.02 as published for width 768, else 1 / sqrt(width).

    A narrow network with the published 0.02 passes on almost nothing of its input: at width 96 the
    gradients of its attention vanish and it stays at chance.
    """
    return 0.02 if width >= 768 else width**-0.5


def library_spec(
    library_model: Callable[[dict[str, Any]], nn.Module],
    *,
    config: dict[str, Any],
    arguments: dict[str, Any],
    normalisation: tuple[Colours, Colours],
    published: str,
    layout: CheckpointLayout,
) -> ModelSpec:
    """The spec of a library model.

    Args:
        library_model: library configuration arguments -> module with random weights.
        config: name, size and options, among them `frames`, `image_size` and `dropout`.
        arguments: the library's architecture settings; a checkpoint must agree with all of them
            but the picture size, which positions are fitted to, and the first weights' spread.
        normalisation: mean and std on pixels in [0, 1].
        published: hub id of the checkpoint for size base.
        layout: names and positions in checkpoint files.
    """
    options = config["options"]
    frames, image_size, dropout = (options[key] for key in ("frames", "image_size", "dropout"))
    check_dropout(dropout)

    def build(num_classes: int) -> nn.Module:
        sizes = {"num_frames": frames, "num_labels": num_classes, "hidden_dropout_prob": dropout}
        hf = library_model(arguments | sizes)
        return HfVideoClassifier(hf, frames=frames, image_size=image_size)

    free = ("image_size", "initializer_range")
    fixed = {key: value for key, value in arguments.items() if key not in free}
    return ModelSpec(
        name=config["name"],
        frames=frames,
        image_size=image_size,
        mean=normalisation[0],
        std=normalisation[1],
        resize="crop",
        default_checkpoint=published,
        build=build,
        head_prefixes=(f"{PREFIX}classifier.",),
        config=config,
        layout=replace(layout, prefix=PREFIX, architecture={"model_type": config["name"], **fixed}),
    )
