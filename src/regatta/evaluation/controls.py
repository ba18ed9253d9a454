"""Controls: clips whose time is taken away or spoilt, to see whether a model uses it at all."""

from __future__ import annotations

import numpy as np

from regatta.core.registry import PROTOCOLS
from regatta.data.frame_plan import (
    FramePlan,
    plan_from_blends,
    plan_from_indices,
    plan_training_clip,
)
from regatta.evaluation.protocols import Protocol, sample_stream, single_view
from regatta.records.conditions import Condition

CONTROLS = ("full", "one-frame", "static", "shuffled", "reversed")


@PROTOCOLS.register("controls")
def controls_protocol(*, shuffle_seed: int = 0) -> Protocol:
    """Does the model use time: the clip, one frame, its mean, its frames shuffled and reversed.

    Ids are full (the reference), one-frame, static, shuffled and reversed.

    Args:
        shuffle_seed: draws the order of `shuffled`, per sample.
    """
    conditions = [Condition(c, {"control": c}, is_reference=c == "full") for c in CONTROLS]

    def plan(
        total_frames: int,
        fps: float,
        condition: Condition,
        model_frames: int,
        *,
        sample_id: str = "",
    ) -> FramePlan:
        full = plan_training_clip(total_frames, model_frames, None)
        match condition.axes["control"]:
            case "one-frame":
                return plan_from_indices([(total_frames - 1) // 2] * model_frames, fps)
            case "static":
                # Frames held at the end of a short clip weigh no more than the others.
                return plan_from_blends([sorted(set(full))] * model_frames, fps)
            case "shuffled":
                order = sample_stream(shuffle_seed, "shuffle", sample_id)
                return plan_from_indices(shuffle_clip(full, order), fps)
            case "reversed":
                return plan_from_indices(full[::-1], fps)
            case _:
                return plan_from_indices(full, fps)

    return Protocol(
        "controls",
        conditions,
        single_view(plan),
        axes=("control",),
        without_ceiling=frozenset({"shuffled", "reversed"}),
    )


def shuffle_clip(indices: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """`indices` in a random order that differs from theirs, unless all are the same frame.

    Every such order is equally likely.
    """
    if len(set(indices)) < 2:
        return indices
    # Two or more frames: a draw is the old order at most half of the time.
    while (drawn := tuple(rng.permutation(indices).tolist())) == indices:
        continue
    return drawn
