"""Paired tests against hand counts, scipy, statsmodels and simulated type-I error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test, studentized_range, t
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from regatta.analysis.bootstrap import bootstrap_accuracy
from regatta.analysis.paired import (
    Pair,
    PairedData,
    PairSettings,
    adjust,
    cochran_q,
    compare_pairs,
    difference_of,
    family_correction,
    mcnemar,
    sign_flip_test,
    tukey_p,
)


def pairs_of(
    correct: list[np.ndarray],
    groups: np.ndarray,
    *,
    columns: list[np.ndarray] | None = None,
    correction: str = "holm",
    margin: float = 0.01,
) -> list[list[Pair]]:
    """compare_pairs on entries a, b, c ... given as [S, C, N] each."""
    b = bootstrap_accuracy(
        np.concatenate(correct),
        groups,
        entry_of_run=[e for e, runs in enumerate(correct) for _ in runs],
        replicates=1000,
        confidence=0.95,
        seed=0,
    )
    data = PairedData(list("abcdef")[: len(correct)], correct, groups)
    how = PairSettings(correction, margin, 1000, 0)
    return compare_pairs(data, b, columns or [np.ones(correct[0].shape[1])], how)


def right(rate: float, count: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(count) < rate)[None, None]


def test_three_agreeing_groups_have_p_of_one_quarter() -> None:
    """2 of the 8 sign patterns are as extreme as all plus."""
    test = sign_flip_test(np.array([[1], [1], [1]]), replicates=100, seed=0)
    assert test.p_value.tolist() == [0.25]
    assert test.method == "exact over 8 sign patterns"


def test_exact_sign_flip_equals_scipy_permutation_test() -> None:
    rng = np.random.default_rng(1)
    differences = rng.integers(-4, 8, size=9)
    expected = permutation_test(
        (differences, np.zeros(9)),
        lambda x, y: abs((x - y).sum()),
        permutation_type="samples",
        alternative="greater",
        n_resamples=2**9,
    )
    found = sign_flip_test(differences[:, None], replicates=100, seed=0)
    assert found.p_value[0] == pytest.approx(expected.pvalue)


def test_monte_carlo_sign_flip_agrees_with_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(2).integers(-3, 5, size=(12, 4))
    exact = sign_flip_test(differences, replicates=1, seed=0)
    monkeypatch.setattr("regatta.analysis.paired.EXACT_GROUPS", 3)
    drawn = sign_flip_test(differences, replicates=20_000, seed=0)
    assert drawn.method.startswith("Monte Carlo")
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.015)


def test_no_difference_at_all_has_p_of_one() -> None:
    assert sign_flip_test(np.zeros((5, 1), dtype=int), replicates=9, seed=0).p_value[0] == 1
    assert sign_flip_test(np.zeros((50, 1), dtype=int), replicates=99, seed=0).p_value[0] == 1


def test_monte_carlo_p_is_never_zero() -> None:
    sure = sign_flip_test(np.full((100, 1), 7), replicates=999, seed=0)
    assert sure.p_value[0] == pytest.approx(1 / 1000)


def test_type_one_error_of_the_sign_flip_is_five_percent() -> None:
    """4000 studies of two equally good entries whose errors cluster by group."""
    rng = np.random.default_rng(3)
    studies, count, size = 4000, 40, 6
    shared = rng.normal(size=(2, studies, count, 1))
    correct = shared + rng.normal(size=(2, studies, count, size)) > 0
    differences = correct.sum(axis=3)[0] - correct.sum(axis=3)[1]
    test = sign_flip_test(differences.T.astype(int), replicates=2000, seed=1)
    rate = float((test.p_value < 0.05).mean())
    # Standard error of the rate: sqrt(0.05 * 0.95 / 4000) = 0.0034.
    assert 0.04 <= rate <= 0.06


def test_mcnemar_equals_statsmodels() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random(80) < 0.7, rng.random(80) < 0.55
    found = mcnemar(first, second)
    table = [
        [int((first & second).sum()), int((first & ~second).sum())],
        [int((~first & second).sum()), int((~first & ~second).sum())],
    ]
    assert found["only_first"] == table[0][1]
    assert found["only_second"] == table[1][0]
    expected: Any = statsmodels_mcnemar(table, exact=True)
    assert found["p_value"] == pytest.approx(expected.pvalue)


def test_mcnemar_without_discordant_samples_has_p_of_one() -> None:
    same = np.array([True, False])
    assert mcnemar(same, same) == {"only_first": 0, "only_second": 0, "p_value": 1.0}


def test_cochran_q_equals_statsmodels() -> None:
    correct = np.random.default_rng(5).random((90, 4)) < np.array([0.5, 0.6, 0.7, 0.7])
    found = cochran_q(correct)
    statistic, p_value, _ = cochrans_q(correct.astype(int))
    assert found["statistic"] == pytest.approx(statistic)
    assert found["p_value"] == pytest.approx(p_value)
    assert found["df"] == 3


def test_cochran_q_of_identical_entries_is_undefined_with_a_reason() -> None:
    found = cochran_q(np.repeat([[True], [False]], 3, axis=1))
    assert found["statistic"] is None
    assert found["reason"]


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 1.0])), min_size=1))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    expected = np.asarray(multipletests(p_values, method="holm")[1])
    assert adjust(p_values, "holm") == pytest.approx(expected.tolist(), rel=1e-12)


def test_holm_and_bonferroni_as_in_the_textbook() -> None:
    raw = [0.01, 0.04, 0.03]
    assert adjust(raw, "holm") == pytest.approx([0.03, 0.06, 0.06])
    assert adjust(raw, "bonferroni") == pytest.approx([0.03, 0.12, 0.09])
    assert adjust(raw, "none") == raw
    assert adjust([], "holm") == []


THROMBOLYSIS = [
    0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
    0.5719, 0.6528, 0.7590, 1.0000,
]  # fmt: skip
"""The 15 p-values of the example in Benjamini and Hochberg (1995)."""


def test_bh_and_bonferroni_reject_as_in_the_paper() -> None:
    """At 5 % their procedure rejects four hypotheses, Bonferroni's three."""
    assert sum(p <= 0.05 for p in adjust(THROMBOLYSIS, "bh")) == 4
    assert sum(p <= 0.05 for p in adjust(THROMBOLYSIS, "bonferroni")) == 3
    assert adjust(THROMBOLYSIS, "bh")[3] == pytest.approx(0.0095 * 15 / 4)


