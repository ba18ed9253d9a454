"""Two ranks of which one is killed, wherever that happens, resume to the same bits."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.training.harness import run_module
from tests.training.kill_ranks import MICRO_BATCHES, RANKS


@pytest.mark.slow
@pytest.mark.fault(1)
@pytest.mark.fault(2)
@pytest.mark.usefixtures("no_leaks")
def test_a_rank_killed_before_any_micro_batch_or_write_changes_nothing(tmp_path: Path):
    report = json.loads(run_module("kill_ranks", tmp_path).stdout)
    writes_of_first, writes_of_second = report["writes"]
    assert writes_of_second == 0
    assert len(report["faults"]) == RANKS * MICRO_BATCHES + writes_of_first
    assert writes_of_first > 50
    for name, fault in report["faults"].items():
        assert -signal.SIGKILL in fault["ended"], f"{name} did not fire"
        assert 0 not in fault["ended"], f"{name}: a rank did not notice"
        assert fault["resumed"] == [0, 0], name
        assert fault["outcome"] == report["reference"], name
        assert fault["left"] == [], name
