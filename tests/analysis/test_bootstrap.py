"""The clustered bootstrap against closed forms, a plain loop, libraries and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from regatta.analysis import bootstrap as module
from regatta.analysis.bootstrap import (
    Bootstrap,
    Interval,
    bootstrap_accuracy,
    draw_group_weights,
    exact_share,
    seed_spread,
    tally_by_group,
    widened_tail,
)
from regatta.core.seeds import stream


def resample(
    correct: np.ndarray,
    groups: np.ndarray,
    *,
    entry_of_run: list[int] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    return bootstrap_accuracy(
        correct,
        groups,
        entry_of_run=entry_of_run or list(range(len(correct))),
        replicates=replicates,
        confidence=0.95,
        seed=seed,
    )


def share(b: Bootstrap, entry: int = 0, condition: int = 0) -> Interval:
    return b.interval(lambda a: a[..., entry, condition], entries=[entry], collapse="share")


def difference(b: Bootstrap) -> Interval:
    return b.interval(lambda a: a[..., 0, 0] - a[..., 1, 0], entries=[0, 1], collapse="difference")


def clustered(
    rng: np.random.Generator, *, studies: int, groups: np.ndarray, mean: float, correlation: float
) -> np.ndarray:
    """Beta-binomial right answers [studies, N] with the given correlation inside a group."""
    scale = (1 - correlation) / correlation
    count = int(groups.max()) + 1
    rate = rng.beta(mean * scale, (1 - mean) * scale, size=(studies, count))
    return rng.random((studies, len(groups))) < rate[:, groups]


def test_tally_sums_right_answers_and_samples_per_group() -> None:
    values = np.array([[[1, 0, 1, 1, 0]]], dtype=bool)
    sums, sizes = tally_by_group(values, np.array([1, 0, 1, 0, 1]))
    assert sums[0, :, 0].tolist() == [1, 2]
    assert sizes.tolist() == [2, 3]


def test_each_replicate_draws_one_group_less_than_there_are() -> None:
    blocks = list(draw_group_weights(stream(3, "t"), 7, 1000))
    weights = np.concatenate(blocks)
    assert weights.shape == (1000, 7)
    assert (weights.sum(axis=1) == 6).all()
    # Each group is drawn 6/7 times on average; the mean of 1000 has a standard error of 0.028.
    assert np.abs(weights.mean(axis=0) - 6 / 7).max() < 0.12


def test_matrix_product_equals_resampling_loop() -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 9, size=60)
    correct = rng.random((2, 3, 60)) < 0.6
    found = resample(correct, groups, replicates=40, seed=5).replicates
    weights = np.concatenate(list(draw_group_weights(stream(5, "bootstrap", "groups"), 9, 40)))
    for row, weight in enumerate(weights):
        picked = np.concatenate(
            [np.tile(np.flatnonzero(groups == g), times) for g, times in enumerate(weight)]
        )
        assert found[row] == pytest.approx(correct[:, :, picked].mean(axis=2))


def test_replicates_are_exact_whatever_the_float_width(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    groups, correct = rng.integers(0, 30, size=500), rng.random((2, 4, 500)) < 0.7
    narrow = resample(correct, groups).replicates
    monkeypatch.setattr(module, "EXACT_FLOAT32", 0)
    assert np.array_equal(narrow, resample(correct, groups).replicates)


def test_standard_error_is_that_of_independent_group_means() -> None:
    """Equal group sizes: variance of the mean = sample variance of group means over G."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(25), 8)
    correct = clustered(rng, studies=1, groups=groups, mean=0.7, correlation=0.3)[None]
    means = correct[0, 0].reshape(25, 8).mean(axis=1)
    found = resample(correct, groups, replicates=20_000).replicates.std()
    assert found == pytest.approx(means.std(ddof=1) / 5, rel=0.02)


def test_correlated_groups_give_wider_intervals_than_independent_samples() -> None:
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(200), 10)
    correct = clustered(rng, studies=1, groups=groups, mean=0.6, correlation=0.4)[None]
    by_group = resample(correct, groups).replicates.std()
    by_sample = resample(correct, np.arange(2000)).replicates.std()
    # Design effect 1 + (10 - 1) * 0.4 = 4.6.
    assert by_group / by_sample == pytest.approx(np.sqrt(4.6), rel=0.1)


