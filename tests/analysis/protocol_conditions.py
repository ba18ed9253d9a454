"""Conditions of every protocol and simple plans for them, written from the table of the contract.

The plans are not the product's: they only need to give each condition the right number of distinct
frames, the right span, and equal keys where two conditions show the same clip.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from regatta.records.conditions import Condition

COVERAGES = (10, 25, 50, 75, 100)
STRIDES = (1, 2, 4, 8, 16)
FRAME_COUNTS = (1, 2, 4, 8, 16)
WIDTHS = (10, 25, 50, 75, 100)
CONTROLS = ("full", "one-frame", "static", "shuffled", "reversed")
VIEWS = ((1, 1), (5, 3), (10, 3))
POSITIONS = (0, 12.5, 25, 37.5, 50, 62.5, 75, 87.5, 100)
PROTOCOLS = ("matched", "span", "antialias", "controls", "multi-view", "sliding")
WITHOUT_CEILING = ("shuffled", "reversed")
CLIP_SECONDS_PER_FRAME = 1 / 32


def grid_conditions() -> list[Condition]:
    """The 25 cells in the order coverage, stride; the full clip at stride 1 is the reference."""
    return [
        Condition(f"c{c}s{s}", {"coverage": c, "stride": s}, is_reference=(c, s) == (100, 1))
        for c, s in product(COVERAGES, STRIDES)
    ]


def conditions_of(protocol: str) -> list[Condition]:
    """The conditions of a protocol under its default options."""
    if protocol in ("temporal-grid", "temporal-grid-legacy"):
        return grid_conditions()
    if protocol == "plain":
        return [Condition("plain", {}, is_reference=True)]
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "matched": [(f"k{k}", {"frames": k}) for k in FRAME_COUNTS],
        "span": [(f"w{w}", {"span": w}) for w in WIDTHS],
        "antialias": [
            (f"s{s}-{f}", {"stride": s, "filter": f}) for s in STRIDES for f in ("point", "box")
        ],
        "controls": [(name, {"control": name}) for name in CONTROLS],
        "multi-view": [(f"v{n}x{m}", {"clips": n, "crops": m}) for n, m in VIEWS],
        "sliding": [(f"at{p:g}", {"position": p}) for p in POSITIONS],
    }
    reference = {
        "matched": "k16", "span": "w100", "antialias": "s1-point", "controls": "full",
        "multi-view": "v1x1", "sliding": "at50",
    }[protocol]  # fmt: skip
    return [Condition(name, axes, is_reference=name == reference) for name, axes in found[protocol]]


def spread(first: int, last: int, count: int) -> list[int]:
    return sorted({round(x) for x in np.linspace(first, last, count)})


def plan_indices(total_frames: int, condition: Condition, model_frames: int) -> list[int]:
    """Frame indices of one clip of `model_frames`; the last one held where there are too few."""
    picked = _picked(total_frames, condition, model_frames)
    if len(picked) > model_frames:
        picked = [picked[round(x)] for x in np.linspace(0, len(picked) - 1, model_frames)]
    return picked + [picked[-1]] * (model_frames - len(picked))


def _picked(total: int, condition: Condition, model_frames: int) -> list[int]:
    axes = condition.axes
    if "coverage" in axes:
        window = max(1, int(total * axes["coverage"] / 100))
        return list(range(0, window, axes["stride"]))
    if "frames" in axes:
        return spread(0, total - 1, axes["frames"]) if axes["frames"] > 1 else [total // 2]
    if "span" in axes:
        margin = int(total * (100 - axes["span"]) / 200)
        return spread(margin, total - 1 - margin, 8)
    if "filter" in axes:
        return [
            s + axes["stride"] // 2 for s in range(0, total - axes["stride"] + 1, axes["stride"])
        ]
    if "position" in axes:
        window = total // 4
        start = round((total - window) * axes["position"] / 100)
        return spread(start, start + window - 1, model_frames)
    if axes.get("control") in ("one-frame", "static"):
        return [total // 2]
    return spread(0, total - 1, model_frames)


def clip_name(condition: Condition, indices: list[int]) -> str:
    """What tells clips apart: the frames, and what is done to them besides."""
    axes = condition.axes
    filtered = axes.get("filter") == "box" and axes["stride"] > 1
    treated = {"static": "mean", "shuffled": "shuffled", "reversed": "reversed"}
    extra = "box" if filtered else treated.get(axes.get("control", ""), "")
    views = f"{axes['clips']}x{axes['crops']}" if "clips" in axes else ""
    return f"{indices} {extra} {views}"
