"""The clustered model against statsmodels, Hotelling's T squared, and its own error rate."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import f as f_distribution
from scipy.stats import ttest_rel

from regatta.analysis.gee import Link, boundary_cells, cell_model, clustered_tests, wald_test
from regatta.analysis.within_subjects import Factor, effect_contrasts


def factors_of(*sizes: int) -> list[Factor]:
    return [Factor(f"f{n}", tuple(map(str, range(size)))) for n, size in enumerate(sizes)]


def answers(groups: int, cells: int, *, seed: int, low: int = 1, high: int = 9) -> Any:
    """(sizes [G], right answers [G, P], bool answers per group [n, P])."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(low, high, size=groups)
    found = []
    for size in sizes:
        skill = rng.normal() + rng.normal(size=(size, 1)) + np.linspace(-0.5, 1, cells)
        found.append(skill + rng.normal(size=(size, cells)) > 0)
    return sizes, np.stack([one.sum(axis=0) for one in found]).astype(float), found


@pytest.mark.parametrize("link", ["logit", "identity"])
def test_estimates_and_robust_errors_are_those_of_statsmodels(link: Link) -> None:
    cells = 6
    sizes, right, found = answers(25, cells, seed=1)
    y = np.concatenate([one.T.ravel() for one in found]).astype(float)
    x = np.concatenate([np.repeat(np.eye(cells), size, axis=0) for size in sizes])
    clusters = np.concatenate([np.full(size * cells, g) for g, size in enumerate(sizes)])
    # With the identity link least squares solve the same equations: the binomial variance is the
    # same for all answers of a cell.
    family = sm.families.Binomial() if link == "logit" else sm.families.Gaussian()
    peer = sm.GEE(y, x, groups=clusters, family=family, cov_struct=sm.cov_struct.Independence())
    fitted: Any = peer.fit(cov_type="robust", maxiter=200, ctol=1e-12)
    model = cell_model(right, sizes, link=link)
    assert model.estimate == pytest.approx(fitted.params, abs=1e-6)
    assert model.covariance == pytest.approx(fitted.cov_params(), abs=1e-6)
    assert np.sqrt(np.diag(model.covariance)) == pytest.approx(fitted.bse, abs=1e-6)


def test_groups_of_equal_size_give_hotellings_t_squared() -> None:
    groups, size, cells = 14, 5, 4
    sizes, right, _ = answers(groups, cells, seed=2, low=size, high=size + 1)
    (found,) = clustered_tests(cell_model(right, sizes, link="identity"), factors_of(cells))
    differences = right[:, 1:] / size - right[:, :1] / size
    mean, spread = differences.mean(axis=0), np.cov(differences.T)
    t_squared = groups * mean @ np.linalg.solve(spread, mean)
    f = t_squared * (groups - 3) / (3 * (groups - 1))
    assert found["f"] == pytest.approx(f)
    assert (found["df1"], found["df2"]) == (3, pytest.approx(11))
    assert found["p_value"] == pytest.approx(float(f_distribution.sf(f, 3, 11)))


def test_two_cells_give_the_square_of_the_paired_t_test_over_groups() -> None:
    sizes, right, _ = answers(12, 2, seed=3, low=4, high=5)
    (found,) = clustered_tests(cell_model(right, sizes, link="identity"), factors_of(2))
    t = ttest_rel(right[:, 0], right[:, 1])
    assert found["f"] == pytest.approx(float(t.statistic) ** 2)
    assert found["p_value"] == pytest.approx(float(t.pvalue))


def test_seeds_that_agree_change_nothing() -> None:
    sizes, right, found = answers(20, 3, seed=4)
    doubled = np.stack([np.concatenate([one, one]).sum(axis=0) for one in found]) / 2
    once, twice = (cell_model(table, sizes, link="logit") for table in (right, doubled))
    assert twice.covariance == pytest.approx(once.covariance)


def test_cells_with_identical_answers_lower_the_rank_and_not_the_evidence() -> None:
    sizes, right, _ = answers(30, 3, seed=5)
    doubled = np.concatenate([right, right[:, -1:]], axis=1)
    for link in ("logit", "identity"):
        (plain,) = clustered_tests(cell_model(right, sizes, link=link), factors_of(3))
        (found,) = clustered_tests(cell_model(doubled, sizes, link=link), factors_of(4))
        assert (found["df1"], found["contrasts"]) == (2, 3)
        assert found["f"] == pytest.approx(plain["f"])


