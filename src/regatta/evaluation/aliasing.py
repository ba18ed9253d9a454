"""The causal test of aliasing: the same samples in time, with and without a filter before them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from regatta.core.registry import PROTOCOLS
from regatta.data.frame_plan import FramePlan, Pad, PlanPolicy, plan_segments
from regatta.evaluation.protocols import Protocol, check_axis, single_view
from regatta.records.conditions import Condition


@PROTOCOLS.register("antialias")
def antialias_protocol(
    *, stride: Sequence[int] = (1, 2, 4, 8, 16), pad: Pad = "hold-last"
) -> Protocol:
    """One frame of each segment of the clip against the mean of all its frames, per stride.

    Ids are s{stride}-point and s{stride}-box; the reference is the smallest stride, point.

    Args:
        stride: frames per segment, whole numbers from 1. At 1 both filters show the same clip.
        pad: how too few segments fill the clip.
    Raises:
        ConfigError: an empty list, a value below 1 or given twice.
    """
    check_axis("stride", stride, low=1, high=None)
    conditions = [
        Condition(
            f"s{s}-{kind}",
            {"stride": s, "filter": kind},
            is_reference=(s, kind) == (min(stride), "point"),
        )
        for s, kind in product(stride, ("point", "box"))
    ]
    policy = PlanPolicy(pad=pad)

    def plan(
        total_frames: int, fps: float, condition: Condition, model_frames: int, **_: object
    ) -> FramePlan:
        blend = condition.axes["filter"] == "box"
        length = condition.axes["stride"]
        return plan_segments(total_frames, fps, length, model_frames, policy, blend=blend)

    return Protocol("antialias", conditions, single_view(plan), axes=("stride", "filter"))
