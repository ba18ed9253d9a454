"""What a recipe's numbers come to: rates by closed form, refusals before the first step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.errors import ConfigError, DataError
from regatta.models.parameters import parameter_groups
from regatta.records.metrics_stream import read_metrics
from regatta.training.loop import train_run
from regatta.training.optimizers import build_optimizer
from regatta.training.recipe import Rates, check_batch, check_recipe, plan_rates
from tests.training.tiny_training import tiny_clips, tiny_net, tiny_run, tiny_spec


def rates(*, micro_batches: int = 10, devices: int = 1, **recipe: Any) -> Rates:
    train = TrainSection.model_validate({"epochs": 5, "lr": 1e-3, **recipe})
    return plan_rates(train, micro_batches=micro_batches, devices=devices)


def test_warmup_in_epochs_rises_by_equal_parts_and_the_cosine_ends_at_the_absolute_rate():
    # The spec's recipe: 2 of 20 epochs, 230 steps each, from 1e-3 to 1e-6.
    found = rates(micro_batches=230, epochs=20, warmup_epochs=2, min_lr=1e-6)
    values = [found.base_lr * found.factor(step) for step in range(found.total_steps)]
    assert len(values) == 4600
    assert values[:460] == pytest.approx([1e-3 * (s + 1) / 460 for s in range(460)])
    for step in (460, 2529, 4599):
        angle = math.pi * (step - 459) / (4599 - 459)
        assert values[step] == pytest.approx(1e-6 + (1e-3 - 1e-6) * (1 + math.cos(angle)) / 2)
    assert values[-1] == pytest.approx(1e-6, rel=1e-12)


def test_warmup_counts_optimizer_steps_and_not_micro_batches():
    found = rates(micro_batches=10, accumulate=4, warmup_epochs=1.5)
    assert (found.total_steps, found.warmup_steps) == (15, 5)  # 4.5 rounded up
    assert rates(warmup_epochs=9).warmup_steps == rates().total_steps


@pytest.mark.parametrize(
    ("rule", "factor"), [("none", 1.0), ("linear", 8.0), ("sqrt", math.sqrt(8.0))]
)
def test_lr_grows_with_the_effective_batch_by_its_rule(rule: str, factor: float):
    found = rates(batch_size=16, accumulate=4, devices=4, scale_lr=rule, scale_lr_batch=32)
    assert found.effective_batch == 256
    assert found.base_lr == pytest.approx(1e-3 * factor)


def test_a_least_rate_above_the_scaled_rate_is_refused():
    assert rates(min_lr=1e-3).min_fraction == 1.0
    with pytest.raises(ValidationError, match=r"above lr 0\.001, which it ends"):
        rates(min_lr=2e-3)
    halved = {"batch_size": 8, "scale_lr": "linear", "scale_lr_batch": 16}
    with pytest.raises(ConfigError, match=r"above the learning rate 0\.0005"):
        rates(min_lr=8e-4, **halved)


def test_a_run_prints_and_records_its_effective_batch_and_scaled_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = {"accumulate": 2, "scale_lr": "linear", "scale_lr_batch": 32, "lr": 0.04}
    results = train_run(**tiny_run(tmp_path, epochs=1, **recipe))
    assert (results["effective_batch"], results["base_lr"]) == (8, pytest.approx(0.01))
    printed = "effective batch 8 = 4 x 2 accumulated x 1 device(s); learning rate 0.01 (0.04"
    assert capsys.readouterr().err.count(printed) == 1
    assert max(record["lr"] for record in read_metrics(tmp_path / "metrics.jsonl")) <= 0.01


def test_a_batch_larger_than_the_training_set_names_both_numbers(tmp_path: Path):
    with pytest.raises(ConfigError, match="batch size 32 is more than the 22 training") as caught:
        train_run(**tiny_run(tmp_path, batch_size=32, class_counts=[8, 7, 7]))
    assert "between 1 and 22" in str(caught.value.hint)
    train = TrainSection(batch_size=8)
    check_batch(train, devices=4, class_counts=[20, 12])
    with pytest.raises(ConfigError, match="batch size 8 on 4 devices is more than the 31"):
        check_batch(train, devices=4, class_counts=[20, 11])


def test_cutmix_of_features_is_refused(tmp_path: Path):
    whole = tiny_net()
    run = tiny_run(tmp_path, module=whole.head, whole=whole, cutmix=1.0)
    with pytest.raises(ConfigError, match="features have neither"):
        train_run(**run)
    check_recipe(TrainSection(mixup=1.0), tiny_spec(reads="features"))


def test_an_empty_class_cannot_be_weighted(tmp_path: Path):
    run = tiny_run(tmp_path, class_weights="balanced", class_counts=[11, 0, 11])
    with pytest.raises(DataError, match="without a training sample cannot be weighted: right"):
        train_run(**run)


class Deep(nn.Module):
    """Names with a shared beginning: layers.1 and layers.10."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(11))
        self.head = nn.Linear(2, 3)


