"""The factorial section: planted effects are found, and every odd design has an answer in words."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.anova import AnovaRM

from regatta.analysis.bootstrap import Bootstrap, bootstrap_accuracy
from regatta.analysis.compare import compare_study
from regatta.analysis.factor_words import LOGIT, OVER_GROUPS, OVER_SAMPLES, SHARES, find_test
from regatta.analysis.factorial import design_of, factor_files, factor_section, level_means
from regatta.analysis.judged import JudgedStudy, read_judged_study
from regatta.core.files import plain
from regatta.records.conditions import Condition
from tests.analysis.build import build_judged_study
from tests.analysis.planted import planted
from tests.analysis.protocol_conditions import grid_conditions

ENTRIES = ("timesformer", "videomae")
COVERAGE = {10: 0.30, 25: 0.40, 50: 0.50, 75: 0.60, 100: 0.70}


def judged_of(path: Path, **settings: Any) -> JudgedStudy:
    options: dict[str, Any] = {"entries": ENTRIES, "samples": 320, **settings}
    return read_judged_study(build_judged_study(path, compare={"replicates": 300}, **options))


def bootstrap_of(judged: JudgedStudy) -> Bootstrap:
    runs = [run for entry in judged.entries for run in judged.runs_of(entry)]
    return bootstrap_accuracy(
        np.stack([run.correct for run in runs]),
        judged.groups,
        entry_of_run=[judged.entries.index(run.entry) for run in runs],
        replicates=300,
        confidence=0.95,
        seed=0,
    )


def section_of(judged: JudgedStudy) -> dict[str, Any]:
    section = factor_section(judged, bootstrap_of(judged))
    # Strict JSON: no NaN and no infinity anywhere in it.
    json.dumps(plain(section), allow_nan=False)
    return section


def grid(slopes: Sequence[float], stride_step: float = 0.0) -> list[float]:
    """Accuracies of the 25 cells: per coverage from `slopes`, less `stride_step` per stride."""
    strides = (1, 2, 4, 8, 16)
    return [slopes[c] - stride_step * s for c, s in product(range(5), range(len(strides)))]


@pytest.fixture(scope="module")
def additive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Coverage moves accuracy by 40 points and stride by 4, for both models alike."""
    accuracy = grid(list(COVERAGE.values()), 0.01)
    return section_of(judged_of(tmp_path_factory.mktemp("a"), alter=planted(accuracy)))


