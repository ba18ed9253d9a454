"""Where a model of scenes looks: a number per pixel, and whether what it points at matters.

Shapes: B scenes, V cameras, T frames, H and W pixels, t steps and G x G patches of a transformer,
N = t G G tokens, h and w of a convolution's map, K classes. A map is float32 [B, V, T, H, W], not
negative, of sum 1 over every clip [T, H, W].

Maps explain the class that the model answers with:
  rollout      transformer: attention of all layers followed back to the patches (Abnar and Zuidema
               2020, arXiv:2005.00928), from the features as the time pool weighs them
  time-weighted gradient map
               frame CNN: the last convolution's channels, weighted by their mean gradient, positive
               part (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2), times the share of
               each frame in the time pool
  gradient     I3D and SlowFast: size of the gradient on the pixels (Simonyan et al. 2014,
               arXiv:1312.6034, section 3), summed over colours; the last maps of these networks
               are a few pixels wide, too coarse to point at a disc
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.errors import RunError
from regatta.models.scene.frame_cnn import FrameCnn
from regatta.models.scene.space_time import PATCH_FRAMES, SpaceTime
from regatta.models.scene.trajectory import Trajectory
from regatta.models.spec import unwrap

ROLLOUT = "rollout"
WEIGHTED_GRADIENT = "time-weighted gradient map"
GRADIENT = "gradient"


def attention_maps(module: nn.Module, video_BVTCHW: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Maps [B, V, T, H, W] of normalised scenes, and the name of the method, see above.

    A clip on which nothing has any weight gets the same number everywhere. Parameters keep the
    gradients that they have.

    Raises:
        RunError: the module is no `trajectory`, or it is in training mode, where the answer is
            drawn.
    """
    model = unwrap(module)
    if not isinstance(model, Trajectory) or model.training:
        raise RunError(
            "maps are made of the model `trajectory` in evaluation mode",
            hint="call module.eval() first",
        )
    if isinstance(model.extractor, SpaceTime):
        return _normalised(_rollout(model, model.extractor, video_BVTCHW)), ROLLOUT
    with torch.enable_grad():
        if isinstance(model.extractor, FrameCnn):
            maps = _weighted_gradient(model, model.extractor, video_BVTCHW)
            return _normalised(maps), WEIGHTED_GRADIENT
        return _normalised(_pixel_gradient(model, video_BVTCHW)), GRADIENT


def faithfulness(maps_BVTHW: torch.Tensor, discs_BVTHW: torch.Tensor) -> dict[str, float]:
    """How much of the maps lies on the discs, beside the discs' share of the area.

    Args:
        discs_BVTHW: bool, the pixels that the object covers.
    Returns:
        `mass_in_disc` and `area_share`, means over clips, and `ratio`, their quotient: 1 for maps
        that know nothing of the disc; NaN where no disc is seen.
    """
    if maps_BVTHW.shape != discs_BVTHW.shape:
        raise RunError(f"maps {list(maps_BVTHW.shape)} beside discs {list(discs_BVTHW.shape)}")
    maps, discs = maps_BVTHW.double().flatten(2), discs_BVTHW.flatten(2).to(torch.float64)
    mass = float(((maps * discs).sum(dim=2) / maps.sum(dim=2)).mean())
    area = float(discs.mean())
    return {
        "mass_in_disc": mass,
        "area_share": area,
        "ratio": mass / area if area else float("nan"),
    }


