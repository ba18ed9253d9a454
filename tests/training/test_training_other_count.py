"""A run goes on with as many processes as it began with, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.harness import run_module


@pytest.mark.slow
@pytest.mark.fault(21)
@pytest.mark.fault(11)
@pytest.mark.usefixtures("no_leaks")
def test_another_number_of_processes_is_refused_with_the_reason_and_the_same_goes_on_exactly(
    tmp_path: Path,
):
    report = json.loads(run_module("other_count", tmp_path).stdout)
    assert report["ended"] == {"1": [70], "3": [70, 70, 70]}
    for world in (1, 3):
        for rank in range(world):
            told = report["told"][f"run-{rank}-of-{world}"]
            assert told["error"] == "RecordError"
            assert f"'processes' is 2 there and {world} here" in told["text"]
            assert "--restart" in told["text"]
    assert report["untouched"], "a refusal changes nothing"
    assert report["same"]
