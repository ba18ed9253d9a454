"""Windows of signals as pictures, drawn on the device that holds them.

Shapes: N curves, B windows, C channels, L samples of a window, H = W = side pixels. A picture is
grey, uint8 [N, H, W]; its three colours would be equal, so they are not stored. Row 0 is the top.
Coordinates are continuous: pixel (row v, column u) is the square around (u + 0.5, v + 0.5).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

Kind = Literal["line", "heatmap"]
Scale = Literal["physical", "window"]
MARGIN_SHARE = 0.05
LINE_WIDTH = 2.0
"""Pixels, at every picture size."""
QUANTILES = (0.001, 0.999)
DRAWING_VERSION = 1
"""Raised when the same signals would give other pixels: features kept on disk depend on it."""
CPU_PIXELS_AT_ONCE = 1 << 18
"""The floats of so many pixels stay in a core's cache; pictures of 224 pixels go five at a time."""
DEVICE_PIXELS_AT_ONCE = 1 << 26
"""About 2 GB of floats on an accelerator while it draws."""
HALF = LINE_WIDTH / 2


def curve_points(
    curves_NL: torch.Tensor, low_N: torch.Tensor, high_N: torch.Tensor, *, side: int
) -> tuple[float, float, torch.Tensor]:
    """The poly-lines in pixels: x of the first point, step in x, and y [N, L].

    x_i = m + i (W - 2m) / (L - 1), y_i = m + (high - v_i) (H - 2m) / (high - low), m = 0.05 W; the
    values are clipped to low..high, and where these are equal the line is in the middle.
    """
    margin = MARGIN_SHARE * side
    step = (side - 2 * margin) / (curves_NL.shape[1] - 1)
    return margin, step, margin + (side - 2 * margin) * (1 - level(curves_NL, low_N, high_N))


def level(curves_NL: torch.Tensor, low_N: torch.Tensor, high_N: torch.Tensor) -> torch.Tensor:
    """(value - low) / (high - low) in 0..1, clipped; 0.5 where high = low. float32 [N, L]."""
    span = (high_N - low_N).float()[:, None]
    share = (curves_NL.float() - low_N.float()[:, None]) / torch.where(span > 0, span, 1.0)
    return torch.where(span > 0, share.clamp(0, 1), 0.5)


def draw_lines(
    curves_NL: torch.Tensor, low_N: torch.Tensor, high_N: torch.Tensor, *, side: int
) -> torch.Tensor:
    """Black lines of 2 pixels on white: uint8 [N, side, side].

    A pixel's ink is 1.5 - its centre's distance to the poly-line, cut to 0..1: full inside the
    line, and a ramp of one pixel at its edge. The distance is exact, to segments and not to
    columns of the line; only the segments that can reach a column of pixels are measured for it.
    """
    start, step, y_NL = curve_points(curves_NL, low_N, high_N, side=side)
    reach = HALF + 0.5
    columns = torch.arange(side, device=curves_NL.device) + 0.5
    first = torch.floor((columns - reach - start) / step).long()
    squared: torch.Tensor | None = None
    for offset in range(min(math.floor(2 * reach / step) + 2, y_NL.shape[1] - 1)):
        # Columns beside the line repeat its outermost segments, which changes no minimum.
        segment = (first + offset).clamp(0, y_NL.shape[1] - 2)
        found = _squared_distance(y_NL, segment, columns - (start + segment * step), step)
        squared = found if squared is None else torch.minimum(squared, found, out=squared)
    assert squared is not None
    ramp = squared.sqrt_().sub_(HALF - 0.5).clamp_(0, 1)
    return ramp.mul_(255).round_().to(torch.uint8)


def _squared_distance(
    y_NL: torch.Tensor, segment_W: torch.Tensor, ahead_W: torch.Tensor, step: float
) -> torch.Tensor:
    """Squared distance of every pixel centre to one segment per column, [N, H, W].

    With w the height of the pixel over the segment's start and t its foot's place in 0..1, the gap
    is (ahead - t step, w - t rise).

    Args:
        ahead_W: the pixel column's x less that of the segment's start.
    """
    side = len(segment_W)
    rows_H1 = (torch.arange(side, device=y_NL.device) + 0.5)[:, None]
    y_N1W = y_NL[:, segment_W][:, None]
    rise_N1W = y_NL[:, segment_W + 1][:, None] - y_N1W
    inverse = (rise_N1W.square() + step * step).reciprocal_()
    w = rows_H1 - y_N1W
    t = torch.addcmul(ahead_W * step * inverse, w, rise_N1W * inverse).clamp_(0, 1)
    w.addcmul_(t, rise_N1W, value=-1)
    across = t.mul_(-step).add_(ahead_W)
    return across.square_().addcmul_(w, w)