@pytest.mark.parametrize(
    ("entries", "freedom", "q"), [(3, 20, 3.578), (4, 10, 4.327), (5, 60, 3.977)]
)
def test_tukey_has_the_critical_values_of_the_tables(entries: int, freedom: int, q: float) -> None:
    found = tukey_p(np.array([q / np.sqrt(2)]), entries=entries, freedom=np.array([freedom]))
    assert found[0] == pytest.approx(0.05, abs=2e-4)


def test_tukey_over_two_entries_is_the_t_test() -> None:
    statistic, freedom = np.array([-2.5, 0.0, 1.0]), np.array([7.0, 7.0, 40.0])
    found = tukey_p(statistic, entries=2, freedom=freedom)
    assert found == pytest.approx(2 * t.sf(np.abs(statistic), freedom), abs=1e-7)


def test_tukey_in_a_study_is_the_studentized_range_of_its_clustered_errors() -> None:
    """Seeds are in the standard error; the sign-flip p-value stays as it is."""
    rng = np.random.default_rng(21)
    groups = np.arange(240) // 4
    entries = [rng.random((2, 1, 240)) < rate for rate in (0.8, 0.7, 0.65)]
    (found,) = pairs_of(entries, groups, correction="tukey")
    (plain,) = pairs_of(entries, groups, correction="none")
    b = bootstrap_accuracy(
        np.concatenate(entries),
        groups,
        entry_of_run=[0, 0, 1, 1, 2, 2],
        replicates=1000,
        confidence=0.95,
        seed=0,
    )
    for pair, other, places in zip(found, plain, [(0, 1), (0, 2), (1, 2)], strict=True):
        spread = b.spread(difference_of(*places, np.ones((1, 1))), entries=places)
        assert spread is not None
        assert pair.difference.estimate is not None
        student = abs(pair.difference.estimate) / spread.standard_error[0]
        expected = studentized_range.sf(np.sqrt(2) * student, 3, spread.freedom[0])
        assert pair.p_adjusted == pytest.approx(expected)
        assert pair.p_value == other.p_value


