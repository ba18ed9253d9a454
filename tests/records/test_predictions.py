"""Promises of the prediction store: exact values back, whole grids only, changed files refused by
name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regatta.core.errors import RecordError
from regatta.records.conditions import Condition
from regatta.records.fingerprint import check_same_conditions
from regatta.records.metrics_stream import append_metrics, read_metrics, rewind_metrics
from regatta.records.predictions import (
    RunPredictions,
    read_run_predictions,
    write_complete,
    write_part,
)

CONDITIONS = [Condition("full", {"coverage": 100}, is_reference=True), Condition("half")]


def _part(folder: Path, number: int, ids: list[str], rng: np.random.Generator) -> np.ndarray:
    """Rows sample-major, as the judging engine meets them."""
    rows = [(sample, condition.id) for sample in ids for condition in CONDITIONS]
    scores = rng.normal(size=(len(rows), 3)).astype(np.float32)
    write_part(
        folder,
        number,
        {
            "sample_id": [sample for sample, _ in rows],
            "group": [f"g-{sample}" for sample, _ in rows],
            "condition": [condition for _, condition in rows],
            "label": [int(sample[1:]) % 3 for sample, _ in rows],
            "distinct_frames": [8] * len(rows),
            "span_seconds": [1.5] * len(rows),
            "rate_hz": [4.0 if condition == "full" else None for _, condition in rows],
            "pad_share": [0.0] * len(rows),
            "clip_key": [f"k-{condition}" for _, condition in rows],
        },
        scores,
    )
    return scores.reshape(len(ids), len(CONDITIONS), 3)


@pytest.fixture
def judged(tmp_path: Path) -> tuple[Path, np.ndarray]:
    rng = np.random.default_rng(0)
    first = _part(tmp_path, 0, ["s2", "s0"], rng)
    second = _part(tmp_path, 1, ["s1"], rng)
    _complete(tmp_path)
    in_order = np.concatenate([first[[1]], second, first[[0]]])
    return tmp_path, in_order


def _complete(folder: Path) -> None:
    write_complete(
        folder,
        conditions=CONDITIONS,
        classes=["a", "b", "c"],
        sample_ids=["s0", "s1", "s2"],
        fingerprint={"manifest": "m"},
        cost={},
    )


def _read(folder: Path) -> RunPredictions:
    return read_run_predictions(folder, run_id="r", entry="e", seed=0)


def test_scores_come_back_bit_equal_sorted_by_sample(judged):
    folder, expected = judged
    found = _read(folder)
    assert found.sample_ids.tolist() == ["s0", "s1", "s2"]
    assert found.groups.tolist() == ["g-s0", "g-s1", "g-s2"]
    assert found.labels.tolist() == [0, 1, 2]
    assert found.scores.transpose(1, 0, 2).tobytes() == expected.tobytes()
    assert [c.id for c in found.conditions] == ["full", "half"]
    assert np.isnan(found.truth["rate_hz"][1]).all()


def test_correct_is_argmax_against_label(judged):
    folder, expected = judged
    hits = np.array([0, 1, 2]) == expected.argmax(axis=2).T
    assert (_read(folder).correct() == hits).all()


def test_unfinished_judging_is_named(judged):
    folder, _ = judged
    (folder / "complete.json").unlink()
    with pytest.raises(RecordError, match="not judged yet"):
        _read(folder)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_part_is_named(judged, damage: str):
    folder, _ = judged
    part = folder / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    if damage == "remove":
        part.unlink()
    else:
        content[len(content) // 2] ^= 1
        part.write_bytes(content[:-9] if damage == "truncate" else content)
    with pytest.raises(RecordError, match="missing or was changed") as caught:
        _read(folder)
    assert "part-00001" in str(caught.value)


def test_a_sample_judged_twice_or_partly_is_refused(judged):
    folder, _ = judged
    _part(folder, 2, ["s1"], np.random.default_rng(1))
    _complete(folder)
    with pytest.raises(RecordError, match="not one row per sample and condition"):
        _read(folder)


def test_runs_judged_differently_are_refused_with_the_field():
    same = {"manifest": "m", "protocol": "p", "weights": "w1"}
    check_same_conditions({"a": same, "b": {**same, "weights": "w2"}})
    with pytest.raises(RecordError, match="'protocol' differs") as caught:
        check_same_conditions({"a": same, "b": {**same, "protocol": "q"}})
    assert "a: 'p' against b: 'q'" in str(caught.value)


def test_rewound_metrics_hold_each_step_once(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3, 4):
        append_metrics(path, {"step": step, "loss": 1 / step})
    rewind_metrics(path, after_step=2)
    append_metrics(path, {"step": 3, "loss": 0.5})
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
