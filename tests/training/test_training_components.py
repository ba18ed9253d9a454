"""Components are clipped each alone, and opposed gradients give up what the other one opposes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.errors import ConfigError
from regatta.models.parameters import parameter_groups
from regatta.training.components import split_experts, trained_parameters
from regatta.training.distributed import ONE_PROCESS
from regatta.training.gradient_conflict import combine_gradients
from regatta.training.loop import build_parts
from regatta.training.loss import build_loss
from regatta.training.recipe import check_recipe
from regatta.training.step import StepOutcome, StepParts, take_step
from tests.training.tiny_fusion import TinyFusion, fusion_spec, tiny_fusion
from tests.training.tiny_training import TinyBatch, tiny_clips, tiny_net, tiny_spec

CPU = torch.device("cpu")
CLIPS = tiny_clips(8)


def parts_of(module: nn.Module, **recipe: Any) -> StepParts:
    recipe = {"batch_size": 4, "lr": 1e-30, "clip_norm": None, **recipe}
    spec = fusion_spec() if isinstance(module, TinyFusion) else tiny_spec()
    train = TrainSection.model_validate(recipe)
    return build_parts(module, spec, train, device=CPU, ranks=ONE_PROCESS)


def step(parts: StepParts, *, batches: int = 1, **options: Any) -> StepOutcome:
    """One step on all 8 clips."""
    size = 8 // batches
    shares = [
        TinyBatch(
            CLIPS.videos[first : first + size], CLIPS.labels[first : first + size], ["c"] * size
        )
        for first in range(0, 8, size)
    ]
    never = {"stop_asked": lambda: False, "seed": 1}
    return take_step(parts, iter(shares), micro_batches=batches, **never, **options)


def gradients_of(module: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if name.startswith(prefix) and parameter.grad is not None
    }


def norm_of(gradients: dict[str, torch.Tensor]) -> float:
    return math.sqrt(
        sum(float(gradient.double().square().sum()) for gradient in gradients.values())
    )


def test_each_component_is_clipped_to_its_own_limit_and_the_rest_to_the_common_one():
    free, clipped = tiny_fusion(), tiny_fusion()
    step(parts_of(free))
    limits = {"experts": 0.5, "experts.1.body": 0.01, "head.classifier.": 1e6}
    outcome = step(parts_of(clipped, clip_norm=0.02, clip_norms=limits))
    places = {
        "experts.1.body": 0.01,
        "head.fusion": 0.02,
    }
    for place, limit in places.items():
        assert norm_of(gradients_of(free, place)) > limit
        assert norm_of(gradients_of(clipped, place)) == pytest.approx(limit, rel=1e-3)
    rest = [
        {
            name: grad
            for name, grad in gradients_of(module, "experts").items()
            if ".1.body" not in name
        }
        for module in (free, clipped)
    ]
    assert norm_of(rest[1]) == pytest.approx(min(0.5, norm_of(rest[0])), rel=1e-3)
    for name, gradient in gradients_of(free, "head.classifier").items():
        torch.testing.assert_close(gradients_of(clipped)[name], gradient)
    # What is reported is what was there before.
    assert outcome.gradient_norm == pytest.approx(norm_of(gradients_of(free)), rel=1e-5)
    assert outcome.component_norms == {
        "grad_norm_experts": pytest.approx(norm_of(gradients_of(free, "experts.")), rel=1e-5),
        "grad_norm_fusion": pytest.approx(norm_of(gradients_of(free, "head.")), rel=1e-5),
    }


def test_a_large_gradient_of_one_component_does_not_shrink_another():
    calm, wild = tiny_fusion(), tiny_fusion()
    wild.head.fusion.weight.register_hook(lambda gradient: gradient * 1e4)
    for module in (calm, wild):
        step(parts_of(module, clip_norm=1.0, clip_norms={"experts.": 5.0}))
    for name, gradient in gradients_of(calm, "experts.").items():
        torch.testing.assert_close(gradients_of(wild)[name], gradient)


def test_components_of_equal_factor_are_clipped_as_the_whole():
    whole, apart = tiny_fusion(), tiny_fusion()
    free = step(parts_of(whole))
    norms = free.component_norms
    assert norms is not None
    step(parts_of(whole, clip_norm=free.gradient_norm / 10))
    limits = {"experts.": norms["grad_norm_experts"] / 10}
    step(parts_of(apart, clip_norm=norms["grad_norm_fusion"] / 10, clip_norms=limits))
    for name, gradient in gradients_of(whole).items():
        torch.testing.assert_close(gradients_of(apart)[name], gradient, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("wrong", "near"), [("expert", "experts"), ("head.fusio", "head.fusion")])
def test_a_clipped_component_that_does_not_exist_is_refused_with_the_nearest(wrong: str, near: str):
    with pytest.raises(ConfigError, match=f"no trained parameter lies in '{wrong}'") as caught:
        parts_of(tiny_fusion(), clip_norms={wrong: 1.0})
    assert f"did you mean '{near}'" in str(caught.value.hint)
    assert "experts, head" in str(caught.value.hint)
    assert f"train.clip_norms.{wrong}" in str(caught.value)


def test_a_model_with_one_head_can_be_clipped_by_component_and_reports_no_parts():
    module = tiny_net(dropout=0.0)
    outcome = step(parts_of(module, clip_norms={"body": 1e-3}))
    assert norm_of(gradients_of(module, "body")) == pytest.approx(1e-3, rel=1e-2)
    assert (outcome.component_norms, outcome.part_sums) == (None, {})


def test_groups_that_mix_experts_with_others_are_split_and_keep_every_parameter_once():
    module = tiny_fusion()
    groups = parameter_groups(
        module, tiny_spec(head_prefixes=()), lr=0.1, head_lr_factor=1.0, weight_decay=0.1
    )
    split, is_experts = split_experts(groups, trained_parameters(module))
    owner = {
        id(p): own for group, own in zip(split, is_experts, strict=True) for p in group["params"]
    }
    assert sum(len(group["params"]) for group in split) == len(list(module.parameters()))
    for name, parameter in module.named_parameters():
        assert owner[id(parameter)] is name.startswith("experts.")
    net = tiny_net()
    plain = parameter_groups(net, tiny_spec(), lr=0.1, head_lr_factor=1.0, weight_decay=0.1)
    assert split_experts(plain, trained_parameters(net)) == (plain, (False,) * len(plain))


def test_opposed_gradients_lose_their_parts_against_each_other_as_by_hand():
    # g1 = (1, 0), g2 = (-1, 1): g1.g2 = -1, so g1 + g2 / 2 = (.5, .5) and g2 + g1 = (0, 1).
    one, other = (
        [torch.tensor([1.0]), torch.tensor([0.0])],
        [torch.tensor([-1.0]), torch.tensor([1.0])],
    )
    found = combine_gradients(one, other, per="vector")
    assert [tensor.item() for tensor in found] == pytest.approx([0.5, 1.5])
    # Each tensor alone: 1 and -1 cancel, 0 and 1 do not oppose each other.
    found = combine_gradients(one, other, per="tensor")
    assert [tensor.item() for tensor in found] == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("per", ["vector", "tensor"])
def test_gradients_that_agree_or_vanish_are_added(per: Any):
    pairs = [([1.0, 2.0], [3.0, -1.0]), ([0.0, 0.0], [3.0, -1.0]), ([0.0, 0.0], [0.0, 0.0])]
    for one, other in pairs:
        [found] = combine_gradients([torch.tensor(one)], [torch.tensor(other)], per=per)
        assert torch.equal(found, torch.tensor(one) + torch.tensor(other))
    assert combine_gradients([], [], per=per) == []
    tiny = [torch.tensor([1e-30, 0.0])]
    [found] = combine_gradients(tiny, [torch.tensor([-1.0, 1e-3])], per=per)
    assert torch.isfinite(found).all()


@given(seed=st.integers(0, 10**6))
def test_each_part_of_the_sum_is_orthogonal_to_the_gradient_that_it_opposed(seed: int):
    rng = np.random.default_rng(seed)
    one, other = rng.standard_normal(5), rng.standard_normal(5)
    [found] = combine_gradients([torch.tensor(one)], [torch.tensor(other)], per="vector")
    expected = one + other
    if one @ other < 0:
        first = one - (one @ other) / (other @ other) * other
        second = other - (one @ other) / (one @ one) * one
        assert first @ other == pytest.approx(0, abs=1e-9)
        expected = first + second
    assert found.numpy() == pytest.approx(expected, abs=1e-9)


def torn_fusion() -> TinyFusion:
    """The global head adds the features up and reads them with the opposite sign of the experts'
    own classifiers: what helps the one harms the other."""
    module = tiny_fusion()
    with torch.no_grad():
        module.head.fusion.weight.copy_(torch.eye(4).repeat(1, 2))
        # Far from where the ReLU cuts off.
        module.head.fusion.bias.fill_(10.0)
        for name, parameter in module.named_parameters():
            if name.endswith(".head.weight"):
                parameter.copy_(-module.head.classifier.weight)
    return module


def both_gradients(module: TinyFusion, train: TrainSection) -> list[dict[str, np.ndarray]]:
    """Of the mean global loss and of alpha x the experts' own, by plain autograd on 8 clips."""
    named = dict(module.named_parameters())
    result = build_loss(train).of(module((CLIPS.videos / 255 - 0.5) / 0.25), CLIPS.labels)
    assert result.first_loss is not None
    assert result.second_loss is not None
    losses = (result.first_loss / 8, train.loss.alpha * result.second_loss / 8)
    found = [
        torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        for loss in losses
    ]
    return [
        {
            name: np.zeros(tuple(named[name].shape)) if grad is None else grad.double().numpy()
            for name, grad in zip(named, grads, strict=True)
        }
        for grads in found
    ]


