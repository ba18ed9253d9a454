"""The matrix of architectures and fusion types: its cells, and what each of the two explains.

The accuracies of a full grid are parted into grand mean + architecture + fusion type + both
together, as in a two-way layout with one value per cell. Intervals of the level effects come from
the study's own draws of groups and seeds.

Shapes: A architectures, T fusion types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Interval
from regatta.analysis.fusion_decision import OVER_AVERAGE
from regatta.analysis.fusion_systems import FUSED, Fused, Resampled
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.wording import points, span

CONFOUNDED = (
    "architecture and fusion type are confounded: every architecture has one fusion type and every "
    "type one architecture, so this study ranks neither"
)
ONE_SEED = "one seed: training noise is not covered, so the cells are not ranked"
EFFECTS = ("architecture", "fusion type")


def matrix_rows(
    judged: JudgedStudy,
    fusions: Sequence[Fused],
    decisions: dict[str, dict[str, Any]],
    resampled: Resampled,
) -> list[dict[str, Any]]:
    """A row per fusion: its accuracy and its gains in points."""
    partition = judged.study.partition
    rows = []
    for fused in fusions:
        accuracy = resampled.share(fused.names[FUSED])
        name = fused.entry.name
        average, cost = (
            decisions[f"{part} {name}"] for part in (OVER_AVERAGE[0], "against equal cost")
        )
        adds = decisions[f"fusion gain {name}"]
        rows.append(
            {
                "entry": name,
                "architecture": fused.row,
                "fusion_type": fused.fusion_type,
                "partition": partition.kind if partition else None,
                "alpha": fused.alpha,
                "seeds": fused.systems[FUSED].seeds,
                "accuracy": accuracy.as_dict(),
                "gain_over_average": average["difference_points"],
                "gain_over_average_reason": average["reason"],
                "gain_over_equal_cost": cost["difference_points"],
                "gain_over_equal_cost_reason": cost["reason"],
                "verdict": cell_verdict(adds, cost),
            }
        )
    return rows


FUSION_WORDS = {
    "ahead": "fusing helps",
    "behind": "fusing harms",
    "equivalent": "fusion adds nothing",
    "identical": "fusion adds nothing",
    "few-seeds": "not enough seeds to say what fusing adds",
    "undecided": "the data cannot tell what fusing adds",
}
COST_WORDS = {
    "ahead": "ahead of equal cost",
    "behind": "behind equal cost",
    "equivalent": "equal to equal cost within the margin",
    "identical": "equal to equal cost within the margin",
    "few-seeds": "against equal cost: not enough seeds",
    "undecided": "against equal cost: the data cannot tell",
}


def cell_verdict(adds: dict[str, Any], cost: dict[str, Any]) -> str:
    """The two questions of a fused system, each answered or said to be open."""
    fusing = FUSION_WORDS.get(adds["verdict"], f"fusion gain not known ({adds['reason']})")
    against = COST_WORDS.get(cost["verdict"], f"equal cost: {cost['reason']}")
    return f"{fusing}; {against}"


def matrix_effects(fusions: Sequence[Fused], resampled: Resampled) -> list[dict[str, Any]]:
    """One decomposition per alpha."""
    alphas = list(dict.fromkeys(fused.alpha for fused in fusions))
    return [
        _effects_of([fused for fused in fusions if fused.alpha == alpha], alpha, resampled)
        for alpha in alphas
    ]


def _effects_of(
    fusions: Sequence[Fused], alpha: float | None, resampled: Resampled
) -> dict[str, Any]:
    rows = list(dict.fromkeys(fused.row for fused in fusions))
    types = list(dict.fromkeys(fused.fusion_type for fused in fusions))
    found: dict[str, Any] = {
        "alpha": alpha,
        "architectures": rows,
        "fusion_types": types,
        "effects": [],
        "notes": [],
    }
    reason = _why_not(fusions, rows, types)
    if reason:
        return {**found, "reason": reason, "sentences": [reason]}
    places = {(f.row, f.fusion_type): resampled.names[f.names[FUSED]] for f in fusions}
    grid = np.array([[places[(row, kind)] for kind in types] for row in rows])
    effects = [
        _effect(name, levels, axis, grid, resampled)
        for axis, (name, levels) in enumerate(zip(EFFECTS, (rows, types), strict=True))
        if len(levels) > 1
    ]
    together = _together(grid, resampled) if min(grid.shape) > 1 else None
    shares = _shares(resampled.draw().observed[:, 0][grid])
    several = min(len(fused.systems[FUSED].seeds) for fused in fusions) > 1
    return {
        **found,
        "reason": "",
        "effects": effects,
        "both": together,
        "shares": shares,
        "notes": [] if several else [ONE_SEED],
        "sentences": _sentences(effects, together, shares),
    }


def _why_not(fusions: Sequence[Fused], rows: Sequence[str], types: Sequence[str]) -> str:
    cells = {(fused.row, fused.fusion_type) for fused in fusions}
    if len(cells) < 2:
        return "a single system: there is no matrix"
    if len(cells) == len(rows) * len(types):
        return ""
    if len(cells) == len(rows) == len(types):
        return CONFOUNDED
    return (
        f"{len(cells)} of {len(rows) * len(types)} cells are judged: on an incomplete matrix the "
        "effects of architecture and fusion type cannot be told apart"
    )


def _deviations(grid: np.ndarray, axis: int) -> Callable[[np.ndarray], np.ndarray]:
    """Accuracies [..., E, C] -> the mean of each level minus the grand mean, [..., levels]."""

    def statistic(accuracy: np.ndarray) -> np.ndarray:
        cells = accuracy[..., 0][..., grid]
        return cells.mean(axis=-1 if axis == 0 else -2) - cells.mean(axis=(-2, -1))[..., None]

    return statistic


def _effect(
    name: str, levels: Sequence[str], axis: int, grid: np.ndarray, resampled: Resampled
) -> dict[str, Any]:
    drawn, places = resampled.draw(), grid.ravel().tolist()
    deviations = _deviations(grid, axis)
    intervals = drawn.intervals(deviations, entries=places, collapse="difference")
    return {
        "effect": name,
        "levels": [
            {"level": level, "effect_points": interval.scaled(100).as_dict()}
            for level, interval in zip(levels, intervals, strict=True)
        ],
        # No interval: a range is never negative, and grows with noise alone.
        "range_points": 100 * float(np.ptp(deviations(drawn.observed))),
    }


def _together(grid: np.ndarray, resampled: Resampled) -> dict[str, Any]:
    """The largest deviation of a cell from the sum of the two effects. It was picked out of all
    cells, so its interval is corrected for their number."""
    drawn = resampled.draw()
    residual = _residuals(drawn.observed[:, 0][grid])
    place = np.unravel_index(int(np.abs(residual).argmax()), residual.shape)

    def statistic(accuracy: np.ndarray) -> np.ndarray:
        return _residuals(accuracy[..., 0][..., grid])[..., place[0], place[1]]

    level = 1 - (1 - drawn.confidence) / grid.size
    found = drawn.interval(
        statistic, entries=grid.ravel().tolist(), collapse="difference", confidence=level
    )
    return {
        "cell": [int(place[0]), int(place[1])],
        "largest_points": found.scaled(100).as_dict(),
    }


def _residuals(cells: np.ndarray) -> np.ndarray:
    """Cells [..., A, T] minus both of their marginal means plus the grand mean."""
    rows, columns = cells.mean(axis=-1, keepdims=True), cells.mean(axis=-2, keepdims=True)
    return cells - rows - columns + cells.mean(axis=(-2, -1), keepdims=True)


def _shares(cells_AT: np.ndarray) -> dict[str, float] | None:
    """Share of the sum of squares between cells of each part; None where all cells are equal."""
    grand = cells_AT.mean()
    parts = {
        "architecture": cells_AT.shape[1] * ((cells_AT.mean(axis=1) - grand) ** 2).sum(),
        "fusion type": cells_AT.shape[0] * ((cells_AT.mean(axis=0) - grand) ** 2).sum(),
        "both": (_residuals(cells_AT) ** 2).sum(),
    }
    total = ((cells_AT - grand) ** 2).sum()
    return {name: float(part / total) for name, part in parts.items()} if total > 0 else None


def _sentences(
    effects: Sequence[dict[str, Any]],
    together: dict[str, Any] | None,
    shares: dict[str, float] | None,
) -> list[str]:
    found = []
    for effect in effects:
        rows = effect["levels"]
        extremes = sorted(rows, key=lambda row: row["effect_points"]["estimate"])
        told = [
            f"{row['level']} {points(row['effect_points']['estimate'], sign=True)} "
            f"{span(Interval(**row['effect_points']))}"
            for row in (extremes[-1], extremes[0])
        ]
        width = points(effect["range_points"])
        found.append(
            f"levels of {effect['effect']} lie up to {width} points apart, averaged over the "
            f"other factor; against the mean of all cells: {' and '.join(told)}"
        )
    if together is not None and shares is not None:
        largest = Interval(**together["largest_points"])
        found.append(
            "of the variation between cells "
            + ", ".join(f"{100 * share:.0f} % goes with {name}" for name, share in shares.items())
            + f"; the largest deviation of a cell from the sum of the two effects is "
            f"{points(largest.estimate or 0.0, sign=True)} {span(largest)} points, its interval "
            "corrected for the number of cells"
        )
    return found


MATRIX_COLUMNS = (
    "architecture",
    "fusion_type",
    "partition",
    "alpha",
    "accuracy",
    "low",
    "high",
    "gain_over_average",
    "gain_over_equal_cost",
    "verdict",
)
