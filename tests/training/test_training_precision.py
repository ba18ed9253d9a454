"""Number formats by device type, and arithmetic switches that are put back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regatta.config.schema import TrainSection
from regatta.core.errors import ConfigError
from regatta.training.loop import train_run
from regatta.training.optimizers import (
    build_optimizer,
    optimizer_record,
    restore_optimizer,
    set_learning_rates,
)
from regatta.training.precision import choose_precision, reproducible_math
from tests.training.tiny_training import tiny_net, tiny_run

CPU = torch.device("cpu")


@pytest.mark.parametrize(("wanted", "name"), [("auto", "fp32"), ("fp32", "fp32"), ("bf16", "bf16")])
def test_a_cpu_computes_in_float32_unless_asked(wanted: str, name: str):
    precision = choose_precision(wanted, CPU)
    assert precision.name == name
    with precision.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == precision.dtype


def test_fp16_on_a_cpu_is_refused_with_the_cure():
    with pytest.raises(ConfigError, match="fp16 needs a GPU") as caught:
        choose_precision("fp16", CPU)
    assert "auto" in str(caught.value.hint)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_an_indexed_gpu_counts_as_a_gpu(name: str):
    assert choose_precision("auto", torch.device(name)).name in ("bf16", "fp16")


def test_only_fp16_scales_its_loss():
    assert not choose_precision("bf16", CPU).new_scaler().is_enabled()
    assert not choose_precision("fp32", CPU).new_scaler().is_enabled()


@pytest.mark.parametrize("deterministic", [True, False])
def test_arithmetic_switches_hold_inside_and_are_put_back(deterministic: bool):
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    memory: Any = torch.utils.deterministic
    with reproducible_math(CPU, deterministic=deterministic):
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert torch.backends.cudnn.benchmark is not deterministic
        tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert tf32 is not deterministic
        # Memory that is written next anyway is not filled first.
        assert memory.fill_uninitialized_memory is False
    assert memory.fill_uninitialized_memory is True
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)


def test_a_bf16_run_on_a_cpu_keeps_float32_weights(tmp_path):
    run = tiny_run(tmp_path, epochs=1, precision="bf16")
    results = train_run(**run)
    assert results["precision"] == "bf16"
    assert {p.dtype for p in run["module"].parameters()} == {torch.float32}
    assert results["history"]["train_loss"][0] == pytest.approx(1.1, abs=0.5)


def test_optimizer_record_restores_every_moment_bit_for_bit():
    def trained(module: torch.nn.Module) -> torch.optim.Optimizer:
        groups = [{"params": list(module.parameters()), "lr": 0.1, "weight_decay": 0.0}]
        return build_optimizer(groups, TrainSection(betas=(0.9, 0.99)), device=CPU)

    module, other = tiny_net(), tiny_net()
    optimizer, restored = trained(module), trained(other)
    for _ in range(3):
        module(torch.rand(2, 2, 3, 4, 4)).sum().backward()
        optimizer.step()
    tensors, scalars = optimizer_record(optimizer, module)
    assert set(tensors) >= {"head.weight/exp_avg", "head.weight/exp_avg_sq", "head.weight/step"}
    restore_optimizer(restored, other, tensors=tensors, scalars=scalars)
    again, _ = optimizer_record(restored, other)
    assert tensors.keys() == again.keys()
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert restored.param_groups[0]["betas"] == (0.9, 0.99)


def test_groups_keep_their_ratio_under_the_schedule():
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [
        {"params": [weight], "lr": rate, "weight_decay": 0.0}
        for weight, rate in zip(weights, (0.1, 1.0), strict=True)
    ]
    optimizer = build_optimizer(groups, TrainSection(), device=CPU)
    set_learning_rates(optimizer, [0.1, 1.0], factors=[0.25, 0.25])
    set_learning_rates(optimizer, [0.1, 1.0], factors=[0.5, 0.5])
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5]
