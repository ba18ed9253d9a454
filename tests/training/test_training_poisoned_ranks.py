"""NaN on one rank in one step: no rank takes the step, all know whose samples it was."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.training.harness import run_module
from tests.training.poisoned_ranks import CASES, STEPS, WORLD

pytestmark = pytest.mark.slow
LAST_CLIPS = 22 - 3 * 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("poisoned")
    run_module("poisoned_ranks", folder)
    return folder


@pytest.mark.fault(18)
@pytest.mark.parametrize("name", list(CASES))
def test_nan_on_one_rank_in_one_step_moves_no_weight_of_any_rank(root: Path, name: str):
    _, step, _, policy = CASES[name]
    saw = [json.loads((root / name / f"saw-{rank}.json").read_text()) for rank in range(WORLD)]
    weights = saw[0]["weights"]
    assert all(each["weights"][:step] == weights[:step] for each in saw)
    # Place s of the list is the state before step s + 1; the last is that of the end.
    moved = [before != after for before, after in pairwise(weights)]
    taken = STEPS if policy == "skip" else step
    assert moved[:taken] == [number != step for number in range(1, taken + 1)]
    if policy == "stop":
        assert len({each["error"] for each in saw}) == 1
        events = [each["event"] for each in saw]
    else:
        assert [each["skipped_steps"] for each in saw] == [1] * WORLD
        events = [each["skipped"][0] for each in saw]
    assert events == [events[0]] * WORLD
    assert events[0]["step"] == step
    clips = 6 if step < STEPS else LAST_CLIPS
    assert len(set(events[0]["sample_ids"])) == clips, "the samples of all ranks"
