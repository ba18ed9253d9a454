"""Designs with several windows of a clip: averaged as one judgement, or judged one by one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from regatta.core.errors import ConfigError
from regatta.core.registry import PROTOCOLS
from regatta.data.frame_plan import (
    FramePlan,
    Pad,
    PlanCondition,
    PlanPolicy,
    plan_frames,
    plan_windows,
)
from regatta.evaluation.protocols import Average, Protocol, View, check_axis, single_view
from regatta.records.conditions import Condition

MOST_VIEWS = 100
"""Of one kind per condition: a slip of the pen such as 10x30000 would judge for weeks."""


@PROTOCOLS.register("multi-view")
def multi_view_protocol(
    *,
    views: Sequence[str] = ("1x1", "5x3", "10x3"),
    stride: int = 4,
    pad: Pad = "hold-last",
    average: Average = "probability",
) -> Protocol:
    """Several clips and crops per sample, their scores averaged, as published tests do.

    Ids are v{clips}x{crops}; the reference is the one with the fewest views.

    Args:
        views: "NxM" = N clips, starting evenly over the sample, times M square crops, evenly along
            the longer side. One is the middle.
        stride: distance between the frames of a clip in source frames, from 1.
        pad: how a sample that is shorter than a clip fills it.
        average: of the views' probabilities, or of their logits.
    Raises:
        ConfigError: an empty list, a view not written NxM or given twice, or a stride below 1.
    """
    counts = _read_views(views)
    check_axis("stride", [stride], low=1, high=None)
    fewest = min(counts, key=lambda count: count[0] * count[1])
    conditions = [
        Condition(f"v{n}x{m}", {"clips": n, "crops": m}, is_reference=(n, m) == fewest)
        for n, m in counts
    ]
    policy = PlanPolicy(pad=pad)

    def plan_views(
        total_frames: int, fps: float, condition: Condition, model_frames: int, **_: object
    ) -> tuple[View, ...]:
        windows = condition.axes["clips"]
        plans = plan_windows(total_frames, fps, stride, model_frames, policy, windows=windows)
        places = spread_crops(condition.axes["crops"])
        return tuple(View(plan, place) for plan in plans for place in places)

    return Protocol("multi-view", conditions, plan_views, axes=("clips", "crops"), average=average)


@PROTOCOLS.register("sliding")
def sliding_protocol(*, windows: int = 9, coverage: int = 25, stride: int = 1) -> Protocol:
    """One short window at several places of the clip: where the evidence of a class lies.

    Ids are at{percent of the free room}; the reference is the middle one.

    Args:
        windows: how many places, odd, 3 .. 101; the first is the start, the last the end.
        coverage: length of a window in percent of the clip, a whole number 1 .. 100.
        stride: distance between candidates in source frames, a whole number from 1.
    Raises:
        ConfigError: a value out of range, or an even number of windows.
    """
    check_axis("coverage", [coverage], low=1, high=100)
    check_axis("stride", [stride], low=1, high=None)
    check_axis("windows", [windows], low=3, high=101)
    if windows % 2 == 0:
        raise ConfigError(
            f"windows is odd, so that one stands in the middle, got {windows}",
            where="protocol.options.windows",
        )
    last = windows - 1
    numbers = {f"at{_percent(number / last)}": number for number in range(windows)}
    conditions = [
        Condition(name, {"position": _percent(number / last)}, is_reference=2 * number == last)
        for name, number in numbers.items()
    ]

    def plan(
        total_frames: int, fps: float, condition: Condition, model_frames: int, **_: object
    ) -> FramePlan:
        window = PlanCondition(
            coverage / 100,
            stride_frames=stride,
            placement="sliding",
            offset_fraction=numbers[condition.id] / last,
        )
        return plan_frames(total_frames, fps, window, model_frames)

    return Protocol("sliding", conditions, single_view(plan), axes=("position",))


def spread_crops(crops: int) -> tuple[float, ...]:
    """Places of `crops` squares along the longer side: 0 .. 1 with both ends, one in the middle."""
    if crops == 1:
        return (0.5,)
    return tuple(number / (crops - 1) for number in range(crops))


def _percent(share: float) -> int | float:
    """In percent, two decimals at most, whole where it is."""
    value = round(100 * share, 2)
    return int(value) if value == int(value) else value


def _read_views(views: Sequence[str]) -> list[tuple[int, int]]:
    where = "protocol.options.views"
    if not views:
        raise ConfigError("views is an empty list", where=where)
    counts = []
    for text in views:
        found = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", text, re.ASCII)
        if not found:
            hint = "clips x crops, for example 5x3; one clip and one crop is 1x1"
            raise ConfigError(f"a view is written NxM, got '{text}'", where=where, hint=hint)
        count = (int(found[1]), int(found[2]))
        if max(count) > MOST_VIEWS:
            raise ConfigError(f"at most {MOST_VIEWS} clips or crops, got '{text}'", where=where)
        if count in counts:
            raise ConfigError(f"views lists {text} twice", where=where)
        counts.append(count)
    return counts