def test_identical_entries_are_equal_in_every_group() -> None:
    sizes, right, _ = answers(20, 3, seed=6)
    model = cell_model(np.concatenate([right, right], axis=1), sizes, link="logit")
    tests = {row["effect"]: row for row in clustered_tests(model, factors_of(2, 3))}
    for effect in ("f0", "f0 x f1"):
        assert tests[effect]["reason"] == "the compared cells are equal in every group"
        assert tests[effect]["p_value"] is None
    assert tests["f1"]["p_value"] is not None


def test_too_few_groups_are_named_and_one_group_is_no_test() -> None:
    sizes, right, _ = answers(6, 9, seed=7, low=30, high=31)
    (found,) = clustered_tests(cell_model(right, sizes, link="identity"), factors_of(9))
    assert found["p_value"] is None
    assert found["reason"] == "8 contrasts need more than 8 groups, there are 6"
    (alone,) = clustered_tests(cell_model(right[:1], sizes[:1], link="identity"), factors_of(9))
    assert alone["reason"] == "all samples belong to one group"


def test_one_large_group_counts_as_few_groups() -> None:
    sizes = np.array([200, 3, 3, 3, 3, 3, 3, 3])
    right = np.random.default_rng(8).binomial(sizes[:, None], 0.6, size=(8, 3)).astype(float)
    model = cell_model(right, sizes, link="identity")
    assert model.effective_groups == pytest.approx(221**2 / (200**2 + 7 * 9))
    (found,) = clustered_tests(model, factors_of(3))
    assert found["p_value"] is None
    assert "count as 1.2" in found["reason"]


def test_a_constant_difference_without_spread_is_no_test() -> None:
    right = np.array([[3.0, 2.0]] * 6)
    sizes = np.full(6, 4)
    (found,) = clustered_tests(cell_model(right, sizes, link="identity"), factors_of(2))
    assert found["p_value"] is None
    assert "no spread to test" in found["reason"]


def test_cells_at_the_end_of_the_scale_are_found() -> None:
    sizes = np.array([2, 3, 4])
    right = np.stack([sizes, sizes - 1, 0 * sizes, sizes], axis=1).astype(float)
    assert boundary_cells(right, sizes).tolist() == [0, 2, 3]


def test_without_any_effect_five_percent_are_rejected() -> None:
    """Groups of very different sizes, eight contrasts, no cell that differs from another."""
    rng, rounds, groups, contrasts = (
        np.random.default_rng(9),
        900,
        70,
        effect_contrasts((3, 5), (0, 1)),
    )
    rejected = {"logit": 0, "identity": 0}
    for _ in range(rounds):
        sizes = np.maximum(1, rng.lognormal(2.0, 0.8, size=groups).round()).astype(int)
        skill = 0.8 + rng.normal(size=(groups, 1)) + 0.4 * rng.normal(size=(groups, 15))
        right = rng.binomial(sizes[:, None], 1 / (1 + np.exp(-skill))).astype(float)
        for link in ("logit", "identity"):
            p_value = wald_test(cell_model(right, sizes, link=link), contrasts)["p_value"]
            rejected[link] += p_value is not None and p_value < 0.05
    # Three standard errors of a rate of 0.05 are 0.022.
    assert 0.028 < rejected["logit"] / rounds < 0.072
    assert 0.028 < rejected["identity"] / rounds < 0.072


@pytest.mark.parametrize("groups", [700, 12_227])
def test_a_whole_test_set_over_75_cells_takes_seconds(groups: int) -> None:
    sizes = np.full(groups, 12_227 // groups)
    right = np.random.default_rng(10).binomial(sizes[:, None], 0.7, size=(groups, 75)).astype(float)
    start = time.perf_counter()
    rows = clustered_tests(cell_model(right, sizes, link="logit"), factors_of(3, 5, 5))
    assert time.perf_counter() - start < 3
    assert all(row["p_value"] is not None for row in rows)
