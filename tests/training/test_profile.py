"""Promises of the measurements behind `regatta profile`: order, exact zeros, memory limits."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from regatta.config.schema import EntrySection, TrainSection
from regatta.core.errors import ConfigError
from regatta.data.window_loader import WindowLoader
from regatta.models.spec import resolve_model
from regatta.records.profile_table import OUT_OF_MEMORY
from regatta.training.profile import (
    MIN_TIMED,
    Pace,
    Subject,
    Unit,
    measure,
    time_calls,
    time_loader,
)

CPU = torch.device("cpu")
QUICK = Pace(warmup=1, timed=4, seconds=5.0)
WINDOW = (3, 32)


@pytest.fixture(scope="module")
def subject() -> Subject:
    entry = EntrySection.model_validate({"model": "cnn1d", "checkpoint": "none"})
    spec = resolve_model(entry, 4, seed=0, window=WINDOW)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, *WINDOW, generator=generator)
    labels = torch.arange(6) % 4
    train = TrainSection.model_validate({"batch_size": 4})
    return Subject("cnn1d", spec.build(4), spec, train, CPU, inputs, labels)


@pytest.mark.parametrize("stage", ["forward", "backward", "step", "sweep"])
def test_a_row_has_ordered_times_and_the_rate_of_its_median(subject: Subject, stage: str):
    row = measure(subject, Unit(stage, 4, "fp32"), pace=QUICK)
    assert row.status == "ok"
    assert row.calls == QUICK.timed
    assert row.median_ms is not None
    assert row.p10_ms is not None
    assert row.p90_ms is not None
    assert 0 < row.p10_ms <= row.median_ms <= row.p90_ms
    assert row.windows_per_second == pytest.approx(4 / (row.median_ms / 1000))
    assert row.peak_gb is not None
    assert row.allocated_gb is not None
    assert row.peak_gb >= row.allocated_gb > 0


def test_fp32_differs_from_itself_by_exactly_zero_and_bf16_by_its_rounding(subject: Subject):
    exact = measure(subject, Unit("forward", 4, "fp32"), pace=QUICK).largest_difference
    rounded = measure(subject, Unit("forward", 4, "bf16"), pace=QUICK).largest_difference
    assert exact == 0
    assert rounded is not None
    scores = subject.module.eval()(subject.batch(4).inputs)
    # bf16 keeps 8 bits: a few layers of rounding stay far below the size of the scores.
    assert 0 < rounded < 0.2 * scores.abs().max().item()


def test_scores_that_say_nothing_have_no_difference(subject: Subject):
    row = measure(replace(subject, has_scores=False), Unit("forward", 4, "bf16"), pace=QUICK)
    assert row.largest_difference is None


def test_measuring_leaves_the_generator_and_gradients_as_they_were(subject: Subject):
    before = torch.get_rng_state()
    measure(subject, Unit("step", 4, "fp32"), pace=QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in subject.module.parameters())


def test_a_batch_repeats_samples_when_there_are_fewer(subject: Subject):
    batch = subject.batch(15)
    assert batch.inputs.shape == (15, *WINDOW)
    assert torch.equal(batch.inputs[6:12], batch.inputs[:6])
    assert torch.equal(batch.labels[12:], batch.labels[:3])


def test_a_format_that_the_device_lacks_is_an_error(subject: Subject):
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        measure(subject, Unit("forward", 4, "fp16"), pace=QUICK)


@given(st.integers(0, 4), st.integers(1, 9))
def test_a_quick_call_is_made_exactly_as_often_as_asked(warmup: int, timed: int):
    made, ready = [], []
    seconds = time_calls(
        lambda: ready.append(0),
        made.append,
        device=CPU,
        pace=Pace(warmup, timed, seconds=60),
    )
    assert len(seconds) == timed
    assert len(made) == len(ready) == warmup + timed


def test_a_slow_call_is_made_three_times_whatever_the_limit():
    spent = []
    seconds = time_calls(lambda: None, spent.append, device=CPU, pace=Pace(10, 100, 1e-9))
    # One warm-up call has used up the share of warm-up.
    assert (len(seconds), len(spent)) == (MIN_TIMED, MIN_TIMED + 1)


def test_what_is_made_ready_is_not_timed():
    def ready() -> None:
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass

    seconds = time_calls(ready, lambda _: None, device=CPU, pace=Pace(0, 3, 60))
    assert min(seconds) < 0.02


def test_the_loader_is_counted_in_samples_of_its_whole_time():
    loader = WindowLoader(
        torch.zeros(40, *WINDOW), [0] * 40, [str(n) for n in range(40)],
        batch_size=8, seed=0, device=CPU,
    )  # fmt: skip
    row = time_loader(loader, entry="any", batch=8, device=CPU, pace=QUICK)
    # An epoch has 5 batches, a tenth of them is none: no warm-up, four timed.
    assert (row.calls, row.batch, row.precision) == (4, 8, "")
    assert row.windows_per_second is not None
    assert row.windows_per_second > 0


LIMITED = """
import json, sys, torch
from dataclasses import asdict
from torch import nn
from regatta.config.schema import TrainSection
from regatta.models.spec import signal_spec
from regatta.training.profile import Pace, Subject, Unit, measure

torch.set_num_threads(1)
module = nn.Sequential(nn.Flatten(), nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 2))
spec = signal_spec("wide", lambda _: module, channels=1, length=1000, config={})
train = TrainSection()
inputs, labels = torch.randn(2, 1, 1000), torch.tensor([0, 1])
subject = Subject("wide", module, spec, train, torch.device("cpu"), inputs, labels)
limit = 900 * 2**20
for batch in (64, 300_000, 128):
    row = measure(subject, Unit("sweep", batch, "fp32"), pace=Pace(1, 3, 5), memory_limit=limit)
    print(json.dumps(asdict(row)), flush=True)
"""


def test_a_batch_beyond_the_memory_limit_is_a_row_and_the_process_goes_on():
    child = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False, timeout=100
    )
    assert child.returncode == 0, child.stderr
    small, large, after = (json.loads(line) for line in child.stdout.splitlines())
    assert (small["status"], after["status"]) == ("ok", "ok")
    # 300,000 rows of 1,000 float32 are 1.2 GB, more than the whole limit.
    assert large["status"] == OUT_OF_MEMORY
    assert large["median_ms"] is None
    assert large["message"]
    assert small["peak_gb"] < 900 * 2**20 / 1e9


def test_memory_per_window_grows_with_the_window():
    """A batch whose graph keeps two arrays of its own size cannot take less than those."""
    features = 250_000
    module = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(features, 2))
    entry = EntrySection.model_validate({"model": "cnn1d", "checkpoint": "none"})
    spec = resolve_model(entry, 2, seed=0, window=(1, 128))
    subject = Subject(
        "tanh",
        module,
        spec,
        TrainSection(),
        CPU,
        torch.randn(2, 1, features),
        torch.tensor([0, 1]),
    )
    row = measure(subject, Unit("backward", 32, "fp32"), pace=Pace(1, 3, 5))
    # 1 MB of input and 1 MB of activation; gradients of the activation come and go.
    assert row.mb_per_window is not None
    assert 1.5 < row.mb_per_window < 6
