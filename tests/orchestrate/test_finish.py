"""Promise of what follows the last run: a comparison that stands still ends, and is said to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.orchestrate.toy import Toy, toy_mapping


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["compare", "report"])
def test_a_child_that_stands_still_is_ended_and_named(tmp_path: Path, verb: str) -> None:
    toy = Toy(tmp_path, toy_mapping(("ann",), stall_seconds=3))
    (tmp_path / f"hang-{verb}").touch()
    finished = toy.call("run", seconds=120)
    assert finished.code == 1, finished.output
    assert f"{verb}: failed: no sign of life for 3 s" in finished.output
    assert toy.is_judged("ann")
    (tmp_path / f"hang-{verb}").unlink()
    again = toy.call("run", seconds=120)
    assert again.code == 0, again.output
