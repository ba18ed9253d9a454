"""The published analysis against the published numbers, scipy, statsmodels and hand arithmetic."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.formula.api import ols

from regatta.analysis.published import (
    FAULTS,
    across_models,
    class_cube,
    cohens_d,
    levene_test,
    nearest_value,
    one_way_anova,
    pairwise_welch,
    published_analysis,
)
from regatta.analysis.tables import pairwise_csv
from regatta.core.errors import DataError


def grid_table(
    accuracy: Any = None,
    *,
    classes: int = 12,
    coverages: tuple[int, ...] = (10, 25, 50, 75, 100),
    strides: tuple[int, ...] = (1, 2, 4, 8, 16),
) -> pd.DataFrame:
    """A per-class table; `accuracy(class number, coverage, stride)` or drawn at random."""
    rng = np.random.default_rng(1)
    rows = [
        (f"class-{k:02d}", c, s, rng.random() if accuracy is None else accuracy(k, c, s), 20)
        for c, s, k in product(coverages, strides, range(classes))
    ]
    return pd.DataFrame(rows, columns=["class", "coverage", "stride", "accuracy", "n_samples"])


def numbers_of(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for item in value.values() for x in numbers_of(item)]
    if isinstance(value, list):
        return [x for item in value for x in numbers_of(item)]
    return [value] if isinstance(value, float) else []


@pytest.fixture(scope="module")
def published(shared_data: Path) -> tuple[dict[str, Any], Path]:
    folder = shared_data / "published-results"
    table = pd.read_csv(folder / "videomae_ucf101_per_class.csv")
    return published_analysis(table), folder


def test_every_published_statistic_is_reproduced(published: tuple[dict[str, Any], Path]) -> None:
    ours, folder = published
    theirs = json.loads((folder / "videomae_ucf101_statistical_results.json").read_text())
    for section, values in theirs.items():
        for key, value in values.items():
            assert ours[section][key] == pytest.approx(value, rel=1e-10), (section, key)


def test_every_published_pairwise_comparison_is_reproduced(
    published: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    ours, folder = published
    (tmp_path / "ours.csv").write_text(pairwise_csv(ours["pairwise"]))
    found = pd.read_csv(tmp_path / "ours.csv")
    theirs = pd.read_csv(folder / "videomae_ucf101_pairwise_coverage_comparisons.csv")
    assert list(found.columns[:6]) == list(theirs.columns)
    assert found["Comparison"].tolist() == theirs["Comparison"].tolist()
    assert found["Bonferroni Sig"].tolist() == theirs["Bonferroni Sig"].tolist()
    for name in ("Mean Diff", "t-statistic", "p-value", "Cohen's d"):
        assert found[name].to_numpy() == pytest.approx(theirs[name].to_numpy(), rel=1e-9)


def test_published_summary_has_the_class_means_of_stride_8(
    published: tuple[dict[str, Any], Path],
) -> None:
    ours, folder = published
    table = pd.read_csv(folder / "videomae_ucf101_per_class.csv")
    at_eight = table[table["stride"] == 8].groupby("coverage")["accuracy"]
    for row in ours["summary"]:
        values = at_eight.get_group(row["coverage"])
        assert (row["n"], row["mean"]) == (101, pytest.approx(values.mean()))
        assert row["sd"] == pytest.approx(values.std())
        assert row["high"] - row["mean"] == pytest.approx(1.959964 * values.sem(), rel=1e-6)


def test_anova_and_eta_squared_equal_statsmodels() -> None:
    rng = np.random.default_rng(2)
    samples = [rng.normal(m, 1, size=n) for m, n in ((0, 20), (0.5, 31), (0.2, 12))]
    found = one_way_anova(samples)
    long = pd.DataFrame(
        {
            "y": np.concatenate(samples),
            "g": np.repeat(["a", "b", "c"], [len(s) for s in samples]),
        }
    )
    table = sm.stats.anova_lm(ols("y ~ C(g)", long).fit())
    assert found["f_statistic"] == pytest.approx(table["F"].iloc[0])
    assert found["p_value"] == pytest.approx(table["PR(>F)"].iloc[0])
    assert found["eta_squared"] == pytest.approx(table["sum_sq"].iloc[0] / table["sum_sq"].sum())
    assert (found["df_between"], found["df_within"]) == (2, 60)


def test_levene_is_centred_at_the_median() -> None:
    rng = np.random.default_rng(3)
    samples = [rng.normal(0, s, size=25) for s in (1, 2, 4)]
    expected = stats.levene(*samples, center="median")
    assert levene_test(samples)["levene_statistic"] == pytest.approx(expected.statistic)
    assert levene_test(samples)["p_value"] == pytest.approx(expected.pvalue)


def test_welch_equals_scipy_for_every_pair() -> None:
    rng = np.random.default_rng(4)
    samples = {c: rng.normal(c / 100, 0.3, size=20) for c in (10.0, 50.0, 100.0)}
    rows = pairwise_welch(samples)
    assert [row["comparison"] for row in rows] == ["10% vs 50%", "10% vs 100%", "50% vs 100%"]
    for row, (low, high) in zip(rows, ((10, 50), (10, 100), (50, 100)), strict=True):
        expected: Any = stats.ttest_ind(samples[low], samples[high], equal_var=False)
        assert row["t_statistic"] == pytest.approx(expected.statistic)
        assert row["p_value"] == pytest.approx(expected.pvalue)
        assert row["p_bonferroni"] == pytest.approx(min(1, 3 * expected.pvalue))
        assert row["significant"] == (expected.pvalue < 0.05 / 3)


def test_cohens_d_by_hand() -> None:
    """{0, 2} and {4, 6}: means differ by -4, population variances are 1, sample variances 2."""
    first, second = np.array([0.0, 2.0]), np.array([4.0, 6.0])
    assert cohens_d(first, second, ddof=0) == pytest.approx(-4)
    assert cohens_d(first, second, ddof=1) == pytest.approx(-4 / np.sqrt(2))
    assert cohens_d(np.ones(3), np.zeros(3), ddof=0) is None


def test_drop_is_averaged_over_strides_per_class() -> None:
    """Accuracy = coverage / 100 - stride / 100 + class / 1000: every class drops by 0.75."""
    found = published_analysis(grid_table(lambda k, c, s: c / 100 - s / 100 + k / 1000))
    assert found["aliasing_sensitivity"]["mean_drop"] == pytest.approx(0.75)
    assert found["aliasing_sensitivity"]["std_drop"] == pytest.approx(0, abs=1e-12)
    assert len(found["drops"]) == 12


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_all_values_equal_is_undefined_with_reasons_never_nan(value: float) -> None:
    found = published_analysis(grid_table(lambda *_: value))
    for key in ("anova_coverage", "anova_stride"):
        assert found[key]["f_statistic"] is None
        assert found[key]["p_value"] is None
        assert found[key]["reason"] == "all values are equal"
    assert found["variance_homogeneity"]["levene_statistic"] is None
    assert found["effect_sizes"]["aliasing_cohens_d"] is None
    assert all(row["t_statistic"] is None and row["reason"] for row in found["pairwise"])
    assert np.isfinite(numbers_of(found)).all()


def test_coverages_that_differ_without_spread_inside_have_eta_but_no_f() -> None:
    found = published_analysis(grid_table(lambda _k, c, _s: c / 1000))
    assert found["anova_coverage"]["eta_squared"] == pytest.approx(1)
    assert found["anova_coverage"]["f_statistic"] is None
    assert "F is not defined" in found["anova_coverage"]["reason"]


def test_one_coverage_at_ceiling_still_has_a_welch_t() -> None:
    """A class table with one perfect condition and spread elsewhere gives finite numbers."""
    found = published_analysis(grid_table(lambda k, c, _s: 1.0 if c == 100 else k / 20 + c / 400))
    perfect = next(row for row in found["pairwise"] if row["comparison"] == "75% vs 100%")
    assert perfect["t_statistic"] < 0
    assert np.isfinite(numbers_of(found)).all()


def test_absent_stride_and_coverage_fall_back_to_the_nearest_and_say_so() -> None:
    found = published_analysis(grid_table(coverages=(20, 60, 90), strides=(1, 3, 6)))
    assert found["settings"] == {"stride": 6, "coverage": 90, "low_coverage": 20}
    assert found["notes"] == [
        "stride 8 is not in the grid: 6 is used instead",
        "coverage 100 is not in the grid: 90 is used instead",
        "coverage 25 is not in the grid: 20 is used instead",
    ]


def test_of_two_equally_near_values_the_larger_is_used() -> None:
    notes: list[str] = []
    assert nearest_value(8, [4, 12], "stride", notes) == 12
    assert nearest_value(4, [4, 12], "stride", notes) == 4
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("classes", "coverages", "strides"),
    [(1, (25, 100), (1, 8)), (2, (100,), (1, 2)), (2, (25, 100), (8,)), (1, (100,), (8,))],
)
def test_smallest_grids_give_reasons_instead_of_numbers(
    classes: int, coverages: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    found = published_analysis(grid_table(classes=classes, coverages=coverages, strides=strides))
    assert np.isfinite(numbers_of(found)).all()
    for key in ("anova_coverage", "anova_stride"):
        assert (found[key]["f_statistic"] is None) == bool(found[key]["reason"])


def test_class_without_a_value_is_left_out_not_counted_as_zero() -> None:
    table = grid_table()
    table.loc[(table["class"] == "class-03") & (table["stride"] == 8), "accuracy"] = np.nan
    found = published_analysis(table)
    assert found["anova_coverage"]["df_within"] == 5 * 11 - 5
    assert "class-03" not in [row["class"] for row in found["drops"]]


def test_table_with_every_row_twice_is_refused() -> None:
    table = grid_table()
    with pytest.raises(DataError, match="two accuracies"):
        class_cube(pd.concat([table, table]))


def test_across_models_is_the_anova_of_their_cells() -> None:
    rng = np.random.default_rng(5)
    cells = {name: rng.random(25).tolist() for name in ("a", "b", "c")}
    found = across_models(cells)
    expected = stats.f_oneway(*cells.values())
    assert found["anova_models"]["f_statistic"] == pytest.approx(expected.statistic)
    assert found["anova_models"]["df_within"] == 72
    assert [row["model"] for row in found["models"]] == ["a", "b", "c"]


def test_across_one_model_is_undefined_with_a_reason() -> None:
    found = across_models({"a": [0.5, 0.6]})
    assert found["anova_models"]["f_statistic"] is None
    assert found["anova_models"]["reason"]


def test_faults_name_pairing_duplicates_and_clustering() -> None:
    text = " ".join(FAULTS).lower()
    for word in ("repeated measures", "duplicated cells", "clustering"):
        assert word in text
