"""One optimizer step: every sample weighs the same, and a bad number changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.errors import DataError
from regatta.data.transforms import normalise
from regatta.training.distributed import ONE_PROCESS
from regatta.training.loop import build_parts
from regatta.training.loss import training_loss_sum
from regatta.training.step import StepOutcome, StepParts, own_gradients, take_step
from tests.training.tiny_training import TinyBatch, TinyNet, tiny_clips, tiny_net, tiny_spec

CPU = torch.device("cpu")
CLIPS = tiny_clips(8)


def parts_of(module: nn.Module, **recipe: Any) -> StepParts:
    train = TrainSection(**({"batch_size": 4, "lr": 0.01, "clip_norm": None} | recipe))
    return build_parts(module, tiny_spec(), train, device=CPU, ranks=ONE_PROCESS)


def batch_of(first: int, last: int) -> TinyBatch:
    names = [f"clip-{row}" for row in range(first, last)]
    return TinyBatch(CLIPS.videos[first:last], CLIPS.labels[first:last], names)


def step(parts: StepParts, batches: Sequence[TinyBatch]) -> StepOutcome:
    return take_step(
        parts, iter(batches), micro_batches=len(batches), stop_asked=lambda: False, seed=1
    )


def gradients(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def reference_loss(module: nn.Module, first: int, last: int) -> torch.Tensor:
    """The mean loss of clips first .. last, written out with plain torch."""
    video = normalise(CLIPS.videos[first:last], (0.5,) * 3, (0.25,) * 3)
    return nn.functional.cross_entropy(module(video), CLIPS.labels[first:last])


def test_four_micro_batches_of_two_equal_one_batch_of_eight():
    whole, split = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
    step(parts_of(whole, batch_size=8), [batch_of(0, 8)])
    step(
        parts_of(split, batch_size=2, accumulate=4),
        [batch_of(row, row + 2) for row in range(0, 8, 2)],
    )
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cuts", [[0, 2, 4, 5], [0, 1], [0, 0, 3], [0, 2, 2]])
def test_a_short_last_group_gives_the_gradient_of_its_own_mean(cuts: list[int]):
    module = tiny_net(dropout=0.0)
    parts = parts_of(module, batch_size=2, accumulate=4)
    groups = [batch_of(first, last) for first, last in pairwise(cuts)]
    result = step(parts, groups)
    reference = tiny_net(dropout=0.0)
    loss = reference_loss(reference, 0, cuts[-1])
    loss.backward()
    torch.testing.assert_close(gradients(module), gradients(reference), rtol=1e-5, atol=1e-7)
    assert result.loss == pytest.approx(loss.item(), rel=1e-6)
    assert result.samples == cuts[-1]
    assert result.sample_ids == tuple(f"clip-{row}" for row in range(cuts[-1]))


def test_label_smoothing_is_the_published_formula():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
    labels = torch.tensor([0, 1])
    eps, expected = 0.1, 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        losses = [log_sum - value for value in row]
        expected += (1 - eps) * losses[label] + eps * sum(losses) / 3
    found = training_loss_sum(logits, labels, label_smoothing=eps)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_gradient_is_clipped_to_the_norm_and_the_true_norm_reported():
    module, free = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
    clipped = step(parts_of(module, clip_norm=0.01), [batch_of(0, 4)])
    unclipped = step(parts_of(free), [batch_of(0, 4)])
    assert clipped.gradient_norm == pytest.approx(unclipped.gradient_norm)
    assert gradients(module).norm().item() == pytest.approx(0.01, rel=1e-4)
    assert gradients(free).norm().item() == pytest.approx(unclipped.gradient_norm, rel=1e-5)


def test_dropout_depends_on_the_step_seed_alone():
    results = []
    for disturb in (0, 5):
        module = tiny_net(dropout=0.5)
        torch.rand(disturb)  # Whatever drew before must not matter.
        step(parts_of(module), [batch_of(0, 4)])
        results.append(gradients(module))
    assert torch.equal(*results)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_takes_no_step(bad: float):
    module = tiny_net(dropout=0.0)
    parts = parts_of(module)
    step(parts, [batch_of(0, 4)])
    before = [p.detach().clone() for p in module.parameters()]
    moments = {
        key: value.clone() for key, value in parts.optimizer.state[module.head.weight].items()
    }
    handle = module.head.register_forward_hook(lambda *call: call[2] * bad)
    result = step(parts, [batch_of(0, 4)])
    handle.remove()
    assert result.verdict == "nonfinite"
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    after = parts.optimizer.state[module.head.weight]
    assert all(torch.equal(moments[key], after[key]) for key in moments)


def test_a_gradient_that_is_not_finite_takes_no_step_though_the_loss_is_finite():
    module = tiny_net(dropout=0.0)
    module.head.weight.register_hook(lambda grad: grad * math.inf)
    result = step(parts_of(module), [batch_of(0, 4)])
    assert (result.verdict, math.isfinite(result.loss)) == ("nonfinite", True)


def with_scale(parts: StepParts, scale: float) -> StepParts:
    return replace(parts, scaler=torch.amp.GradScaler("cpu", init_scale=scale))


def test_scaler_overflow_is_a_backoff_and_no_error():
    module = tiny_net(dropout=0.0)
    # Finite by itself, beyond float32 once it is scaled.
    module.head.weight.register_hook(lambda grad: grad * 1e4)
    parts = with_scale(parts_of(module), 2.0**127)
    before = [p.detach().clone() for p in module.parameters()]
    result = step(parts, [batch_of(0, 4)])
    assert result.verdict == "scaler_backoff"
    assert parts.scaler.get_scale() == 2.0**126
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_scaled_step_equals_the_plain_step():
    plain, scaled = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
    step(parts_of(plain, clip_norm=0.1), [batch_of(0, 3)])
    result = step(with_scale(parts_of(scaled, clip_norm=0.1), 1024.0), [batch_of(0, 3)])
    assert result.verdict == "applied"
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_gradient_that_overflows_at_scale_one_is_an_error():
    module = tiny_net(dropout=0.0)
    module.head.weight.register_hook(lambda grad: grad * math.inf)
    result = step(with_scale(parts_of(module), 1.0), [batch_of(0, 4)])
    assert result.verdict == "nonfinite"


def test_no_gradient_of_the_step_before_is_carried_on():
    module = tiny_net(dropout=0.0)
    parts = parts_of(module, lr=1e-30, weight_decay=0)
    step(parts, [batch_of(0, 4)])
    step(parts, [batch_of(4, 8)])
    fresh = tiny_net(dropout=0.0)
    step(parts_of(fresh), [batch_of(4, 8)])
    torch.testing.assert_close(gradients(module), gradients(fresh))


def test_kept_gradients_give_the_same_steps_in_the_same_memory():
    plain, kept = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
    recipe = {"batch_size": 2, "accumulate": 2}
    parts, plain_parts = parts_of(kept, **recipe), parts_of(plain, **recipe)
    parts = replace(parts, keeps_gradients=True)
    own_gradients(kept.parameters())
    places = [p.grad.data_ptr() for p in kept.parameters() if p.grad is not None]
    for first in (0, 4):
        groups = [batch_of(first, first + 2), batch_of(first + 2, first + 4)]
        step(plain_parts, groups)
        step(parts, groups)
    assert places == [p.grad.data_ptr() for p in kept.parameters() if p.grad is not None]
    for one, other in zip(plain.parameters(), kept.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_step_without_a_sample_and_a_loader_that_ends_early_are_errors():
    with pytest.raises(DataError, match="without a sample"):
        step(parts_of(tiny_net()), [batch_of(0, 0)])
    with pytest.raises(DataError, match="2 micro-batches too early"):
        take_step(
            parts_of(tiny_net()),
            iter([batch_of(0, 4)]),
            micro_batches=3,
            stop_asked=lambda: False,
            seed=0,
        )


def test_head_learns_faster_only_on_a_pretrained_backbone():
    module = TinyNet()
    for pretrained, expected in ((True, {0.01, 0.1}), (False, {0.01})):
        parts = build_parts(
            module,
            tiny_spec(pretrained=pretrained),
            TrainSection.model_validate({"lr": 0.01, "head_lr_factor": 10}),
            device=CPU,
            ranks=ONE_PROCESS,
        )
        assert {round(rate, 12) for rate in parts.base_rates} == expected
