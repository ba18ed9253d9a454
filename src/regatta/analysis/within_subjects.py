"""Repeated-measures analysis of variance in which every factor varies within subjects.

Shapes: n subjects, P cells (all combinations of levels, the last factor fastest), q contrasts of
an effect.

Each effect is a set of orthonormal contrasts of the cells, so its sums of squares and its
Greenhouse-Geisser epsilon come from the cell means [P] and one scatter matrix [P, P]: the size of
the work does not depend on the number of effects, and no table of n x P dummies is built.

Sources: Greenhouse and Geisser 1959, On methods in the analysis of profile data; Olejnik and
Algina 2003, Generalized eta and omega squared statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np

NO_SPREAD = 1e-12
"""A sum of squares below this share of the whole is rounding, not spread."""


@dataclass(frozen=True)
class Factor:
    """What varies between cells, and its values in words."""

    name: str
    levels: tuple[str, ...]


def effects_of(factors: Sequence[Factor]) -> Iterator[tuple[int, ...]]:
    """Positions of the factors of every effect: main effects, then pairs, and so on."""
    for size in range(1, len(factors) + 1):
        yield from combinations(range(len(factors)), size)


def effect_name(factors: Sequence[Factor], effect: Sequence[int]) -> str:
    """`model x coverage`."""
    return " x ".join(factors[f].name for f in effect)


def effect_contrasts(sizes: Sequence[int], effect: Sequence[int]) -> np.ndarray:
    """Orthonormal contrasts [P, q] of one effect: contrasts of its factors, means over the others.

    Args:
        sizes: number of levels of each factor. effect: positions of the factors in it.
    """
    from scipy.linalg import helmert

    parts = [
        helmert(size).T if f in effect else np.full((size, 1), size**-0.5)
        for f, size in enumerate(sizes)
    ]
    return reduce(np.kron, parts)


def repeated_measures(values: np.ndarray, factors: Sequence[Factor]) -> list[dict[str, Any]]:
    """All main effects and interactions, each tested against its interaction with the subjects.

    Args:
        values: [n, P], one row per subject.
    Returns:
        Per effect f, df1, df2, p_value (uncorrected), epsilon and p_greenhouse_geisser, partial
        and generalised eta squared. What the data do not define is None, with a `reason`.
    """
    subjects, sizes = len(values), [len(factor.levels) for factor in factors]
    means = values.mean(axis=0)
    centred = values - means
    scatter = centred.T @ centred
    rounding = NO_SPREAD * max(float((values**2).sum()), 1.0)
    return [
        {
            "effect": effect_name(factors, effect),
            "factors": [factors[f].name for f in effect],
            **_test(effect_contrasts(sizes, effect), means, scatter, subjects, rounding),
        }
        for effect in effects_of(factors)
    ]


def _test(
    contrasts: np.ndarray, means: np.ndarray, scatter: np.ndarray, subjects: int, rounding: float
) -> dict[str, Any]:
    from scipy.stats import f as f_distribution

    between = subjects * float(((contrasts.T @ means) ** 2).sum())
    own = contrasts.T @ scatter @ contrasts
    error, whole_error = float(np.trace(own)), float(np.trace(scatter))
    df1 = contrasts.shape[1]
    df2 = (subjects - 1) * df1
    result: dict[str, Any] = {
        "f": None,
        "df1": df1,
        "df2": df2,
        "p_value": None,
        "epsilon": None,
        "p_greenhouse_geisser": None,
        "partial_eta_squared": None,
        "generalised_eta_squared": None,
        "reason": _undefined(subjects, between, error, rounding),
    }
    if result["reason"]:
        return result
    f = between / df1 / (error / df2)
    epsilon = min(error**2 / (df1 * float((own**2).sum())), 1.0)
    return {
        **result,
        "f": f,
        "p_value": float(f_distribution.sf(f, df1, df2)),
        "epsilon": epsilon,
        "p_greenhouse_geisser": float(f_distribution.sf(f, epsilon * df1, epsilon * df2)),
        "partial_eta_squared": between / (between + error),
        "generalised_eta_squared": between / (between + whole_error),
    }


def _undefined(subjects: int, between: float, error: float, rounding: float) -> str:
    """Why there is no test; empty where there is one."""
    if subjects < 2:
        return "there is one subject only"
    if error > rounding:
        return ""
    if between > rounding:
        return "every subject differs by the same amount, so there is no spread to test against"
    return "the compared cells are equal for every subject"
