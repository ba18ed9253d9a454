"""Promise of answers in words: a run counts as judged only with them, and they cost no second
judging."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from regatta.config.expand import protocol_id
from regatta.config.load import study_from_mapping
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.records.run_folder import open_study
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter
from tests.scenes_here import scene_entry, scene_mapping
from tests.worker.small_windows import train_entry

KILLED_AT_THE_WORDS = """
import os, signal, sys
def kill(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("explanations.jsonl"):
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv.pop(1) == "kill":
    sys.addaudithook(kill)
from regatta.worker.__main__ import main
sys.exit(main())
"""


def judge(study: Path, run_id: str, how: str) -> int:
    command = [sys.executable, "-c", KILLED_AT_THE_WORDS, how, "judge"]
    command += ["--study", str(study), "--runs", run_id, "--device", "cpu"]
    return subprocess.run(command, check=False, timeout=300).returncode


@pytest.mark.slow
@pytest.mark.fault(1)
def test_killed_at_the_words_a_run_is_not_judged_and_the_next_start_writes_them(
    tmp_path: Path,
) -> None:
    content = scene_mapping(None, entries=[scene_entry("frames")])
    content["train"] = {"epochs": 1, "lr": 3e-3, "select_by": "joint"}
    content["protocol"]["options"] |= {"ood": [], "attention": False}
    study = study_from_mapping(content)
    folder = open_study(tmp_path / "runs", study)
    prepare(folder, StopFlag(), StatusWriter([]))
    run, protocol = train_entry(folder, "frames"), protocol_id(study.protocol)
    judged = run.predictions(protocol)
    assert judge(folder.path, run.run_id, "kill") == -signal.SIGKILL
    parts = {p.name: p.stat().st_mtime_ns for p in judged.glob("part-*.parquet")}
    assert parts
    assert not run.is_judged(protocol)
    assert judge(folder.path, run.run_id, "live") == 0
    assert run.is_judged(protocol)
    words = (judged / "explanations.jsonl").read_text().splitlines()
    assert len(words) == read_json(judged / "complete.json")["samples"]
    assert parts == {p.name: p.stat().st_mtime_ns for p in judged.glob("part-*.parquet")}
