"""Agreement of entries against hand counts, scikit-learn, and laws that hold for any answers."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from regatta.analysis.agreement import (
    NO_SHARED_SEED,
    agreement_files,
    agreement_section,
    cohen_kappa,
    pair_measures,
)
from regatta.analysis.bootstrap import Bootstrap, bootstrap_accuracy
from regatta.analysis.judged import JudgedStudy, read_judged_study
from tests.analysis.build import build_judged_study

Labels = np.ndarray


def judged_study(path: Path, **changes: Any) -> JudgedStudy:
    options = {"samples": 80, "protocol": "plain", "compare": {"replicates": 400}, **changes}
    return read_judged_study(build_judged_study(path, **options))


def bootstrap_of(judged: JudgedStudy) -> Bootstrap:
    return bootstrap_accuracy(
        np.stack([run.correct for run in judged.runs]),
        judged.groups,
        entry_of_run=[judged.entries.index(run.entry) for run in judged.runs],
        replicates=400,
        confidence=0.95,
        seed=0,
    )


def section_of(judged: JudgedStudy) -> dict[str, Any]:
    found = agreement_section(judged, bootstrap_of(judged), 0)
    assert found is not None
    return found


def test_measures_are_those_of_a_hand_count() -> None:
    """5 both right, 2 only the first, 1 only the second, 2 both wrong, of which 1 alike."""
    labels = np.zeros(10, dtype=int)
    first = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2])
    second = np.array([0, 0, 0, 0, 0, 1, 2, 0, 1, 1])
    found = pair_measures(first, second, labels)
    assert found["both_right"] == 0.5
    assert found["only_first"] == 0.2
    assert found["only_second"] == 0.1
    assert found["both_wrong"] == 0.2
    # Kuncheva and Whitaker (2003), equation 3: (N11 N00 - N01 N10) / (N11 N00 + N01 N10).
    assert found["q_statistic"] == pytest.approx((5 * 2 - 2 * 1) / (5 * 2 + 2 * 1))
    assert found["same_wrong"] == 0.5


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(5, 60))
def test_kappa_equals_scikit_learn(seed: int, classes: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, classes, size=(2, count))
    second = np.where(rng.random(count) < 0.4, first, second)
    if len({*first.tolist(), *second.tolist()}) > 1:
        assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))


def test_what_is_not_defined_is_none() -> None:
    labels = np.zeros(6, dtype=int)
    right = pair_measures(labels, labels, labels)
    assert (right["q_statistic"], right["kappa"], right["same_wrong"]) == (None, None, None)
    half = np.array([0, 0, 0, 1, 1, 1])
    assert pair_measures(labels, half, labels)["q_statistic"] is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_laws_of_agreement(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels, first, second = rng.integers(0, classes, size=(3, 40))
    found, turned = (pair_measures(*pair, labels) for pair in ((first, second), (second, first)))
    shares = [found[key] for key in ("both_right", "only_first", "only_second", "both_wrong")]
    assert sum(x for x in shares if x is not None) == pytest.approx(1)
    gap = (first == labels).mean() - (second == labels).mean()
    assert (found["only_first"] or 0) - (found["only_second"] or 0) == pytest.approx(gap)
    for key in ("both_right", "both_wrong", "q_statistic", "kappa", "same_wrong"):
        assert turned[key] == pytest.approx(found[key])
    assert turned["only_first"] == found["only_second"]
    q = found["q_statistic"]
    assert q is None or -1 <= q <= 1


def test_an_entry_agrees_with_itself() -> None:
    labels = np.array([0, 1, 2, 0])
    answered = np.array([0, 1, 0, 0])
    found = pair_measures(answered, answered, labels)
    assert (found["only_first"], found["only_second"]) == (0, 0)
    assert (found["q_statistic"], found["kappa"], found["same_wrong"]) == (1, 1, 1)


def test_independent_entries_have_q_and_kappa_near_zero() -> None:
    rng = np.random.default_rng(4)
    labels, first, second = rng.integers(0, 4, size=(3, 40_000))
    found = pair_measures(first, second, labels)
    assert found["q_statistic"] == pytest.approx(0, abs=0.06)
    assert found["kappa"] == pytest.approx(0, abs=0.02)


def test_pairs_average_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    judged = judged_study(tmp_path, entries=2, seeds=(0, 1, 2), unjudged=[("videomae", 1)])
    (pair,) = section_of(judged)["pairs"]
    assert pair["seeds"] == [0, 2]
    differ, either = [], []
    for seed in (0, 2):
        first, second = (
            next(r.correct[0] for r in judged.runs_of(name) if r.seed == seed)
            for name in judged.entries
        )
        differ.append((first != second).mean())
        either.append((first | second).mean())
    assert pair["disagreement"]["estimate"] == pytest.approx(np.mean(differ))
    assert pair["only_first"] + pair["only_second"] == pytest.approx(np.mean(differ))
    assert pair["oracle"]["estimate"] == pytest.approx(np.mean(either))
    for name in ("disagreement", "oracle"):
        assert pair[name]["low"] < pair[name]["estimate"] < pair[name]["high"]


def test_the_oracle_is_at_least_as_good_as_the_best_and_grows_with_entries(tmp_path: Path) -> None:
    judged = judged_study(tmp_path, entries=3, seeds=(0, 1))
    section = section_of(judged)
    oracle = section["oracle"]
    best = max(np.mean([r.correct[0].mean() for r in judged.runs_of(e)]) for e in judged.entries)
    assert oracle["best_accuracy"] == pytest.approx(best)
    assert oracle["accuracy"]["estimate"] >= best
    assert oracle["gain_points"] == pytest.approx(100 * (oracle["accuracy"]["estimate"] - best))
    pairs = [pair["oracle"]["estimate"] for pair in section["pairs"]]
    assert oracle["accuracy"]["estimate"] >= max(pairs)
    assert f"{oracle['best_entry']} alone" in oracle["sentence"]


def test_seeds_of_one_entry_give_the_scale(tmp_path: Path) -> None:
    judged = judged_study(tmp_path, entries=2, seeds=(0, 1, 2))
    own = section_of(judged)["entries"][0]
    runs = judged.runs_of("timesformer")
    expected = [(a.correct[0] != b.correct[0]).mean() for a, b in combinations(runs, 2)]
    assert own["disagreement"] == pytest.approx(np.mean(expected))


def test_one_seed_has_no_disagreement_with_itself(tmp_path: Path) -> None:
    own = section_of(judged_study(tmp_path, entries=2))["entries"][0]
    assert own["disagreement"] is None
    assert "one seed" in own["reason"]


def test_entries_without_a_common_seed_say_so(tmp_path: Path) -> None:
    judged = judged_study(
        tmp_path, entries=2, seeds=(0, 1), unjudged=[("timesformer", 0), ("videomae", 1)]
    )
    section = section_of(judged)
    (pair,) = section["pairs"]
    assert (pair["disagreement"], pair["kappa"]) == (None, None)
    assert pair["reasons"] == {"seeds": NO_SHARED_SEED}
    assert section["oracle"]["accuracy"] is None
    assert NO_SHARED_SEED in section["oracle"]["sentence"]


def test_a_single_group_has_no_interval(tmp_path: Path) -> None:
    judged = judged_study(tmp_path, entries=2, samples=8, samples_per_group=8)
    (pair,) = section_of(judged)["pairs"]
    assert pair["disagreement"]["low"] is None
    assert "one group" in pair["sentence"]


def test_counts_per_class_and_single_entries_have_no_agreement(tmp_path: Path) -> None:
    judged = judged_study(tmp_path / "two", entries=2)
    by_class = replace(judged, unit="class")
    assert agreement_section(by_class, bootstrap_of(judged), 0) is None
    alone = judged_study(tmp_path / "one", entries=1)
    assert agreement_section(alone, bootstrap_of(alone), 0) is None
    assert agreement_files(None) == {}


def test_two_classes_have_one_wrong_answer(tmp_path: Path) -> None:
    section = section_of(judged_study(tmp_path, entries=2, classes=2))
    assert section["pairs"][0]["same_wrong"] == 1
    assert any("two classes" in note for note in section["notes"])


def test_the_file_has_a_row_per_pair_with_the_numbers_of_the_section(tmp_path: Path) -> None:
    section = section_of(judged_study(tmp_path, entries=3))
    rows = list(csv.DictReader(io.StringIO(agreement_files(section)["agreement.csv"])))
    assert len(rows) == 3
    for row, pair in zip(rows, section["pairs"], strict=True):
        assert (row["first"], row["second"]) == (pair["first"], pair["second"])
        assert float(row["kappa"]) == pair["kappa"]
        assert float(row["oracle_high"]) == pair["oracle"]["high"]
