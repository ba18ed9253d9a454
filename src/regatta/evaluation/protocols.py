"""How models are judged: a protocol is a list of conditions and the frame plan of each.

A protocol is one function registered with `@PROTOCOLS.register("name")`; its keyword arguments are
what `protocol.options` of a study file may set, checked by their type annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal
from typing import Protocol as Shape

import numpy as np

from regatta.config.options import typed_options
from regatta.config.schema import ProtocolSection, Study
from regatta.core.errors import ConfigError
from regatta.core.registry import PROTOCOLS
from regatta.core.seeds import stream
from regatta.data.frame_plan import (
    FramePlan,
    Pad,
    Placement,
    PlanCondition,
    PlanPolicy,
    plan_frames,
    plan_from_indices,
    plan_training_clip,
)
from regatta.records.conditions import Condition, find_condition

Average = Literal["probability", "logit"]


@dataclass(frozen=True)
class View:
    """One pass of a clip through the model: these frames, cut out there.

    crop: place of the square along the picture's longer side, 0 = left or top, 0.5 = middle,
    1 = right or bottom. Without effect on square pictures and under `resize: squash`.
    """

    plan: FramePlan
    crop: float = 0.5


class PlanClip(Shape):
    """Plans one clip under one condition; pure, so identical calls give identical clips."""

    def __call__(
        self,
        total_frames: int,
        fps: float,
        condition: Condition,
        model_frames: int,
        *,
        sample_id: str = "",
    ) -> FramePlan: ...


class PlanViews(Shape):
    """Plans every view of one clip under one condition; pure."""

    def __call__(
        self,
        total_frames: int,
        fps: float,
        condition: Condition,
        model_frames: int,
        *,
        sample_id: str = "",
    ) -> tuple[View, ...]: ...


def single_view(plan: PlanClip) -> PlanViews:
    """One centre view per condition, as most protocols judge."""

    def plan_views(
        total_frames: int,
        fps: float,
        condition: Condition,
        model_frames: int,
        *,
        sample_id: str = "",
    ) -> tuple[View, ...]:
        return (View(plan(total_frames, fps, condition, model_frames, sample_id=sample_id)),)

    return plan_views


@dataclass(frozen=True)
class Protocol:
    """Conditions in report order, how each is planned, and the axes of the headline figure.

    average: how the scores of several views become one: the mean of their probabilities (stored as
    its logarithm) or of their logits. A single view's scores pass untouched.
    without_ceiling: conditions in which the model is not told when its frames were taken, or is
    told wrongly, so that an ideal reader's accuracy says nothing.
    """

    name: str
    conditions: list[Condition]
    plan_views: PlanViews
    axes: tuple[str, ...] = ()
    average: Average = "probability"
    without_ceiling: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_conditions(self.name, self.conditions)

    @property
    def reference(self) -> Condition:
        """The condition that headline numbers are read at."""
        return next(condition for condition in self.conditions if condition.is_reference)

    def plan(
        self,
        total_frames: int,
        fps: float,
        condition: Condition,
        model_frames: int,
        *,
        sample_id: str = "",
    ) -> FramePlan:
        """The plan of a condition with a single view; ConfigError for several."""
        views = self.plan_views(total_frames, fps, condition, model_frames, sample_id=sample_id)
        if len(views) != 1:
            raise ConfigError(f"condition {condition.id} has {len(views)} views, not one plan")
        return views[0].plan


def check_conditions(name: str, conditions: Sequence[Condition]) -> None:
    """ConfigError unless condition ids are distinct and exactly one is the reference."""
    ids = [condition.id for condition in conditions]
    if len(set(ids)) < len(ids) or sum(c.is_reference for c in conditions) != 1:
        raise ConfigError(f"protocol '{name}' needs distinct condition ids and one reference")


@PROTOCOLS.register("plain", kind="any")
def plain_protocol() -> Protocol:
    """One clip per sample, as in validation: frames spread over all of it, or the whole window."""

    def plan(
        total_frames: int, fps: float, condition: Condition, model_frames: int, **_: object
    ) -> FramePlan:
        del condition  # there is only one
        return plan_from_indices(plan_training_clip(total_frames, model_frames, None), fps)

    return Protocol("plain", [Condition("plain", {}, is_reference=True)], single_view(plan))


@PROTOCOLS.register("temporal-grid")
def temporal_grid_protocol(
    *,
    coverage: Sequence[int] = (10, 25, 50, 75, 100),
    stride: Sequence[int] = (1, 2, 4, 8, 16),
    placement: Placement = "prefix",
    placement_seed: int = 0,
    pad: Pad = "hold-last",
) -> Protocol:
    """Coverage x stride: a window of `coverage` percent of the clip, every `stride`-th frame of it.

    Ids are c{coverage}s{stride}; the reference is the largest coverage at the smallest stride.

    Args:
        coverage: percent of the clip's frames, whole numbers 1 .. 100.
        stride: distance between candidates in source frames, whole numbers from 1.
        placement: where the window lies. `random` draws its place per sample from `placement_seed`,
            the same share of the free room in every cell. `sliding` gives many windows per clip and
            is no grid cell.
        pad: how too few frames fill the clip.
    Raises:
        ConfigError: an empty list, a value out of range or given twice, or placement `sliding`.
    """
    conditions = grid_conditions(coverage, stride)
    if placement == "sliding":
        raise ConfigError(
            "temporal-grid judges one window per clip and cell; placement 'sliding' gives several",
            where="protocol.options.placement",
            hint="use prefix, centre or random",
        )
    policy = PlanPolicy(pad=pad)

    def plan(
        total_frames: int,
        fps: float,
        condition: Condition,
        model_frames: int,
        *,
        sample_id: str = "",
    ) -> FramePlan:
        offset = _drawn_offset(placement_seed, sample_id) if placement == "random" else None
        cell = PlanCondition(
            coverage_fraction=condition.axes["coverage"] / 100,
            stride_frames=condition.axes["stride"],
            placement=placement,
            offset_fraction=offset,
        )
        return plan_frames(total_frames, fps, cell, model_frames, policy)

    return Protocol("temporal-grid", conditions, single_view(plan), axes=("coverage", "stride"))


def grid_conditions(coverage: Sequence[int], stride: Sequence[int]) -> list[Condition]:
    """Every coverage at every stride; the reference is the largest at the smallest."""
    check_axis("coverage", coverage, low=1, high=100)
    check_axis("stride", stride, low=1, high=None)
    reference = (max(coverage), min(stride))
    return [
        Condition(f"c{c}s{s}", {"coverage": c, "stride": s}, is_reference=(c, s) == reference)
        for c, s in product(coverage, stride)
    ]


def resolve_protocol(section: ProtocolSection) -> Protocol:
    """Build the protocol a study names.

    Raises:
        UnknownNameError: no such protocol.
        ConfigError: an unknown option (with the nearest one), a wrong type, or a refused value.
    """
    build = PROTOCOLS.get(section.name, where="protocol.name")
    owner = f"protocol {section.name}"
    options = typed_options(build, section.options, where="protocol.options", owner=owner)
    return build(**options)


def check_protocol(study: Study) -> None:
    """ConfigError when the protocol refuses its options, or has no such headline condition."""
    find_condition(resolve_protocol(study.protocol).conditions, study.compare.condition)


def plan_all(
    protocol: Protocol, total_frames: int, fps: float, model_frames: int, *, sample_id: str = ""
) -> dict[str, FramePlan]:
    """Condition id -> plan of one clip, in the protocol's order."""
    return {
        condition.id: protocol.plan(total_frames, fps, condition, model_frames, sample_id=sample_id)
        for condition in protocol.conditions
    }


