"""Promises of judging windows: bit-equal to one at a time, resumable, sharded, failures alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from regatta.core.errors import ConfigError, StopRequested
from regatta.core.signals import StopFlag
from regatta.evaluation.part_files import finalize_predictions
from regatta.records.predictions import read_run_predictions
from tests.evaluation.tiny_judging import CLASSES, hashes, parts_of, rows_of, table_of
from tests.evaluation.tiny_windows import (
    CHANNELS,
    LENGTH,
    RATE_HZ,
    TinySignals,
    entry,
    features_entry,
    judge,
    naive_scores,
    protocol,
    recordings,
)

ROBUST = protocol("sensor-robustness", offset_samples=[8, 16])


@pytest.fixture(scope="module")
def data():
    return recordings()


@pytest.mark.parametrize("name", ["plain", "sensor-robustness"])
def test_scores_are_bit_equal_to_each_window_alone(data, tmp_path, name):
    design = ROBUST if name == "sensor-robustness" else protocol(name)
    entries = [entry(tmp_path, "a"), entry(tmp_path, "bb")]
    judge(entries, data, design)
    for judged in entries:
        wanted = naive_scores(judged, data, design)
        table, scores = table_of(judged.folder)
        assert len(table) == len(wanted) == 10 * len(design.conditions)
        for row, found in zip(rows_of(table), scores, strict=True):
            assert np.array_equal(found, wanted[row["sample_id"], row["condition"]]), row


def test_every_batch_has_one_size_and_a_window_runs_once_for_equal_conditions(data, tmp_path):
    module = TinySignals()
    design = protocol("sensor-robustness", gain=[1.0], **{name: [] for name in OTHERS})
    judge([entry(tmp_path, "a", module)], data, design)
    assert [c.id for c in design.conditions] == ["clean", "gain-1"]
    # 10 windows in parts of 3, each part in batches of 4: a gain of 1 shows nothing new.
    assert module.batches == [4, 4, 4, 4]
    table, _ = table_of(tmp_path / "a")
    assert table.groupby("sample_id")["clip_key"].nunique().tolist() == [1] * 10


OTHERS = (
    "noise",
    "rotation_degrees",
    "missing",
    "block_percent",
    "rates_hz",
    "offset_samples",
)


def test_rows_tell_what_a_window_holds(data, tmp_path):
    judge([entry(tmp_path, "a")], data, ROBUST)
    table, _ = table_of(tmp_path / "a")
    first = table[table["sample_id"] == "r2-w1"].set_index("condition")
    clean = first.loc["clean"]
    assert (clean["distinct_frames"], clean["pad_share"]) == (LENGTH, 0.0)
    assert clean["span_seconds"] == pytest.approx((LENGTH - 1) / RATE_HZ)
    assert clean["rate_hz"] == pytest.approx(RATE_HZ)
    assert (clean["group"], clean["label"]) == ("s2", 0)
    assert first.loc["one-channel-missing", "pad_share"] == pytest.approx(1 / CHANNELS)
    assert first.loc["one-sensor-missing", "pad_share"] == pytest.approx(1 / 2)
    assert first.loc["block-25", "distinct_frames"] == LENGTH * 3 // 4
    assert first.loc["rate-25", "distinct_frames"] == LENGTH // 2
    assert first.loc["rate-12.5", "rate_hz"] == pytest.approx(12.5)
    # The next window of the recording holds what comes next, up to 16 samples of it.
    assert first.loc["offset-16", "pad_share"] == 0
    last = table[table["sample_id"] == "r2-w4"].set_index("condition")
    assert last.loc["offset-16", "pad_share"] == pytest.approx(16 / LENGTH)


def test_features_are_judged_as_they_are_and_not_under_changed_signals(data, tmp_path):
    judged = features_entry(tmp_path, "f")
    judge([judged, entry(tmp_path, "a")], data, protocol())
    table, scores = table_of(judged.folder)
    manifest, store = data
    chosen = {s.sample_id: s for s in manifest.split("test")}
    rows = store.features[store.rows([chosen[i] for i in table["sample_id"]])]
    with torch.inference_mode():
        assert np.allclose(scores, judged.module(rows).numpy(), atol=1e-6)
    assert len(hashes(tmp_path / "a")) == 4
    with pytest.raises(ConfigError, match="read hand-made features: f"):
        judge([judged], data, ROBUST)


def test_shards_order_and_company_change_no_bit(data, tmp_path):
    whole = [entry(tmp_path / "whole", "a"), entry(tmp_path / "whole", "bb")]
    judge(whole, data, ROBUST)
    split = entry(tmp_path / "split", "a")
    backwards = data[0].split("test")[::-1]
    for number in (1, 0):
        judge([split], data, ROBUST, shard=(number, 2), samples=backwards, part_samples=3)
    assert hashes(split.folder) == hashes(whole[0].folder)


def test_a_stop_keeps_finished_parts_and_the_rest_follows(data, tmp_path):
    judged, stop = entry(tmp_path, "a"), StopFlag()
    done: list[int] = []

    def told(facts):
        done.append(facts["step"])
        if facts["step"] == 2:
            stop.request()

    with pytest.raises(StopRequested):
        judge([judged], data, protocol(), stop=stop, report=told)
    assert [path.name for path in parts_of(judged.folder)] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    before = hashes(judged.folder)
    cost = judge([judged], data, protocol(), report=told)
    assert (cost.parts_kept, cost.parts_done, done[-1]) == (2, 2, 4)
    assert before.items() <= hashes(judged.folder).items()


class Breaks(TinySignals):
    """NaN for windows of large mean."""

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        scores = super().forward(signals)
        return torch.where(signals.mean((1, 2), keepdim=True)[:, 0] > 0.3, torch.nan, scores)


def test_scores_that_are_not_finite_fail_that_run_alone_and_name_the_window(data, tmp_path):
    good, bad = entry(tmp_path, "good"), entry(tmp_path, "bad", Breaks())
    cost = judge([good, bad], data, protocol())
    manifest, store = data
    test = manifest.split("test")
    means = store.select(test).mean((1, 2))
    (first, *_) = [s.sample_id for s, mean in zip(test, means, strict=True) if mean > 0.3]
    assert list(cost.failed) == ["bad"]
    assert cost.failed["bad"].where == f"sample {first}, condition plain"
    assert len(parts_of(good.folder)) == 4


def test_a_model_of_other_windows_fails_alone(data, tmp_path):
    good, other = entry(tmp_path, "good"), entry(tmp_path, "other")
    other = replace(other, spec=replace(other.spec, shape=(CHANNELS, LENGTH * 2)))
    cost = judge([good, other], data, protocol())
    assert "takes [6, 64], not [6, 32]" in str(cost.failed["other"])
    assert len(parts_of(good.folder)) == 4


def test_finished_parts_read_back_as_one_grid(data, tmp_path):
    judged = entry(tmp_path, "a")
    judge([judged], data, ROBUST)
    samples = data[0].split("test")
    assert finalize_predictions(
        judged.folder,
        samples=samples,
        conditions=ROBUST.conditions,
        part_samples=3,
        classes=CLASSES,
        fingerprint={},
    )
    found = read_run_predictions(judged.folder, run_id="a", entry="a", seed=0)
    assert found.scores.shape == (len(ROBUST.conditions), 10, 3)
    assert found.cost["decode_seconds"] == 0
    assert found.cost["distinct_clips"] <= found.cost["clips"] == 10 * len(ROBUST.conditions)