def group_rates(**factors: float) -> dict[str, float]:
    module = Deep()
    groups = parameter_groups(
        module,
        tiny_spec(pretrained=True),
        lr=1.0,
        head_lr_factor=10.0,
        weight_decay=0.1,
        lr_factors={name.replace("__", "."): factor for name, factor in factors.items()},
    )
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rate_of) == len(list(module.parameters()))
    assert {g["weight_decay"] for g in groups if "no_decay" in g["name"]} == {0.0}
    return {name: rate_of[id(p)] for name, p in module.named_parameters()}


def test_the_longest_component_that_holds_a_parameter_sets_its_rate():
    found = group_rates(layers=0.1, layers__1=0.5, layers__2__weight=3.0)
    assert found["layers.0.bias"] == found["layers.10.weight"] == 0.1
    assert found["layers.1.weight"] == found["layers.1.bias"] == 0.5
    assert (found["layers.2.weight"], found["layers.2.bias"]) == (3.0, 0.1)
    assert found["head.weight"] == 10.0
    assert group_rates(head=2.0)["head.weight"] == 2.0


@pytest.mark.parametrize(("wrong", "near"), [("layer", "layers"), ("layers.11", "layers.1")])
def test_a_component_that_does_not_exist_is_refused_with_the_nearest(wrong: str, near: str):
    with pytest.raises(ConfigError, match=f"no trained parameter lies in '{wrong}'") as caught:
        group_rates(**{wrong.replace(".", "__"): 0.1})
    assert f"did you mean '{near}" in str(caught.value.hint)
    assert "layers, head" in str(caught.value.hint)


def plain_sgd(*, momentum: float) -> list[float]:
    """w of the loss w^2 / 2 with decay 0.5, by Sutskever's formulas as torch documents them."""
    weight, velocity, path = 1.0, 0.0, []
    for _ in range(4):
        gradient = weight + 0.5 * weight
        velocity = momentum * velocity + gradient
        weight -= 0.1 * (gradient + momentum * velocity if momentum else gradient)
        path.append(weight)
    return path


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_nesterovs(momentum: float):
    weight = nn.Parameter(torch.ones(1))
    groups = [{"params": [weight], "lr": 0.1, "weight_decay": 0.5}]
    train = TrainSection(optimizer="sgd", momentum=momentum)
    optimizer = build_optimizer(groups, train, device=torch.device("cpu"))
    found = []
    for _ in range(4):
        weight.grad = weight.detach().clone()
        optimizer.step()
        found.append(weight.item())
    assert found == pytest.approx(plain_sgd(momentum=momentum), rel=1e-5)


def test_records_have_their_columns_and_an_onlooker_sees_each(tmp_path: Path):
    seen: list[dict[str, Any]] = []
    counts = torch.bincount(tiny_clips(22).labels).tolist()
    results = train_run(**tiny_run(tmp_path, observe=seen.append, class_counts=counts))
    assert seen == read_metrics(tmp_path / "metrics.jsonl")
    shared = {"epoch", "step", "split", "loss", "accuracy", "lr", "seconds", "memory_gb"}
    shared |= {"samples_per_second"}
    assert {frozenset(record) for record in seen if record["split"] == "train"} == {
        frozenset(shared)
    }
    validations = [record for record in seen if record["split"] == "validation"]
    assert set(validations[0]) == shared | {"macro_f1", "balanced_accuracy"}
    history = results["history"]
    assert set(map(len, history.values())) == {3}
    assert history["val_macro_f1"] == [record["macro_f1"] for record in validations]
    config = json.loads((tmp_path / "training_results.json").read_text())["config"]
    expected = {"epochs": 3, "lr": 0.01, "accum": 1, "amp": False, "mode": "none", "world": 1}
    assert {key: config[key] for key in expected} == expected


def test_training_accuracy_counts_what_was_right_in_training(tmp_path: Path):
    # No rate to learn at and no dropout: training sees the first weights, as validation does.
    clips = tiny_clips(22)
    run = tiny_run(tmp_path, module=tiny_net(dropout=0.0), lr=1e-30, weight_decay=0, epochs=1)
    results = train_run(**{**run, "train_loader": clips, "validation": clips})
    assert results["history"]["train_acc"] == results["history"]["val_acc"]
    assert results["history"]["train_loss"] == pytest.approx(results["history"]["val_loss"])