def degenerate_groups(plans: Mapping[str, FramePlan]) -> list[list[str]]:
    """Groups of two or more conditions that show the identical clip, in the order of `plans`."""
    groups: dict[str, list[str]] = {}
    for condition_id, plan in plans.items():
        groups.setdefault(plan.unique_key, []).append(condition_id)
    return [group for group in groups.values() if len(group) > 1]


def identical_to(plans: Mapping[str, FramePlan]) -> dict[str, str]:
    """Condition id -> the first one with the identical clip; ids that repeat none are absent."""
    return {later: group[0] for group in degenerate_groups(plans) for later in group[1:]}


def still_conditions(plans: Mapping[str, FramePlan]) -> list[str]:
    """Conditions that show one picture only, so that no motion is left to see."""
    return [condition_id for condition_id, plan in plans.items() if plan.distinct_frames == 1]


def sample_stream(seed: int, name: str, sample_id: str) -> np.random.Generator:
    """The stream `name` of one sample; ConfigError without an id, as all would share one draw."""
    if not sample_id:
        raise ConfigError(f"the {name} is drawn per sample, but the plan has no sample id")
    return stream(seed, name, sample_id)


def _drawn_offset(placement_seed: int, sample_id: str) -> float:
    return float(sample_stream(placement_seed, "placement", sample_id).random())


def check_axis(name: str, values: Sequence[int], *, low: int, high: int | None) -> None:
    """ConfigError unless the option `name` lists whole numbers of low .. high, each once."""
    where = f"protocol.options.{name}"
    if not values:
        raise ConfigError(f"{name} is an empty list", where=where)
    reach = f"{low} to {high}" if high else f"{low} or more"
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name} takes whole numbers, got {value!r}", where=where)
        if value < low or (high is not None and value > high):
            raise ConfigError(f"{name} is {reach}, got {value}", where=where)
    twice = sorted({value for value in values if list(values).count(value) > 1})
    if twice:
        raise ConfigError(f"{name} lists {', '.join(map(str, twice))} twice", where=where)
