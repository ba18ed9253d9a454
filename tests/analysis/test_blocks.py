"""Ranks over blocks against Demsar (2006), its table of critical values, and laws of ranks."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.anova import AnovaRM

from regatta.analysis.blocks import (
    critical_difference,
    critical_value,
    friedman,
    friedman_files,
    friedman_section,
    mean_ranks,
    nemenyi_p,
    undivided,
)
from regatta.analysis.compare import compare_study
from regatta.analysis.judged import JudgedStudy, read_judged_study
from tests.analysis.build import build_judged_study
from tests.analysis.planted import planted

NAMES = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip
"""AUC of four learners on 14 data sets (Demsar 2006, table 6). On the 13th data set the printed
0.975 and 0.975 have ranks 2 and 3: they differ in the fourth decimal."""


def test_the_published_example_has_its_mean_ranks_and_statistics() -> None:
    ranks = mean_ranks(DEMSAR)
    assert ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    found = friedman(DEMSAR)
    # Published without the correction for ties: a division by 1 - sum(t^3 - t) / (N k (k^2 - 1)).
    ties = [2, 2, 4, 2]
    correction = 1 - sum(t**3 - t for t in ties) / (14 * 4 * 15)
    published = found["statistic"] * correction
    assert published == pytest.approx(9.28, abs=0.005)
    assert 13 * published / (14 * 3 - published) == pytest.approx(3.69, abs=0.005)
    assert (found["df1"], found["df2"]) == (3, 39)


def test_the_published_critical_difference_and_groups() -> None:
    assert critical_difference(4, 14, 0.05) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=0.005)
    ranks = mean_ranks(DEMSAR)
    order = np.argsort(ranks)
    names = [
        [NAMES[order[place]] for place in places]
        for places in undivided(ranks[order].tolist(), critical_difference(4, 14, 0.10))
    ]
    # Figure 1(a): C4.5 is worse than both with m; C4.5+cf belongs to neither group alone.
    assert names == [["C4.5+m+cf", "C4.5+m", "C4.5+cf"], ["C4.5+cf", "C4.5"]]


TABLE_5 = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)


@pytest.mark.parametrize(("entries", "published"), list(enumerate(TABLE_5, start=2)))
def test_critical_values_are_those_of_the_published_table(entries: int, published: float) -> None:
    assert critical_value(entries, 0.05) == pytest.approx(published, abs=0.0011)


@pytest.mark.parametrize("entries", [3, 5, 12])
def test_a_pair_as_far_apart_as_the_critical_difference_has_p_equal_to_alpha(entries: int) -> None:
    limit = critical_difference(entries, 40, 0.05)
    assert nemenyi_p(np.array([limit]), entries, 40) == pytest.approx(0.05, rel=1e-4)
    assert nemenyi_p(np.array([0.0]), entries, 40) == pytest.approx(1.0)


def test_the_f_of_iman_and_davenport_is_the_analysis_of_variance_of_ranks() -> None:
    values = np.random.default_rng(4).integers(0, 6, size=(20, 4)).astype(float)
    ranks = pd.DataFrame(values).rank(axis=1)
    table = ranks.reset_index().melt(id_vars="index", var_name="entry", value_name="rank")
    peer = AnovaRM(table, "rank", "index", within=["entry"]).fit().anova_table.loc["entry"]
    found = friedman(values)
    assert found["iman_davenport_f"] == pytest.approx(peer["F Value"])
    assert found["iman_davenport_p"] == pytest.approx(peer["Pr > F"])


def test_blocks_that_all_agree_have_the_largest_statistic_and_no_f() -> None:
    found = friedman(np.tile([0.9, 0.5, 0.1], (12, 1)))
    assert found["statistic"] == pytest.approx(12 * 2)
    assert found["iman_davenport_f"] is None
    assert found["reason"] == "all blocks rank the entries alike, so there is no F"


def test_entries_that_tie_everywhere_have_no_statistic() -> None:
    found = friedman(np.ones((12, 3)))
    assert found["p_value"] is None
    assert found["reason"] == "all entries tie in every block"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1, 9), min_size=1, max_size=9), st.floats(0.1, 4))
def test_bars_are_maximal_and_join_exactly_what_is_near(ranks: list[float], limit: float) -> None:
    ranks = sorted(ranks)
    found = undivided(ranks, limit)
    for i in range(len(ranks)):
        for j in range(i + 1, len(ranks)):
            is_joined = any({i, j} <= set(places) for places in found)
            assert is_joined == (ranks[j] - ranks[i] <= limit)
    assert not any(set(a) < set(b) for a in found for b in found)


def judged_of(path: Path, **options: Any) -> JudgedStudy:
    settings = {"entries": 3, "samples": 240, "protocol": "plain", **options}
    return read_judged_study(build_judged_study(path, compare={"replicates": 200}, **settings))


def test_classes_are_blocks_where_there_are_ten(tmp_path: Path) -> None:
    judged = judged_of(tmp_path, classes=12, seeds=(0, 1))
    section = friedman_section(judged, 0)
    assert (section["block"], section["blocks"]) == ("class", 12)
    shares = [
        [
            np.mean([run.correct[0, judged.labels == k].mean() for run in judged.runs_of(entry)])
            for entry in judged.entries
        ]
        for k in range(12)
    ]
    expected = dict(zip(judged.entries, mean_ranks(np.round(shares, 9)), strict=True))
    assert {row["entry"]: row["mean_rank"] for row in section["entries"]} == pytest.approx(expected)
    assert section["sentence"].startswith("over 12 classes as blocks, ")


def test_groups_are_blocks_where_they_are_large_enough(tmp_path: Path) -> None:
    large = friedman_section(judged_of(tmp_path / "a", samples_per_group=8), 0)
    assert (large["block"], large["blocks"]) == ("group", 30)
    small = friedman_section(judged_of(tmp_path / "b", samples_per_group=4), 0)
    assert small["reason"].startswith("ranks over blocks need 10 classes, or 10 groups of 5")
    few = friedman_section(judged_of(tmp_path / "c", samples=72, samples_per_group=8), 0)
    assert "groups: 9, of 8.0 samples" in few["reason"]
    assert friedman_files(few) == {}


@pytest.mark.parametrize(("entries", "words"), [(1, "there is one"), (2, "there are 2")])
def test_fewer_than_three_entries_have_no_ranks(tmp_path: Path, entries: int, words: str) -> None:
    section = friedman_section(judged_of(tmp_path, entries=entries, samples=48, classes=12), 0)
    assert section["reason"] == f"ranks over blocks need 3 entries, {words}"


def test_conditions_are_no_blocks(tmp_path: Path) -> None:
    """Twenty-five conditions of four classes in small groups are still no block."""
    judged = judged_of(tmp_path, protocol="temporal-grid", samples=120, samples_per_group=2)
    assert friedman_section(judged, 0)["reason"]


def test_a_planted_order_is_found_and_equal_entries_share_a_bar(tmp_path: Path) -> None:
    accuracy: dict[str, Sequence[float]] = {
        "timesformer": [0.85],
        "videomae": [0.85],
        "vivit": [0.2],
    }
    judged = judged_of(tmp_path, samples=480, classes=16, alter=planted(accuracy))
    section = friedman_section(judged, 0)
    assert section["entries"][-1]["entry"] == "vivit"
    assert [sorted(names) for names in section["undivided"]] == [["timesformer", "videomae"]]
    apart = {frozenset((p["first"], p["second"])) for p in section["pairs"] if p["is_apart"]}
    assert apart == {frozenset(("timesformer", "vivit")), frozenset(("videomae", "vivit"))}
    assert "cannot be told from it" in section["sentence"]


def test_entries_that_are_always_right_cannot_be_ranked(tmp_path: Path) -> None:
    section = friedman_section(judged_of(tmp_path, classes=12, alter=planted([1.0])), 0)
    assert section["test"]["p_value"] is None
    assert section["sentence"] == (
        "over 12 classes as blocks, the entries cannot be ranked: all entries tie in every block"
    )
    assert all(row["mean_rank"] == 2 for row in section["entries"])


def test_groups_that_stand_in_several_classes_are_noted(tmp_path: Path) -> None:
    judged = judged_of(tmp_path, classes=12)
    crossed = replace(judged, groups=np.array([f"subject {n % 5}" for n in range(240)]))
    assert any("several classes" in note for note in friedman_section(crossed, 0)["notes"])
    assert not any("several classes" in note for note in friedman_section(judged, 0)["notes"])


def test_the_file_has_every_pair_with_the_overall_test(tmp_path: Path) -> None:
    folder = build_judged_study(
        tmp_path, samples=240, classes=12, protocol="plain", compare={"replicates": 200}
    )
    comparison = compare_study(folder)
    text = (folder.results / "friedman.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    section = comparison["friedman"]
    assert len(rows) == 3
    for row, pair in zip(rows, section["pairs"], strict=True):
        assert (row["first"], row["second"]) == (pair["first"], pair["second"])
        assert float(row["p_nemenyi"]) == pytest.approx(pair["p_value"])
        assert float(row["friedman_statistic"]) == pytest.approx(section["test"]["statistic"])
    assert "Demsar 2006" in comparison["methods"]
