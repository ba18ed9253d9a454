"""V-JEPA 2: a self-supervised encoder and an attentive classifier on it (Assran et al. 2025,
arXiv:2506.09985).

Shapes: B clips, T frames, 3 colours, H = W = image_size, N tokens, C width, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.hf_video import (
    PREFIX,
    TransformerSize,
    choose_size,
    initial_weight_std,
    recompute_layers,
)
from regatta.models.positions import describe_change
from regatta.models.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CheckpointLayout,
    ModelSpec,
    Size,
    State,
    check_clip_shape,
    check_divides,
    check_dropout,
    describe_config,
)

PUBLISHED = "facebook/vjepa2-vitl-fpc64-256@b3c1679b7c34d3255ef3547f27c7b226aefab26f"
"""The bare encoder: pooler and head are new, as in the paper's frozen evaluation."""
VIT_L = TransformerSize(width=1024, layers=24, heads=16, patch=16, image_size=256)
"""The smallest published encoder; there is no published ViT-B."""
POOLER_LAYERS = {"tiny": 1, "small": 3, "base": 3}
ENCODER_NAMES = (("vjepa2.encoder.", "encoder."), ("encoder.", "vjepa2.encoder."))
"""Files of the bare encoder leave `vjepa2.` out: first off, then on, serves both kinds."""
NO_PREDICTOR = {
    "pred_hidden_size": 1,
    "pred_num_attention_heads": 1,
    "pred_num_hidden_layers": 0,
    "pred_num_mask_tokens": 1,
}
"""The predictor serves pretraining only. The library cannot build a model without one."""


@MODELS.register("vjepa2")
def vjepa2(
    *,
    size: Size = "base",
    frames: int | None = None,
    image_size: int | None = None,
    tubelet: int = 2,
    dropout: float = 0.0,
    frozen: bool = False,
) -> ModelSpec:
    """V-JEPA 2's encoder with rotary positions, classified through an attentive pooler.

    Args:
        size: base = the published ViT-L/16 (24 layers of width 1024), the smallest there is; tiny
            trains on a CPU in seconds.
        frames: frames per clip, 16 by default (published: 16 to 64), a multiple of `tubelet`.
        image_size: pixels per side, a multiple of the patch (16; tiny 8); 256 by default.
        tubelet: frames that one token spans.
        dropout: share of attention weights dropped in every layer.
        frozen: train pooler and classifier only; the encoder keeps the checkpoint's weights.
    """
    shape = VIT_L if size == "base" else choose_size(size)
    frames = 16 if frames is None else frames
    image_size = shape.image_size if image_size is None else image_size
    check_divides("the tubelet", tubelet, "frames", frames)
    check_divides("the patch size", shape.patch, "image_size", image_size)
    check_dropout(dropout)
    architecture = _architecture(shape, size, tubelet)

    def build(num_classes: int) -> nn.Module:
        arguments = {
            **architecture,
            **NO_PREDICTOR,
            "frames_per_clip": frames,
            "crop_size": image_size,
            "attention_probs_dropout_prob": dropout,
            "attention_dropout": dropout,
            "initializer_range": initial_weight_std(shape.width),
            "num_labels": num_classes,
        }
        hf = _build_library_model(arguments)
        return Vjepa2Classifier(hf, frames=frames, image_size=image_size, frozen=frozen)

    def fit_positions(_state: State, config: dict[str, Any]) -> dict[str, str]:
        source = _grid(config, shape.patch, tubelet)
        target = (frames // tubelet, image_size // shape.patch)
        if source is None or source == target:
            return {}
        return {"rotary positions": f"computed for other clips: {describe_change(source, target)}"}

    options = {"frames": frames, "image_size": image_size, "tubelet": tubelet}
    return ModelSpec(
        name="vjepa2",
        frames=frames,
        image_size=image_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        resize="crop",
        default_checkpoint=PUBLISHED,
        build=build,
        head_prefixes=(f"{PREFIX}pooler.", f"{PREFIX}classifier."),
        config=describe_config("vjepa2", size, **options, dropout=dropout, frozen=frozen),
        layout=CheckpointLayout(
            prefix=PREFIX,
            load_names=ENCODER_NAMES,
            architecture={"model_type": "vjepa2", **architecture},
            reusable_head=(f"{PREFIX}pooler.",),
            unused=(f"{PREFIX}predictor.", f"{PREFIX}vjepa2.predictor."),
            fit_positions=fit_positions,
            # The library's own processor of this model cannot be told to skip its wider resize.
            processor={"image_processor_type": "VideoMAEImageProcessor"},
        ),
    )


class Vjepa2Classifier(nn.Module):
    """The library's V-JEPA 2 classifier without its predictor, for exactly one clip shape.

    Args:
        hf: `VJEPA2ForVideoClassification`.
        frames: T of every clip; the library itself takes any, and so did training unseen.
        image_size: H and W of every clip; for another one the library mistakes the positions.
        frozen: the encoder learns nothing and stays in evaluation mode.
    """

    def __init__(self, hf: nn.Module, *, frames: int, image_size: int, frozen: bool) -> None:
        super().__init__()
        self.hf: Any = hf
        self.frames = frames
        self.image_size = image_size
        self.frozen = frozen
        if frozen:
            self.hf.vjepa2.requires_grad_(False)

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] float -> logits [B, K]. Raises RunError for another T, H or W."""
        check_clip_shape(video_BTCHW, frames=self.frames, image_size=self.image_size)
        # The library's own forward also gathers every token once more, for the predictor.
        tokens_BNC = self.hf.vjepa2.encoder(pixel_values_videos=video_BTCHW).last_hidden_state
        return self.hf.classifier(self.hf.pooler(tokens_BNC))

    def train(self, mode: bool = True) -> Vjepa2Classifier:
        """Training mode for what trains; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.hf.vjepa2.eval()
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each layer in the backward pass; a frozen encoder needs none."""
        recompute_layers(self.hf)


def _architecture(shape: TransformerSize, size: Size, tubelet: int) -> dict[str, Any]:
    return {
        "patch_size": shape.patch,
        "tubelet_size": tubelet,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "mlp_ratio": 4.0,
        "hidden_act": "gelu",
        "num_pooler_layers": POOLER_LAYERS[size],
    }


def _grid(config: dict[str, Any], patch: int, tubelet: int) -> tuple[int, int] | None:
    try:
        return int(config["frames_per_clip"]) // tubelet, int(config["crop_size"]) // patch
    except (KeyError, TypeError, ValueError):
        return None


def _build_library_model(arguments: dict[str, Any]) -> nn.Module:
    from transformers import VJEPA2Config, VJEPA2ForVideoClassification

    hf = VJEPA2ForVideoClassification(VJEPA2Config(**arguments))
    for part in hf.vjepa2.predictor.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            # Never called, so never a gradient: as parameters they would stop DDP. As buffers they
            # still are in the file, and the library reads it without a key missing.
            delattr(part, name)
            part.register_buffer(name, torch.zeros_like(parameter))
    return hf
