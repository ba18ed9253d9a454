"""Which frames of a clip a model sees: one pure function behind every protocol.

Frames are named by decode ordinal, 0 .. total_frames - 1. A plan is made in four steps: a window
of the clip (coverage and placement), candidates in it (stride or rate), a choice among them (model
frames and budget), and filling up (pad).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import Literal

import numpy as np

from regatta.core.errors import ConfigError, DataError

Placement = Literal["prefix", "centre", "random", "sliding"]
Pad = Literal["hold-last", "repeat-each", "loop", "mask"]

_ROUNDING_GUARD = 1e-6
"""0.29 * 100 is 28.999999999999996: products of decimals are lifted by this before flooring."""


@dataclass(frozen=True)
class PlanCondition:
    """Which part of a clip may be seen, and how densely.

    Args:
        coverage_fraction: share of the clip that the window spans, in (0, 1].
        stride_frames, stride_seconds, rate_hz: exactly one; the distance between candidate frames.
        placement: where the window lies; `random` and `sliding` read `offset_fraction`.
        offset_fraction: start of the window as a share of the free room, 0 = prefix, 1 = suffix.
            The caller draws it for `random` (planning stays pure) and steps it for `sliding`.
    Raises:
        ConfigError: out of range, not exactly one density, or an offset where none is read.
    """

    coverage_fraction: float = 1.0
    stride_frames: int | None = None
    stride_seconds: float | None = None
    rate_hz: float | None = None
    placement: Placement = "prefix"
    offset_fraction: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.coverage_fraction <= 1:
            raise ConfigError(f"coverage_fraction is in (0, 1], got {self.coverage_fraction}")
        densities = {
            "stride_frames": self.stride_frames,
            "stride_seconds": self.stride_seconds,
            "rate_hz": self.rate_hz,
        }
        given = {name: value for name, value in densities.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                f"a condition takes exactly one of {', '.join(densities)}; "
                f"got {', '.join(given) or 'none'}"
            )
        name, value = next(iter(given.items()))
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} is a positive number, got {value}")
        if name == "stride_frames" and int(value) != value:
            raise ConfigError(f"stride_frames is a whole number, got {value}")
        self._check_offset()

    def _check_offset(self) -> None:
        moves = self.placement in ("random", "sliding")
        if self.placement not in ("prefix", "centre", "random", "sliding"):
            raise ConfigError(
                f"placement is prefix, centre, random or sliding, got '{self.placement}'"
            )
        if moves and not (self.offset_fraction is not None and 0 <= self.offset_fraction <= 1):
            raise ConfigError(
                f"placement '{self.placement}' needs offset_fraction in [0, 1], "
                f"got {self.offset_fraction}"
            )
        if not moves and self.offset_fraction is not None:
            raise ConfigError(f"placement '{self.placement}' reads no offset_fraction")


@dataclass(frozen=True)
class PlanPolicy:
    """What happens when the candidates are fewer or more than the model takes.

    Args:
        pad: `hold-last` repeats the last frame; `repeat-each` stretches all frames over the clip;
            `loop` starts again at the first; `mask` fills like hold-last, and `pad_share` says
            how much of the end to mask.
        frame_budget: most distinct frames to show, whatever the model takes; None = no limit.
    """

    pad: Pad = "hold-last"
    frame_budget: int | None = None

    def __post_init__(self) -> None:
        if self.pad not in ("hold-last", "repeat-each", "loop", "mask"):
            raise ConfigError(f"pad is hold-last, repeat-each, loop or mask, got '{self.pad}'")
        if self.frame_budget is not None and self.frame_budget < 1:
            raise ConfigError(f"frame_budget is at least 1, got {self.frame_budget}")


@dataclass(frozen=True)
class FramePlan:
    """The frames of one clip and the truth about them.

    indices: decode ordinals in the order the model sees them, one per model frame.
    distinct_frames: how many different ones. span_seconds: from the earliest to the latest.
    rate_hz: (distinct_frames - 1) / span_seconds; None for one frame.
    mean_gap_frames: mean distance of neighbouring distinct frames; 0 for one frame.
    pad_share: share of places that repeat a frame, 1 - distinct_frames / model frames.
    unique_key: 128-bit digest of what is shown; equal keys mean the identical clip.
    blends: None = every model frame is one source frame. Else the source frames whose mean each
    model frame shows, one tuple per model frame; `indices` then names the first one of each, and
    the truth fields describe those.
    """

    indices: tuple[int, ...]
    distinct_frames: int
    span_seconds: float
    rate_hz: float | None
    mean_gap_frames: float
    pad_share: float
    unique_key: str
    blends: tuple[tuple[int, ...], ...] | None = None

    @property
    def shown(self) -> tuple[tuple[int, ...], ...]:
        """The source frames behind each model frame: one each, or those that are averaged."""
        return self.blends or tuple((index,) for index in self.indices)


_DEFAULT_POLICY = PlanPolicy()


def plan_frames(
    total_frames: int,
    fps: float,
    condition: PlanCondition,
    model_frames: int,
    policy: PlanPolicy = _DEFAULT_POLICY,
) -> FramePlan:
    """Plan one clip.

    The window holds max(1, floor(total_frames * coverage_fraction)) frames. Candidates are its
    first frame and every stride-th after it; a place in time goes to the nearest frame, halves up.
    Too many: an even choice that keeps the first and the last (place j of k takes candidate
    j (m - 1) / (k - 1) of m, halves up; the middle one if k = 1). Too few: `policy.pad`.

    Args:
        total_frames: decoded frames of the sample (or of its segment), at least 1.
        fps: frames per second, for the density in time and the truth fields.
        model_frames: T, the length of the plan.
    Raises:
        DataError: no frames, or no usable frame rate. ConfigError: model_frames below 1.
    """
    return _plan(int(total_frames), float(fps), condition, int(model_frames), policy)


@lru_cache(maxsize=16384)
def _plan(
    total_frames: int, fps: float, condition: PlanCondition, model_frames: int, policy: PlanPolicy
) -> FramePlan:
    _check_clip(total_frames, model_frames)
    _check_fps(fps)
    start, length = _window(total_frames, condition)
    candidates = _candidates(start, length, fps, condition)
    return plan_from_indices(choose_and_fill(candidates, model_frames, policy), fps)


def plan_segments(
    total_frames: int,
    fps: float,
    stride_frames: int,
    model_frames: int,
    policy: PlanPolicy = _DEFAULT_POLICY,
    *,
    blend: bool,
) -> FramePlan:
    """Cut a clip into whole segments of `stride_frames` frames and show each as one picture.

    The rest at the end stays unseen; a clip shorter than one segment is one segment. Too many
    segments: an even choice; too few: `policy.pad`. Both forms of a clip use the same segments.

    Args:
        blend: True shows the mean of all frames of a segment, a shutter that is open from one
            sample to the next; False its first frame.
    Raises:
        DataError: no frames, or no usable frame rate. ConfigError: a stride or length below 1.
    """
    _check_clip(total_frames, model_frames)
    if stride_frames < 1:
        raise ConfigError(f"a segment holds at least 1 frame, got {stride_frames}")
    length = min(stride_frames, total_frames)
    starts = range(0, total_frames - length + 1, length)
    shown = choose_and_fill(starts, model_frames, policy)
    if not blend:
        return plan_from_indices(shown, fps)
    return plan_from_blends([range(start, start + length) for start in shown], fps)


def plan_windows(
    total_frames: int,
    fps: float,
    stride_frames: int,
    model_frames: int,
    policy: PlanPolicy = _DEFAULT_POLICY,
    *,
    windows: int,
) -> list[FramePlan]:
    """Several clips of one sample, each `model_frames * stride_frames` source frames long.

    A window is cut to the clip. With room = frames left over, window i of n starts at frame
    floor(i room / (n - 1)), the only one at floor(room / 2); it shows its first and every
    `stride_frames`-th frame. Where the clip is short the plans repeat, they never become fewer.
    """
    _check_clip(total_frames, model_frames)
    if stride_frames < 1 or windows < 1:
        raise ConfigError(f"stride and windows are at least 1, got {stride_frames} and {windows}")
    length = min(total_frames, model_frames * stride_frames)
    room = total_frames - length
    starts = [room // 2] if windows == 1 else [i * room // (windows - 1) for i in range(windows)]
    plans = {
        start: plan_from_indices(
            choose_and_fill(range(start, start + length, stride_frames), model_frames, policy), fps
        )
        for start in dict.fromkeys(starts)
    }
    return [plans[start] for start in starts]


def plan_from_indices(indices: Sequence[int], fps: float) -> FramePlan:
    """The truth about any list of frames, in any order, for designs that choose them otherwise."""
    _check_fps(fps)
    if not len(indices):
        raise ConfigError("a frame plan holds at least one frame")
    ordered = tuple(int(index) for index in indices)
    distinct = len(set(ordered))
    reach = max(ordered) - min(ordered)
    return FramePlan(
        indices=ordered,
        distinct_frames=distinct,
        span_seconds=reach / fps,
        rate_hz=(distinct - 1) * fps / reach if distinct > 1 else None,
        mean_gap_frames=reach / (distinct - 1) if distinct > 1 else 0.0,
        pad_share=1 - distinct / len(ordered),
        unique_key=_digest(",".join(map(str, ordered))),
    )


def plan_from_blends(blends: Sequence[Sequence[int]], fps: float) -> FramePlan:
    """A plan whose model frames are means of source frames; a single one is shown as it is.

    Args:
        blends: per model frame the source frames that are averaged, ascending and not empty.
    """
    if not all(len(blend) for blend in blends):
        raise ConfigError("every model frame shows at least one source frame")
    shown = tuple(tuple(int(index) for index in blend) for blend in blends)
    plan = plan_from_indices([blend[0] for blend in shown], fps)
    if all(len(blend) == 1 for blend in shown):
        return plan
    text = ";".join(",".join(map(str, blend)) for blend in shown)
    return replace(plan, blends=shown, unique_key=_digest(text))


def plan_training_clip(
    total_frames: int, model_frames: int, rng: np.random.Generator | None
) -> tuple[int, ...]:
    """Frames spread evenly over the whole clip, first and last included: what full sampling shows.

    It is the clip of the grid's reference condition, so a model is selected on what it is judged
    on. A clip shorter than the model holds its last frame.

    Args:
        rng: moves all frames together by up to half a gap, one draw per clip; what would leave the
            clip stays at its end. Moving each frame on its own would blur the sampling rate, and
            with it every motion near the critical one. None = no move.
    """
    indices = plan_frames(total_frames, 1.0, PlanCondition(stride_frames=1), model_frames).indices
    if rng is None or total_frames <= model_frames or model_frames == 1:
        return indices
    reach = (total_frames - 1) // (2 * (model_frames - 1))
    shift = int(rng.integers(-reach, reach + 1))
    return tuple(min(max(index + shift, 0), total_frames - 1) for index in indices)


def _digest(text: str) -> str:
    return sha256(text.encode("ascii")).hexdigest()[:32]


def spread_evenly(available: int, wanted: int) -> list[int]:
    """`min(available, wanted)` distinct places of 0 .. available - 1, evenly, with both ends."""
    if wanted >= available:
        return list(range(available))
    if wanted == 1:
        return [(available - 1) // 2]
    # Whole numbers only: halves of a float linspace fall either way from one machine to the next.
    last, steps = available - 1, wanted - 1
    return [(2 * place * last + steps) // (2 * steps) for place in range(wanted)]


def _window(total_frames: int, condition: PlanCondition) -> tuple[int, int]:
    length = max(1, math.floor(total_frames * condition.coverage_fraction + _ROUNDING_GUARD))
    room = total_frames - length
    match condition.placement:
        case "prefix":
            return 0, length
        case "centre":
            return room // 2, length
        case _:
            share = condition.offset_fraction or 0.0
            return math.floor(room * share + _ROUNDING_GUARD), length


def _candidates(start: int, length: int, fps: float, condition: PlanCondition) -> Sequence[int]:
    if condition.stride_frames is not None:
        return range(start, start + length, int(condition.stride_frames))
    if condition.stride_seconds is not None:
        step = condition.stride_seconds * fps
    else:
        step = fps / (condition.rate_hz or fps)
    # Below one frame a rate cannot be had: the file's own frames are all there is.
    step = max(step, 1.0)
    count = math.ceil(length / step) + 1
    places = (math.floor(number * step + 0.5 + _ROUNDING_GUARD) for number in range(count))
    return [start + place for place in places if place < length]


def choose_and_fill(
    candidates: Sequence[int], model_frames: int, policy: PlanPolicy = _DEFAULT_POLICY
) -> list[int]:
    """`model_frames` of the candidates, in order: evenly chosen if too many, padded if too few."""
    limit = model_frames if policy.frame_budget is None else min(model_frames, policy.frame_budget)
    chosen = [candidates[place] for place in spread_evenly(len(candidates), limit)]
    return _fill(chosen, model_frames, policy.pad)


def _fill(chosen: list[int], model_frames: int, pad: Pad) -> list[int]:
    held = len(chosen)
    match pad:
        case "repeat-each":
            return [chosen[place * held // model_frames] for place in range(model_frames)]
        case "loop":
            return [chosen[place % held] for place in range(model_frames)]
        case _:
            return chosen + chosen[-1:] * (model_frames - held)


def _check_clip(total_frames: int, model_frames: int) -> None:
    if total_frames < 1:
        raise DataError(
            f"a clip of {total_frames} frames cannot be planned",
            hint="the scan finds such files: data.damaged: drop leaves them out",
        )
    if model_frames < 1:
        raise ConfigError(f"a model takes at least 1 frame, got {model_frames}")


def _check_fps(fps: float) -> None:
    if not (math.isfinite(fps) and fps > 0):
        raise DataError(
            f"frame rate {fps} is unusable", hint="the file's header names no frame rate"
        )
