"""Training clips at the rates and lengths that a temporal protocol judges at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from regatta.data.frame_plan import (
    FramePlan,
    PlanCondition,
    plan_frames,
    plan_from_blends,
    plan_segments,
)


@dataclass(frozen=True)
class TemporalAugment:
    """How often a training clip is drawn from a grid of coverages and strides, and from which.

    coverage_percent, stride_frames: every pair is equally likely.
    box_probability: share of the drawn clips that show means of frames instead of frames.
    """

    probability: float
    coverage_percent: tuple[int, ...]
    stride_frames: tuple[int, ...]
    box_probability: float = 0.0


@dataclass(frozen=True)
class TemporalDraw:
    """One cell of the grid for one clip. `place` in [0, 1) says where its window lies."""

    coverage_percent: int
    stride_frames: int
    place: float
    box: bool

    def window(self, total_frames: int) -> PlanCondition:
        """The part of the clip that may be seen, all its frames; every start is equally likely."""
        # The last start that leaves the window in the clip: the planner places it, offset 1.
        last = PlanCondition(
            self.coverage_percent / 100, stride_frames=1, placement="random", offset_fraction=1.0
        )
        room = plan_frames(total_frames, 1.0, last, 2).indices[0]
        offset = int(self.place * (room + 1)) / room if room else 0.0
        return replace(last, offset_fraction=offset)

    def plan(self, total_frames: int, model_frames: int) -> FramePlan:
        """The clip of this cell: frames as `temporal-grid` chooses them, means as `antialias`."""
        window = self.window(total_frames)
        if not self.box:
            condition = replace(window, stride_frames=self.stride_frames)
            return plan_frames(total_frames, 1.0, condition, model_frames)
        seen = plan_frames(total_frames, 1.0, window, total_frames)
        start, length = seen.indices[0], seen.distinct_frames
        means = plan_segments(length, 1.0, self.stride_frames, model_frames, blend=True)
        return plan_from_blends([[start + i for i in blend] for blend in means.shown], 1.0)


def draw_temporal(augment: TemporalAugment, rng: np.random.Generator) -> TemporalDraw | None:
    """One cell, or None for the whole clip. The same draws are made in both cases."""
    is_drawn = bool(rng.random() < augment.probability)
    draw = TemporalDraw(
        augment.coverage_percent[int(rng.integers(len(augment.coverage_percent)))],
        augment.stride_frames[int(rng.integers(len(augment.stride_frames)))],
        place=float(rng.random()),
        box=bool(rng.random() < augment.box_probability),
    )
    return draw if is_drawn else None
