"""Promises of `regatta run` with nothing said: questions on a terminal, a study file, one command.

Each test drives the real program on a pseudo-terminal.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from regatta.cli.launcher import linear_rate, parallel_choices
from regatta.config.load import load_study
from regatta.config.schema import TrainSection

STUDY = """\
name: race
data: {source: folder, root: videos}
entries:
  - {name: one, model: cnn3d, checkpoint: none}
  - {name: two, model: cnn3d, checkpoint: none, train: {lr: 0.5}}
train: {epochs: 3, batch_size: 8, accumulate: 2, lr: 0.001}
launch: {device: cpu}
"""
CTRL_C, CTRL_D = b"\x03", b"\x04"


@dataclass(frozen=True)
class Talk:
    """What stood on the terminal, and how the program ended."""

    text: str
    code: int


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "studies").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "studies" / "astray.yaml").write_text(STUDY.replace("videos", "nowhere"))
    (tmp_path / "studies" / "race.yaml").write_text(STUDY)
    (tmp_path / "studies" / "broken.yaml").write_text("name: broken\nentrys: []\n")
    return tmp_path


def talk(place: Path, answers: Sequence[str | bytes], *options: str) -> Talk:
    """Give one answer to each question; a text is followed by Enter."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place)
        command = [sys.executable, "-m", "regatta", "run", *options]
        os.execvpe(command[0], command, {**os.environ, "TERM": "dumb"})
    seen = b""
    try:
        for answer in answers:
            part = b""
            while not re.search(rb": $", part):
                part += os.read(terminal, 4096)
            seen += part
            os.write(terminal, answer if isinstance(answer, bytes) else answer.encode() + b"\n")
        while chunk := _read_or_repeat(pid, terminal, answers[-1]):
            seen += chunk
    except OSError:  # the program has closed its end
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    text = seen.decode(errors="replace").replace("\r\n", "\n")
    return Talk(text, os.waitstatus_to_exitcode(status))


def _read_or_repeat(pid: int, terminal: int, last: str | bytes) -> bytes:
    """What the program says next. A key such as Ctrl-D that was pressed between the question and
    the program's reading of it is lost, as for a person: it is pressed again."""
    for _ in range(30):
        if select.select([terminal], [], [], 2.0)[0]:
            return os.read(terminal, 4096)
        if isinstance(last, bytes):
            os.write(terminal, last)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the program says nothing and does not end")


def check(place: Path, *arguments: str) -> dict:
    child = subprocess.run(
        [sys.executable, "-m", "regatta", "check", *arguments, "--json"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_answers_become_a_file_and_a_command_that_mean_the_same_runs(place: Path):
    done = talk(place, ["3", "2", "16", "5", "", "n"])
    assert done.code == 0
    assert "effective batch 64 = 16 x 2 accumulated x 2 devices; the study's own is 16" in done.text
    assert "two keeps its own lr" in done.text
    # The linear rule: 0.001 x 64 / 16.
    written = yaml.safe_load((place / "race-launch.yaml").read_text())
    assert written["train"]["lr"] == 0.004
    assert (written["train"]["batch_size"], written["train"]["epochs"]) == (16, 5)
    assert (written["launch"]["devices"], written["train"]["parallel"]) == (2, "ddp")
    (shown,) = re.findall(r"^the same as: (.*)$", done.text, re.MULTILINE)
    words = shlex.split(shown)
    assert words[:3] == ["regatta", "run", "studies/race.yaml"]
    sets = [word for word in words[3:] if word != "--set"]
    by_command = load_study(place / words[2], sets)
    assert load_study(place / "race-launch.yaml") == by_command
    runs = check(place, "race-launch.yaml")["runs"]
    assert runs == check(place, *words[2:])["runs"]
    assert runs != check(place, "studies/race.yaml")["runs"]
    assert not (place / "runs").exists()


def test_enter_takes_the_study_as_it_is_and_starting_runs_it(place: Path):
    done = talk(place, ["studies/race.yaml", "", "", "", "", "y"])
    assert load_study(place / "race-launch.yaml") == load_study(place / "studies" / "race.yaml")
    assert "--set" not in done.text
    # It started: the folder holds no video, which the first task finds out.
    assert "race: prepare the data" in done.text
    assert done.code == 2


def test_wrong_answers_are_asked_again_with_the_reason(place: Path):
    wrong = [
        "9",
        "no.yaml",
        "1",
        "2",
        "3",
        "0",
        "1",
        "-3",
        "2.5",
        "4",
        "1e1",
        "",
        "x",
        "-1",
        "nan",
        "",
    ]
    done = talk(place, [*wrong, "maybe", "no"])
    assert done.code == 0
    for told in (
        "there are the numbers 1 to 4",
        "there is no such study file",
        "the data folder does not exist",
        "unknown key 'entrys'",
        "'0' is not a whole number from 1",
        "'2.5' is not a whole number",
        "'1e1' is not a whole number",
        "'nan' is not a number above 0",
        "'maybe' is neither y nor n",
    ):
        assert told in done.text
    assert load_study(place / "race-launch.yaml").train.batch_size == 4


def test_text_is_never_run_as_code(place: Path):
    trap = "__import__('pathlib').Path('trap').touch()"
    done = talk(place, ["3", trap, "1", trap, "", "", trap, "", "n"])
    assert done.code == 0
    assert not (place / "trap").exists()


@pytest.mark.parametrize("asked", [0, 2, 4])
def test_leaving_at_a_question_writes_nothing(place: Path, asked: int):
    answers = ["3", "1", "", "", ""][:asked]
    before = sorted(place.rglob("*"))
    stopped = talk(place, [*answers, CTRL_C])
    ended = talk(place, [*answers, CTRL_D])
    assert (stopped.code, ended.code) == (130, 2)
    assert "Traceback" not in stopped.text + ended.text
    assert sorted(place.rglob("*")) == before


def test_a_file_that_is_there_is_never_replaced(place: Path):
    (place / "race-launch.yaml").write_text("mine")
    answers = ["3", "1", "", "", "", "n"]
    assert "wrote race-launch-2.yaml" in talk(place, answers).text
    # The same answers make the same file: a third one would say nothing new.
    assert "wrote race-launch-2.yaml" in talk(place, answers).text
    assert (place / "race-launch.yaml").read_text() == "mine"


def test_without_a_terminal_it_names_the_command_to_type(place: Path):
    child = subprocess.run(
        [sys.executable, "-m", "regatta", "run"],
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 2
    assert "name a study file" in child.stderr
    assert "--model all --data ucf101" in child.stderr
    assert child.stdout == ""


@pytest.mark.parametrize(
    ("devices", "on_gpu", "offered"),
    [(1, True, ("none",)), (0.5, True, ("none",)), (4, True, ("ddp", "dp")), (2, False, ("ddp",))],
)
def test_only_what_can_work_is_offered(devices: float, on_gpu: bool, offered: tuple[str, ...]):
    assert parallel_choices(devices, on_gpu=on_gpu) == offered


def test_linear_rule_is_the_ratio_of_effective_batches():
    train = TrainSection.model_validate({"lr": 1e-3})
    assert linear_rate(train, 256, 32) == pytest.approx(8e-3)
    assert linear_rate(train, 32, 32) == 1e-3