@pytest.mark.parametrize(
    ("count", "mean"), [(12, 0.7), (25, 0.9), (50, 0.7), (50, 0.97), (200, 0.85)]
)
def test_95_percent_intervals_cover_95_percent_of_clustered_studies(
    count: int, mean: float
) -> None:
    """Every condition is one simulated study; all are resampled with the same draws."""
    rng = np.random.default_rng(10 + count)
    groups = np.repeat(np.arange(count), rng.integers(5, 12, size=count))
    correct = clustered(rng, studies=2000, groups=groups, mean=mean, correlation=0.2)[None]
    found = resample(correct, groups, replicates=1000).intervals(
        lambda a: a[..., 0, :], entries=[0], collapse="share"
    )
    inside = np.mean([i.low <= mean <= i.high for i in found if i.low is not None and i.high])
    assert len(found) == 2000
    assert 0.93 <= inside <= 0.97


def test_95_percent_intervals_of_paired_differences_cover() -> None:
    rng = np.random.default_rng(20)
    groups = np.repeat(np.arange(40), 8)
    shape = (2000, len(groups))
    hard = rng.normal(size=(2000, 40))[:, groups] + rng.normal(size=shape)
    noise = 0.7 * rng.normal(size=(2, *shape))
    correct = np.stack([1.0 - hard + noise[0] > 0, 0.7 - hard + noise[1] > 0])
    found = resample(correct, groups).intervals(
        lambda a: a[..., 0, :] - a[..., 1, :], entries=[0, 1], collapse="difference"
    )
    truth = correct[0].mean() - correct[1].mean()
    covered = [i.low <= truth <= i.high for i in found if i.low is not None and i.high is not None]
    assert len(covered) == 2000
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("shift", [0.0, 0.03])
def test_intervals_over_three_seeds_cover_training_noise_too(shift: float) -> None:
    rng = np.random.default_rng(30)
    groups = np.repeat(np.arange(40), 8)
    covered = []
    for study in range(300):
        rate = rng.beta(2.8, 1.2, size=40)[groups] + shift * rng.normal(size=(3, 1))
        shared = np.where(rng.random((3, 320)) < 0.5, rng.random(320)[None], rng.random((3, 320)))
        correct = (shared < rate.clip(0, 1))[:, None]
        interval = share(
            resample(correct, groups, entry_of_run=[0, 0, 0], replicates=400, seed=study)
        )
        assert interval.low is not None
        assert interval.high is not None
        covered.append(interval.low <= 0.7 <= interval.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_variance_over_seeds_is_the_sum_of_groups_and_training_noise() -> None:
    """Seeds that differ by far more than group sampling explains: var = var_groups + s^2 / S."""
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(500), 4)
    correct = rng.random((4, 1, 2000)) < np.array([0.5, 0.6, 0.7, 0.8])[:, None, None]
    b = resample(correct, groups, entry_of_run=[0] * 4, replicates=20_000)
    assert b.fixed_seeds is not None
    by_seed = correct.mean(axis=2)[:, 0]
    expected = b.fixed_seeds.var() + by_seed.var(ddof=1) / 4
    assert b.replicates.var() == pytest.approx(expected, rel=0.05)
    assert b.seeds == (4,)


def test_seeds_that_differ_only_by_sampling_add_nothing() -> None:
    right = np.array([[[1], [0]] * 50, [[0], [1]] * 50])
    assert seed_spread(right, np.ones(100)) == 0.0
    assert seed_spread(right[:1], np.ones(100)) == 1.0


