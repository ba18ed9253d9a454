"""Studies that go wrong on the way: what is lost is named, what is good is kept, and the status
afterwards is the truth."""

from __future__ import annotations

import csv
import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from regatta.config.load import load_study
from regatta.records.run_folder import StudyFolder, open_study
from regatta.records.status import read_status
from regatta.worker.__main__ import main
from tests.test_bad_input import STUDY, assert_told, regatta, write_clip, write_videos

HOSTILE = (
    '"><img onerror=x>',
    "$\\input{x}$",
    "=cmd()",
    "Ünïcødé 漢字",
    "x" * 200,
    "<script>alert(1)<!--script>",
)


class Tags(HTMLParser):
    """Collects what could run: pictures from elsewhere, scripts, and event attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.risky: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # A block of JSON is data: no browser runs it.
        self.scripts += tag == "script" and dict(attrs).get("type") != "application/json"
        self.risky += [f"{tag} {name}" for name, _ in attrs if name.startswith("on")]
        # Its own files are named without a scheme; javascript: and http: both have one.
        links = [value or "" for name, value in attrs if name in {"src", "href"}]
        inline = ("data:image/", "data:,")
        self.risky += [f"{tag} {v}" for v in links if ":" in v and not v.startswith(inline)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a good study file and its videos."""
    (tmp_path / "s.yaml").write_text(STUDY)
    write_videos(tmp_path / "videos")
    return tmp_path


Prepare = Callable[[], subprocess.CompletedProcess]


@pytest.fixture
def prepare_here(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Prepare]:
    """The worker's own `main` in this process: starting one anew takes longer than its work."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["worker", "prepare", "--study", "runs/s"])

    def run() -> subprocess.CompletedProcess:
        code = main()
        told = capfd.readouterr()
        return subprocess.CompletedProcess(sys.argv, code, told.out, told.err)

    yield run
    faulthandler.unregister(signal.SIGUSR1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_what_would_fail_after_training_is_refused_while_reading_the_data(
    home: Path, prepare_here: Prepare
):
    shutil.copytree(home / "videos", home / "untested")
    shutil.rmtree(home / "untested" / "test")
    grid = "protocol.name=temporal-grid"
    cases = {
        ("data.root=untested",): ["the test split has no sample", "protocol.split: validation"],
        ("compare.condition=c10s3", grid): ["no condition 'c10s3'", "reference, or one of"],
        ("protocol.options.coverage=[0]", grid): ["coverage is 1 to 100"],
        ("entries.c.checkpoint=nowhere",): ["no checkpoint folder 'nowhere'", "hub id"],
        ("entries=[{name: v, model: videomae, size: tiny}]",): ["no published checkpoint", "tiny"],
        ("data.short=drop", "entries.c.options.frames=9"): ["no training sample left", "pad"],
        ("data.short=fail", "entries.c.options.frames=9"): ["8 clips have fewer", "(8)"],
    }
    for overrides, words in cases.items():
        study = load_study(home / "s.yaml", list(overrides))
        folder = open_study(home / "runs", study)
        assert_told(prepare_here(), 2, *words)
        assert not folder.manifest.exists()
        assert not folder.data_json.exists()
    told = regatta("prepare", "--study", "runs/s", cwd=home, module="regatta.worker")
    assert_told(told, 2, *words)


@pytest.mark.fault(12)
def test_damaged_files_stop_a_study_by_name_and_leave_a_truthful_status(home: Path):
    (home / "videos" / "train" / "a" / "empty.avi").write_bytes(b"")
    assert_told(regatta("run", "s.yaml", cwd=home), 2, "1 of 9 samples cannot be used")
    folder = StudyFolder(home / "runs" / "s")
    assert "train/a/empty.avi: the file is empty" in folder.prepare_log.read_text()
    assert not folder.lease.exists()
    assert not folder.manifest.exists()
    assert [read_status(run.status).state for _, run in folder.runs()] == ["failed"]
    assert_told(regatta("status", "runs/s", cwd=home), 0, "1 failed; nothing is running")


def test_a_refused_second_launch_does_not_touch_the_first(home: Path):
    command = [sys.executable, "-m", "regatta", "run", "s.yaml", "--set", "train.epochs=500"]
    first = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder = StudyFolder(home / "runs" / "s")
    deadline = time.monotonic() + 60
    while not (folder.lease.exists() and any(folder.path.glob("runs/*/run.json"))):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = {path: path.read_bytes() for path in (folder.study_yaml, folder.lease)}
    second = regatta("run", "s.yaml", "--set", "train.epochs=1", cwd=home)
    assert_told(second, 3, f"run by process {first.pid}", "regatta stop")
    assert {path: path.read_bytes() for path in before} == before
    assert [path.name for path in (folder.path / "runs").iterdir()] == [
        spec.run_id for spec, _ in folder.runs()
    ]
    os.kill(first.pid, signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 143
    assert not folder.lease.exists()


@pytest.mark.fault(14)
def test_a_file_replaced_after_the_scan_is_found_and_never_mixed_in(home: Path):
    folder = open_study(home / "runs", load_study(home / "s.yaml", ["train.epochs=1"]))
    run_id = folder.runs()[0][0].run_id
    assert_told(regatta("prepare", "--study", "runs/s", cwd=home, module="regatta.worker"), 0)
    manifest = folder.manifest.read_bytes()
    write_clip(home / "videos" / "train" / "a" / "0-train0.avi", seed=99)
    train = ("train", "--study", "runs/s", "--runs", run_id)
    told = regatta(*train, cwd=home, module="regatta.worker")
    assert_told(told, 2, "the file changed since", "0-train0.avi")
    assert read_status(folder.run(run_id).status).cause == "data"
    told = regatta("prepare", "--study", "runs/s", cwd=home, module="regatta.worker")
    assert_told(told, 2, "began on other data", f"--restart {run_id}")
    assert folder.manifest.read_bytes() == manifest


@pytest.mark.fault(28)
@pytest.mark.slow
@pytest.mark.soak
def test_a_damaged_prediction_is_refused_by_compare_and_redone_by_run(home: Path):
    words = ("--set", "compare.replicates=100")
    assert_told(regatta("run", "s.yaml", *words, cwd=home), 0)
    ((_, run),) = StudyFolder(home / "runs" / "s").runs()
    (part,) = run.path.glob("predictions/*/part-*.parquet")
    good = part.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    part.write_bytes(damaged)
    assert_told(regatta("compare", "runs/s", cwd=home), 1, "missing or was changed", part.name)
    told = regatta("run", "s.yaml", *words, cwd=home)
    assert_told(told, 0, f"{part.name} was changed after judging; judging it again")
    assert part.read_bytes() == good


@pytest.fixture(scope="module")
def half_good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A study where one entry diverges, classes have hostile names, a file is damaged, and the
    data folder is a link."""
    home = tmp_path_factory.mktemp("half-good")
    write_videos(home / "real", HOSTILE, train=1)
    (home / "real" / "train" / HOSTILE[0] / "empty.avi").write_bytes(b"")
    (home / "videos").symlink_to("real")
    (home / "s.yaml").write_text(STUDY)
    entry = "model: cnn3d, size: tiny, checkpoint: none, options: {frames: 4}"
    told = regatta(
        *("run", "s.yaml", "--set", "data.damaged=drop", "--set", "compare.replicates=100"),
        *(
            "--set",
            f"entries=[{{name: good, {entry}}}, {{name: bad, {entry}, train: {{lr: 1e30}}}}]",
        ),
        *("--set", "train.epochs=1", "--set", "seeds=[0, 1]"),
        cwd=home,
    )
    return home / "runs" / "s", told