def test_a_tukey_family_is_one_column() -> None:
    """Other conditions do not change a p-value, as they do under Holm."""
    groups = np.arange(120) // 3
    entries = [
        np.concatenate([right(rate, 120, k), right(rate, 120, k + 9)], axis=1)
        for k, rate in enumerate((0.8, 0.7, 0.5))
    ]
    columns = [np.array([1, 0]), np.array([0, 1])]
    both = pairs_of(entries, groups, columns=columns, correction="tukey")
    for column, pairs in zip(columns, both, strict=True):
        (alone,) = pairs_of(entries, groups, columns=[column], correction="tukey")
        assert [p.p_adjusted for p in pairs] == pytest.approx([p.p_adjusted for p in alone])


def test_tukey_keeps_the_chance_of_any_false_claim_at_five_percent() -> None:
    """2000 studies of three equally good entries on 40 groups, one study per condition."""
    rng = np.random.default_rng(22)
    studies, count, size = 2000, 40, 5
    shared = rng.normal(size=(1, studies, count, 1))
    own = 0.7 * rng.normal(size=(3, studies, count, 1))
    correct = shared + own + rng.normal(size=(3, studies, count, size)) > 0
    b = bootstrap_accuracy(
        correct.reshape(3, studies, -1),
        np.repeat(np.arange(count), size),
        entry_of_run=[0, 1, 2],
        replicates=1000,
        confidence=0.95,
        seed=0,
    )
    claimed = np.zeros(studies, dtype=bool)
    critical = studentized_range.isf(0.05, 3, count - 1) / np.sqrt(2)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        statistic = difference_of(i, j, np.eye(studies))
        spread = b.spread(statistic, entries=(i, j))
        assert spread is not None
        claimed |= np.abs(statistic(b.observed)) / spread.standard_error > critical
    # Standard error of the rate: sqrt(0.05 * 0.95 / 2000) = 0.005.
    assert 0.035 <= claimed.mean() <= 0.065


