"""Promises of the display: plain lines in a pipe, a table that fits on a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.orchestrate.snapshot import RunView, StudyView
from regatta.orchestrate.watch import (
    LiveDisplay,
    PlainDisplay,
    bar,
    describe,
    duration,
    open_display,
    percent,
    sparkline,
    summary,
)
from regatta.records.status import Status, this_process


def view(*statuses: Status) -> StudyView:
    runs = tuple(
        RunView(f"run-{n}", "ann", n, status, trained=False, judged=False, curve=(0.1, 0.5))
        for n, status in enumerate(statuses)
    )
    return StudyView("toy", Path("runs/toy"), runs, this_process(), supervised=True)


RUNNING = Status(
    state="running",
    phase="train",
    step=40,
    total_steps=100,
    epoch=2,
    epochs=5,
    samples_per_second=12.34,
    seconds_left=185.0,
    metric=0.612,
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([0.0, 1.0], "▁█"),
        ([0.3, 0.3, 0.3], "▄▄▄"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([9.0] * 20 + [1.0], "███████████▁"),
    ],
)
def test_sparklines_show_the_last_values_between_their_extremes(values: list, expected: str):
    assert sparkline(values) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_sparklines_rise_where_values_rise(values: list[float]):
    drawn, shown = sparkline(values), values[-12:]
    assert len(drawn) == len(shown)
    for left in range(len(shown)):
        for right in range(len(shown)):
            assert shown[left] > shown[right] or drawn[left] <= drawn[right]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, ""),
        (-3, "0 s"),
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (185, "3 min"),
        (3599, "60 min"),
        (2 * 3600 + 5 * 60, "2 h 05 min"),
    ],
)
def test_durations_are_words(seconds: float | None, expected: str):
    assert duration(seconds) == expected


def test_a_bar_is_as_full_as_the_work():
    assert bar(Status(step=25, total_steps=100), width=8) == "━━╌╌╌╌╌╌"
    assert bar(Status(step=100, total_steps=100), width=8) == "━" * 8
    # A resumed phase may report more steps than it planned.
    assert bar(Status(step=120, total_steps=100), width=8) == "━" * 8
    assert bar(Status(step=3, total_steps=0)) == ""


def test_a_status_reads_as_a_sentence():
    assert describe(RUNNING) == (
        "running train, epoch 2/5 step 40/100, 12.3 samples/s, 3 min left, best 61.2 %"
    )
    failed = Status(state="failed", phase="train", cause="data", message="clip is cut")
    assert describe(failed) == "failed train, data: clip is cut"
    assert describe(Status(state="done", phase="judge", metric=0.5)) == "done, best 50.0 %"
    assert describe(Status()) == "pending"
    assert percent(None) == ""


def test_the_summary_names_the_supervisor_or_says_that_there_is_none():
    told = view(RUNNING, Status())
    assert summary(told).startswith("toy: 1 running, 1 pending; run by process ")
    assert summary(StudyView("toy", Path("x"), told.runs)).endswith("nothing is running")
    assert "torn" in summary(StudyView("toy", Path("x"), problem="torn"))


def test_plain_lines_carry_the_run_id_and_come_once_per_change():
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.show(view(RUNNING, Status()))
    display.show(view(RUNNING, Status()))
    display.show(view(Status(state="done"), Status()))
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "run-0: running train",
        "run-1: pending",
        "run-0: done",
    ]
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_pipe_whose_reader_left_does_not_stop_the_work():
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    display = PlainDisplay(stream)
    display.message("nobody reads this")
    display.message("nor this")
    # What could not be written does not come back as an error at the end.
    stream.close()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Everything that a live display sends to a real pseudo-terminal of a size."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def draw(*views: StudyView, rows: int = 24, columns: int = 120) -> str:
        monkeypatch.setenv("LINES", str(rows))
        monkeypatch.setenv("COLUMNS", str(columns))
        leader, follower = pty.openpty()
        stream = os.fdopen(follower, "w")
        display = open_display(stream)
        assert isinstance(display, LiveDisplay)
        for each in views:
            display.show(each)
        display.message("run-0: [bold] words in brackets stay")
        display.close()
        stream.flush()
        os.set_blocking(leader, False)
        content = b""
        with suppress(BlockingIOError):
            while True:
                content += os.read(leader, 65536)
        stream.close()
        os.close(leader)
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", content.decode())

    return draw


def test_a_terminal_gets_a_table_with_bar_rate_and_curve(drawn: Callable[..., str]):
    text = drawn(view(RUNNING))
    for part in ("run-0", "running", "train", "2/5", "━━━━━", "12.3", "3 min", "61.2 %", "▁█"):
        assert part in text
    assert "[bold] words in brackets stay" in text


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_a_narrow_terminal_keeps_run_state_and_position_whole(
    drawn: Callable[..., str], columns: int
):
    text = drawn(view(RUNNING), columns=columns)
    row = next(line for line in text.splitlines() if line.startswith("run-0"))
    assert "running" in row
    assert "epoch 2/5 step 40/100" in row
    assert "…" not in text
    assert all(len(line.rstrip()) <= columns for line in text.splitlines())


def test_a_long_study_shows_what_works_and_what_failed(drawn: Callable[..., str]):
    many = [Status(state="done")] * 60 + [RUNNING, Status(state="failed")]
    text = drawn(view(*many), rows=16)
    assert "run-60" in text
    assert "run-61" in text
    assert "run-40" not in text
    assert "60 done, 1 running, 1 failed" in text


def test_standard_output_that_is_no_terminal_gets_plain_lines(capsys: pytest.CaptureFixture):
    display = open_display()
    assert isinstance(display, PlainDisplay)
    display.message("hello")
    assert capsys.readouterr().out == "hello\n"
    assert not sys.stdout.isatty()