def delete_pixels(
    video_BVTCHW: torch.Tensor,
    maps_BVTHW: torch.Tensor,
    *,
    share: float,
    fill: float,
    choice: Literal["top", "random"],
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """A copy in which a share of the pixels of every clip has the value `fill` in all colours.

    Args:
        share: of the T H W pixels of a clip, rounded to whole pixels.
        choice: top = those of the largest map values; random = others, as many.
        generator: for `random`, and for which of equal values is the larger; on the CPU.
    """
    if not 0 <= share <= 1:
        raise RunError(f"the share of pixels must be between 0 and 1, not {share}")
    values = maps_BVTHW.flatten(2)
    draws = torch.rand(values.shape, generator=generator).to(values.device)
    count = round(share * values.shape[2])
    order = draws.argsort(dim=2)
    if choice == "top":
        # A rollout gives whole patches one value: which of them are deleted is drawn, too.
        ranked = values.gather(2, order).argsort(dim=2, descending=True, stable=True)
        order = order.gather(2, ranked)
    gone = torch.zeros_like(values, dtype=torch.bool).scatter_(2, order[..., :count], True)
    return torch.where(gone.view_as(maps_BVTHW).unsqueeze(3), fill, video_BVTCHW)


@torch.no_grad()
def _rollout(model: Trajectory, extractor: SpaceTime, video_BVTCHW: torch.Tensor) -> torch.Tensor:
    """Attention followed back through the layers, half of each being the shortcut."""
    scenes, cameras, _, _, height, width = video_BVTCHW.shape
    seen_BV = model.seen_views(video_BVTCHW)
    features, layers = extractor.attend(model.known_clips(video_BVTCHW.float(), seen_BV))
    weights_BT = model.time_weights(features.unflatten(0, (scenes, cameras)), seen_BV)
    steps, side = extractor.grid
    # What the pool takes of a step, shared by its patches: the query that is followed back.
    per_step = weights_BT @ extractor.stretch.matrix_Tt.to(weights_BT.dtype)
    flow_B1N = per_step.repeat_interleave(side * side, dim=1)[:, None] / side**2
    flow_B1N = flow_B1N.repeat_interleave(cameras, dim=0)
    for weights_BNN in reversed(layers):
        flow_B1N = 0.5 * (flow_B1N + flow_B1N @ weights_BNN)
    patches = flow_B1N.view(scenes, cameras, steps, side, side)
    per_frame = patches.repeat_interleave(PATCH_FRAMES, dim=2) * seen_BV[:, :, None, None, None]
    return _enlarged(per_frame, height, width)


def _weighted_gradient(
    model: Trajectory, extractor: FrameCnn, video_BVTCHW: torch.Tensor
) -> torch.Tensor:
    scenes, cameras, frames, _, height, width = video_BVTCHW.shape
    seen_BV = model.seen_views(video_BVTCHW)
    with torch.no_grad():
        maps = extractor.frame_maps(model.known_clips(video_BVTCHW.float(), seen_BV))
    maps = maps.detach().requires_grad_()
    features = extractor.follow_time(maps, frames).unflatten(0, (scenes, cameras))
    answers = model.answer(features, seen_BV)
    (gradient,) = torch.autograd.grad(_answered(answers, model.num_classes), maps)
    channel_weights = gradient.mean(dim=(2, 3), keepdim=True)
    points_Nhw = F.relu((channel_weights * maps.detach()).sum(dim=1))
    weights_BT = model.time_weights(features.detach(), seen_BV).detach()
    per_frame = points_Nhw.unflatten(0, (scenes, cameras, frames))
    enlarged = _enlarged(per_frame, height, width)
    return enlarged * weights_BT[:, None, :, None, None]


def _pixel_gradient(model: Trajectory, video_BVTCHW: torch.Tensor) -> torch.Tensor:
    video = video_BVTCHW.detach().float().requires_grad_()
    (gradient,) = torch.autograd.grad(_answered(model(video), model.num_classes), video)
    return gradient.abs().sum(dim=3)


def _answered(answers: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Sum over scenes of the largest logit; scenes do not touch each other's gradients."""
    return answers[:, :num_classes].amax(dim=1).sum()


def _enlarged(maps_BVTgg: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[B, V, T, g, g] -> [B, V, T, H, W], bilinear."""
    pictures = F.interpolate(
        maps_BVTgg.flatten(0, 2)[:, None], size=(height, width), mode="bilinear"
    )
    return pictures[:, 0].unflatten(0, maps_BVTgg.shape[:3])


def _normalised(maps_BVTHW: torch.Tensor) -> torch.Tensor:
    maps = maps_BVTHW.detach().float().nan_to_num(0.0)
    total = maps.sum(dim=(2, 3, 4), keepdim=True)
    pixels = maps[0, 0].numel()
    return torch.where(total > 0, maps / total.clamp(min=1e-30), 1 / pixels)