def test_tukey_without_spread_falls_back_to_sign_flips() -> None:
    """Entries that differ in every group alike have no standard error to divide by."""
    ones, zeros = np.ones((1, 1, 60), dtype=bool), np.zeros((1, 1, 60), dtype=bool)
    (found,) = pairs_of([ones, zeros, zeros], np.arange(60) // 5, correction="tukey")
    assert found[0].p_adjusted == pytest.approx(3 * 2**-11)
    assert (found[0].verdict, found[2].verdict) == ("ahead", "identical")
    assert found[2].p_adjusted == 1


def test_other_families_take_holm_under_tukey() -> None:
    assert [family_correction(c) for c in ("tukey", "bh", "none")] == ["holm", "bh", "none"]
    assert adjust([0.01, 0.04, 0.03], "tukey") == adjust([0.01, 0.04, 0.03], "holm")


def test_a_single_group_has_no_tukey_either() -> None:
    ((pair,),) = pairs_of([right(0.9, 50, 7), right(0.1, 50, 8)], np.zeros(50), correction="tukey")
    assert pair.p_adjusted is None


def test_clearly_better_entry_is_ahead_and_swapping_turns_it_round() -> None:
    groups = np.arange(600) // 3
    good, bad = right(0.9, 600, 1), right(0.6, 600, 2)
    ((ahead,),) = pairs_of([good, bad], groups)
    ((behind,),) = pairs_of([bad, good], groups)
    assert (ahead.verdict, behind.verdict) == ("ahead", "behind")
    assert ahead.difference.estimate == pytest.approx(good.mean() - bad.mean())
    assert behind.difference.estimate == pytest.approx(-(good.mean() - bad.mean()))
    assert ahead.p_value == behind.p_value


def test_small_noisy_study_cannot_tell() -> None:
    first = np.arange(60)[None, None] % 5 > 0
    second = first.copy()
    second[0, 0, [1, 11, 21, 31, 41]] = False
    second[0, 0, [5, 15, 25]] = True
    ((pair,),) = pairs_of([first, second], np.arange(60) // 2)
    assert pair.verdict == "undecided"
    assert pair.difference.estimate == pytest.approx(2 / 60)
    assert not pair.equivalent


def test_tiny_difference_in_much_data_is_equivalent() -> None:
    base = right(0.8, 20_000, 5)
    other = base.copy()
    other[0, 0, :20] = ~other[0, 0, :20]
    ((pair,),) = pairs_of([base, other], np.arange(20_000))
    assert pair.equivalent
    assert pair.verdict == "equivalent"


def test_identical_predictions_say_identical_and_are_not_equivalent_by_themselves() -> None:
    same = right(0.7, 40, 6)
    ((pair,),) = pairs_of([same, same], np.arange(40) // 2)
    assert pair.verdict == "identical"
    assert pair.same_predictions
    assert pair.p_value == 1
    # 20 groups that agree leave a disagreement of up to 14 % of groups possible at 90 %.
    assert pair.tost.high == pytest.approx(1 - 0.05 ** (1 / 20))
    assert not pair.equivalent


def test_opposite_constant_answers_are_fully_apart() -> None:
    ones, zeros = np.ones((1, 1, 60), dtype=bool), np.zeros((1, 1, 60), dtype=bool)
    ((pair,),) = pairs_of([ones, zeros], np.arange(60) // 2)
    assert pair.verdict == "ahead"
    assert pair.difference.estimate == 1
    assert pair.difference.high == 1


def test_single_group_gives_no_p_value_and_no_verdict() -> None:
    ((pair,),) = pairs_of([right(0.9, 50, 7), right(0.1, 50, 8)], np.zeros(50))
    assert (pair.p_value, pair.p_adjusted, pair.difference.low) == (None, None, None)
    assert pair.verdict == "undecided"
    assert "single group" in pair.method


def test_family_is_all_pairs_on_all_columns() -> None:
    groups = np.arange(300) // 3
    entries = [
        np.concatenate([right(r, 300, s) for s in (k, k + 9)], axis=1)
        for k, r in enumerate((0.9, 0.7, 0.6))
    ]
    columns = [np.array([1, 0]), np.array([0, 1])]
    found = pairs_of(entries, groups, columns=columns, correction="bonferroni")
    flat = [pair for column in found for pair in column]
    assert len(flat) == 6
    for pair in flat:
        assert pair.p_value is not None
        assert pair.p_adjusted == pytest.approx(min(1.0, 6 * pair.p_value))
    assert [(p.first, p.second) for p in found[0]] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_average_over_conditions_is_the_mean_of_the_conditions() -> None:
    rng = np.random.default_rng(9)
    first, second = rng.random((2, 1, 3, 200)) < 0.6
    ((pair,),) = pairs_of([first, second], np.arange(200) // 2)
    assert pair.difference.estimate == pytest.approx(first.mean() - second.mean())


def test_unequal_seed_counts_are_averaged_per_entry() -> None:
    rng = np.random.default_rng(10)
    first, second = rng.random((3, 1, 120)) < 0.7, rng.random((2, 1, 120)) < 0.6
    ((pair,),) = pairs_of([first, second], np.arange(120) // 2)
    assert pair.difference.estimate == pytest.approx(first.mean() - second.mean())


def test_one_entry_has_no_pairs() -> None:
    assert pairs_of([right(0.5, 20, 11)], np.arange(20)) == [[]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=10), st.integers(1, 5))
def test_p_is_the_same_for_any_scale_and_sign_of_the_differences(
    values: list[int], factor: int
) -> None:
    differences = np.array(values)[:, None]
    p_value = sign_flip_test(differences, replicates=10, seed=0).p_value[0]
    scaled = sign_flip_test(-factor * differences, replicates=10, seed=0).p_value[0]
    assert p_value == scaled
    assert 0 < p_value <= 1
