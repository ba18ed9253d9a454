"""Augmentation of resident pictures on the device, a whole block at a time.

Shapes: B pictures, C colours, H and W picture sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ImageAugment:
    """The usual training changes of small pictures: shift within a black border, and mirror.

    pad: pixels that a picture may move in each direction. flip: mirror half of them.

    Source: He et al. 2016, Deep residual learning for image recognition, section 4.2.
    """

    pad: int = 4
    flip: bool = True

    def __call__(self, inputs: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """uint8 or float [B, C, H, W] -> the same shape and type; draws are made in one order."""
        count, device = len(inputs), inputs.device
        offsets = torch.randint(2 * self.pad + 1, (2, count), generator=generator, device=device)
        mirror = torch.rand(count, generator=generator, device=device) < 0.5
        return shift_and_mirror(inputs, offsets[0], offsets[1], mirror & self.flip, pad=self.pad)


def shift_and_mirror(
    images_BCHW: torch.Tensor,
    top_B: torch.Tensor,
    left_B: torch.Tensor,
    mirror_B: torch.Tensor,
    *,
    pad: int,
) -> torch.Tensor:
    """Cut [H, W] out of each picture in a black border of `pad` pixels, mirror where asked.

    Args:
        top_B, left_B: first row and column of the cut in the bordered picture, 0 .. 2 pad.
    """
    count, _, height, width = images_BCHW.shape
    bordered = torch.nn.functional.pad(images_BCHW, (pad, pad, pad, pad))
    # All cuts as views of the bordered pictures: choosing one per picture copies that one alone.
    cuts = bordered.unfold(2, height, 1).unfold(3, width, 1)
    chosen = cuts[torch.arange(count, device=images_BCHW.device), :, top_B, left_B]
    return torch.where(mirror_B[:, None, None, None], chosen.flip(-1), chosen)
