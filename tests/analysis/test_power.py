"""Power against closed forms, statsmodels, and simulated studies whose truth is known."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t
from statsmodels.stats.power import TTestPower

from regatta.analysis.bootstrap import bootstrap_accuracy
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.power import (
    Design,
    detectable_effect,
    fewest,
    groups_for,
    half_width,
    power_at,
    power_files,
    power_section,
    seeds_to_halve,
)
from tests.analysis.planted import planted
from tests.analysis.test_agreement import bootstrap_of, judged_study


def section_of(judged: JudgedStudy) -> dict[str, Any]:
    found = power_section(judged, bootstrap_of(judged), 0)
    assert found is not None
    return found


def one_level(groups: int, variance: float) -> Design:
    return Design(groups, (1, 1), variance, 0.0)


def test_the_detectable_effect_is_the_textbook_factor_times_the_standard_error() -> None:
    """1.96 + 0.8416 = 2.80 standard errors with many groups, at 5 % and 80 %."""
    design = one_level(1_000_000, 0.02**2)
    factor = norm.ppf(0.975) + norm.ppf(0.8)
    assert factor == pytest.approx(2.8016, abs=1e-3)
    assert detectable_effect(design, alpha=0.05) == pytest.approx(0.02 * factor, rel=1e-4)


def test_groups_needed_are_the_textbook_sample_size() -> None:
    """n = (1.96 + 0.8416)^2 sd^2 / effect^2 for a paired difference of independent samples."""
    deviation, effect = 0.5, 0.01
    design = one_level(400, deviation**2 / 400)
    expected = 7.849 * deviation**2 / effect**2
    assert groups_for(effect, design, alpha=0.05) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("groups", [20, 60, 400])
@pytest.mark.parametrize("effect", [0.1, 0.2, 0.3])
def test_power_agrees_with_statsmodels(groups: int, effect: float) -> None:
    """Their t is noncentral, ours shifted (Bloom 1995): close from 20 groups on."""
    design = one_level(groups, 1 / groups)
    theirs = TTestPower().power(effect, nobs=groups, alpha=0.05)
    assert power_at(effect, design, alpha=0.05) == pytest.approx(theirs, abs=0.02)


@pytest.mark.parametrize("groups", [10, 30, 200])
def test_detectable_effect_agrees_with_statsmodels(groups: int) -> None:
    theirs = TTestPower().solve_power(nobs=groups, alpha=0.05, power=0.8)
    found = detectable_effect(one_level(groups, 1 / groups), alpha=0.05)
    assert found == pytest.approx(theirs, rel=0.015)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(3, 3000), st.floats(1e-6, 0.01), st.floats(0, 0.01), st.integers(2, 8),
    st.sampled_from([0.05, 0.01, 0.05 / 66]),
)  # fmt: skip
def test_laws_of_power(
    groups: int, variance: float, seed_variance: float, seeds: int, alpha: float
) -> None:
    design = Design(groups, (seeds, seeds), variance, seed_variance)
    effect = detectable_effect(design, alpha=alpha)
    assert power_at(effect, design, alpha=alpha) == pytest.approx(0.8, abs=0.01)
    assert power_at(0.0, design, alpha=alpha) == pytest.approx(alpha)
    assert (
        power_at(2 * effect, design, alpha=alpha) > 0.8 > power_at(effect / 2, design, alpha=alpha)
    )
    assert design.with_seeds(seeds).standard_error == pytest.approx(design.standard_error)


def test_groups_needed_is_the_fewest_number_that_is_enough() -> None:
    design = Design(50, (3, 3), 0.03**2, 0.004**2)
    needed = groups_for(0.03, design, alpha=0.05)
    assert needed is not None
    assert detectable_effect(design.with_groups(needed), alpha=0.05) <= 0.03
    assert detectable_effect(design.with_groups(needed - 1), alpha=0.05) > 0.03


def test_no_number_of_groups_mends_training_noise() -> None:
    assert groups_for(0.01, Design(50, (3, 3), 0.01**2, 0.05**2), alpha=0.05) is None


def test_seeds_to_halve_is_the_fewest_number_that_halves() -> None:
    design = Design(100_000, (3, 3), 1e-12, 0.01**2)
    needed = seeds_to_halve(design, confidence=0.95)
    assert needed is not None
    wanted = half_width(design, confidence=0.95) / 2
    # All variance is training noise: t with 2 S - 2 degrees of freedom over the root of S.
    widths = {s: t.ppf(0.975, 2 * s - 2) * np.sqrt(3 / s) * 0.01 for s in (needed - 1, needed)}
    assert widths[needed] <= wanted < widths[needed - 1]


def test_where_groups_rule_no_number_of_seeds_halves() -> None:
    assert seeds_to_halve(Design(40, (3, 3), 0.03**2, 0.001**2), confidence=0.95) is None


def test_unequal_seed_counts_scale_with_their_harmonic_mean() -> None:
    """Training noise s^2 (1/2 + 1/6) becomes s^2 (2/4) with four seeds each."""
    design = Design(40, (2, 6), 1e-4, 1 / 2 + 1 / 6)
    assert design.with_seeds(4).seed_variance == pytest.approx(2 / 4)


def test_fewest_finds_every_threshold() -> None:
    for wanted in range(2, 70):
        assert fewest(lambda n, wanted=wanted: n >= wanted, first=2, last=64) == (
            wanted if wanted <= 64 else None
        )


def independent(count: int, seed: int = 0) -> np.ndarray:
    """bool [2, 1, N]: two entries on samples that are their own groups."""
    return np.random.default_rng(seed).random((2, 1, count)) < [[[0.8]], [[0.75]]]


def test_standard_error_of_independent_samples_is_the_closed_form() -> None:
    correct = independent(500)
    found = bootstrap_accuracy(
        correct, np.arange(500), entry_of_run=[0, 1], replicates=20_000, confidence=0.95, seed=0
    )
    spread = found.spread(lambda a: a[..., 0, :] - a[..., 1, :], entries=(0, 1))
    assert spread is not None
    gaps = correct[0, 0].astype(float) - correct[1, 0]
    # A variance over 20000 replicates is known to 1 %.
    assert spread.standard_error[0] == pytest.approx(gaps.std(ddof=1) / np.sqrt(500), rel=0.02)
    assert spread.freedom[0] == 499


def test_planned_power_is_reached_in_simulated_studies() -> None:
    """1000 studies of 60 groups that differ by the detectable effect: 80 % of them find it."""
    rng = np.random.default_rng(11)
    studies, groups, size, gap = 1000, 60, 6, 0.5
    shared = rng.normal(size=(studies, groups, 1))
    own = 0.7 * rng.normal(size=(2, studies, groups, 1))
    noise = rng.normal(size=(2, studies, groups, size))
    ability = np.array([gap, 0.0])[:, None, None, None]
    correct = (ability + shared + own + noise > 0).reshape(2, studies, groups * size)
    found = bootstrap_accuracy(
        correct,
        np.repeat(np.arange(groups), size),
        entry_of_run=[0, 1],
        replicates=1000,
        confidence=0.95,
        seed=0,
    )

    def difference(a: np.ndarray) -> np.ndarray:
        return a[..., 0, :] - a[..., 1, :]

    # The truth: sums of independent normals, sd of the difference of studies over 1000 studies.
    truth = norm.cdf(gap / np.sqrt(1 + 0.49 + 1)) - 0.5
    spread = found.spread(difference, entries=(0, 1))
    assert spread is not None
    planned = [
        power_at(float(truth), one_level(groups, float(variance)), alpha=0.05)
        for variance in spread.groups
    ]
    intervals = found.intervals(difference, entries=(0, 1), collapse="difference")
    detected = float(np.mean([interval.excludes_zero for interval in intervals]))
    # Standard error of a rate near 0.8 over 1000 studies: 0.013.
    assert 0.6 < detected < 0.97
    assert float(np.mean(planned)) == pytest.approx(detected, abs=0.04)


def test_the_degrees_of_freedom_are_those_of_the_intervals(tmp_path: Path) -> None:
    judged = judged_study(tmp_path, entries=2, seeds=(0, 1, 2))
    found = bootstrap_of(judged)
    spread = found.spread(lambda a: a[..., 0, 0] - a[..., 1, 0], entries=(0, 1))
    assert spread is not None
    (pair,) = section_of(judged)["pairs"]
    assert pair["degrees_of_freedom"] == pytest.approx(spread.freedom[0])
    assert pair["se_points"] == pytest.approx(100 * spread.standard_error[0])


def test_one_seed_says_that_training_noise_is_not_known(tmp_path: Path) -> None:
    judged = judged_study(tmp_path, entries=2, seeds=(0, 1), unjudged=[("videomae", 1)])
    (pair,) = section_of(judged)["pairs"]
    assert pair["seeds"] == [2, 1]
    assert pair["dominated_by"] is None
    assert pair["sentence"].endswith("training noise cannot be estimated from one seed")
    assert "with 20 groups and 2 and 1 seeds the study detects" in pair["sentence"]


def swinging(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Training noise alone: a run is right on the first part of every group of ten."""
    right = np.arange(len(labels)) % 10 < (3 * seed + 2 * (entry == "videomae")) % 10
    found = np.zeros_like(scores)
    winner = np.where(right, labels, (labels + 1) % scores.shape[2])
    found[:, np.arange(len(labels)), winner] = 3.0
    return found


