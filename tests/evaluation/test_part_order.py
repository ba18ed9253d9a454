"""However predictions are spread over parts and ordered within them, the run is the same."""

from __future__ import annotations

import random
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regatta.analysis.same_samples import check_same_samples
from regatta.core.errors import RecordError
from regatta.records.conditions import Condition
from regatta.records.predictions import (
    RunPredictions,
    read_run_predictions,
    write_complete,
    write_part,
)

CONDITIONS = [Condition("full", {}, is_reference=True), Condition("half"), Condition("least")]
CLASSES = ["a", "b", "c"]


def score(sample: int, condition: int) -> list[float]:
    """What the model says is a law of the row, whatever stands beside it."""
    return [float(np.sin(1 + 5 * sample + 3 * condition + k)) for k in range(3)]


def write_run(folder: Path, parts: list[list[tuple[int, int]]]) -> RunPredictions:
    for number, rows in enumerate(parts):
        columns = {
            "sample_id": [f"s{s:03d}" for s, _ in rows],
            "group": [f"g{s % 4}" for s, _ in rows],
            "condition": [CONDITIONS[c].id for _, c in rows],
            "label": [s % 3 for s, _ in rows],
            "distinct_frames": [8 - c for _, c in rows],
            "span_seconds": [1.0 + s for s, _ in rows],
            "rate_hz": [4.0 for _ in rows],
            "pad_share": [0.0 for _ in rows],
            "clip_key": [f"{s}-{c}" for s, c in rows],
        }
        write_part(folder, number, columns, np.array([score(*r) for r in rows], np.float32))
    ids = sorted({f"s{s:03d}" for rows in parts for s, _ in rows})
    write_complete(
        folder,
        conditions=CONDITIONS,
        classes=CLASSES,
        sample_ids=ids,
        fingerprint={},
        cost={},
    )
    return read_run_predictions(folder, run_id=folder.name, entry="e", seed=0)


@settings(max_examples=40)
@given(
    samples=st.lists(st.integers(0, 999), min_size=1, max_size=25, unique=True),
    cuts=st.lists(st.integers(1, 74), max_size=4),
    shuffle=st.randoms(use_true_random=False),
)
def test_rows_in_any_order_over_any_parts_are_one_run(
    samples: list[int], cuts: list[int], shuffle: random.Random
):
    rows = [(s, c) for s in sorted(samples) for c in range(len(CONDITIONS))]
    mixed = list(rows)
    shuffle.shuffle(mixed)
    places = [0, *sorted({cut for cut in cuts if cut < len(mixed)}), len(mixed)]
    parts = [mixed[a:b] for a, b in pairwise(places)]
    with tempfile.TemporaryDirectory() as folder:
        plain = write_run(Path(folder) / "plain", [rows])
        found = write_run(Path(folder) / "mixed", parts)
    assert found.sample_ids.tolist() == [f"s{s:03d}" for s in sorted(samples)]
    # By the law of the rows, not by what another reading gave.
    for place, s in enumerate(sorted(samples)):
        for c in range(len(CONDITIONS)):
            assert np.array_equal(found.scores[c, place], np.array(score(s, c), np.float32))
            assert found.clip_keys[c, place] == f"{s}-{c}"
            assert found.truth["distinct_frames"][c, place] == 8 - c
        assert (found.labels[place], found.groups[place]) == (s % 3, f"g{s % 4}")
    check_same_samples(plain, found)


@pytest.mark.fault(28)
@settings(max_examples=25)
@given(
    both=st.sets(st.integers(0, 60), max_size=12),
    first=st.sets(st.integers(100, 160), max_size=8),
    second=st.sets(st.integers(200, 260), max_size=8),
)
def test_runs_compare_exactly_when_they_have_the_same_ids(
    both: set[int], first: set[int], second: set[int]
):
    ours, theirs = both | first or {1}, both | second or {1}
    with tempfile.TemporaryDirectory() as folder:
        a, b = (
            write_run(Path(folder) / name, [[(s, c) for s in sorted(ids) for c in range(3)]])
            for name, ids in (("a", ours), ("b", theirs))
        )
    if ours == theirs:
        check_same_samples(a, b)
        return
    with pytest.raises(RecordError) as error:
        check_same_samples(a, b)
    said = str(error.value)
    assert f"{len(ours - theirs)} only in a" in said
    assert f"{len(theirs - ours)} only in b" in said
    assert all(f"'s{s:03d}'" in said for s in (ours - theirs) | (theirs - ours))
