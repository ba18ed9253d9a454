"""Mixed samples, smoothed and weighted labels: closed forms, and torch's own."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from regatta.config.schema import TrainSection
from regatta.core.seeds import stream
from regatta.training.distributed import ONE_PROCESS
from regatta.training.loop import build_parts
from regatta.training.loss import TrainingLoss, class_weights
from regatta.training.mix import MixedLabels, Mixing, StepMixer
from regatta.training.step import take_step
from tests.training.tiny_training import CLASSES, TinyBatch, tiny_clips, tiny_net, tiny_spec

LOGITS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 2, 2, 2, 0, 2, 2, 1, 2, 2])
OTHERS = LABELS.roll(3)


def numbered(*shape: int) -> torch.Tensor:
    """Inputs whose every value is the number of its sample."""
    return (
        torch.arange(shape[0], dtype=torch.float32).view(-1, *[1] * (len(shape) - 1)).expand(shape)
    )


def test_balanced_weights_are_n_over_k_times_the_count():
    found = class_weights(TrainSection(class_weights="balanced"), [2, 2, 8], CLASSES)
    assert found is not None
    assert found.tolist() == pytest.approx([12 / 6, 12 / 6, 12 / 24])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_loss_is_torchs_weighted_mean(smoothing: float):
    weights = torch.tensor([2.0, 2.0, 0.5])
    found = TrainingLoss(smoothing, weights).of(LOGITS, LABELS)
    expected = functional.cross_entropy(LOGITS, LABELS, weight=weights, label_smoothing=smoothing)
    assert (found.loss / found.weight).item() == pytest.approx(expected.item(), rel=1e-6)
    assert found.correct.item() == (LOGITS.argmax(1) == LABELS).sum().item()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixed_labels_are_torchs_soft_targets(smoothing: float):
    found = TrainingLoss(smoothing).of(LOGITS, MixedLabels(LABELS, OTHERS, 0.3))
    soft = 0.3 * functional.one_hot(LABELS, 3) + 0.7 * functional.one_hot(OTHERS, 3)
    expected = functional.cross_entropy(LOGITS, soft, label_smoothing=smoothing)
    assert (found.loss / found.weight).item() == pytest.approx(expected.item(), rel=1e-6)
    right = LOGITS.argmax(1)
    shares = 0.3 * (right == LABELS) + 0.7 * (right == OTHERS)
    assert found.correct.item() == pytest.approx(shares.sum().item())


def begun(mixing: Mixing, seed: int) -> StepMixer:
    """Of a step that mixes for sure."""
    mixer = mixing.begin_step(seed)
    assert mixer is not None
    return mixer


@pytest.mark.parametrize("shape", [(6, 2, 3, 4, 4), (6, 3, 5), (6, 2, 7)])
def test_mixup_is_the_line_between_two_samples_and_keeps_its_input(shape: tuple[int, ...]):
    inputs, labels = numbered(*shape), torch.arange(6)
    mixed, found = begun(Mixing(0.4, 0.0), 5).mix(inputs, labels)
    line = found.share * found.first_B + (1 - found.share) * found.second_B
    torch.testing.assert_close(mixed.flatten(1).mean(1), line)
    assert sorted(found.second_B.tolist()) == found.first_B.tolist() == labels.tolist()
    assert torch.equal(inputs, numbered(*shape))


@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.2, 1.0, 5.0]))
def test_cutmix_labels_weigh_as_the_area_that_was_cut(seed: int, alpha: float):
    for shape in ((4, 2, 3, 6, 9), (4, 3, 16)):
        inputs = numbered(*shape)
        mixed, found = begun(Mixing(0.0, alpha), seed).mix(inputs, torch.arange(4))
        for row, other in enumerate(found.second_B.tolist()):
            if other == row:
                continue
            kept = (mixed[row] == row).double().mean().item()
            assert kept == pytest.approx(found.share)
            assert set(mixed[row].flatten().tolist()) <= {float(row), float(other)}


def test_cutmix_cuts_one_box_from_all_frames_and_one_span_from_all_channels():
    for shape in ((8, 4, 3, 8, 8), (8, 5, 30)):
        mixed, found = begun(Mixing(0.0, 1.0), 3).mix(numbered(*shape), torch.arange(8))
        others = found.second_B.tolist()
        row = next(row for row, other in enumerate(others) if row != other)
        cut = mixed[row] == others[row]
        first = cut[:1, :1] if cut.dim() == 4 else cut[:1]
        assert torch.equal(cut, first.expand_as(cut))
        places = first.squeeze().nonzero()
        sides = places.max(0).values - places.min(0).values + 1
        assert sides.prod() == len(places) > 0


def test_shares_follow_the_beta_distribution_and_both_kinds_take_turns():
    cuts, shares = 0, []
    for seed in range(400):
        mixer = begun(Mixing(2.0, 1.0), seed)
        cuts += mixer.cuts
        if not mixer.cuts:
            shares.append(mixer.mix(torch.zeros(2, 1, 1, 1), torch.zeros(2))[1].share)
    assert 160 < cuts < 240  # 4 standard deviations of a fair coin
    mean, variance = torch.tensor(shares).mean().item(), torch.tensor(shares).var().item()
    # Beta(2, 2): mean 1/2, variance 1/20.
    assert mean == pytest.approx(0.5, abs=4 * math.sqrt(0.05 / len(shares)))
    assert variance == pytest.approx(0.05, rel=0.3)


def test_every_step_mixes_as_it_did_before_there_was_a_share():
    # Written down from numpy's own generator: choice of kind, share, partners.
    for seed in range(20):
        rng = stream(seed, "mix")
        cuts = rng.random() < 0.5
        share = float(rng.beta(1.0, 1.0)) if cuts else float(rng.beta(0.4, 0.4))
        partners = rng.permutation(6).tolist()
        mixer = begun(Mixing(0.4, 1.0, 1.0), seed)
        assert mixer.cuts is cuts
        _, found = mixer.mix(numbered(6, 3, 4, 4), torch.arange(6))
        assert found.second_B.tolist() == partners
        if not cuts:
            assert found.share == share


def test_a_share_of_the_steps_mixes_and_each_kind_takes_half_of_them():
    mixers = [Mixing(0.2, 1.0, 2 / 3).begin_step(seed) for seed in range(1200)]
    kinds = [None if mixer is None else mixer.cuts for mixer in mixers]
    # Each a third; 4 standard deviations of a binomial of 1200.
    tolerance = 4 * math.sqrt(1200 * 2 / 9)
    for kind in (None, True, False):
        assert kinds.count(kind) == pytest.approx(400, abs=tolerance)
    assert all(Mixing(0.2, 0.0, 0.0).begin_step(seed) is None for seed in range(50))


def test_a_step_that_does_not_mix_is_the_plain_step():
    plain = gradient_of({}, seed=1, cuts=[0, 4, 8])
    recipe = {"mixup": 0.5, "mix_share": 0.0}
    assert torch.equal(gradient_of(recipe, seed=1, cuts=[0, 4, 8]), plain)


def gradient_of(recipe: dict[str, Any], *, seed: int, cuts: list[int]) -> torch.Tensor:
    module, clips = tiny_net(dropout=0.0), tiny_clips(8)
    train = TrainSection.model_validate({"batch_size": 4, "clip_norm": None, **recipe})
    counts = [3, 3, 2] if "class_weights" in recipe else None
    parts = build_parts(
        module,
        tiny_spec(),
        train,
        device=torch.device("cpu"),
        ranks=ONE_PROCESS,
        class_weights_K=class_weights(train, counts, CLASSES),
    )
    batches = [
        TinyBatch(clips.videos[a:b], clips.labels[a:b], ["clip"] * (b - a))
        for a, b in pairwise(cuts)
    ]
    take_step(parts, iter(batches), micro_batches=len(batches), stop_asked=lambda: False, seed=seed)
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def test_a_step_draws_the_same_mix_from_the_same_seed_and_another_from_another():
    one, same, other = (
        gradient_of({"mixup": 0.5}, seed=seed, cuts=[0, 4, 8]) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_an_accumulated_weighted_step_is_the_weighted_mean_of_all_its_samples():
    recipe = {"class_weights": "balanced", "label_smoothing": 0.1, "accumulate": 2}
    whole = gradient_of(recipe | {"batch_size": 8, "accumulate": 1}, seed=1, cuts=[0, 8])
    # 3 + 5 samples of unequal weight in two micro-batches.
    torch.testing.assert_close(gradient_of(recipe, seed=1, cuts=[0, 3, 8]), whole)
    module, clips = tiny_net(dropout=0.0), tiny_clips(8)
    weights = torch.tensor([8 / 9, 8 / 9, 8 / 6])
    loss = functional.cross_entropy(
        module((clips.videos / 255 - 0.5) / 0.25),
        clips.labels,
        weight=weights,
        label_smoothing=0.1,
    )
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-6)
