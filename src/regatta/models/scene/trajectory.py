"""Names the kind of a motion and says where the object will be, from the pictures of cameras.

Shapes: B scenes, V cameras, T frames, H = W = image_size, D features, K classes, P position
targets. One extractor serves every camera; what was seen is told apart by a learned vector per
camera, joined in every frame, pooled over time, and answered by one class head and P position
heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn

from regatta.core.errors import ConfigError, RunError
from regatta.core.registry import EXTRACTORS, MODELS
from regatta.models.scene.extractor_parts import Extractor
from regatta.models.scene.heads import (
    VIEW_HEADS,
    Heads,
    MeanPool,
    TimePool,
    ViewFusion,
    view_fusion,
)
from regatta.models.spec import (
    ModelSpec,
    Size,
    check_dropout,
    describe_config,
    scene_spec,
)

Target = Literal["forecast", "last-visible"]
SMALLEST_SD = 1e-6
"""World units; a coordinate that never changes would otherwise be divided by zero."""


@MODELS.register("trajectory")
def trajectory(
    *,
    size: Size = "base",
    extractor: str = "i3d",
    dim: int | None = None,
    views: list[int] = [0],  # noqa: B006
    view_fusion: ViewFusion = "mean",
    time_pool: Literal["attention", "mean"] = "attention",
    targets: list[Target] = ["forecast"],  # noqa: B006
    dropout: float = 0.3,
    camera_drop: float = 0.0,
    balance: Literal["fixed", "uncertainty"] = "fixed",
    frames: int = 32,
    image_size: int = 64,
) -> ModelSpec:
    """Kind of motion and position ahead, from clips of one camera or several.

    Args:
        size: of the extractor; tiny trains on a CPU.
        extractor: i3d, slowfast, transformer or magvit.
        dim: features per frame; by default the extractor's own.
        views: cameras that are seen, by number; the cost grows with their count.
        view_fusion: how several cameras become one; nothing to do for one camera.
        time_pool: attention = frames have learned weights; mean = all count alike.
        targets: positions that are told: forecast lies beyond the clip, last-visible in its last
            frame. The first is selected on and judged.
        dropout: share dropped before both layers of every head.
        camera_drop: probability in training that a camera is left out of a scene, never all.
        balance: fixed = the losses' weights are the recipe's; uncertainty = learned (Kendall et
            al. 2018, arXiv:1705.07115).
        frames: frames per clip.
        image_size: pixels per side.
    Raises:
        UnknownNameError: there is no such extractor.
        ConfigError: options that contradict each other, or that the extractor cannot take.
    """
    check_dropout(dropout)
    _check_views(views, camera_drop)
    _check_targets(targets)
    factory = EXTRACTORS.get(extractor, where="options.extractor")
    extent = {"size": size, "dim": dim, "frames": frames, "image_size": image_size}
    with torch.device("meta"):
        # Shapes alone: what cannot be built is said before the study starts.
        feature_dim = factory(**extent).feature_dim
    if view_fusion == "attention" and len(views) > 1:
        _check_shared(feature_dim)

    def build(num_classes: int) -> nn.Module:
        return Trajectory(
            factory(**extent),
            num_classes,
            frames=frames,
            image_size=image_size,
            views=len(views),
            fusion=view_fusion,
            attends_time=time_pool == "attention",
            targets=targets,
            dropout=dropout,
            camera_drop=camera_drop,
            learns_balance=balance == "uncertainty",
        )

    config = describe_config(
        "trajectory",
        size,
        extractor=extractor,
        dim=dim,
        views=views,
        view_fusion=view_fusion,
        time_pool=time_pool,
        targets=targets,
        dropout=dropout,
        camera_drop=camera_drop,
        balance=balance,
        frames=frames,
        image_size=image_size,
    )
    return scene_spec(
        "trajectory", build, frames=frames, image_size=image_size, views=views, config=config
    )


class Trajectory(nn.Module):
    """`forward` is `answer(encode_views(video), seen)`; see `contracts.HasPositions`.

    Of several cameras one whose clip has a single value throughout, as black pictures have, or NaN,
    counts as missing, in every mode; `camera_drop` makes cameras missing in training.
    """

    position_mean: torch.Tensor
    position_sd: torch.Tensor

    def __init__(
        self,
        extractor: nn.Module,
        num_classes: int,
        *,
        frames: int,
        image_size: int,
        views: int,
        fusion: ViewFusion,
        attends_time: bool,
        targets: Sequence[str],
        dropout: float,
        camera_drop: float,
        learns_balance: bool,
    ) -> None:
        super().__init__()
        dim = cast("Extractor", extractor).feature_dim
        self.num_classes = num_classes
        self.input_shape = (views, frames, 3, image_size, image_size)
        self.position_names = tuple(targets)
        self.camera_drop = camera_drop
        self.register_buffer("position_mean", torch.zeros(len(targets), 3))
        self.register_buffer("position_sd", torch.ones(len(targets), 3))
        self.log_variances = nn.Parameter(torch.zeros(2)) if learns_balance else None
        self.extractor = extractor
        self.camera_code = nn.Parameter(torch.empty(views, dim).normal_(std=0.02))
        self.fusion = view_fusion(fusion, dim, views) if views > 1 else None
        self.pool = TimePool(dim, frames) if attends_time else MeanPool()
        self.heads = Heads(dim, num_classes, targets, dropout)

    def forward(self, video_BVTCHW: torch.Tensor) -> torch.Tensor:
        """Normalised [B, V, T, 3, H, W] -> float32 [B, K + 3 P]: K logits, then x, y, z of every
        target in world units. Raises RunError for another shape."""
        self._check_shape(video_BVTCHW)
        seen_BV = self._seen(video_BVTCHW)
        return self.answer(self.encode_views(video_BVTCHW, seen_BV), seen_BV)

    def encode_views(self, video_BVTCHW: torch.Tensor, seen_BV: torch.Tensor) -> torch.Tensor:
        """Features [B, V, T, D] of every camera's clip by itself."""
        clips = self.known_clips(video_BVTCHW, seen_BV)
        return self.extractor(clips).unflatten(0, video_BVTCHW.shape[:2])

    def known_clips(self, video_BVTCHW: torch.Tensor, seen_BV: torch.Tensor) -> torch.Tensor:
        """Clips [B V, T, 3, H, W], zeros in place of a missing camera's."""
        if self.fusion is not None:
            # Not a product with 0: NaN times 0 is NaN.
            seen = seen_BV[:, :, None, None, None, None]
            video_BVTCHW = torch.where(seen, video_BVTCHW, 0.0)
        return video_BVTCHW.flatten(0, 1)

    def answer(self, features_BVTD: torch.Tensor, seen_BV: torch.Tensor) -> torch.Tensor:
        """What `forward` returns, from the cameras' features."""
        answers = self.heads(self.pool(self.join_views(features_BVTD, seen_BV)))
        logits_BK, raw = answers.split([self.num_classes, 3 * len(self.position_names)], dim=1)
        positions = self.position_mean + self.position_sd * raw.unflatten(1, (-1, 3))
        return torch.cat([logits_BK, positions.flatten(1)], dim=1)

    def join_views(self, features_BVTD: torch.Tensor, seen_BV: torch.Tensor) -> torch.Tensor:
        """[B, V, T, D] -> [B, T, D]."""
        coded = features_BVTD + self.camera_code[:, None]
        return coded.squeeze(1) if self.fusion is None else self.fusion(coded, seen_BV)

    def time_weights(self, features_BVTD: torch.Tensor, seen_BV: torch.Tensor) -> torch.Tensor:
        """Share of every frame in the pooled features, [B, T], of sum 1."""
        return self.pool.weights(self.join_views(features_BVTD, seen_BV))

    @torch.no_grad()
    def fit_targets(self, targets_NP3: torch.Tensor) -> None:
        """Keep mean and sd of the training targets in world units; NaN targets are left out.

        Raises:
            RunError: the shape is not [N, P, 3], or a coordinate has fewer than two known targets.
        """
        expected = (len(self.position_names), 3)
        if targets_NP3.ndim != 3 or tuple(targets_NP3.shape[1:]) != expected:
            raise RunError(
                f"targets must be [N, {expected[0]}, 3], not {list(targets_NP3.shape)}",
                hint=f"the model tells {', '.join(self.position_names)}",
            )
        targets = targets_NP3.to(self.position_mean.device, torch.float64)
        known = targets.isfinite()
        counts = known.sum(dim=0)
        if int(counts.min()) < 2:
            raise RunError("fewer than two training targets are known, so their sd is not")
        mean = torch.where(known, targets, 0.0).sum(dim=0) / counts
        squares = torch.where(known, targets - mean, 0.0).square().sum(dim=0)
        self.position_mean.copy_(mean)
        self.position_sd.copy_((squares / counts).sqrt().clamp(min=SMALLEST_SD))

    def seen_views(self, video_BVTCHW: torch.Tensor) -> torch.Tensor:
        """Which cameras show anything, bool [B, V]; a single camera always counts as seen."""
        if self.fusion is None:
            return torch.ones(video_BVTCHW.shape[:2], dtype=torch.bool, device=video_BVTCHW.device)
        # Not more than itself is NaN, too.
        smallest, largest = torch.aminmax(video_BVTCHW.flatten(2), dim=2)
        return largest > smallest

    def _seen(self, video_BVTCHW: torch.Tensor) -> torch.Tensor:
        seen_BV = self.seen_views(video_BVTCHW)
        if not self.training or self.camera_drop == 0:
            return seen_BV
        draws = torch.rand(seen_BV.shape, device=seen_BV.device)
        # Of cameras that have pictures, the one of the largest draw always stays.
        draws = torch.where(seen_BV, draws, -1.0)
        stays = (draws >= self.camera_drop) | (draws == draws.amax(dim=1, keepdim=True))
        return seen_BV & stays

    def _check_shape(self, video_BVTCHW: torch.Tensor) -> None:
        if video_BVTCHW.ndim != 6 or tuple(video_BVTCHW.shape[1:]) != self.input_shape:
            raise RunError(
                f"the model takes scenes of {list(self.input_shape)} (cameras, frames, colours, "
                f"height, width), not {list(video_BVTCHW.shape[1:])}",
                hint="set views, frames and image_size in the entry's options",
            )


def _check_views(views: Sequence[int], camera_drop: float) -> None:
    if not views or min(views) < 0 or len(set(views)) != len(views):
        raise ConfigError(
            f"views must be different camera numbers from 0, not {list(views)}",
            where="options.views",
        )
    if not 0 <= camera_drop < 1:
        raise ConfigError(
            f"camera_drop must be at least 0 and below 1, not {camera_drop}",
            where="options.camera_drop",
        )
    if camera_drop and len(views) == 1:
        raise ConfigError(
            "camera_drop needs more than one camera", where="options.camera_drop", hint="set it 0"
        )


def _check_shared(feature_dim: int) -> None:
    if feature_dim % VIEW_HEADS:
        raise ConfigError(
            f"view_fusion: attention shares the features among {VIEW_HEADS} heads, "
            f"which {feature_dim} features do not allow",
            where="options.dim",
            hint=f"choose a multiple of {VIEW_HEADS}",
        )


def _check_targets(targets: Sequence[str]) -> None:
    if not targets or len(set(targets)) != len(targets):
        raise ConfigError(
            f"targets must be different names, at least one, not {list(targets)}",
            where="options.targets",
        )
