"""Promise of processes that measure: one that stands still is ended, and said to be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from regatta.worker.profile_child import ChildCrashed, MeasuringChild


def make_answer() -> Callable[[Any], Any]:
    def answer(request: Any) -> int:
        if request == "stand still":
            time.sleep(120)
        return os.getpid()

    return answer


@pytest.mark.usefixtures("no_leaks")
def test_a_measurement_that_stands_still_is_ended() -> None:
    child = MeasuringChild(make_answer, answer_seconds=2)
    pid = child.ask("number")
    with pytest.raises(ChildCrashed, match="no answer for 2 s"):
        child.ask("stand still")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    child.close()
