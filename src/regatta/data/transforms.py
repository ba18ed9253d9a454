"""Frames to model input: resize and crop as uint8, then one multiply-add to floats.

Shapes: N frames, H and W picture height and width, S model input side, 3 colours (RGB).
Frames stay uint8 until the last step, so that they travel and are cached at a quarter of the size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

Resize = Literal["crop", "squash"]

DEVICE_CHUNK = 64
"""Frames resized at once on an accelerator, where they are floats meanwhile."""

_ROUNDING_GUARD = 1e-6
"""Products of decimals are lifted by this before flooring, as in `frame_plan`."""


class Cut(NamedTuple):
    """How whole pictures become S x S: scale to height x width, then keep one square.

    offset: first pixel that is kept along the longer side. Equal cuts give equal pixels.
    """

    height: int
    width: int
    size: int
    offset: int

    def apply(self, scaled_NCHW: torch.Tensor) -> torch.Tensor:
        """The square out of pictures of height x width, as a view."""
        top, left = (self.offset, 0) if self.height > self.width else (0, self.offset)
        return scaled_NCHW[:, :, top : top + self.size, left : left + self.size]


def plan_cut(height: int, width: int, *, size: int, resize: Resize, crop: float = 0.5) -> Cut:
    """The cut of pictures of height x width.

    Args:
        crop: place of the square along the longer side, 0 = left or top, 1 = right or bottom. It
            changes nothing where no side is longer: on square pictures and with "squash".
    """
    if resize == "squash":
        return Cut(size, size, size, 0)
    scaled_height, scaled_width = shorter_side_size(height, width, size)
    room = max(scaled_height, scaled_width) - size
    return Cut(scaled_height, scaled_width, size, math.floor(room * crop + _ROUNDING_GUARD))


def resize_frames(
    images_NHWC: torch.Tensor, *, size: int, resize: Resize, crop: float = 0.5
) -> torch.Tensor:
    """Bring frames to S x S.

    "crop" scales the shorter side to S and cuts a square, by default the middle, so the picture
    keeps its shape; "squash" scales both sides to S. Bilinear with antialias. A frame's result
    never depends on its neighbours. Frames that are S x S already keep their pixels.

    Args:
        images_NHWC: uint8 [N, H, W, 3], on any device.
        crop: see `plan_cut`.

    Returns:
        uint8 [N, 3, S, S], contiguous, on the same device.
    """
    height, width = images_NHWC.shape[1:3]
    cut = plan_cut(height, width, size=size, resize=resize, crop=crop)
    return cut.apply(resample(images_NHWC, cut.height, cut.width)).contiguous()


def shorter_side_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width once the shorter side is `size`; the longer one is rounded down."""
    shorter = min(height, width)
    return height * size // shorter, width * size // shorter


def resample(images_NHWC: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Scale frames: uint8 [N, H, W, 3] -> uint8 [N, 3, height, width] in any memory order."""
    frames = images_NHWC.permute(0, 3, 1, 2)
    if tuple(frames.shape[2:]) == (height, width):
        return frames
    if frames.device.type == "cpu":
        # torch's own uint8 kernel is 15 to 25 times faster than going through floats, from which it
        # differs by one level at most.
        return _interpolate(frames, height, width)
    # Only CPUs have that kernel. In pieces, because floats take four times the memory.
    pieces = [_interpolate(piece.float(), height, width) for piece in frames.split(DEVICE_CHUNK)]
    return torch.cat([piece.round_().clamp_(0, 255).to(torch.uint8) for piece in pieces])


def _interpolate(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(frames, size=(height, width), mode="bilinear", antialias=True)


def mean_frame(frames_NCHW: torch.Tensor) -> torch.Tensor:
    """The mean picture of uint8 frames, as uint8: sums are exact, halves go up.

    floor((2 sum + N) / (2 N)) in whole numbers, so that it depends neither on the order of the
    frames nor on the machine.
    """
    count = len(frames_NCHW)
    doubled = frames_NCHW.sum(dim=0, dtype=torch.int32).mul_(2).add_(count)
    return doubled.div_(2 * count, rounding_mode="floor").to(torch.uint8)


def normalise(
    frames: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """(frame / 255 - mean) / std as one multiply-add per value.

    Args:
        frames: uint8 [..., 3, S, S].
        mean, std: per colour, on the 0-1 scale.

    Returns:
        Floats of the same shape; computed in float32 whatever `dtype` is.
    """
    scale = torch.tensor([1 / (255 * s) for s in std]).view(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(3, 1, 1)
    scale = scale.to(frames.device, non_blocking=True)
    shift = shift.to(frames.device, non_blocking=True)
    # Two steps in place are twice as fast as torch.addcmul on a CPU.
    return frames.to(torch.float32).mul_(scale).add_(shift).to(dtype)
