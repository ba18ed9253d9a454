"""Promises of the diagnosis: every end has a cause and a next step, only crashes are retried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from regatta.orchestrate.causes import Failure, diagnose, last_error_line
from regatta.orchestrate.local import Ended
from regatta.records.status import Status

ENDED = Ended("train:x", 1, 1.5, 0, False, "it held 1.5 GiB")


def why(
    tmp_path: Path, code: int, *, status: Status | None = None, log: str = "", **facts
) -> Failure:
    path = tmp_path / "log.txt"
    path.write_text(log)
    stalled = facts.pop("stalled_seconds", None)
    ended = replace(ENDED, exit_code=code, **facts)
    return diagnose(ended, status=status, log=path, log_start=0, stalled_seconds=stalled)


@pytest.mark.parametrize(
    ("code", "cause", "retry"),
    [(1, "crash", True), (2, "config", False), (3, "environment", False), (-11, "crash", True)],
)
def test_exit_codes_say_what_is_worth_another_try(
    tmp_path: Path, code: int, cause: str, retry: bool
):
    failure = why(tmp_path, code, log="ValueError: no luck\n")
    assert (failure.cause, failure.retry, failure.exit_code) == (cause, retry, code)
    assert "ValueError: no luck" in failure.message
    assert failure.next_step


def test_the_worker_is_believed_before_its_log(tmp_path: Path):
    told = Status(state="failed", cause="non_finite", message="loss is NaN", next_step="lower lr")
    failure = why(tmp_path, 1, status=told, log="ValueError: later noise\n")
    assert failure == Failure("non_finite", "loss is NaN", "lower lr", 1, retry=False)


def test_a_status_that_is_no_failure_explains_nothing(tmp_path: Path):
    told = Status(state="running", cause="non_finite", message="old")
    assert why(tmp_path, 1, status=told, log="OSError: real\n").message == "OSError: real"


@pytest.mark.parametrize("cause", ["non_finite", "weights", "records", "data", "failed"])
def test_errors_raised_on_purpose_are_not_retried(tmp_path: Path, cause: str):
    told = Status(state="failed", cause=cause, message="told")
    assert not why(tmp_path, 1, status=told).retry


def test_device_memory_running_out_is_retried_alone(tmp_path: Path):
    told = Status(state="failed", cause="out_of_memory", message="CUDA out of memory: 3 GiB")
    failure = why(tmp_path, 1, status=told)
    assert failure.retry
    assert failure.alone
    assert "CUDA out of memory: 3 GiB (it held 1.5 GiB)" in failure.message


@pytest.mark.parametrize(
    ("facts", "cause", "alone", "said"),
    [
        ({"oom_kills": 1}, "out_of_memory", True, "host ran out of memory"),
        ({"memory_was_low": True}, "killed", True, "possibly because host memory ran out"),
        ({}, "killed", False, "from outside"),
    ],
)
def test_a_kill_is_told_from_a_host_out_of_memory(
    tmp_path: Path, facts: dict, cause: str, alone: bool, said: str
):
    failure = why(tmp_path, -9, **facts)
    assert (failure.cause, failure.alone, failure.retry) == (cause, alone, True)
    assert said in failure.message
    assert "1.5 GiB" in failure.message


def test_a_bus_error_points_to_shared_memory(tmp_path: Path):
    failure = why(tmp_path, -7)
    assert "SIGBUS" in failure.message
    assert "/dev/shm" in failure.next_step


def test_silence_is_a_stall_whatever_the_exit_code(tmp_path: Path):
    failure = why(tmp_path, -9, stalled_seconds=300, oom_kills=1)
    assert failure.cause == "stall"
    assert failure.retry
    assert "300 s" in failure.message


def test_a_good_exit_without_results_is_a_failure(tmp_path: Path):
    failure = why(tmp_path, 0)
    assert failure.cause == "crash"
    assert "without finishing" in failure.message


TRACEBACK = """epoch 1
Traceback (most recent call last):
  File "loop.py", line 3, in train
    raise ValueError("bad shape")
ValueError: bad shape
\x1b[31mbye\x1b[0m
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TRACEBACK, "ValueError: bad shape"),
        ("error: no such file\n  where: x\n  next:  y\n", "no such file"),
        (
            "torch.OutOfMemoryError: CUDA out of memory\n\n\n",
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        ("only words\n\n", "only words"),
        ("\x1b[1mcoloured words\x1b[0m\n", "coloured words"),
        ("", ""),
    ],
)
def test_the_line_that_names_the_error_is_found(tmp_path: Path, text: str, expected: str):
    (tmp_path / "log").write_text(text)
    assert last_error_line(tmp_path / "log") == expected


def test_errors_of_earlier_attempts_are_not_blamed(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("ValueError: first attempt\n")
    start = log.stat().st_size
    with open(log, "a") as handle:
        handle.write("second attempt went quiet\n")
    assert last_error_line(log, start) == "second attempt went quiet"


def test_a_missing_huge_or_binary_log_is_no_obstacle(tmp_path: Path):
    assert last_error_line(tmp_path / "none") == ""
    (tmp_path / "log").write_bytes(b"\xff\xfe" * 2_000_000 + b"\nKeyError: 'x'\n")
    assert last_error_line(tmp_path / "log") == "KeyError: 'x'"