def test_training_noise_is_named_where_it_rules(tmp_path: Path) -> None:
    judged = judged_study(
        tmp_path, entries=2, seeds=(0, 1, 2), samples=200, samples_per_group=10, alter=swinging
    )
    (pair,) = section_of(judged)["pairs"]
    assert pair["dominated_by"] == "seeds"
    assert pair["seeds_to_halve"] > 3
    assert pair["groups_needed"] is None
    assert "more groups alone do not bring it to 80 %" in pair["sentence"]
    assert f"{pair['seeds_to_halve']} seeds per entry would halve it" in pair["sentence"]


def test_groups_are_named_where_they_rule(tmp_path: Path) -> None:
    accuracy: dict[str, Sequence[float]] = {"timesformer": [0.8], "videomae": [0.6]}
    judged = judged_study(tmp_path, entries=2, seeds=(0, 1, 2), alter=planted(accuracy))
    (pair,) = section_of(judged)["pairs"]
    assert (pair["dominated_by"], pair["seed_variance_share"]) == ("groups", 0)
    assert "more seeds do not narrow it" in pair["sentence"]


def test_alpha_is_divided_by_the_family_unless_nothing_is_corrected(tmp_path: Path) -> None:
    found = {}
    for how in ("holm", "none"):
        compare = {"replicates": 400, "correction": how}
        found[how] = section_of(judged_study(tmp_path / how, entries=3, compare=compare))
    assert found["holm"]["alpha_per_test"] == pytest.approx(0.05 / 3)
    assert found["none"]["alpha_per_test"] == pytest.approx(0.05)
    for corrected, plain in zip(found["holm"]["pairs"], found["none"]["pairs"], strict=True):
        assert corrected["mde_points"] > plain["mde_points"]
        assert corrected["power_at_margin"] < plain["power_at_margin"]