def resolved(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    dot = float((one * other).sum())
    if dot >= 0:
        return one + other
    return one - dot / (other**2).sum() * other + other - dot / (one**2).sum() * one


@pytest.mark.parametrize("per", ["vector", "tensor"])
@pytest.mark.parametrize("batches", [1, 2, 4])
def test_a_step_resolves_the_conflict_of_the_experts_alone(per: str, batches: int):
    recipe = {"loss": {"alpha": 3.0}, "gradient_conflict": "pcgrad", "gradient_conflict_per": per}
    module = torn_fusion()
    train = TrainSection.model_validate(recipe)
    one, other = both_gradients(module, train)
    names = [name for name in one if name.startswith("experts.")]
    joined = [np.concatenate([side[name].ravel() for name in names]) for side in (one, other)]
    assert joined[0] @ joined[1] < 0, "this test needs a conflict"
    step(parts_of(module, batch_size=8 // batches, accumulate=batches, **recipe), batches=batches)
    found = gradients_of(module)
    for name in one:
        if name not in names:
            expected = one[name] + other[name]
        elif per == "tensor":
            expected = resolved(one[name], other[name])
        else:
            dot = joined[0] @ joined[1]
            norms = [side @ side for side in joined]
            expected = (1 - dot / norms[0]) * one[name] + (1 - dot / norms[1]) * other[name]
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=2e-4, atol=1e-6)


def test_the_conflict_rule_works_under_a_loss_scale():
    plain, scaled = tiny_fusion(), tiny_fusion()
    recipe = {"gradient_conflict": "pcgrad"}
    step(parts_of(plain, **recipe))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    outcome = step(replace(parts_of(scaled, **recipe), scaler=scaler))
    assert outcome.verdict == "applied"
    for name, gradient in gradients_of(plain).items():
        torch.testing.assert_close(gradients_of(scaled)[name], gradient, rtol=1e-4, atol=1e-7)


def test_resting_parameters_get_neither_step_nor_decay_and_count_in_no_norm():
    module = tiny_fusion()
    parts = parts_of(module, lr=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    resting = list(module.experts.parameters())
    outcome = step(parts, resting=resting)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]) is name.startswith("experts.")
    assert not any(parts.optimizer.state.get(parameter) for parameter in resting)
    assert outcome.component_norms is not None
    assert outcome.gradient_norm == pytest.approx(outcome.component_norms["grad_norm_fusion"])


ASKED = [
    {"gradient_conflict": "pcgrad"},
    {"freeze_experts_epochs": 1},
    {"schedule": "restarts"},
]


@pytest.mark.parametrize("recipe", ASKED)
def test_what_is_asked_of_experts_is_refused_where_none_can_learn(recipe: dict[str, Any]):
    key = f"train.{next(iter(recipe))}"
    train = TrainSection.model_validate(recipe)
    with pytest.raises(ConfigError, match=f"tiny has no experts, which {key} is about"):
        check_recipe(train, tiny_spec())
    check_recipe(train, fusion_spec())
    with pytest.raises(ConfigError, match="has no experts"):
        build_parts(tiny_net(), fusion_spec(), train, device=CPU, ranks=ONE_PROCESS)
    with pytest.raises(ConfigError, match="frozen experts do not learn"):
        check_recipe(train.model_copy(update={"freeze_encoder": True}), fusion_spec())
    with pytest.raises(ConfigError, match="frozen experts do not learn"):
        check_recipe(train, fusion_spec(), on_features=True)


@pytest.mark.parametrize("beside", [{"parallel": "ddp"}, {"parallel": "fsdp"}, {"compile": True}])
def test_pcgrad_is_refused_where_two_backward_passes_do_not_work(beside: dict[str, Any]):
    train = TrainSection.model_validate({"gradient_conflict": "pcgrad", **beside})
    with pytest.raises(ConfigError, match="pcgrad does not go with"):
        check_recipe(train, fusion_spec())
