"""Designs at equal evidence: the same number of distinct frames, whatever the model takes."""

from __future__ import annotations

from collections.abc import Sequence

from regatta.core.errors import ConfigError
from regatta.core.registry import PROTOCOLS
from regatta.data.frame_plan import FramePlan, Pad, PlanCondition, PlanPolicy, plan_frames
from regatta.evaluation.protocols import Protocol, check_axis, single_view
from regatta.records.conditions import Condition


@PROTOCOLS.register("matched")
def matched_protocol(
    *, frames: Sequence[int] = (1, 2, 4, 8, 16), pad: Pad = "repeat-each"
) -> Protocol:
    """Equal evidence: the same k frames of the whole clip for every model, for several k.

    Ids are k{k}; the reference is the largest k.

    Args:
        frames: the numbers k of distinct frames, from 1. They lie evenly over the whole clip with
            both ends; one frame is the middle one. A clip or model of fewer frames shows those.
        pad: how the k frames fill the model's frames.
    Raises:
        ConfigError: an empty list, a value below 1 or given twice.
    """
    check_axis("frames", frames, low=1, high=None)
    conditions = [Condition(f"k{k}", {"frames": k}, is_reference=k == max(frames)) for k in frames]
    whole_clip = PlanCondition(stride_frames=1)

    def plan(
        total_frames: int, fps: float, condition: Condition, model_frames: int, **_: object
    ) -> FramePlan:
        policy = PlanPolicy(pad=pad, frame_budget=condition.axes["frames"])
        return plan_frames(total_frames, fps, whole_clip, model_frames, policy)

    return Protocol("matched", conditions, single_view(plan), axes=("frames",))


@PROTOCOLS.register("span")
def span_protocol(
    *,
    coverage: Sequence[int] = (10, 25, 50, 75, 100),
    frames: int = 8,
    pad: Pad = "repeat-each",
) -> Protocol:
    """Reach at equal evidence: k frames spread over a centred window that grows to the clip.

    Ids are w{coverage}; the reference is the widest window.

    Args:
        coverage: the window's share of the clip in percent, whole numbers 1 .. 100.
        frames: the number k of distinct frames, from 1; a shorter window shows all that it has.
        pad: how the k frames fill the model's frames.
    Raises:
        ConfigError: an empty list, or a value out of range or given twice.
    """
    check_axis("coverage", coverage, low=1, high=100)
    if frames < 1:
        raise ConfigError(f"frames is 1 or more, got {frames}", where="protocol.options.frames")
    conditions = [
        Condition(f"w{share}", {"span": share}, is_reference=share == max(coverage))
        for share in coverage
    ]
    policy = PlanPolicy(pad=pad, frame_budget=frames)

    def plan(
        total_frames: int, fps: float, condition: Condition, model_frames: int, **_: object
    ) -> FramePlan:
        window = PlanCondition(condition.axes["span"] / 100, stride_frames=1, placement="centre")
        return plan_frames(total_frames, fps, window, model_frames, policy)

    return Protocol("span", conditions, single_view(plan), axes=("span",))