def test_few_seeds_that_differ_much_are_marked_as_rough() -> None:
    rng = np.random.default_rng(7)
    correct = rng.random((2, 1, 4000)) < np.array([0.4, 0.9])[:, None, None]
    interval = share(resample(correct, np.arange(4000) // 4, entry_of_run=[0, 0]))
    assert "few seeds" in interval.note


def test_same_draws_for_all_entries_make_differences_paired() -> None:
    rng = np.random.default_rng(8)
    one = rng.random((1, 1, 300)) < 0.5
    b = resample(np.concatenate([one, one]), np.arange(300) // 3)
    assert (b.replicates[:, 0] == b.replicates[:, 1]).all()


@pytest.mark.parametrize("groups", [2, 5, 60])
def test_perfect_and_hopeless_accuracy_get_the_exact_rule_of_three(groups: int) -> None:
    codes = np.repeat(np.arange(groups), 3)
    bound = 0.025 ** (1 / groups)
    perfect = share(resample(np.ones((1, 1, len(codes)), dtype=bool), codes))
    assert (perfect.estimate, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(bound)
    assert perfect.method == "exact by groups"
    hopeless = share(resample(np.zeros((1, 1, len(codes)), dtype=bool), codes))
    assert (hopeless.estimate, hopeless.low) == (0.0, 0.0)
    assert hopeless.high == pytest.approx(1 - bound)


def test_identical_predictions_leave_room_for_unseen_disagreement() -> None:
    one = np.random.default_rng(9).random((1, 1, 200)) < 0.5
    interval = difference(resample(np.concatenate([one, one]), np.arange(200) // 2))
    reach = 1 - 0.025 ** (1 / 100)
    assert interval.estimate == 0
    assert (interval.low, interval.high) == pytest.approx((-reach, reach))


def test_one_group_has_an_estimate_but_no_interval() -> None:
    interval = share(resample(np.array([[[True, True, False]]]), np.zeros(3)))
    assert interval.estimate == pytest.approx(2 / 3)
    assert (interval.low, interval.high) == (None, None)
    assert "one group" in interval.note


def test_few_groups_are_named_in_the_note() -> None:
    rng = np.random.default_rng(11)
    interval = share(resample(rng.random((1, 1, 400)) < 0.6, np.arange(400) // 100))
    assert interval.note.startswith("only 4 groups")


def test_statistic_that_is_undefined_in_replicates_gives_no_interval() -> None:
    b = resample(np.array([[[True, False, False, False]]]), np.arange(4))

    def inverse(accuracy: np.ndarray) -> np.ndarray:
        value = accuracy[..., 0, 0]
        return np.divide(1.0, value, out=np.full_like(value, np.nan), where=value > 0)

    interval = b.interval(inverse, entries=[0])
    assert interval.estimate == 4.0
    assert interval.low is None
    assert "not defined in" in interval.note


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (3, 10), (10, 10), (37, 40)])
def test_exact_share_is_the_binomial_interval_of_scipy(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(0.95, method="exact")
    found = exact_share(hits / count, count, confidence=0.95)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_tail_is_normal_with_many_groups_and_wider_with_few() -> None:
    assert widened_tail(1e6, 0.95) == pytest.approx(0.025, rel=1e-4)
    # t(9) has its 2.5 % point at -2.262157; the normal has 1.18441 % below that.
    assert widened_tail(9, 0.95) == pytest.approx(0.0118441, rel=1e-3)


def test_intervals_do_not_depend_on_the_order_of_samples() -> None:
    rng = np.random.default_rng(12)
    groups = rng.choice(["b", "a", "d", "c", "e"], size=80)
    correct = rng.random((1, 2, 80)) < 0.5
    order = rng.permutation(80)
    first, second = resample(correct, groups), resample(correct[:, :, order], groups[order])
    assert np.array_equal(first.replicates, second.replicates)


def test_scaling_by_a_negative_factor_swaps_the_ends() -> None:
    assert Interval(0.1, 0.0, 0.3).scaled(-100) == Interval(-10.0, -30.0, -0.0)
    assert Interval(0.1).scaled(100).low is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40),
    st.integers(0, 3),
)
def test_any_small_study_gets_ordered_finite_ends_inside_zero_and_one(
    rows: list[tuple[int, bool]], seed: int
) -> None:
    groups = np.array([group for group, _ in rows])
    correct = np.array([[[right for _, right in rows]]])
    interval = share(resample(correct, groups, replicates=200, seed=seed))
    assert interval.estimate == pytest.approx(correct.mean())
    if len(set(groups)) == 1:
        assert interval.low is None
        return
    low, estimate, high = interval.low, interval.estimate, interval.high
    assert low is not None
    assert estimate is not None
    assert high is not None
    assert 0 <= low <= estimate + 1e-12
    assert estimate - 1e-12 <= high <= 1