def test_identical_entries_and_a_single_group_leave_nothing_to_plan_from(tmp_path: Path) -> None:
    same = judged_study(tmp_path / "same", entries=2, alter=planted([0.7]))
    copied = [replace(run, correct=same.runs[0].correct) for run in same.runs]
    (pair,) = section_of(replace(same, runs=copied))["pairs"]
    assert (pair["mde_points"], pair["groups_needed"]) == (None, None)
    assert "every group gives the same difference" in pair["sentence"]
    single = judged_study(tmp_path / "single", entries=2, samples=8, samples_per_group=8)
    section = section_of(single)
    assert section["pairs"][0]["se_points"] is None
    assert "one group" in section["sentence"]


def test_two_groups_are_said_to_see_nothing(tmp_path: Path) -> None:
    def alter(entry: str, _seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """One entry is always right, the other only in the second group."""
        right = (np.arange(len(labels)) >= 6) | (entry == "videomae")
        winner = np.where(right, labels, (labels + 1) % scores.shape[2])
        return (winner[None, :, None] == np.arange(scores.shape[2])).astype(np.float32)

    judged = judged_study(tmp_path, entries=2, samples=12, samples_per_group=6, alter=alter)
    section = section_of(judged)
    (pair,) = section["pairs"]
    assert pair["degrees_of_freedom"] == 1
    assert pair["mde_points"] > 100
    assert "no difference between timesformer and videomae can be detected" in pair["sentence"]
    assert section["sentence"].startswith("this study detects no difference")


def test_imported_counts_per_class_speak_of_classes(tmp_path: Path) -> None:
    judged = replace(judged_study(tmp_path, entries=2), unit="class")
    (pair,) = section_of(judged)["pairs"]
    assert pair["sentence"].startswith("with 20 classes and 1 seed the study detects")


def test_one_entry_has_no_power(tmp_path: Path) -> None:
    alone = judged_study(tmp_path, entries=1)
    assert power_section(alone, bootstrap_of(alone), 0) is None
    assert power_files(None) == {}


def test_the_file_has_the_numbers_of_the_section(tmp_path: Path) -> None:
    section = section_of(judged_study(tmp_path, entries=3, seeds=(0, 1)))
    rows = list(csv.DictReader(io.StringIO(power_files(section)["power.csv"])))
    for row, pair in zip(rows, section["pairs"], strict=True):
        assert float(row["mde_points"]) == pair["mde_points"]
        assert row["seeds"] == "2 2"
        assert row["dominated_by"] == pair["dominated_by"]
