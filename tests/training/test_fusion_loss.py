"""The loss of a system with several heads is CE(global) + alpha R CE(each own), by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from regatta.config.schema import TrainSection
from regatta.training.loss import TrainingLoss, build_loss
from regatta.training.mix import MixedLabels

LOGITS = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
"""5 samples, a global head and 3 experts, 3 classes."""
LABELS, OTHERS = torch.tensor([0, 2, 1, 2, 0]), torch.tensor([1, 1, 1, 0, 2])
WEIGHTS = [2.0, 0.5, 1.5]


def by_hand(head: int, labels: torch.Tensor, *, smoothing: float, weights: list[float]) -> float:
    """Sum over the samples of one head's smoothed and weighted cross-entropy."""
    total = 0.0
    for row, label in zip(LOGITS[:, head].tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        losses = [log_sum - value for value in row]
        spread = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / 3
        total += (1 - smoothing) * weights[label] * losses[label] + smoothing * spread
    return total


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], WEIGHTS])
def test_loss_is_the_global_part_and_alpha_times_all_experts(
    reduction: str, smoothing: float, weights: list[float]
):
    recipe = {"label_smoothing": smoothing, "loss": {"alpha": 2.5, "reduction": reduction}}
    loss = build_loss(TrainSection.model_validate(recipe), torch.tensor(weights))
    found = loss.of(LOGITS, LABELS)
    of_heads = [by_hand(head, LABELS, smoothing=smoothing, weights=weights) for head in range(4)]
    individual = sum(of_heads[1:]) / (1 if reduction == "sum" else 3)
    assert found.first_loss is not None
    assert found.second_loss is not None
    assert found.first_loss.item() == pytest.approx(of_heads[0], rel=1e-6)
    assert found.second_loss.item() == pytest.approx(individual, rel=1e-6)
    assert found.loss.item() == pytest.approx(of_heads[0] + 2.5 * individual, rel=1e-6)
    assert found.weight.item() == pytest.approx(sum(weights[label] for label in LABELS.tolist()))


def test_mixed_labels_count_their_share_in_both_parts():
    found = TrainingLoss(0.1, torch.tensor(WEIGHTS), 0.5).of(
        LOGITS, MixedLabels(LABELS, OTHERS, 0.3)
    )
    of_heads = [
        0.3 * by_hand(head, LABELS, smoothing=0.1, weights=WEIGHTS)
        + 0.7 * by_hand(head, OTHERS, smoothing=0.1, weights=WEIGHTS)
        for head in range(4)
    ]
    sums = found.sums().tolist()
    assert sums[0] == pytest.approx(of_heads[0] + 0.5 * sum(of_heads[1:]), rel=1e-6)
    assert sums[3:] == pytest.approx([of_heads[0], sum(of_heads[1:])], rel=1e-6)


def test_right_answers_are_those_of_the_global_head():
    logits = LOGITS.clone()
    logits[:, 0] = torch.nn.functional.one_hot(LABELS, 3)
    logits[:, 1:] = torch.nn.functional.one_hot((LABELS + 1) % 3, 3)[:, None]
    found = TrainingLoss().of(logits, LABELS)
    assert found.correct.item() == 5
    shares = TrainingLoss().of(logits, MixedLabels(LABELS, (LABELS + 1) % 3, 0.3))
    assert shares.correct.item() == pytest.approx(0.3 * 5)


def test_one_head_has_no_parts_and_a_fusion_without_experts_has_the_same_loss():
    plain = TrainingLoss(0.1).of(LOGITS[:, 0], LABELS)
    assert (plain.first_loss, plain.second_loss) == (None, None)
    assert plain.sums().shape == (3,)
    alone = TrainingLoss(0.1, alpha=7.0, reduction="mean").of(LOGITS[:, :1], LABELS)
    assert torch.equal(alone.loss, plain.loss)
    assert alone.sums()[4].item() == 0


def test_a_batch_without_samples_is_zero_in_every_part_and_has_a_graph():
    logits = LOGITS[:1].clone().requires_grad_()
    found = TrainingLoss().nothing(logits)
    assert found.sums().tolist() == [0.0] * 5
    found.loss.backward()
    assert logits.grad is not None
    assert np.count_nonzero(logits.grad.numpy()) == 0
    assert TrainingLoss().nothing(logits[:, 0]).sums().tolist() == [0.0] * 3


def test_lambda_loss_is_alpha_and_must_agree_with_it():
    assert TrainSection.model_validate({"loss": {"lambda_loss": 5}}).loss.alpha == 5
    for wrong in ({"alpha": 1, "lambda_loss": 5}, {"alpha": -0.5}):
        with pytest.raises(ValidationError):
            TrainSection.model_validate({"loss": wrong})
