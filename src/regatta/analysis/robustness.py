"""How accuracy falls when the model sees less of the clip, with clustered intervals.

Shapes: E entries, C conditions, N samples, K classes. Accuracies are fractions, drops are points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from regatta.analysis.bootstrap import Bootstrap, Interval
from regatta.analysis.published import nearest_value
from regatta.records.conditions import Condition

DROP_CLASSES = ((5, "very high"), (10, "high"), (15, "moderate"), (25, "low"))
"""Relative drop in percent below which a model's robustness has this name; above all: very low."""

BUDGET_SHARE = 0.95
REPRESENTATIVES = 3
FEWEST_CLASS_SAMPLES = 5
"""Below this a class has no critical rate: its accuracy moves in steps of more than 20 %."""


def robustness_class(relative_drop_percent: float) -> str:
    """The published name for a relative drop from 100 to 25 % coverage."""
    for limit, name in DROP_CLASSES:
        if relative_drop_percent < limit:
            return name
    return "very low"


def grid_axes(conditions: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray] | None:
    """(coverage [C], stride [C]) of a coverage x stride grid; None for any other protocol."""
    if any(set(condition.axes) != {"coverage", "stride"} for condition in conditions):
        return None
    coverage = np.array([float(c.axes["coverage"]) for c in conditions])
    stride = np.array([float(c.axes["stride"]) for c in conditions])
    return coverage, stride


def coverage_drops(
    bootstrap: Bootstrap,
    conditions: Sequence[Condition],
    entry: int,
    *,
    high: float = 100,
    low: float = 25,
    stride: float = 8,
) -> dict[str, Any]:
    """Loss of accuracy from coverage `high` to `low` at one stride and averaged over strides.

    Returns:
        {"at_stride", "marginal"}: each with points and percent (relative to `high`) as intervals
        and the published robustness class; plus the settings used and notes. Both are None when
        the grid has a single coverage.
    """
    axes = grid_axes(conditions)
    if axes is None:
        return {"at_stride": None, "marginal": None, "notes": ["not a coverage x stride grid"]}
    coverage, strides = axes
    notes: list[str] = []
    high = nearest_value(high, sorted(set(coverage)), "coverage", notes)
    low = nearest_value(low, sorted(set(coverage)), "coverage", notes)
    used = nearest_value(stride, sorted(set(strides)), "stride", notes)
    settings = {"high": high, "low": low, "stride": used, "notes": notes}
    if high == low:
        notes.append("the grid has a single coverage: there is no drop to measure")
        return {"at_stride": None, "marginal": None, **settings}
    at_stride = strides == used
    both = [bool((at_stride & (coverage == end)).any()) for end in (high, low)]
    if not all(both):
        notes.append(f"the grid lacks coverage {high:g} or {low:g} at stride {used:g}")
    anywhere = np.ones(len(coverage), dtype=bool)
    return {
        "at_stride": _drop(bootstrap, entry, coverage, high, low, at_stride) if all(both) else None,
        "marginal": _drop(bootstrap, entry, coverage, high, low, anywhere),
        **settings,
    }


def frame_curve(bootstrap: Bootstrap, distinct_frames: np.ndarray, entry: int) -> dict[str, Any]:
    """Area under accuracy against distinct frames, and the smallest budget that is nearly enough.

    Args:
        distinct_frames: [C], mean distinct frames that the entry saw in each condition.
    Returns:
        points (frames, accuracy; conditions of equal budget averaged), area (trapezoid over the
        range of budgets divided by that range: the mean accuracy over budgets), critical_frames
        (smallest budget with a condition that reaches 95 % of the best).
    """
    if not np.isfinite(distinct_frames).all():
        nothing = Interval(None, note="the number of distinct frames is not known")
        unknown: dict[str, Any] = {"points": [], "area": None, "note": nothing.note}
        return unknown | {"critical_frames": nothing.as_dict()}
    budgets, place = np.unique(np.round(distinct_frames, 9), return_inverse=True)
    averaging = np.equal.outer(np.arange(len(budgets)), place)
    averaging = averaging / averaging.sum(axis=1, keepdims=True)
    accuracy = averaging @ bootstrap.observed[entry]
    result: dict[str, Any] = {
        "points": [
            {"distinct_frames": float(x), "accuracy": float(y)}
            for x, y in zip(budgets, accuracy, strict=True)
        ],
        "area": None,
        "critical_frames": critical_frames(bootstrap, distinct_frames, entry),
        "note": "",
    }
    if len(budgets) < 2:
        return result | {"note": "all conditions show the same number of distinct frames"}
    gaps = np.diff(budgets)
    weights = np.zeros(len(budgets))
    weights[:-1] += gaps / 2
    weights[1:] += gaps / 2
    linear = (weights / weights.sum()) @ averaging
    area = bootstrap.interval(lambda a: a[..., entry, :] @ linear, entries=[entry])
    return result | {"area": area.as_dict()}


def critical_frames(
    bootstrap: Bootstrap, distinct_frames: np.ndarray, entry: int
) -> dict[str, Any]:
    """Smallest mean number of distinct frames at which a cell has 95 % of the best accuracy."""
    order = np.argsort(distinct_frames, kind="stable")

    def budget(accuracy: np.ndarray) -> np.ndarray:
        by_budget = accuracy[..., entry, :][..., order]
        enough = by_budget >= BUDGET_SHARE * by_budget.max(axis=-1, keepdims=True)
        return distinct_frames[order][enough.argmax(axis=-1)]

    return bootstrap.interval(budget, entries=[entry], collapse="point").as_dict()


