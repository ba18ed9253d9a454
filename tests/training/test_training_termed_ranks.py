"""TERM to one of several ranks: all save and leave at the same step, and resume exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.harness import run_module
from tests.training.termed_ranks import CASES, WORLD


@pytest.mark.slow
@pytest.mark.fault(4)
@pytest.mark.usefixtures("no_leaks")
def test_term_to_one_rank_makes_all_save_and_leave_at_the_same_step(tmp_path: Path):
    report = json.loads(run_module("termed_ranks", tmp_path).stdout)
    assert list(report) == list(CASES)
    for case, (_, phase) in CASES.items():
        found = report[case]
        assert found["ended"] == [143] * WORLD, case
        # An epoch has 4 steps: the second of the second one, or the last of the first.
        assert found["step"] == (6 if phase == "train" else 4)
        said = f"stopped by SIGTERM; the state of step {found['step']} is saved"
        assert found["told"] == [said] * WORLD
        assert found["resumed"] == [0] * WORLD
        assert found["same"], case
