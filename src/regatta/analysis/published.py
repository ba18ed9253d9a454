"""The analysis that stands in the literature: one-way tests over class accuracies.

It is given so that published tables can be reproduced and compared with, number by number. Its
unit is the accuracy of one class in one condition. `FAULTS` says what is wrong with that, and is
printed beside it; the verdict of a study never comes from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from regatta.core.errors import DataError

FAULTS = (
    "Repeated measures treated as independent: the same samples and classes stand in every "
    "condition, so the F and t tests, which assume separate groups, give wrong p-values.",
    "Duplicated cells: conditions in which the model saw identical clips enter as if they were "
    "new evidence.",
    "Ignored clustering: samples cut from one source video are not independent, and a class with "
    "5 samples counts as much as one with 500.",
    "Unequal spread: Levene's test often rejects equal variances, which the ANOVA assumes.",
    "Across models, the conditions of one model are used as replicates although all come from one "
    "trained network.",
)

NO_SPREAD = 1e-20
"""Sums of squares of accuracies below this are rounding, not spread."""


def published_analysis(
    table: pd.DataFrame,
    *,
    stride: float = 8,
    coverage: float = 100,
    low_coverage: float = 25,
    significance: float = 0.05,
) -> dict[str, Any]:
    """The published statistics of one model.

    Args:
        table: columns class, coverage, stride, accuracy; one row per class and condition.
        stride: where coverages are compared. A value that is not in the grid is replaced by the
            nearest one that is, and `notes` says so.
        coverage: where strides are compared, and the upper end of drops.
    Returns:
        anova_coverage, anova_stride, variance_homogeneity, aliasing_sensitivity, effect_sizes (the
        published keys), pairwise, summary, drops, settings, notes. Undefined values are None with
        a `reason`, never NaN.
    """
    cube = class_cube(table)
    notes: list[str] = []
    stride_used = nearest_value(stride, cube.strides, "stride", notes)
    high = nearest_value(coverage, cube.coverages, "coverage", notes)
    low = nearest_value(low_coverage, cube.coverages, "coverage", notes)
    by_coverage = cube.coverages_at(stride_used)
    by_stride = cube.strides_at(high)
    drops = drop_by_class(cube, high, low)
    return {
        "anova_coverage": one_way_anova(list(by_coverage.values())),
        "anova_stride": one_way_anova(list(by_stride.values())),
        "variance_homogeneity": levene_test(list(by_coverage.values())),
        "aliasing_sensitivity": _drop_summary(drops),
        "effect_sizes": {
            "aliasing_cohens_d": _ends_cohens_d(by_coverage, upper_first=True),
            "stride_cohens_d": _ends_cohens_d(by_stride, upper_first=False),
        },
        "pairwise": pairwise_welch(by_coverage, significance=significance),
        "summary": [_summary(value, values) for value, values in by_coverage.items()],
        "drops": drops,
        "settings": {"stride": stride_used, "coverage": high, "low_coverage": low},
        "notes": notes,
    }


@dataclass(frozen=True)
class ClassCube:
    """Class accuracies [K, coverages, strides]; NaN where a class has no value."""

    classes: list[str]
    coverages: list[float]
    strides: list[float]
    accuracy: np.ndarray

    def coverages_at(self, stride: float) -> dict[float, np.ndarray]:
        """Class accuracies per coverage at one stride, without the classes that have none."""
        values = self.accuracy[:, :, self.strides.index(stride)]
        return _columns(self.coverages, values)

    def strides_at(self, coverage: float) -> dict[float, np.ndarray]:
        """Class accuracies per stride at one coverage."""
        values = self.accuracy[:, self.coverages.index(coverage), :]
        return _columns(self.strides, values)

    def mean_over_strides(self, coverage: float) -> np.ndarray:
        """[K], NaN for a class that lacks a stride."""
        return self.accuracy[:, self.coverages.index(coverage), :].mean(axis=1)


def class_cube(table: pd.DataFrame) -> ClassCube:
    """The long table (class, coverage, stride, accuracy) as a cube; classes in order of name.

    Raises:
        DataError: a class has two values in one condition.
    """
    classes, rows = np.unique(table["class"].to_numpy().astype(str), return_inverse=True)
    coverages, middle = np.unique(table["coverage"].to_numpy(float), return_inverse=True)
    strides, columns = np.unique(table["stride"].to_numpy(float), return_inverse=True)
    shape = (len(classes), len(coverages), len(strides))
    place = np.ravel_multi_index((rows, middle, columns), shape)
    if len(np.unique(place)) < len(place):
        raise DataError(
            "a class has two accuracies in one condition",
            hint="published tables once had every row twice: remove the copies",
        )
    accuracy = np.full(shape, np.nan)
    accuracy.flat[place] = table["accuracy"].to_numpy(float)
    return ClassCube(classes.tolist(), coverages.tolist(), strides.tolist(), accuracy)


def nearest_value(wanted: float, existing: Sequence[float], what: str, notes: list[str]) -> float:
    """`wanted` if it exists, else the nearest value (of two the larger), with a note."""
    found = min(existing, key=lambda value: (abs(value - wanted), -value))
    if found != wanted:
        notes.append(f"{what} {wanted:g} is not in the grid: {found:g} is used instead")
    return found


def one_way_anova(samples: Sequence[np.ndarray]) -> dict[str, Any]:
    """F, p and eta squared = between / total sum of squares of independent samples."""
    result: dict[str, Any] = dict.fromkeys(("f_statistic", "p_value", "eta_squared"))
    sizes = [len(sample) for sample in samples]
    inside_freedom = sum(sizes) - len(samples)
    result |= {"df_between": len(samples) - 1, "df_within": inside_freedom, "reason": ""}
    if len(samples) < 2 or min(sizes) < 1 or inside_freedom < 1:
        return result | {"reason": "fewer than two groups, or no spread can be measured in them"}
    pooled = np.concatenate(list(samples))
    total = float(((pooled - pooled.mean()) ** 2).sum())
    inside = float(sum(((sample - sample.mean()) ** 2).sum() for sample in samples))
    if total <= NO_SPREAD:
        return result | {"reason": "all values are equal"}
    result["eta_squared"] = 1 - inside / total
    if inside <= NO_SPREAD:
        return result | {"reason": "no spread inside any group: F is not defined"}
    from scipy.stats import f_oneway

    test = f_oneway(*samples)
    return result | {"f_statistic": float(test.statistic), "p_value": float(test.pvalue)}


def levene_test(samples: Sequence[np.ndarray]) -> dict[str, Any]:
    """Levene's test around the median (Brown and Forsythe 1974), as in the published table."""
    result: dict[str, Any] = {"levene_statistic": None, "p_value": None, "reason": ""}
    deviations = [np.abs(sample - np.median(sample)) for sample in samples if len(sample)]
    spread = sum(((d - d.mean()) ** 2).sum() for d in deviations)
    if len(deviations) < 2 or len(deviations) < len(samples) or spread <= NO_SPREAD:
        return result | {"reason": "the groups have no spread to compare"}
    from scipy.stats import levene

    test = levene(*samples, center="median")
    return result | {"levene_statistic": float(test.statistic), "p_value": float(test.pvalue)}