@pytest.fixture(scope="module")
def reacting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Coverage moves one model by 40 points and the other by none."""
    accuracy: dict[str, Sequence[float]] = {
        "timesformer": grid(list(COVERAGE.values())),
        "videomae": grid([0.5] * 5),
    }
    return section_of(judged_of(tmp_path_factory.mktemp("r"), alter=planted(accuracy)))


def test_the_factors_are_the_model_and_the_axes_of_the_grid(additive: dict[str, Any]) -> None:
    levels = {factor["name"]: factor["levels"] for factor in additive["factors"]}
    assert levels == {
        "model": list(ENTRIES),
        "coverage": ["10", "25", "50", "75", "100"],
        "stride": ["1", "2", "4", "8", "16"],
    }
    assert [row["effect"] for row in additive["effects"]][3:] == [
        "model x coverage",
        "model x stride",
        "coverage x stride",
        "model x coverage x stride",
    ]


def test_planted_ranges_are_found_and_the_larger_factor_is_named(additive: dict[str, Any]) -> None:
    ranges = {row["effect"]: row["range_points"] for row in additive["effects"]}
    assert ranges["coverage"] == pytest.approx(40, abs=0.5)
    assert ranges["stride"] == pytest.approx(4, abs=0.5)
    first = additive["sentences"][0]
    assert first.startswith("coverage matters more than stride: ")
    assert "partial eta squared" in first
    row = additive["comparisons"][0]["difference_points"]
    assert row["low"] < 36 < row["high"]


def test_main_effects_alone_give_no_interaction(additive: dict[str, Any]) -> None:
    tests = {effect: find_test(additive["analyses"], SHARES, effect) for effect in EFFECTS}
    assert all(tests[e]["p_adjusted"] < 0.001 for e in ("coverage", "stride"))  # type: ignore[index]
    said = " ".join(additive["sentences"])
    assert "accuracy depends on coverage: " in said
    assert "the data do not show that the models react differently to coverage" in said


EFFECTS = ("model", "coverage", "stride", "model x coverage")


def test_models_that_react_differently_are_said_to(reacting: dict[str, Any]) -> None:
    for analysis in (LOGIT, SHARES, OVER_GROUPS):
        test = find_test(reacting["analyses"], analysis, "model x coverage")
        assert test is not None
        assert test["p_adjusted"] < 0.001
    said = [s for s in reacting["sentences"] if s.startswith("the models react differently to")]
    assert len(said) == 1
    assert "coverage (model × coverage: F(" in said[0]


def test_an_axis_without_any_effect_is_not_claimed(reacting: dict[str, Any]) -> None:
    """All strides have the same answers: nothing varies, so nothing is tested or said to matter."""
    test = find_test(reacting["analyses"], LOGIT, "stride")
    assert test is not None
    assert (test["f"], test["reason"]) == (None, "the compared cells are equal in every group")
    assert any(s.startswith("stride is not tested: ") for s in reacting["sentences"])


def test_every_cell_stands_at_its_place_in_the_lattice(tmp_path: Path) -> None:
    """The analysis over samples is that of statsmodels on a table made from ids and axes."""
    judged = judged_of(tmp_path, samples=24, protocol="antialias", seeds=(0, 1))
    section = section_of(judged)
    rows = [
        {"sample": n, "model": entry, **condition.axes, "y": float(share[c, n])}
        for entry in judged.entries
        for share in [np.mean([run.correct for run in judged.runs_of(entry)], axis=0)]
        for c, condition in enumerate(judged.conditions)
        for n in range(24)
    ]
    within = ["model", "filter", "stride"]
    peer = AnovaRM(pd.DataFrame(rows), "y", "sample", within=within).fit().anova_table
    assert len(peer) == 7
    for effect, row in peer.iterrows():
        test = find_test(section["analyses"], OVER_SAMPLES, str(effect).replace(":", " x "))
        assert test is not None
        assert test["f"] == pytest.approx(row["F Value"])


def test_level_means_are_means_over_all_other_factors() -> None:
    design = design_of(ENTRIES, grid_conditions())
    accuracy = np.random.default_rng(1).random((2, 25))
    by_coverage = accuracy.reshape(2, 5, 5).mean(axis=(0, 2))
    assert level_means(design, 1)(accuracy) == pytest.approx(by_coverage)
    assert level_means(design, 0)(accuracy) == pytest.approx(accuracy.mean(axis=1))


def conditions(*axes: dict[str, Any]) -> list[Condition]:
    return [Condition(f"n{n}", one) for n, one in enumerate(axes)]


@pytest.mark.parametrize(
    ("found", "factors"),
    [
        (conditions({}), []),
        (conditions({"frames": 2}, {"frames": 4}), [("frames", ("2", "4"))]),
        # One axis that never varies is no factor.
        (
            conditions({"stride": 1, "coverage": 50}, {"stride": 1, "coverage": 100}),
            [("coverage", ("50", "100"))],
        ),
        # A hole in the crossing, or axes that differ: one factor.
        (
            conditions({"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}),
            [("condition", ("n0", "n1", "n2"))],
        ),
        (conditions({"a": 1}, {"b": 1}), [("condition", ("n0", "n1"))]),
        (conditions({"a": 1}, {"a": 1}), [("condition", ("n0", "n1"))]),
    ],
)
def test_only_a_full_crossing_has_several_factors(
    found: list[Condition], factors: list[tuple[str, tuple[str, ...]]]
) -> None:
    design = design_of(["only"], found)
    assert [(f.name, f.levels) for f in design.factors] == factors
    assert sorted(design.order.tolist()) == list(range(len(found)))


def test_samples_of_a_group_are_not_taken_as_independent(additive: dict[str, Any]) -> None:
    assert {row["rests_on"] for row in additive["effects"]} <= {LOGIT, SHARES}
    over_samples = find_test(additive["analyses"], OVER_SAMPLES, "coverage")
    over_groups = find_test(additive["analyses"], OVER_GROUPS, "coverage")
    assert over_samples is not None
    assert over_groups is not None
    assert (over_samples["df2"], over_groups["df2"]) == (4 * 319, 4 * 79)
    assert any("takes the samples of a group as independent" in n for n in additive["notes"])


def test_a_cell_at_100_percent_is_named_and_the_accuracy_scale_is_given(tmp_path: Path) -> None:
    accuracy = grid([0.4, 0.5, 0.6, 0.8, 0.9])
    accuracy[-1] = 1.0
    section = section_of(judged_of(tmp_path, alter=planted(accuracy)))
    analysis = section["analyses"][0]
    assert analysis["name"] == LOGIT
    assert analysis["tests"] == []
    assert analysis["reason"] == ("no logit at 0 or 100 %: timesformer, c100s16; videomae, c100s16")
    assert section["effects"][1]["rests_on"] == SHARES


def test_a_single_group_is_not_tested_and_says_so(tmp_path: Path) -> None:
    section = section_of(judged_of(tmp_path, samples=48, samples_per_group=48))
    assert all(row["rests_on"] is None for row in section["effects"])
    assert "coverage is not tested: all samples belong to one group" in section["sentences"]
    assert not any("matters more" in s and "cannot" not in s for s in section["sentences"])
    assert section["methods"] == ""


def test_few_groups_are_no_subjects(tmp_path: Path) -> None:
    section = section_of(judged_of(tmp_path, samples=36, protocol="plain"))
    over_groups = next(a for a in section["analyses"] if a["name"] == OVER_GROUPS)
    assert over_groups["tests"] == []
    assert over_groups["reason"].startswith("9 groups are too few")


def test_where_every_sample_is_a_group_both_analyses_of_variance_are_one(tmp_path: Path) -> None:
    section = section_of(judged_of(tmp_path, samples=60, samples_per_group=1, protocol="plain"))
    over_groups = next(a for a in section["analyses"] if a["name"] == OVER_GROUPS)
    assert over_groups["tests"] == []
    assert "every group is one sample" in over_groups["reason"]
    # Then the clustered test on the scale of accuracies is the paired t test, and so is the other.
    test, other = (find_test(section["analyses"], n, "model") for n in (SHARES, OVER_SAMPLES))
    assert test is not None
    assert other is not None
    assert test["f"] == pytest.approx(other["f"])


def test_one_entry_in_one_condition_has_no_factor(tmp_path: Path) -> None:
    section = section_of(judged_of(tmp_path, entries=["vivit"], samples=24, protocol="plain"))
    assert section["reason"] == "there is one entry in one condition, so there is no factor to test"
    assert factor_files(section) == {}


def test_two_identical_entries_have_no_effect_of_the_model(tmp_path: Path) -> None:
    def one_answer(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return planted(grid(list(COVERAGE.values())))("same", seed, scores, labels)

    section = section_of(judged_of(tmp_path, entries=["vivit", "vivit-b"], alter=one_answer))
    for effect in ("model", "model x coverage"):
        for analysis in section["analyses"]:
            test = find_test(section["analyses"], analysis["name"], effect)
            assert test is not None
            assert test["p_value"] is None
            assert test["reason"]
    assert find_test(section["analyses"], SHARES, "coverage")["p_value"] < 0.001  # type: ignore[index]


def test_constant_answers_are_undefined_everywhere(tmp_path: Path) -> None:
    section = section_of(judged_of(tmp_path, samples=80, alter=planted([0.0] * 25)))
    assert all(row["rests_on"] is None for row in section["effects"])
    assert all(test["reason"] for a in section["analyses"] for test in a["tests"])


def test_of_class_counts_only_classes_are_subjects(tmp_path: Path) -> None:
    judged = judged_of(tmp_path, samples=480, classes=12, protocol="plain")
    by_class = replace(judged, unit="class", groups=judged.labels.astype(str))
    section = section_of(by_class)
    assert [a["name"] for a in section["analyses"]] == [LOGIT, SHARES, OVER_GROUPS]
    assert {a["subject"] for a in section["analyses"]} == {"class"}
    assert {a["subjects"] for a in section["analyses"]} == {12}
    # Which samples of a class were right must not matter: shuffled within classes, the same.
    rng = np.random.default_rng(3)
    order = np.concatenate([rng.permutation(np.flatnonzero(judged.labels == k)) for k in range(12)])
    place = np.empty(480, dtype=int)
    place[np.concatenate([np.flatnonzero(judged.labels == k) for k in range(12)])] = order
    runs = [replace(run, correct=run.correct[:, place]) for run in judged.runs]
    again = section_of(replace(by_class, runs=runs))
    assert again["analyses"] == section["analyses"]


def test_identical_clips_are_named(tmp_path: Path) -> None:
    section = section_of(judged_of(tmp_path, samples=80, protocol="antialias"))
    assert section["identical"] == {entry: [["s1-point", "s1-box"]] for entry in ENTRIES}
    assert any(
        n.startswith("timesformer, videomae: the same input stands in s1-point = s1-box")
        for n in section["notes"]
    )


def test_the_file_has_a_row_per_analysis_and_effect(tmp_path: Path) -> None:
    folder = build_judged_study(tmp_path, entries=2, samples=96, compare={"replicates": 200})
    comparison = compare_study(folder)
    text = (folder.results / "factors.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    tests = [
        (analysis["name"], test["effect"], test)
        for analysis in comparison["factors"]["analyses"]
        for test in analysis["tests"]
    ]
    assert [(row["analysis"], row["effect"]) for row in rows] == [t[:2] for t in tests]
    for row, (_, _, test) in zip(rows, tests, strict=True):
        assert (row["f"] == "") == (test["f"] is None)
        assert test["f"] is None or float(row["f"]) == pytest.approx(test["f"])
    assert "Korn and Graubard (1990)" in comparison["methods"]
