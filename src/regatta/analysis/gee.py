"""Clustered model of right answers: one mean per cell, groups as clusters.

Shapes: G groups, P cells, q contrasts of an effect.

This is the generalised estimating equation of Liang and Zeger (1986) with an independence working
correlation and a mean of its own for every cell. Its solution is known without iteration: each
cell's estimate is the link of its share of right answers, and the robust covariance is
D^-1 (sum over groups of r r') D^-1 with r a group's summed residuals per cell. Whatever the
correlation between the answers of one group, in one cell or across cells, the covariance holds.

Effects are tested by Wald's statistic W with the covariance times G / (G - 1) and the small-sample
F of Korn and Graubard (1990, Simultaneous testing of regression coefficients with complex survey
data): F = W (g - q) / (q (g - 1)) with q and g - q degrees of freedom. With g = G, groups of equal
size and the identity link that is Hotelling's T squared exactly. Groups of unequal size count as
fewer: g is (sum of n)^2 / sum of n^2 (Carter, Schnepel and Steigerwald 2017, Asymptotic behavior of
a t-test robust to cluster heterogeneity), without which tests of many contrasts reject far too
often.

Cells with identical clips have identical answers: a contrast between them is 0 by design, with no
variance. Such directions are no hypothesis and are left out, so q is the rank of the covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from regatta.analysis.within_subjects import (
    Factor,
    effect_contrasts,
    effect_name,
    effects_of,
)

Link = Literal["logit", "identity"]

NO_VARIANCE = 1e-10
"""A direction whose variance is below this share of the largest cell's has none but rounding."""
NO_DIFFERENCE = 1e-8


@dataclass(frozen=True)
class CellModel:
    """Estimates [P] on the scale of the link and their robust covariance [P, P]."""

    estimate: np.ndarray
    covariance: np.ndarray
    groups: int
    effective_groups: float
    """How many groups of equal size these count as."""


def boundary_cells(right: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Positions of the cells at 0 or 100 %, which have no logit; arguments as in `cell_model`."""
    total = right.sum(axis=0)
    return np.flatnonzero((total <= 0) | (total >= sizes.sum() * (1 - 1e-12)))


def cell_model(right: np.ndarray, sizes: np.ndarray, *, link: Link) -> CellModel:
    """The fitted model; with "logit" no cell may be at 0 or 100 % (see `boundary_cells`).

    Args:
        right: [G, P], right answers of each group per cell, averaged over seeds: seeds of an entry
            are more answers of the same group, and only their mean enters.
        sizes: [G], samples of each group.
    """
    share = right.sum(axis=0) / sizes.sum()
    residuals = right - sizes[:, None] * share
    information = np.full(len(share), float(sizes.sum()))
    estimate = share
    if link == "logit":
        information = information * share * (1 - share)
        estimate = np.log(share / (1 - share))
    scaled = residuals / information
    effective = float(sizes.sum()) ** 2 / float((sizes.astype(float) ** 2).sum())
    return CellModel(estimate, scaled.T @ scaled, len(sizes), effective)


def clustered_tests(model: CellModel, factors: Sequence[Factor]) -> list[dict[str, Any]]:
    """Wald tests of all main effects and interactions; see `wald_test` for their keys."""
    sizes = [len(factor.levels) for factor in factors]
    return [
        {
            "effect": effect_name(factors, effect),
            "factors": [factors[f].name for f in effect],
            **wald_test(model, effect_contrasts(sizes, effect)),
        }
        for effect in effects_of(factors)
    ]


def wald_test(model: CellModel, contrasts: np.ndarray) -> dict[str, Any]:
    """Whether all contrasts [P, q] of the estimates are zero.

    Returns:
        wald, f, df1 (the rank), df2, p_value, contrasts (q as asked); None with a `reason` where
        the groups are too few or nothing varies.
    """
    from scipy.stats import f as f_distribution

    groups, asked = model.groups, contrasts.shape[1]
    result: dict[str, Any] = {
        "wald": None,
        "f": None,
        "df1": None,
        "df2": None,
        "p_value": None,
        "contrasts": asked,
        "reason": "",
    }
    if groups < 2:
        return {**result, "reason": "all samples belong to one group"}
    covariance = groups / (groups - 1) * model.covariance
    values, directions = np.linalg.eigh(contrasts.T @ covariance @ contrasts)
    along = directions.T @ (contrasts.T @ model.estimate)
    varies = values > NO_VARIANCE * max(float(covariance.diagonal().max()), NO_VARIANCE)
    rank = int(varies.sum())
    largest = max(float(np.abs(model.estimate).max()), 1.0)
    if (np.abs(along[~varies]) > NO_DIFFERENCE * largest).any():
        return {**result, "reason": _too_few(model, asked)}
    if rank == 0:
        return {**result, "reason": "the compared cells are equal in every group"}
    if model.effective_groups <= rank:
        return {**result, "reason": _too_few(model, rank)}
    wald = float((along[varies] ** 2 / values[varies]).sum())
    df2 = model.effective_groups - rank
    f = wald * df2 / (rank * (model.effective_groups - 1))
    p_value = float(f_distribution.sf(f, rank, df2))
    return {**result, "wald": wald, "f": f, "df1": rank, "df2": df2, "p_value": p_value}


def _too_few(model: CellModel, contrasts: int) -> str:
    if model.groups <= contrasts:
        return f"{contrasts} contrasts need more than {contrasts} groups, there are {model.groups}"
    if model.effective_groups <= contrasts:
        return (
            f"{contrasts} contrasts need more than {contrasts} groups of equal size: these "
            f"{model.groups} count as {model.effective_groups:.1f}"
        )
    return "some cells differ by the same amount in every group, so there is no spread to test"