def cohens_d(first: np.ndarray, second: np.ndarray, *, ddof: int) -> float | None:
    """Difference of means over sqrt of the mean of the two variances; None without spread.

    ddof 0 (population variances) is what published pairwise tables hold, ddof 1 what their
    effect-size summary holds.
    """
    if min(len(first), len(second)) <= ddof:
        return None
    pooled = (first.var(ddof=ddof) + second.var(ddof=ddof)) / 2
    if pooled <= NO_SPREAD:
        return None
    return float((first.mean() - second.mean()) / np.sqrt(pooled))


def pairwise_welch(
    samples: dict[float, np.ndarray], *, significance: float = 0.05
) -> list[dict[str, Any]]:
    """Welch t for every two coverages; `significant` = below `significance` over the pair count."""
    pairs = list(combinations(sorted(samples), 2))
    rows = []
    for low, high in pairs:
        first, second = samples[low], samples[high]
        row = {
            "comparison": f"{low:g}% vs {high:g}%",
            "mean_difference": float(first.mean() - second.mean()),
            **_welch(first, second),
            "cohens_d": cohens_d(first, second, ddof=0),
        }
        p_value = row["p_value"]
        row["p_bonferroni"] = None if p_value is None else min(1.0, p_value * len(pairs))
        row["significant"] = None if p_value is None else p_value < significance / len(pairs)
        rows.append(row)
    return rows


