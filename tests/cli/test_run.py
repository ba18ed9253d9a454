"""Promises of `regatta run`: from nothing to a report, nothing twice, errors before work starts."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.orchestrate.toy import HOLDING, Toy, toy_mapping, toy_study, wait_until


@pytest.fixture
def toy(tmp_path: Path, no_leaks: None) -> Iterator[Toy]:
    with toy_study(tmp_path) as study:
        yield study


def kinds(toy: Toy) -> list[str]:
    return [start["kind"] for start in toy.starts()]


def test_a_run_ends_with_the_path_of_its_report_and_a_second_one_redoes_nothing(toy: Toy):
    first = toy.call("run")
    assert first.code == 0, first.output
    page = first.output.splitlines()[-1]
    assert Path(page) == toy.folder.report / "report.html"
    assert Path(page).is_file()
    assert "the verdict is a tie" in first.output
    assert kinds(toy)[-2:] == ["compare", "report"]
    before = toy.starts()
    second = toy.call("run")
    assert second.code == 0
    assert toy.starts() == before
    assert second.output.splitlines()[-1] == page


def test_piped_output_is_plain_lines_with_run_ids(toy: Toy):
    output = toy.call("run").output
    assert "\r" not in output
    assert "\x1b" not in output
    for name in ("ann", "bob"):
        assert f"{toy.run_id(name)}: done" in output


def test_other_comparison_settings_compare_again_and_train_nothing(toy: Toy):
    assert toy.call("run").code == 0
    again = toy.call("run", *toy.arguments("run"), "--set", "compare.replicates=200")
    assert again.code == 0
    assert kinds(toy).count("train") == 2
    assert kinds(toy).count("compare") == 2


def test_a_new_entry_trains_alone_and_renews_the_report(toy: Toy):
    assert toy.call("run").code == 0
    larger = Toy(toy.root, toy_mapping(("ann", "bob", "cyd")))
    assert larger.call("run").code == 0
    assert [s["names"] for s in toy.starts("train")][2:] == [["cyd"]]
    assert kinds(toy).count("report") == 2


def test_some_failed_runs_give_exit_one_and_still_a_report(toy: Toy):
    toy.order({"train:ann": ["exit:2"]})
    finished = toy.call("run")
    assert finished.code == 1
    assert finished.output.splitlines()[-1] == str(toy.folder.report / "report.html")


def test_no_judged_run_means_no_comparison(toy: Toy):
    toy.order({"train:ann": ["exit:2"], "train:bob": ["exit:2"]})
    finished = toy.call("run")
    assert finished.code == 1
    assert "compare" not in kinds(toy)
    assert "report.html" not in finished.output


@pytest.mark.parametrize("verb", ["compare", "report"])
def test_a_failed_comparison_is_told_and_tried_again(toy: Toy, verb: str):
    toy.prepare()
    toy.finish_training("ann", "bob")
    toy.finish_judging("ann", "bob")
    blocker = toy.root / f"fail-{verb}"
    blocker.touch()
    finished = toy.call("run")
    assert finished.code == 1
    assert f"{verb}: failed: DataError: the toy was told to fail" in finished.output
    assert "report.html" not in finished.output
    blocker.unlink()
    assert toy.call("run").code == 0


def test_json_is_one_object_on_standard_output(toy: Toy):
    child = subprocess.run(
        toy.command("run", *toy.arguments("run"), "--json"),
        capture_output=True,
        text=True,
        env=toy.environment(),
        check=False,
    )
    content = json.loads(child.stdout)
    assert content["exit_code"] == child.returncode == 0
    assert [run["state"] for run in content["runs"]] == ["done", "done"]
    assert content["report"] == str(toy.folder.report / "report.html")
    assert "judge 2" in child.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "launch.device_ids=[7]", "--set", "launch.device=auto"], "GPU"),
        (["--set", "launch.device=cuda"], "no usable GPU"),
    ],
)
def test_a_device_that_does_not_exist_stops_before_anything_starts(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    finished = toy.call("run", *toy.arguments("run"), *arguments)
    assert finished.code == 3
    assert said in finished.output
    assert toy.starts() == []
    assert not toy.folder.lease.exists()


def test_an_unknown_key_is_a_usage_error(toy: Toy):
    finished = toy.call("run", *toy.arguments("run"), "--set", "launch.max_paralel=2")
    assert finished.code == 2
    assert "max_parallel" in finished.output


def without_write_override(command: list[str]) -> list[str]:
    """Root may write anywhere; a read-only folder is one only without that power."""
    if os.geteuid() != 0:
        return command
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("needs setpriv to give up root's power over permissions")
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search", *command]


def test_a_read_only_runs_folder_is_a_named_error(toy: Toy):
    toy.runs_root.mkdir()
    toy.runs_root.chmod(0o555)
    child = subprocess.run(
        without_write_override(toy.command("run", *toy.arguments("run"))),
        capture_output=True,
        text=True,
        env=toy.environment(),
        check=False,
    )
    toy.runs_root.chmod(0o755)
    assert child.returncode == 3, child.stderr
    assert "cannot write" in child.stderr
    assert "--runs" in child.stderr
    assert toy.starts() == []


def start_on_a_terminal(toy: Toy) -> tuple[int, int]:
    """Process id of `regatta run` on a pseudo-terminal of its own, and our end of that."""
    toy.prepare()
    toy.order({"train:ann": ["hold"], "train:bob": ["hold"]})
    pid, terminal = pty.fork()
    if pid == 0:
        command = toy.command("run", *toy.arguments("run"))
        os.execvpe(command[0], command, {**toy.environment(), "TERM": "xterm"})
    wait_until(lambda: all(toy.status(n).step == HOLDING for n in ("ann", "bob")), "both hold")
    return pid, terminal


def test_ctrl_c_on_a_terminal_stops_with_130_and_restores_the_screen(toy: Toy):
    pid, terminal = start_on_a_terminal(toy)
    os.write(terminal, b"\x03")
    drawn = b""
    with suppress(OSError):
        while chunk := os.read(terminal, 65536):
            drawn += chunk
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert b"validation" in drawn
    assert drawn.count(b"stopping:") == 1
    # The cursor is shown again at the end.
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")
    assert toy.status("ann").state == "interrupted"


def test_a_closed_terminal_is_a_stop_that_saves(toy: Toy):
    pid, terminal = start_on_a_terminal(toy)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 143
    assert (toy.status("ann").state, toy.status("bob").state) == ("interrupted", "interrupted")
    assert not toy.folder.lease.exists()


def test_a_reader_that_leaves_does_not_stop_the_work(toy: Toy):
    toy.prepare()
    command = shlex.join(toy.command("run", *toy.arguments("run")))
    # The shell reports how `run` ended, not `head`.
    script = f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}"
    child = subprocess.run(["bash", "-c", script], env=toy.environment(), check=False)
    assert child.returncode == 0
    assert toy.is_judged("bob")


def test_the_supervisor_carries_no_heavy_library():
    heavy = ("torch", "pandas", "pyarrow", "scipy", "matplotlib", "transformers")
    code = (
        "import sys, regatta.cli.run, regatta.orchestrate.supervise, regatta.orchestrate.finish, "
        "regatta.orchestrate.watch\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
