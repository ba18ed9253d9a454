"""The reference system's picture augmentation, made equal for all channels of a window.

A flip of a drawn curve reverses time and a rotation of it has no physical meaning; both are here
because the reference system trains with them.
Shapes: B windows, P pictures of a window, H = W = side pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

FLIP_SHARE = 0.5
JITTER = 0.2
"""Brightness and contrast factors are uniform in 1 - JITTER .. 1 + JITTER."""
ROTATION_DEGREES = 15.0


class PictureChanges(NamedTuple):
    """What happens to the pictures of each window; every tensor is [B]."""

    flip: torch.Tensor
    """-1 where left and right change places, else 1."""
    angle: torch.Tensor
    """Radians, counter-clockwise as seen."""
    brightness: torch.Tensor
    contrast: torch.Tensor


def draw_changes(
    batch: int, *, device: torch.device, generator: torch.Generator | None = None
) -> PictureChanges:
    """One random change per window, from torch's own stream of `device` unless one is given."""
    flip, angle, brightness, contrast = torch.rand(
        4, batch, device=device, generator=generator
    ).unbind()
    return PictureChanges(
        flip=torch.where(flip < FLIP_SHARE, -1.0, 1.0),
        angle=(2 * angle - 1) * math.radians(ROTATION_DEGREES),
        brightness=1 + (2 * brightness - 1) * JITTER,
        contrast=1 + (2 * contrast - 1) * JITTER,
    )


def change_pictures(pictures_BPHW: torch.Tensor, changes: PictureChanges) -> torch.Tensor:
    """Flip, rotate on white ground, scale by brightness, then stretch about the mean grey.

    Bilinear; uint8 in and out, the same change for the P pictures of a window.
    """
    cosine, sine = changes.angle.cos(), changes.angle.sin()
    zero = torch.zeros_like(cosine)
    # The grid says where each pixel of the result is taken from, with y downwards.
    upper = torch.stack([changes.flip * cosine, -changes.flip * sine, zero], dim=1)
    theta_B23 = torch.stack([upper, torch.stack([sine, cosine, zero], dim=1)], dim=1)
    # Ink, not grey: what comes in from outside the picture is 0, and must be white.
    ink = 255 - pictures_BPHW.float()
    grid = F.affine_grid(theta_B23, list(ink.shape), align_corners=False)
    grey = 255 - F.grid_sample(ink, grid, mode="bilinear", align_corners=False)
    grey = (grey * changes.brightness[:, None, None, None]).clamp_(0, 255)
    middle = grey.mean(dim=(2, 3), keepdim=True)
    grey = (grey - middle).mul_(changes.contrast[:, None, None, None]).add_(middle)
    return grey.round_().clamp_(0, 255).to(torch.uint8)
