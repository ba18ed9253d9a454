"""Windows of signals drawn as pictures, one per channel, and classified through a picture encoder.

Shapes: B windows, C channels, L samples, P channels that are encoded, H = W = side pixels,
T patches, d width, K classes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from regatta.core.errors import ConfigError
from regatta.core.registry import MODELS, unknown_name
from regatta.models.sensor import drawing
from regatta.models.sensor.blocks import initialise
from regatta.models.sensor.drawing import Drawing, Kind, Scale
from regatta.models.sensor.encoders import EncoderShape, PictureEncoder, choose_encoder
from regatta.models.sensor.picture_augment import PictureChanges, change_pictures, draw_changes
from regatta.models.sensor.vit_files import encoder_layout
from regatta.models.spec import (
    ModelSpec,
    Size,
    check_divides,
    check_dropout,
    describe_config,
    signal_spec,
)

MODES = ("flatten", "average", "first", "average-image")
POOLS = ("mean", "attention", "cls")
HEADS: dict[str, list[int]] = {
    "default": [512],
    "reference-late": [64],
    "deep": [1024, 512, 256],
}
CPU_PIXELS_AT_ONCE = 1 << 21
"""Of the pictures of one pass through the encoder: 41 of 224 pixels."""
DEVICE_PIXELS_AT_ONCE = 1 << 26
"""1,337 pictures of 224 pixels, 800 MB of float32."""


class AttentionPool(nn.Module):
    """Mean of tokens x_t weighted by softmax over t of s_t = w2 tanh(W1 x_t), W1: d -> d / 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, width // 4)
        self.w2 = nn.Linear(width // 4, 1)

    def forward(self, tokens_BPTd: torch.Tensor) -> torch.Tensor:
        weights = self.w2(torch.tanh(self.w1(tokens_BPTd))).softmax(dim=-2)
        return (weights * tokens_BPTd).sum(dim=-2)


class HarHead(nn.Module):
    """Features of the P encoded channels to logits: the pool if it is trained, the mode, an MLP.

    Args:
        inputs: width of what the MLP takes: P d for mode `flatten`, else d.
        hidden: sizes of the hidden layers: each is Linear, LayerNorm, GELU, dropout.
    """

    def __init__(
        self,
        pool: AttentionPool | None,
        *,
        joins: bool,
        inputs: int,
        hidden: Sequence[int],
        dropout: float,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.joins = joins
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(inputs, size), nn.LayerNorm(size), nn.GELU(), nn.Dropout(dropout)]
            inputs = size
        self.mlp = nn.Sequential(*layers, nn.Linear(inputs, num_classes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, P, d], or tokens [B, P, T, d] with a trained pool -> logits [B, K]."""
        pooled_BPd = features if self.pool is None else self.pool(features)
        return self.mlp(pooled_BPd.flatten(1) if self.joins else pooled_BPd.mean(dim=1))


class HarVit(nn.Module):
    """Drawing, encoder, pool, mode, head. Implements `FitsStatistics` and `EncodesOnce`.

    With pool `attention` the pool learns, so it is part of the head, and the features of a channel
    are its patch tokens [B, T, d].
    """

    def __init__(
        self,
        drawn: Drawing,
        encoder: PictureEncoder,
        head: HarHead,
        *,
        channels: Sequence[int],
        encoder_name: str,
        pool: str,
        averages_pictures: bool,
    ) -> None:
        super().__init__()
        self.drawing = drawn
        self.encoder = encoder
        self.head = head
        self.encoder_name = encoder_name
        self.pool = pool
        self.averages_pictures = averages_pictures
        self.drawn_channels = tuple(channels)
        self.feature_channels = (0,) if averages_pictures else tuple(channels)
        self.picture_augment = False
        """Change the pictures at random in training mode; for a trained encoder, set from outside.
        """

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of one channel of one window: (d,), or (T, d) with a trained pool."""
        shape = self.encoder.shape
        patches = (self.drawing.side // shape.patch) ** 2
        return (patches, shape.width) if self.pool == "attention" else (shape.width,)

    def fit_statistics(self, signals_NCL: torch.Tensor) -> None:
        self.drawing.fit(signals_NCL)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each layer of the encoder in the backward pass."""
        self.encoder.recompute = True

    def encoding_identity(self) -> dict[str, Any]:
        """What features depend on beside weights and buffers; the mode only where it draws."""
        return {
            "model": "har-vit",
            "encoder": self.encoder_name,
            "shape": {k: v for k, v in asdict(self.encoder.shape).items() if k != "published"},
            "pool": self.pool,
            "averages_pictures": self.averages_pictures,
            "drawing": {
                "version": drawing.DRAWING_VERSION,
                "side": self.drawing.side,
                "kind": self.drawing.kind,
                "scale": self.drawing.scale,
                "margin_share": drawing.MARGIN_SHARE,
                "line_width": drawing.LINE_WIDTH,
            },
        }

    def encode_channel(
        self, signals_BCL: torch.Tensor, channel: int, changes: PictureChanges | None = None
    ) -> torch.Tensor:
        """Features [B, d] (tokens [B, T, d] with a trained pool) of one channel.

        With mode `average-image` there is one part, the mean picture, whatever the channel.

        Args:
            changes: of the pictures of each window, for augmented features.
        """
        channels = self.drawn_channels if self.averages_pictures else (channel,)
        return self._encode(signals_BCL, channels, changes)[:, 0]

    def forward(self, signals_BCL: torch.Tensor) -> torch.Tensor:
        """Raw windows [B, C, L] -> logits [B, K]; the channels of a window never part."""
        changes = None
        if self.picture_augment and self.training:
            changes = draw_changes(len(signals_BCL), device=signals_BCL.device)
        return self.head(self._encode(signals_BCL, self.drawn_channels, changes))

    def _encode(
        self, signals_BCL: torch.Tensor, channels: tuple[int, ...], changes: PictureChanges | None
    ) -> torch.Tensor:
        """Features [B, P, ...], a bounded number of pictures at a time."""
        is_cpu = signals_BCL.device.type == "cpu"
        pixels = len(channels) * self.drawing.side**2
        windows = max(1, (CPU_PIXELS_AT_ONCE if is_cpu else DEVICE_PIXELS_AT_ONCE) // pixels)
        pieces = []
        for start in range(0, len(signals_BCL), windows):
            part = slice(start, start + windows)
            pictures = self._pictures(signals_BCL[part], channels)
            if changes is not None:
                chosen = PictureChanges(*(values[part] for values in changes))
                pictures = change_pictures(pictures, chosen)
            features = self._pool(self.encoder(pictures.flatten(0, 1)))
            pieces.append(features.unflatten(0, (-1, pictures.shape[1])))
        return torch.cat(pieces)

    def _pictures(self, signals_BCL: torch.Tensor, channels: tuple[int, ...]) -> torch.Tensor:
        """uint8 [B, P, H, W]; P is 1 where pictures are averaged."""
        chosen = torch.stack([signals_BCL[:, channel] for channel in channels], dim=1)
        pictures = self.drawing(chosen, channels)
        if self.averages_pictures:
            return pictures.float().mean(dim=1, keepdim=True).round_().to(torch.uint8)
        return pictures

    def _pool(self, tokens_NTd: torch.Tensor) -> torch.Tensor:
        if self.pool == "cls":
            return tokens_NTd[:, 0]
        patches = tokens_NTd[:, 1:] if self.encoder.shape.class_token else tokens_NTd
        return patches if self.pool == "attention" else patches.mean(dim=1)


@MODELS.register("har-vit")
def har_vit(
    *,
    size: Size = "base",
    channels: int | None = None,
    length: int | None = None,
    encoder: str = "vit-b16",
    image_size: int | None = None,
    pool: str = "mean",
    mode: str = "flatten",
    first_channel: int = 0,
    head: str | list[int] = "default",
    dropout: float = 0.1,
    kind: Kind = "line",
    scale: Scale = "physical",
    allow_keys: list[str] = [],  # noqa: B006
) -> ModelSpec:
    """Signals drawn as pictures, one per channel, through a vision transformer and an MLP head.

    Args:
        encoder: vit-b16 (published weights), vit-b8-detection, vit-tiny, or vit-micro for tests.
        image_size: pixels per side, a multiple of the patch; 224, or 32 for vit-micro.
        pool: mean over patches, attention (learned), or cls (the class token).
        mode: flatten (all channels' vectors joined), average (their mean), first (`first_channel`
            alone, from 0), average-image (one pass on the mean picture).
        head: hidden sizes, or default [512], reference-late [64], deep [1024, 512, 256].
        dropout: share of activations dropped in the head, and in the encoder while it is trained.
        kind: line, or heatmap: values as grey columns.
        scale: physical (each channel's range in training), or window (its own, hides gravity).
        allow_keys: keys or globs of a checkpoint that may be missing, extra or of another shape.
    """
    shape = choose_encoder(encoder)
    side, hidden = shape.side if image_size is None else image_size, _hidden_sizes(head)
    _check_options(shape, size=size, side=side, pool=pool, encoder=encoder, length=length)
    _check_mode(mode, first_channel, channels)
    check_dropout(dropout)
    channels, length = channels or 9, length or 128
    drawn = (first_channel,) if mode == "first" else tuple(range(channels))
    joins = mode == "flatten"

    def build(num_classes: int) -> nn.Module:
        return HarVit(
            Drawing(channels, side=side, kind=kind, scale=scale),
            PictureEncoder(shape, side=side, dropout=dropout),
            HarHead(
                _attention_pool(shape) if pool == "attention" else None,
                joins=joins,
                inputs=shape.width * (channels if joins else 1),
                hidden=hidden,
                dropout=dropout,
                num_classes=num_classes,
            ),
            channels=drawn,
            encoder_name=encoder,
            pool=pool,
            averages_pictures=mode == "average-image",
        )

    return signal_spec(
        "har-vit",
        build,
        channels=channels,
        length=length,
        config=describe_config(
            "har-vit",
            size,
            encoder=encoder,
            image_size=side,
            pool=pool,
            mode=mode,
            first_channel=first_channel,
            head=head,
            dropout=dropout,
            kind=kind,
            scale=scale,
            allow_keys=allow_keys,
        ),
        default_checkpoint=shape.published,
        layout=encoder_layout(encoder, shape, side=side, allow_keys=tuple(allow_keys)),
        is_always_new=False,
    )


def _attention_pool(shape: EncoderShape) -> AttentionPool:
    pool = AttentionPool(shape.width)
    initialise(pool, shape.width**-0.5)
    return pool


def _hidden_sizes(head: str | Sequence[int]) -> list[int]:
    if isinstance(head, str):
        _check_known("head", head, HEADS)
        return HEADS[head]
    if any(size < 1 for size in head):
        raise ConfigError(f"sizes of hidden layers must be at least 1, not {list(head)}")
    return list(head)


def _check_options(
    shape: EncoderShape, *, size: Size, side: int, pool: str, encoder: str, length: int | None
) -> None:
    if size != "base":
        raise ConfigError(
            f"har-vit has no size '{size}'", hint="choose options.encoder, for example vit-tiny"
        )
    check_divides("the patch size", shape.patch, "image_size", side)
    _check_known("pool", pool, POOLS)
    if pool == "cls" and not shape.class_token:
        raise ConfigError(
            f"encoder {encoder} has no class token to pool", hint="set pool: mean or attention"
        )
    if length is not None and length < 2:
        raise ConfigError(f"a curve needs at least 2 samples, windows have {length}")


def _check_mode(mode: str, first_channel: int, channels: int | None) -> None:
    """ConfigError for an unknown mode, or a channel that the data (once known) does not have."""
    _check_known("mode", mode, MODES)
    if first_channel < 0 or (channels is not None and first_channel >= channels):
        last = "" if channels is None else f" to {channels - 1}"
        raise ConfigError(
            f"first_channel {first_channel} is not there", hint=f"channels count from 0{last}"
        )


def _check_known(option: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise unknown_name(option, name, known, f"options.{option}")
