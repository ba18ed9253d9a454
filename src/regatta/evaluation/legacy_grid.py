"""The published 25-cell grid as it was published, for comparison with its tables."""

from __future__ import annotations

from collections.abc import Sequence

from regatta.core.registry import PROTOCOLS
from regatta.data.frame_plan import FramePlan
from regatta.data.legacy_plan import LegacyBase, plan_legacy_cell
from regatta.evaluation.protocols import Protocol, grid_conditions, single_view
from regatta.records.conditions import Condition


@PROTOCOLS.register("temporal-grid-legacy")
def temporal_grid_legacy_protocol(
    *,
    coverage: Sequence[int] = (10, 25, 50, 75, 100),
    stride: Sequence[int] = (1, 2, 4, 8, 16),
    base: LegacyBase = "all",
) -> Protocol:
    """Coverage x stride exactly as published, faults included: for comparison with its tables.

    Ids, axes and reference are those of temporal-grid.

    Args:
        coverage: percent of the base's frames, whole numbers 1 .. 100.
        stride: distance between candidates in frames of the base, whole numbers from 1.
        base: `all` frames of the clip, or `4T`: at most four times the model's frames, evenly.
    Raises:
        ConfigError: an empty list, a value out of range or given twice.
    """

    def plan(
        total_frames: int, fps: float, condition: Condition, model_frames: int, **_: object
    ) -> FramePlan:
        return plan_legacy_cell(
            total_frames,
            fps,
            model_frames,
            coverage_percent=condition.axes["coverage"],
            stride_frames=condition.axes["stride"],
            base=base,
        )

    return Protocol(
        "temporal-grid-legacy",
        grid_conditions(coverage, stride),
        single_view(plan),
        axes=("coverage", "stride"),
    )
