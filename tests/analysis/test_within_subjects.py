"""Repeated-measures analysis of variance against statsmodels, textbooks, t tests and algebra."""

from __future__ import annotations

import time
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.anova import AnovaRM

from regatta.analysis.within_subjects import Factor, effect_contrasts, effects_of, repeated_measures

WINER = np.array(
    [[30, 28, 16, 34], [14, 18, 10, 22], [24, 20, 18, 30], [38, 34, 20, 44], [26, 28, 14, 30.0]]
)
"""Winer, Brown and Michels (1991), table 4.3: four drugs, five persons."""


def factors_of(*sizes: int) -> list[Factor]:
    return [Factor(f"f{n}", tuple(map(str, range(size)))) for n, size in enumerate(sizes)]


def by_effect(values: np.ndarray, *sizes: int) -> dict[str, dict[str, Any]]:
    return {row["effect"]: row for row in repeated_measures(values, factors_of(*sizes))}


def test_the_textbook_example_has_the_published_f_epsilon_and_p() -> None:
    found = by_effect(WINER, 4)["f0"]
    assert (found["df1"], found["df2"]) == (3, 12)
    assert found["f"] == pytest.approx(24.76, abs=0.005)
    assert found["epsilon"] == pytest.approx(0.6049, abs=5e-5)
    assert found["p_greenhouse_geisser"] == pytest.approx(0.0006, abs=5e-5)
    # The published sums of squares: drug 698.2, residual 112.8, persons 680.8.
    assert found["partial_eta_squared"] == pytest.approx(698.2 / (698.2 + 112.8), abs=1e-9)
    generalised = 698.2 / (698.2 + 112.8 + 680.8)
    assert found["generalised_eta_squared"] == pytest.approx(generalised, abs=1e-9)


@pytest.mark.parametrize("sizes", [(4,), (3, 4), (2, 3, 4)])
def test_f_and_p_are_those_of_statsmodels(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(sizes))
    subjects, cells = 9, list(product(*map(range, sizes)))
    values = rng.normal(size=(subjects, len(cells))) + rng.normal(size=len(cells))
    names = [factor.name for factor in factors_of(*sizes)]
    frame = pd.DataFrame(
        [
            {"subject": s, "y": values[s, c], **dict(zip(names, cell, strict=True))}
            for s in range(subjects)
            for c, cell in enumerate(cells)
        ]
    )
    peer = AnovaRM(frame, "y", "subject", within=names).fit().anova_table
    found = by_effect(values, *sizes)
    assert len(found) == len(peer)
    for effect, row in found.items():
        theirs = peer.loc[effect.replace(" x ", ":")]
        assert row["f"] == pytest.approx(theirs["F Value"], rel=1e-9)
        assert row["p_value"] == pytest.approx(theirs["Pr > F"], rel=1e-8)
        assert (row["df1"], row["df2"]) == (theirs["Num DF"], theirs["Den DF"])


def textbook_epsilon(table: np.ndarray) -> float:
    """Box's formula from the covariance matrix [k, k] of one factor's levels."""
    s, k = np.cov(table.T), table.shape[1]
    top = k**2 * (np.trace(s) / k - s.mean()) ** 2
    rows = (s.mean(axis=1) ** 2).sum()
    return top / ((k - 1) * ((s**2).sum() - 2 * k * rows + k**2 * s.mean() ** 2))


def test_epsilon_is_that_of_boxs_formula() -> None:
    values = np.random.default_rng(5).normal(size=(12, 5)) @ np.diag([1.0, 2, 3, 4, 9])
    assert by_effect(values, 5)["f0"]["epsilon"] == pytest.approx(textbook_epsilon(values))
    # A main effect of two factors is the one-factor analysis of the means over the other factor.
    crossed = np.random.default_rng(6).normal(size=(12, 4, 3)) * np.arange(1, 4)
    means = crossed.mean(axis=1)
    found = by_effect(crossed.reshape(12, 12), 4, 3)["f1"]
    assert found["epsilon"] == pytest.approx(textbook_epsilon(means))
    assert found["f"] == pytest.approx(by_effect(means, 3)["f0"]["f"])


def test_two_levels_give_the_square_of_the_paired_t_test_and_epsilon_one() -> None:
    values = np.random.default_rng(7).normal(size=(15, 2)) + np.array([0.0, 0.4])
    t = ttest_rel(values[:, 0], values[:, 1])
    found = by_effect(values, 2)["f0"]
    assert found["f"] == pytest.approx(float(t.statistic) ** 2)
    assert found["p_greenhouse_geisser"] == pytest.approx(float(t.pvalue))
    assert found["epsilon"] == pytest.approx(1.0)


def test_equal_correlations_have_epsilon_one_and_one_direction_the_lowest() -> None:
    rng = np.random.default_rng(8)
    orthonormal = np.linalg.qr(rng.normal(size=(20, 5)) - rng.normal(size=5))[0]
    orthonormal -= orthonormal.mean(axis=0)
    spherical = np.linalg.qr(orthonormal)[0]
    assert by_effect(spherical, 5)["f0"]["epsilon"] == pytest.approx(1.0)
    # All spread along one contrast: Box's lower bound 1 / (k - 1).
    line = rng.normal(size=(20, 1)) * np.array([[1.0, -1, 0, 0, 0]]) + np.arange(5)
    assert by_effect(line, 5)["f0"]["epsilon"] == pytest.approx(0.25)


def test_duplicate_cells_are_no_trouble() -> None:
    values = np.random.default_rng(9).normal(size=(10, 4)) + np.arange(4)
    doubled = np.concatenate([values, values[:, -1:]], axis=1)
    found = by_effect(doubled, 5)["f0"]
    assert found["reason"] == ""
    assert found["epsilon"] == pytest.approx(textbook_epsilon(doubled))


def test_sums_of_squares_of_all_effects_add_up_to_the_whole() -> None:
    sizes = (2, 3, 5)
    parts = [effect_contrasts(sizes, effect) for effect in effects_of(factors_of(*sizes))]
    whole = np.concatenate([np.full((30, 1), 30**-0.5), *parts], axis=1)
    assert whole.T @ whole == pytest.approx(np.eye(30))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[0.0, 1.0, 1.0]]), "there is one subject only"),
        (np.ones((6, 3)), "the compared cells are equal for every subject"),
        (
            np.arange(6.0)[:, None] + np.array([[0.0, 0.1, 0.3]]),
            "every subject differs by the same amount, so there is no spread to test against",
        ),
    ],
)
def test_what_is_not_defined_is_none_with_a_reason(values: np.ndarray, reason: str) -> None:
    found = by_effect(values, 3)["f0"]
    assert found["reason"] == reason
    assert found["f"] is found["p_value"] is found["partial_eta_squared"] is None


def test_a_whole_test_set_over_75_cells_takes_less_than_two_seconds() -> None:
    values = np.random.default_rng(10).integers(0, 2, size=(12_227, 75)).astype(float)
    repeated_measures(values[:20], factors_of(3, 5, 5))
    start = time.perf_counter()
    rows = repeated_measures(values, factors_of(3, 5, 5))
    assert time.perf_counter() - start < 2
    assert len(rows) == 7
