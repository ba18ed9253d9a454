"""Ensembles against hand-computed scores, the stored scores, and laws of averaging."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.analysis.agreement import NO_SHARED_SEED, agreement_section
from regatta.analysis.ensemble import (
    ensemble_files,
    ensemble_section,
    logit_spread,
    mean_logits,
    mean_probabilities,
    member_sets,
)
from regatta.analysis.judged import JudgedStudy
from tests.analysis.build import Alter
from tests.analysis.planted import planted
from tests.analysis.test_agreement import bootstrap_of, judged_study


def section_of(judged: JudgedStudy) -> dict[str, Any]:
    bootstrap = bootstrap_of(judged)
    found = ensemble_section(judged, bootstrap, 0, agreement_section(judged, bootstrap, 0))
    assert found is not None
    return found


def same_scores(_entry: str, seed: int, scores: np.ndarray, _labels: np.ndarray) -> np.ndarray:
    """Every entry answers alike."""
    return np.random.default_rng(seed).normal(size=scores.shape).astype(np.float32)


def scaled(factors: dict[str, float]) -> Alter:
    def alter(entry: str, _seed: int, scores: np.ndarray, _labels: np.ndarray) -> np.ndarray:
        return scores * np.float32(factors[entry])

    return alter


def test_one_loud_member_outvotes_two_in_logits_and_not_in_probabilities() -> None:
    """Sums of logits 20 and 6; of probabilities 1.09 and 1.91."""
    loud, quiet = np.array([[20.0, 0.0]]), np.array([[0.0, 3.0]])
    assert mean_logits([loud, quiet, quiet]).tolist() == [0]
    assert mean_probabilities([loud, quiet, quiet]).tolist() == [1]


def test_averaging_mends_errors_that_members_do_not_share() -> None:
    """Three members, each wrong on another sample and right by 2 on the others."""
    scores = [np.array([[2.0, 0.0]] * 3) for _ in range(3)]
    for place, each in enumerate(scores):
        each[place] = [0.0, 1.0]
    assert all(each.argmax(axis=1).sum() == 1 for each in scores)
    assert mean_logits(scores).tolist() == [0, 0, 0]
    assert mean_probabilities(scores).tolist() == [0, 0, 0]


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_an_ensemble_of_one_answer_is_that_answer(copies: int) -> None:
    scores = np.random.default_rng(1).normal(size=(500, 7)).astype(np.float32)
    assert (mean_logits([scores] * copies) == scores.argmax(axis=1)).all()


def test_entries_that_answer_alike_are_identical_to_their_ensemble(tmp_path: Path) -> None:
    judged = judged_study(tmp_path, entries=2, seeds=(0, 1), alter=same_scores)
    (found,) = section_of(judged)["ensembles"]
    expected = np.mean([run.correct[0].mean() for run in judged.runs])
    for kind in ("accuracy", "probability_accuracy", "oracle"):
        assert found[kind]["estimate"] == pytest.approx(expected)
    for row in found["against"]:
        assert row["difference_points"]["estimate"] == 0
        assert (row["verdict"], row["p_value"]) == ("identical", 1)


def test_accuracy_and_differences_are_those_of_the_stored_scores(tmp_path: Path) -> None:
    judged = judged_study(tmp_path, entries=3, seeds=(0, 1))
    found = section_of(judged)["ensembles"]
    assert [each["members"] for each in found] == [
        ["timesformer", "videomae", "vivit"],
        ["timesformer", "videomae"],
        ["timesformer", "vivit"],
        ["videomae", "vivit"],
    ]
    for each in found:
        shares = []
        for seed in (0, 1):
            runs = [r for r in judged.runs if r.seed == seed and r.entry in each["members"]]
            total = sum(run.headline_scores.astype(float) for run in runs)
            shares.append((np.asarray(total).argmax(axis=1) == judged.labels).mean())
        assert each["accuracy"]["estimate"] == pytest.approx(np.mean(shares))
        assert list(each["accuracy_by_seed"].values()) == pytest.approx(shares)
        assert each["accuracy"]["low"] < each["accuracy"]["estimate"] < each["accuracy"]["high"]
        assert each["accuracy"]["estimate"] <= each["oracle"]["estimate"]
        for row in each["against"]:
            own = np.mean([run.correct[0].mean() for run in judged.runs_of(row["second"])])
            assert row["member_accuracy"] == pytest.approx(own)
            gap = 100 * (np.mean(shares) - own)
            assert row["difference_points"]["estimate"] == pytest.approx(gap)


def test_every_member_is_compared_and_the_best_is_named_as_favoured(tmp_path: Path) -> None:
    section = section_of(judged_study(tmp_path, entries=3))
    assert section["family_size"] == 3 + 3 * 2
    for each in section["ensembles"]:
        assert [row["second"] for row in each["against"]] == each["members"]
        best = [row for row in each["against"] if row["is_best_member"]]
        assert len(best) == 1
        assert best[0]["member_accuracy"] == max(r["member_accuracy"] for r in each["against"])
        assert each["sentence"].endswith("which favours it")


def test_complementary_errors_make_the_ensemble_better_than_every_member(tmp_path: Path) -> None:
    """The right class has 3 in one entry and 0 in the other, a wrong one 0 and 1: the sum is 3."""

    def alter(entry: str, _seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        found = np.zeros_like(scores)
        knows = (np.arange(len(labels)) % 2 == 0) == (entry == "timesformer")
        right = np.where(knows, 3.0, 0.0)
        found[:, np.arange(len(labels)), labels] = right
        wrong = (labels + 1) % scores.shape[2]
        found[:, np.arange(len(labels)), wrong] = np.where(knows, 0.0, 1.0)
        return found

    (found,) = section_of(judged_study(tmp_path, entries=2, samples=160, alter=alter))["ensembles"]
    assert found["accuracy"]["estimate"] == 1
    assert {row["verdict"] for row in found["against"]} == {"ahead"}
    assert [row["difference_points"]["estimate"] for row in found["against"]] == [50, 50]


def test_the_gain_over_a_member_does_not_carry_noise_that_both_share(tmp_path: Path) -> None:
    """Seeds swing by 40 points for members and ensemble alike; the ensemble is always 10 ahead."""

    def alter(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        found = np.zeros_like(scores)
        place = np.arange(len(labels)) % 10
        known = place < (4 if seed % 2 else 8)
        # Place 8 is right in one entry, place 9 in the other; the louder right answer wins.
        own = place == (8 if entry == "timesformer" else 9)
        found[:, np.arange(len(labels)), labels] = np.where(known | own, 3.0, 0.0)
        wrong = (labels + 1) % scores.shape[2]
        found[:, np.arange(len(labels)), wrong] = np.where(known | own, 0.0, 1.0)
        return found

    judged = judged_study(
        tmp_path, entries=2, samples=400, samples_per_group=10, seeds=(0, 1, 2, 3), alter=alter
    )
    (found,) = section_of(judged)["ensembles"]
    assert found["accuracy"]["high"] - found["accuracy"]["low"] > 0.3
    for row in found["against"]:
        assert row["difference_points"]["estimate"] == pytest.approx(10)
        assert row["verdict"] == "ahead"


def test_the_oracle_of_an_ensemble_is_that_of_the_agreement(tmp_path: Path) -> None:
    judged = judged_study(tmp_path, entries=2, seeds=(0, 1))
    agreement = agreement_section(judged, bootstrap_of(judged), 0)
    assert agreement is not None
    (found,) = section_of(judged)["ensembles"]
    assert found["oracle"] == agreement["oracle"]["accuracy"] == agreement["pairs"][0]["oracle"]


def test_pairs_are_capped_and_the_cap_is_said(tmp_path: Path) -> None:
    names = [f"vivit-{letter}" for letter in "abcdefgh"]
    assert len(member_sets(names)) == 1 + 15
    section = section_of(judged_study(tmp_path, entries=names, samples=40))
    assert any("first 6 of 8 entries" in note for note in section["notes"])
    assert "all 8 entries" in section["ensembles"][0]["sentence"]


def test_a_member_whose_logits_spread_further_is_named(tmp_path: Path) -> None:
    factors = {"timesformer": 1.0, "videomae": 8.0}
    judged = judged_study(tmp_path / "loud", entries=2, alter=scaled(factors))
    section = section_of(judged)
    assert section["logit_spread"]["videomae"] > 4 * section["logit_spread"]["timesformer"]
    assert any("logits of videomae spread" in note for note in section["notes"])
    silent = judged_study(
        tmp_path / "silent", entries=2, alter=scaled({"timesformer": 1.0, "videomae": 0.0})
    )
    assert any("videomae are the same for every class" in n for n in section_of(silent)["notes"])
    assert logit_spread(silent.runs_of("videomae")) == 0


def test_entries_without_a_common_seed_form_no_ensemble(tmp_path: Path) -> None:
    judged = judged_study(
        tmp_path,
        entries=3,
        seeds=(0, 1),
        unjudged=[("timesformer", 0), ("videomae", 1)],
    )
    section = section_of(judged)
    missing = [each for each in section["ensembles"] if each["reason"]]
    assert [each["members"] for each in missing] == [
        ["timesformer", "videomae", "vivit"],
        ["timesformer", "videomae"],
    ]
    assert all(each["reason"] == NO_SHARED_SEED for each in missing)
    assert section["family_size"] == 4
    rows = list(csv.DictReader(io.StringIO(ensemble_files(section)["ensemble.csv"])))
    assert [row["reason"] for row in rows].count(NO_SHARED_SEED) == 2


def test_a_single_group_is_compared_without_p_value(tmp_path: Path) -> None:
    judged = judged_study(tmp_path, entries=2, samples=8, samples_per_group=8)
    for row in section_of(judged)["ensembles"][0]["against"]:
        assert (row["p_value"], row["p_adjusted"], row["difference_points"]["low"]) == (None,) * 3


def test_all_right_and_all_wrong_have_defined_answers(tmp_path: Path) -> None:
    accuracy: dict[str, Sequence[float]] = {"timesformer": [1.0], "videomae": [0.0]}
    judged = judged_study(tmp_path, entries=2, samples=40, alter=planted(accuracy))
    (found,) = section_of(judged)["ensembles"]
    assert found["oracle"]["estimate"] == 1
    assert found["oracle"]["low"] < 1
    assert found["best_member"] == "timesformer"


def test_counts_per_class_and_single_entries_have_no_ensemble(tmp_path: Path) -> None:
    two = judged_study(tmp_path / "two", entries=2)
    one = judged_study(tmp_path / "one", entries=1)
    for judged in (replace(two, unit="class"), one):
        bootstrap = bootstrap_of(judged)
        agreement = agreement_section(judged, bootstrap, 0)
        assert ensemble_section(judged, bootstrap, 0, agreement) is None
    assert ensemble_files(None) == {}


def test_the_family_is_corrected_by_holm_where_the_study_asks_for_tukey(tmp_path: Path) -> None:
    compare = {"replicates": 400}
    asked = [
        section_of(judged_study(tmp_path / how, entries=3, compare={**compare, "correction": how}))
        for how in ("holm", "tukey")
    ]
    assert asked[1]["correction"] == "holm"
    assert asked[0]["ensembles"] == asked[1]["ensembles"]