def draw_heatmaps(
    curves_NL: torch.Tensor, low_N: torch.Tensor, high_N: torch.Tensor, *, side: int
) -> torch.Tensor:
    """Each value as a grey column, low black and high white: uint8 [N, side, side].

    The L values share the width equally; a column of pixels shows the mean over what it spans.
    """
    grey_NL = level(curves_NL, low_N, high_N)
    length = grey_NL.shape[1]
    total = nn.functional.pad(grey_NL.double().cumsum(dim=1), (1, 0))
    edges = torch.arange(side + 1, device=grey_NL.device, dtype=torch.float64) * (length / side)
    whole = edges.floor().long().clamp(max=length - 1)
    at_edge = torch.lerp(total[:, whole], total[:, whole + 1], (edges - whole).expand(1, -1))
    mean_NW = at_edge.diff(dim=1) * (side / length)
    grey = mean_NW.mul(255).round().clamp(0, 255).to(torch.uint8)
    return grey[:, None].expand(-1, side, -1).contiguous()


class Drawing(nn.Module):
    """Draws channels of windows; with scale `physical` on ranges of the training windows.

    Args:
        channels: C of the windows.
        kind: `line`, or `heatmap`: the value as grey.
        scale: `physical`: low..high of every channel are the 0.1 and 99.9 percentiles of the
            training windows, so that gravity and amplitude are seen; `window`: each window's own
            smallest and largest value.
    """

    def __init__(self, channels: int, *, side: int, kind: Kind, scale: Scale) -> None:
        super().__init__()
        self.side = side
        self.kind: Kind = kind
        self.scale: Scale = scale
        self.low_C: torch.Tensor
        self.high_C: torch.Tensor
        self.register_buffer("low_C", -torch.ones(channels))
        self.register_buffer("high_C", torch.ones(channels))

    def fit(self, signals_NCL: torch.Tensor) -> None:
        """Measure the range of every channel over the training windows."""
        for channel in range(signals_NCL.shape[1]):
            low, high = percentiles(signals_NCL[:, channel], QUANTILES)
            self.low_C[channel] = low
            self.high_C[channel] = high

    @torch.no_grad()
    def forward(self, signals_BPL: torch.Tensor, channels: tuple[int, ...]) -> torch.Tensor:
        """[B, P, L] of these P channels -> uint8 [B, P, H, W]."""
        batch = len(signals_BPL)
        curves_NL = signals_BPL.flatten(0, 1)
        if self.scale == "window":
            low, high = curves_NL.amin(dim=1), curves_NL.amax(dim=1)
        else:
            # Not an index of numbers: that would wait for the device in every step.
            low, high = (
                torch.stack([bound[channel] for channel in channels]).repeat(batch)
                for bound in (self.low_C, self.high_C)
            )
        draw = draw_lines if self.kind == "line" else draw_heatmaps
        is_cpu = curves_NL.device.type == "cpu"
        at_once = max(1, (CPU_PIXELS_AT_ONCE if is_cpu else DEVICE_PIXELS_AT_ONCE) // self.side**2)
        pieces = [
            draw(*part, side=self.side)
            for part in zip(
                curves_NL.split(at_once), low.split(at_once), high.split(at_once), strict=True
            )
        ]
        return torch.cat(pieces).unflatten(0, (batch, -1))


def percentiles(values: torch.Tensor, shares: tuple[float, ...]) -> list[torch.Tensor]:
    """Quantiles by linear interpolation between sorted values, for any number of them.

    Not torch.quantile, which refuses more than 16 million values.
    """
    ordered = values.flatten().double().sort().values
    found = []
    for share in shares:
        place = share * (len(ordered) - 1)
        below = math.floor(place)
        above = min(below + 1, len(ordered) - 1)
        found.append(torch.lerp(ordered[below], ordered[above], place - below))
    return found