def test_one_diverging_entry_fails_by_name_and_the_others_are_reported(half_good):
    path, told = half_good
    assert_told(told, 1, "non_finite", "lower train.lr", "report.html")
    states = {spec.label: read_status(run.status) for spec, run in StudyFolder(path).runs()}
    assert {label: status.state for label, status in states.items()} == {
        "good seed 0": "done",
        "good seed 1": "done",
        "bad seed 0": "failed",
        "bad seed 1": "failed",
    }
    assert {s.cause for s in states.values() if s.state == "failed"} == {"non_finite"}
    page = (path / "report" / "report.html").read_text()
    assert "bad seed 0 is not in this comparison" in page
    assert not (path / "lease.json").exists()


@pytest.mark.fault(12)
def test_a_dropped_file_is_in_the_record_and_in_the_report(half_good):
    path, _ = half_good
    dropped = json.loads((path / "data.json").read_text())["dropped"]
    place = f"train/{HOSTILE[0]}/empty.avi"
    assert dropped == [{"path": place, "reason": "the file is empty", "is_damage": True}]
    assert "empty.avi" in (path / "report" / "tables" / "dropped.csv").read_text()


def test_hostile_class_names_reach_the_report_as_harmless_text(half_good):
    path, _ = half_good
    page = Tags()
    page.feed((path / "report" / "report.html").read_text(encoding="utf-8"))
    assert page.risky == []
    assert page.scripts == 1
    for table in (path / "results" / "per_class_good.csv", path / "report/tables/per_class.csv"):
        with table.open(newline="", encoding="utf-8") as handle:
            names = {row["class"] for row in csv.DictReader(handle)}
        # A leading apostrophe keeps a spreadsheet from running the name as a formula.
        assert names == {f"'{name}" if name.startswith("=") else name for name in HOSTILE}
    assert "$\\input" not in (path / "report" / "tables" / "per_class.tex").read_text()
