"""The frame choice of the published 25-cell grid, bit for bit, faults included.

Kept apart from `frame_plan`, which shares none of its arithmetic: results made with this planner
are for comparison with published tables only. docs/protocols/temporal-grid-legacy.md says why.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from regatta.core.errors import ConfigError, DataError
from regatta.data.frame_plan import FramePlan, plan_from_indices

LegacyBase = Literal["all", "4T"]


def plan_legacy_cell(
    total_frames: int,
    fps: float,
    model_frames: int,
    *,
    coverage_percent: int,
    stride_frames: int,
    base: LegacyBase = "all",
) -> FramePlan:
    """Plan one clip as the reference system does.

    Of the m frames of the base, the first max(1, floor(m * coverage)) are kept, then every
    `stride_frames`-th of these. If fewer than T are left, each is repeated floor(T / left) + 1
    times and the list is cut at T, which can drop the end of the window; else place j takes
    floor(j (left - 1) / (T - 1)).

    Args:
        model_frames: T, the length of the plan.
        coverage_percent: whole percent, 1 .. 100.
        stride_frames: counted in frames of the base, not of the source.
        base: `all` = every frame; `4T` = at most 4 T frames, the floors of an even spacing.
    Raises:
        DataError: no frames, or no usable frame rate. ConfigError: a setting out of range.
    """
    if total_frames < 1:
        raise DataError(f"a clip of {total_frames} frames cannot be planned")
    if not (1 <= coverage_percent <= 100 and stride_frames >= 1 and model_frames >= 1):
        raise ConfigError(
            f"coverage is 1 to 100 percent, stride and model frames at least 1; got "
            f"{coverage_percent}, {stride_frames}, {model_frames}"
        )
    frames = np.arange(total_frames)
    if base == "4T":
        frames = _floor_spaced(frames, min(total_frames, 4 * model_frames))
    # Percent times a count is a whole number: the quotient needs no rounding guard.
    kept = max(1, int(len(frames) * coverage_percent / 100))
    left = frames[:kept:stride_frames]
    if len(left) < model_frames:
        left = np.repeat(left, model_frames // len(left) + 1)[:model_frames]
    return plan_from_indices(_floor_spaced(left, model_frames).tolist(), fps)


def _floor_spaced(frames: np.ndarray, count: int) -> np.ndarray:
    # NumPy's own spacing, as it sometimes ends just below a whole number and then takes the frame
    # before: whole-number arithmetic would differ from the published clips.
    return frames[np.linspace(0, len(frames) - 1, count).astype(int)]