def across_models(accuracies: dict[str, Sequence[float]]) -> dict[str, Any]:
    """One-way ANOVA over the models with their condition accuracies as replicates."""
    samples = [np.asarray(list(values), dtype=float) for values in accuracies.values()]
    rows = [
        {
            "model": name,
            "n": len(values),
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
            "min": float(values.min()),
            "max": float(values.max()),
        }
        for name, values in zip(accuracies, samples, strict=True)
    ]
    return {"anova_models": one_way_anova(samples), "models": rows}


def drop_by_class(cube: ClassCube, high: float, low: float) -> list[dict[str, Any]]:
    """Per class the accuracies at the two coverages, each averaged over strides, and their drop."""
    upper, lower = cube.mean_over_strides(high), cube.mean_over_strides(low)
    return [
        {
            "class": name,
            "high": float(upper[k]),
            "low": float(lower[k]),
            "drop": float(upper[k] - lower[k]),
        }
        for k, name in enumerate(cube.classes)
        if np.isfinite(upper[k]) and np.isfinite(lower[k])
    ]


def _columns(names: list[float], values: np.ndarray) -> dict[float, np.ndarray]:
    """Name -> the finite values of its column; a column without any is left out."""
    present = {
        name: column[np.isfinite(column)] for name, column in zip(names, values.T, strict=True)
    }
    return {name: column for name, column in present.items() if len(column)}


def _welch(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    result: dict[str, Any] = {"t_statistic": None, "p_value": None, "reason": ""}
    if min(len(first), len(second)) < 2:
        return result | {"reason": "fewer than two classes"}
    if first.var() + second.var() <= NO_SPREAD:
        return result | {"reason": "no spread in either group: t is not defined"}
    from scipy.stats import ttest_ind_from_stats

    # From mean and sd: with one constant group the raw-data form warns of lost precision.
    test = ttest_ind_from_stats(
        first.mean(),
        first.std(ddof=1),
        len(first),
        second.mean(),
        second.std(ddof=1),
        len(second),
        equal_var=False,
    )
    return result | {"t_statistic": float(test.statistic), "p_value": float(test.pvalue)}


def _ends_cohens_d(samples: dict[float, np.ndarray], *, upper_first: bool) -> float | None:
    """Cohen's d (ddof 1) between the largest and smallest value of the axis."""
    if len(samples) < 2:
        return None
    ends = (max(samples), min(samples)) if upper_first else (min(samples), max(samples))
    return cohens_d(samples[ends[0]], samples[ends[1]], ddof=1)


def _drop_summary(drops: list[dict[str, Any]]) -> dict[str, Any]:
    values = np.array([row["drop"] for row in drops])
    if len(values) == 0:
        return dict.fromkeys(("mean_drop", "std_drop", "max_drop", "min_drop"))
    return {
        "mean_drop": float(values.mean()),
        "std_drop": float(values.std(ddof=1)) if len(values) > 1 else None,
        "max_drop": float(values.max()),
        "min_drop": float(values.min()),
    }


def _summary(coverage: float, values: np.ndarray) -> dict[str, Any]:
    """N, mean, sd, min, max and the normal 95 % interval of the mean of one coverage."""
    count = len(values)
    mean = float(values.mean())
    sd = float(values.std(ddof=1)) if count > 1 else None
    reach = None if sd is None else 1.959963984540054 * sd / np.sqrt(count)
    return {
        "coverage": coverage,
        "n": count,
        "mean": mean,
        "sd": sd,
        "min": float(values.min()),
        "max": float(values.max()),
        "low": None if reach is None else mean - reach,
        "high": None if reach is None else mean + reach,
    }
