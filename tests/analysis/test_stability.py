"""Whether the order holds: Kendall's W and tau against published numbers, laws and scipy."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import friedmanchisquare

from regatta.analysis.bootstrap import bootstrap_accuracy
from regatta.analysis.compare import compare_study, headline_condition
from regatta.analysis.judged import JudgedStudy, read_judged_study
from regatta.analysis.pairs import pairs_section
from regatta.analysis.stability import (
    chances_of_first,
    identical_groups,
    kendall_tau,
    kendall_w,
    pair_orders,
    stability_files,
    stability_section,
)
from regatta.core.files import plain
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study
from tests.analysis.planted import planted

SIEGEL_APPLICANTS = [[1, 6, 3, 2, 5, 4], [1, 5, 6, 4, 2, 3], [6, 3, 2, 5, 4, 1]]
"""Siegel (1956), Nonparametric statistics, chapter 9: three rank six applicants; W = .16."""
SIEGEL_TIES = [
    [1, 4.5, 2, 4.5, 3, 7.5, 6, 9, 7.5, 10],
    [2.5, 1, 2.5, 4.5, 4.5, 8, 9, 6.5, 10, 6.5],
    [2, 1, 4.5, 4.5, 4.5, 4.5, 8, 8, 8, 10],
]
"""The same, with tied ranks: W = .828."""


def accuracies(ranks: Sequence[Sequence[float]]) -> np.ndarray:
    """[E, D] of which these are the ranks (one list per condition, 1 = best)."""
    return -np.array(ranks, dtype=float).T


def test_kendall_w_has_its_published_value() -> None:
    assert kendall_w(accuracies(SIEGEL_APPLICANTS)) == pytest.approx(0.16, abs=0.005)
    # By hand: S = 25.5, W = 12 S / (9 * 210).
    assert kendall_w(accuracies(SIEGEL_APPLICANTS)) == pytest.approx(306 / 1890)


def test_kendall_w_with_ties_has_its_published_value() -> None:
    assert kendall_w(accuracies(SIEGEL_TIES)) == pytest.approx(0.828, abs=0.0005)
    # By hand: S = 591, ties sum to 12 * 9.5, W = 591 / (9 * 990 / 12 - 3 * 9.5).
    assert kendall_w(accuracies(SIEGEL_TIES)) == pytest.approx(591 / 714)


tables = arrays(
    np.int64, st.tuples(st.integers(3, 6), st.integers(2, 6)), elements=st.integers(0, 4)
)


@settings(max_examples=80, deadline=None)
@given(tables)
def test_kendall_w_is_friedmans_chi_square_divided_by_its_largest(table: np.ndarray) -> None:
    entries, cells = table.shape
    assume(any(np.ptp(table[:, d]) > 0 for d in range(cells)))
    w = kendall_w(table.astype(float))
    assert w is not None
    assert -1e-9 <= w <= 1 + 1e-9
    chi_square = friedmanchisquare(*table).statistic
    assert w == pytest.approx(chi_square / (cells * (entries - 1)))


def test_the_same_order_everywhere_is_full_concordance() -> None:
    order = np.array([0.9, 0.7, 0.5, 0.1])[:, None]
    assert kendall_w(np.repeat(order, 7, axis=1)) == pytest.approx(1)


@pytest.mark.parametrize("agree", range(7))
def test_two_entries_have_the_closed_form(agree: int) -> None:
    # k of m conditions in one order: W = ((2 k - m) / m)^2, so 0 where half are reversed.
    first = np.array([1.0] * agree + [0.0] * (6 - agree))
    assert kendall_w(np.stack([first, 1 - first])) == pytest.approx(((2 * agree - 6) / 6) ** 2)


def test_ties_everywhere_leave_no_order_to_agree_on() -> None:
    assert kendall_w(np.full((3, 4), 0.5)) is None
    assert kendall_tau(np.full(3, 0.5), np.arange(3.0)) is None


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(6)), st.permutations(range(6)))
def test_kendall_tau_counts_pairs_in_the_same_order(first: list[int], second: list[int]) -> None:
    agree = [
        np.sign(first[i] - first[j]) * np.sign(second[i] - second[j])
        for i, j in combinations(range(6), 2)
    ]
    tau = kendall_tau(np.array(first, dtype=float), np.array(second, dtype=float))
    assert tau == pytest.approx(np.mean(agree))


def test_chances_of_first_are_shares_of_replicates_with_ties_split() -> None:
    replicates = np.array([[[0.9], [0.8]], [[0.7], [0.8]], [[0.9], [0.1]], [[0.5], [0.5]]])
    chances = chances_of_first(replicates)
    assert chances is not None
    assert chances[:, 0] == pytest.approx([0.625, 0.375])
    assert chances_of_first(np.empty((0, 2, 1))) is None


def test_conditions_are_one_only_where_every_run_saw_the_same_clips() -> None:
    first = [[1, 2], [0, 2], [0, 1], [4], [3]]
    second = [[2], [], [0], [4], [3]]
    assert identical_groups([first, second]) == [[0, 2], [1], [3, 4]]
    assert identical_groups([first]) == [[0, 1, 2], [3, 4]]


def test_an_order_is_reversed_only_where_both_conditions_decide() -> None:
    verdicts = {"x": "ahead", "y": "behind", "z": "undecided", "u": "behind", "twin": "behind"}
    cells = [
        {"condition": name, "pairs": [{"first": "a", "second": "b", "verdict": verdict}]}
        for name, verdict in verdicts.items()
    ]
    (row,) = pair_orders(cells, "x", ["x", "y", "z", "u"])
    assert (row["first_ahead"], row["second_ahead"]) == (["x"], ["y", "u"])
    assert (row["undecided"], row["reversed"]) == (1, ["y", "u"])
    (row,) = pair_orders(cells, "z", ["x", "y", "z", "u"])
    assert row["reversed"] == []


def section_of(folder: StudyFolder, judged: JudgedStudy | None = None) -> Any:
    """The section alone, without the rest of the comparison."""
    judged = judged or read_judged_study(folder)
    bootstrap = bootstrap_accuracy(
        np.stack([run.correct for run in judged.runs]),
        judged.groups,
        entry_of_run=range(len(judged.runs)),
        replicates=200,
        confidence=0.95,
        seed=0,
    )
    headline = headline_condition(judged)
    pairs = pairs_section(judged, bootstrap, headline)
    return plain(stability_section(judged, bootstrap, headline, pairs["by_condition"]))


COVERAGE = np.repeat([10, 25, 50, 75, 100], 5)


def reversing(tmp_path: Path, **settings: Any) -> Any:
    """timesformer leads up to 50 % coverage, videomae above."""
    accuracy = {
        "timesformer": np.full(25, 0.7).tolist(),
        "videomae": np.where(COVERAGE > 50, 0.95, 0.4).tolist(),
    }
    return build_judged_study(
        tmp_path,
        entries=list(accuracy),
        samples=240,
        alter=planted(accuracy),
        compare={"replicates": 500, **settings},
    )


def test_a_study_in_which_the_order_turns_says_where(tmp_path: Path) -> None:
    folder = reversing(tmp_path)
    section = compare_study(folder)["stability"]
    # c10s8 and c10s16 both show one frame: 25 cells, 24 different conditions.
    assert section["n_conditions"] == 24
    assert section["merged"] == [["c10s8", "c10s16"]]
    assert (section["leader"], section["first_in"]) == ("videomae", 10)
    assert section["kendall_w"] == pytest.approx((4 / 24) ** 2)
    (pair,) = section["pairs"]
    assert (len(pair["second_ahead"]), len(pair["first_ahead"])) == (10, 14)
    assert len(pair["reversed"]) == 14
    taus = {row["condition"]: row["kendall_tau"] for row in section["conditions"]}
    assert (taus["c100s4"], taus["c25s1"]) == (1, -1)
    assert section["first_everywhere_probability"] == 0
    text = " ".join(section["sentences"])
    assert "first or shares the first place in 10 of 24 conditions" in text
    assert "decidedly ahead of videomae in 14 conditions and decidedly behind in 10" in text
    assert any("not tested" in note for note in section["notes"])
    with (folder.results / "rank_stability.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 * 2
    first = [row["entry"] for row in rows if row["rank"] == "1"]
    assert first.count("videomae") == 10


def test_of_merged_conditions_the_headline_stays(tmp_path: Path) -> None:
    section = section_of(reversing(tmp_path, condition="c10s16"))
    kept = {row["condition"]: row for row in section["conditions"]}
    assert "c10s8" not in kept
    assert kept["c10s16"]["same_as"] == ["c10s8"]
    assert section["leader"] == "timesformer"


@pytest.mark.parametrize(("entries", "protocol"), [(1, "temporal-grid"), (2, "plain")])
def test_one_entry_or_one_condition_has_no_section(
    tmp_path: Path, entries: int, protocol: str
) -> None:
    folder = build_judged_study(
        tmp_path, entries=entries, samples=40, protocol=protocol, compare={"replicates": 100}
    )
    section = section_of(folder)
    assert section is None
    assert stability_files(section) == {}


def test_identical_entries_tie_everywhere_and_nothing_is_undefined(tmp_path: Path) -> None:
    folder = build_judged_study(
        tmp_path,
        entries=["vivit", "vivit-b"],
        samples=60,
        protocol="matched",
        alter=lambda _entry, _seed, scores, labels: planted([0.7] * 5)("same", 0, scores, labels),
        compare={"replicates": 200},
    )
    section = section_of(folder)
    assert section["kendall_w"] is None
    assert all(row["rank"] == [1, 1] and all(row["tied"]) for row in section["conditions"])
    assert all(row["leader_first_probability"] == 0.5 for row in section["conditions"])
    assert "Kendall's W is not defined" in " ".join(section["sentences"])
    assert "NaN" not in json.dumps(section)


def test_conditions_that_are_all_the_same_clips_leave_one_order(tmp_path: Path) -> None:
    folder = build_judged_study(
        tmp_path, entries=2, samples=40, protocol="matched", compare={"replicates": 100}
    )
    judged = read_judged_study(folder)
    everything = [[d for d in range(5) if d != c] for c in range(5)]
    runs = [replace(run, identical=everything) for run in judged.runs]
    section = section_of(folder, replace(judged, runs=runs))
    assert (section["n_conditions"], section["kendall_w"]) == (1, None)
    assert section["sentences"] == [
        "all conditions show the same inputs, so there is one order only"
    ]
    assert "NaN" not in json.dumps(section)


def test_a_single_group_has_ranks_without_chances(tmp_path: Path) -> None:
    folder = build_judged_study(
        tmp_path, entries=2, samples=16, classes=1, samples_per_group=16, protocol="matched",
        compare={"replicates": 100},
    )  # fmt: skip
    section = section_of(folder)
    row = section["conditions"][0]
    assert row["probability_first"] is None
    assert sorted(row["rank"])[0] == 1
    assert "NaN" not in json.dumps(section)
