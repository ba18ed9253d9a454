"""Promises of the display: plain lines in a pipe, a table that fits on a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from regatta.orchestrate.devices import Memory
from regatta.orchestrate.machine_use import GpuUse, MachineGauge, MachineUse, parse_gpus
from regatta.orchestrate.silence import SilenceWatch
from regatta.orchestrate.snapshot import RunView, StudyView
from regatta.orchestrate.watch import LiveDisplay, PlainDisplay, open_display
from regatta.orchestrate.watch_table import draw
from regatta.orchestrate.words import (
    bar,
    describe,
    duration,
    percent,
    place,
    rate,
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
    assert rate(1445.4) == "1,445"


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


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 160])
def test_a_narrow_terminal_keeps_run_state_and_best_whole(drawn: Callable[..., str], columns: int):
    text = drawn(view(RUNNING), columns=columns)
    row = next(line for line in text.splitlines() if line.startswith("run-0"))
    for part in ("running", "61.2 %"):
        assert part in row
    assert all(len(line.rstrip()) <= columns for line in text.splitlines())


@given(
    st.lists(st.sampled_from(["done", "failed", "running", "queued", "lost"]), max_size=40),
    st.integers(60, 160),
    st.integers(20, 50),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_what_is_drawn_fits_the_terminal(states: list, width: int, height: int, studies: int):
    statuses = [
        replace(RUNNING, state=state, cause="crash", message=f"{n} " * 60, next_step="look " * 40)
        for n, state in enumerate(states)
    ]
    use = MachineUse(2, 0.5, Memory(8.0, 2.0), (GpuUse(0, 0.9, 3.0, 80.0),))
    drawing = draw([view(*statuses)] * studies, width=width, height=height, machine=use)
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    lines = console.render_lines(drawing, pad=False)
    assert len(lines) <= height
    assert all(sum(len(piece.text) for piece in line) <= width for line in lines)


def test_a_long_study_shows_what_works_and_what_failed(drawn: Callable[..., str]):
    many = [Status(state="done")] * 60 + [RUNNING, Status(state="failed")]
    text = drawn(view(*many), rows=16)
    assert "run-60" in text
    assert "run-61" in text
    assert "run-40" not in text
    assert "60 done, 1 running, 1 failed" in text


def test_many_failures_leave_half_of_the_lines_to_what_works(drawn: Callable[..., str]):
    failed = Status(state="failed", cause="crash", message="boom", next_step="see the log")
    text = drawn(view(*[failed] * 30, *[RUNNING] * 10), rows=24)
    rows = [line for line in text.splitlines() if line.startswith("run-")]
    assert sum("failed" in row for row in rows) >= 5
    assert sum("running" in row for row in rows) >= 5
    # The same cause of thirty runs is told once.
    assert text.rpartition("toy:")[2].count("boom") == 1
    assert "and 29 more" in text


def test_failed_runs_come_first_with_cause_and_next_step_below(drawn: Callable[..., str]):
    failed = Status(state="failed", cause="data", message="clip is cut", next_step="replace it")
    lines = [line.rstrip() for line in drawn(view(RUNNING, failed)).splitlines()]
    rows = [n for n, line in enumerate(lines) if line.startswith("run-")]
    assert lines[rows[0]].startswith("run-1")
    assert lines[rows[2]] == "run-1  data: clip is cut"
    assert lines[rows[2] + 1] == "  next: replace it"


def test_several_studies_stand_below_each_other(drawn: Callable[..., str]):
    one, other = view(RUNNING), replace(view(Status()), name="second")
    text = drawn_together(one, other)
    assert text.index("toy: 1 running") < text.index("second: 1 pending")


def drawn_together(*views: StudyView) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(draw(views, width=100, height=30))
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_a_run_of_another_host_without_heartbeat_is_silent():
    far = {**asdict(this_process()), "host": "node7.example", "pid": 11}
    old = replace(RUNNING, process=far, heartbeat=time.time() - 31 * 60)
    fresh = replace(RUNNING, process=far, heartbeat=time.time() - 5)
    marked = SilenceWatch(limit=300.0).mark(view(old, fresh))
    assert describe(marked.runs[0].status).endswith("silent: no sign of life for 31 min")
    assert "node7.example" in str(marked.runs[0].status.next_step)
    assert marked.runs[1].status == fresh
    assert place(fresh) == "node7"
    assert place(replace(RUNNING, process=asdict(this_process()))) == ""


def test_a_heartbeat_that_moves_is_no_silence_whatever_its_clock_says():
    silence = SilenceWatch(limit=60.0)
    hour_behind = replace(RUNNING, heartbeat=time.time() - 3600)
    assert silence.mark(view(hour_behind)).runs[0].status.cause == "silent"
    moved = replace(RUNNING, heartbeat=time.time() - 3598)
    assert silence.mark(view(moved)).runs[0].status == moved


def test_gpus_are_read_from_nvidia_smi_and_nonsense_is_left_out():
    answer = "0, 93, 40960, 81920\n1, [N/A], 0, 81920\nUnable to determine\n"
    assert parse_gpus(answer) == (GpuUse(0, 0.93, 40.0, 80.0), GpuUse(1, None, 0.0, 80.0))
    assert parse_gpus("") == ()


def test_a_gpu_tool_that_hangs_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    gauge, begun = MachineGauge(), time.monotonic()
    try:
        use = gauge.read()
    finally:
        gauge.close()
    assert time.monotonic() - begun < 5
    assert use.cores >= 1
    assert use.gpus == ()
    assert 0 < use.memory.available_gib <= use.memory.total_gib


def test_standard_output_that_is_no_terminal_gets_plain_lines(capsys: pytest.CaptureFixture):
    display = open_display()
    assert isinstance(display, PlainDisplay)
    display.message("hello")
    assert capsys.readouterr().out == "hello\n"
    assert not sys.stdout.isatty()