def class_sensitivity(
    per_class: np.ndarray,
    conditions: Sequence[Condition],
    classes: list[str],
    drops: dict[str, Any],
) -> list[dict[str, Any]]:
    """Per class the drop in points and the variance over coverages at the stride of `drops`.

    Args:
        per_class: accuracies [C, K], NaN where a class has no judged sample; such classes are left
            out.
        drops: what `coverage_drops` returned: its stride and coverages are used.
    """
    axes = grid_axes(conditions)
    if axes is None or drops["at_stride"] is None:
        return []
    coverage, strides = axes
    at_stride = strides == drops["stride"]
    upper = per_class[at_stride & (coverage == drops["high"])].mean(axis=0)
    lower = per_class[at_stride & (coverage == drops["low"])].mean(axis=0)
    variance = per_class[at_stride].var(axis=0)
    return [
        {
            "class": name,
            "drop_points": 100 * float(upper[k] - lower[k]),
            "variance": float(variance[k]),
        }
        for k, name in enumerate(classes)
        if np.isfinite(upper[k])
    ]


def class_critical_rates(
    per_class: np.ndarray,
    conditions: Sequence[Condition],
    counts: np.ndarray,
    rate_hz: np.ndarray,
) -> list[float | None]:
    """Per class the smallest sampling rate that is nearly enough, in Hz, [K].

    Among the conditions of the largest coverage: the smallest mean rate at which the class has 95 %
    of its best accuracy over those conditions. A still clip has no rate and takes no part.

    Args:
        per_class: accuracies [C, K], NaN where a class has no judged sample.
        counts: judged samples [K]; a class with fewer than 5 gets None.
        rate_hz: [C], mean over samples, NaN where no sample has a rate.
    """
    axes = grid_axes(conditions)
    if axes is None:
        return [None] * len(counts)
    widest = np.flatnonzero((axes[0] == axes[0].max()) & np.isfinite(rate_hz))
    found: list[float | None] = []
    for k, count in enumerate(counts):
        accuracy = per_class[widest, k]
        if count < FEWEST_CLASS_SAMPLES or not len(widest) or accuracy.max() <= 0:
            found.append(None)
            continue
        enough = accuracy >= BUDGET_SHARE * accuracy.max()
        found.append(float(rate_hz[widest][enough].min()))
    return found


def representative_classes(sensitivities: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """The classes a reader should look at, by rule: averaged over entries, the three with the
    largest drop are the sensitive ones, the three with the smallest variance the robust ones.
    No class is in both lists; equal values go by name.

    Args:
        sensitivities: per entry what `class_sensitivity` gave.
    """
    sums: dict[str, list[tuple[float, float]]] = {}
    for entry in sensitivities:
        for row in entry:
            sums.setdefault(row["class"], []).append((row["drop_points"], row["variance"]))
    means = {name: np.mean(values, axis=0) for name, values in sums.items()}
    count = min(REPRESENTATIVES, len(means) // 2)
    sensitive = sorted(means, key=lambda name: (-means[name][0], name))[:count]
    rest = [name for name in means if name not in sensitive]
    robust = sorted(rest, key=lambda name: (means[name][1], name))[:count]
    return {
        "sensitive": sensitive,
        "robust": robust,
        "rule": f"averaged over entries: the {count} largest drops, and of the other classes the "
        f"{count} smallest variances over coverages",
    }


def identical_conditions(clip_keys: np.ndarray) -> list[list[int]]:
    """Per condition the other conditions in which every sample gave the identical clip.

    Args:
        clip_keys: [C, N], equal keys of one sample = the same frames.
    """
    # Equal keys are found by their hash: sorting 25 x 12,000 of them takes half a second per run.
    codes = pd.factorize(clip_keys.reshape(-1))[0].reshape(clip_keys.shape)
    members = pd.factorize(np.array([row.tobytes() for row in codes], dtype=object))[0]
    return [
        [other for other in np.flatnonzero(members == members[c]).tolist() if other != c]
        for c in range(len(clip_keys))
    ]


def _drop(
    bootstrap: Bootstrap,
    entry: int,
    coverage: np.ndarray,
    high: float,
    low: float,
    where: np.ndarray,
) -> dict[str, Any]:
    upper, lower = (coverage == high) & where, (coverage == low) & where

    def points(accuracy: np.ndarray) -> np.ndarray:
        mine = accuracy[..., entry, :]
        return mine[..., upper].mean(axis=-1) - mine[..., lower].mean(axis=-1)

    def relative(accuracy: np.ndarray) -> np.ndarray:
        above = accuracy[..., entry, :][..., upper].mean(axis=-1)
        # No drop is defined from 0 % accuracy: NaN is turned into "not defined" by the interval.
        return np.divide(points(accuracy), above, out=np.full_like(above, np.nan), where=above > 0)

    percent = bootstrap.interval(relative, entries=[entry]).scaled(100)
    name = None if percent.estimate is None else robustness_class(percent.estimate)
    drop = bootstrap.interval(points, entries=[entry], collapse="difference").scaled(100)
    return {"points": drop.as_dict(), "percent": percent.as_dict(), "robustness": name}
