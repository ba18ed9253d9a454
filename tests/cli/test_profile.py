"""Promises of `regatta profile`: real children measure, tables agree, nothing is left behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from regatta.config.schema import ProfileSection
from regatta.records.profile_table import COLUMNS
from regatta.worker.profile import plan_units
from tests.orchestrate.toy import ORDERS_VARIABLE, processes_of, wait_until

STUDY = """\
name: tiny
data: {source: har-synthetic, root: data, options: {subjects: 6, windows_per_class: 4}}
entries: [cnn1d, majority]
train: {batch_size: 4}
profile:
  stages: [load, forward, step, sweep]
  batch_sizes: [2, 100000, 200000]
  warmup: 1
  timed: 3
  seconds: 1
launch: {device: cpu, threads_per_run: 1, memory_gib_per_run: 1.0}
"""


def regatta(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regatta", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@dataclass(frozen=True)
class Profiled:
    place: Path
    child: subprocess.CompletedProcess[str]

    @property
    def results(self) -> Path:
        return self.place / "runs" / "tiny" / "results"

    @property
    def content(self) -> dict[str, Any]:
        return json.loads((self.results / "profile.json").read_text())

    def rows(self, **wanted: Any) -> list[dict[str, Any]]:
        return [r for r in self.content["rows"] if all(r[k] == v for k, v in wanted.items())]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    place = tmp_path_factory.mktemp("profile")
    (place / "tiny.yaml").write_text(STUDY)
    child = regatta(place, "profile", "tiny.yaml")
    assert child.returncode == 0, child.stderr
    return Profiled(place, child)


def test_every_stage_and_format_is_a_row(profiled: Profiled):
    found = [(r["entry"], r["stage"], r["batch"], r["precision"]) for r in profiled.rows()]
    formats = ("fp32", "bf16")
    assert found == [
        ("cnn1d", "load", 4, ""),
        *(("cnn1d", stage, 4, f) for stage in ("forward", "step") for f in formats),
        *(("cnn1d", "sweep", batch, "fp32") for batch in (2, 100_000)),
        *(("majority", "forward", 4, f) for f in formats),
    ]


def test_the_sweep_ends_with_the_batch_that_finds_no_memory(profiled: Profiled):
    states = {row["batch"]: row["status"] for row in profiled.rows(stage="sweep")}
    # 100,000 windows of 9 x 128 float32 are 0.46 GB, and their first activations 3.3 GB.
    assert states == {2: "ok", 100_000: "out of memory"}
    # It goes on with the next entry.
    assert profiled.rows(entry="majority")


def test_times_are_ordered_and_fp32_differs_by_nothing(profiled: Profiled):
    for row in profiled.rows(status="ok"):
        assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["peak_gb"] < 1.1 * 2**30 / 1e9
    exact, rounded = profiled.rows(entry="cnn1d", stage="forward")
    assert exact["largest_difference"] == 0 < rounded["largest_difference"]
    # A trivial entry that is not fitted has no scores to compare.
    assert {r["largest_difference"] for r in profiled.rows(entry="majority")} == {None}


def test_json_and_csv_agree_cell_by_cell(profiled: Profiled):
    with open(profiled.results / "profile.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(COLUMNS)
    for in_csv, in_json in zip(table, profiled.rows(), strict=True):
        for key, value in in_json.items():
            if isinstance(value, float):
                assert float(in_csv[key]) == value
            else:
                assert in_csv[key] == ("" if value is None else str(value))


def test_the_table_is_on_the_screen_and_progress_beside_it(profiled: Profiled):
    lines = profiled.child.stdout.splitlines()
    titles = "entry stage batch format median ms p10 p90 windows/s peak GB MB/window difference"
    assert " ".join(lines[1].split()) == f"{titles} status"
    assert len([line for line in lines if line.startswith(("cnn1d ", "majority "))]) == 9
    assert "not measured: majority: load, step, sweep" in profiled.child.stdout
    assert "cnn1d forward fp32, batch 4:" in profiled.child.stderr


def test_no_run_and_no_scratch_file_is_made(profiled: Profiled):
    folder = profiled.place / "runs" / "tiny"
    names = {path.name for path in folder.iterdir()}
    assert "runs" not in names
    assert not [name for name in names if name.startswith(".")]
    assert "lease.json" not in names


def test_a_second_profile_measures_anew_and_says_so(profiled: Profiled):
    before = profiled.content
    child = regatta(
        profiled.place,
        "profile",
        "tiny.yaml",
        "--model",
        "majority",
        "--precision",
        "fp32",
        "--json",
    )
    assert child.returncode == 0, child.stderr
    assert "measuring anew" in child.stderr
    shown = json.loads(child.stdout)
    assert shown == profiled.content != before
    assert [(r["entry"], r["precision"]) for r in shown["rows"]] == [("majority", "fp32")]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--model", "cnn1"], 2, "did you mean 'cnn1d'"),
        (["--batch", "8,0"], 2, "from 1 on, got '0'"),
        (["--precision", "fp16"], 2, "fp16 needs a GPU"),
        (["--device", "cuda"], 3, "no usable GPU"),
        (["--set", "profile.timde=1"], 2, "did you mean 'timed'"),
        (["--set", "data.source=uci-har", "--set", "data.options={}"], 2, "does not exist"),
    ],
)
def test_bad_input_is_named_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "tiny.yaml").write_text(STUDY)
    child = regatta(tmp_path, "profile", "tiny.yaml", *arguments)
    assert child.returncode == code
    assert said in child.stderr
    assert "Traceback" not in child.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_profile_leaves_no_process_and_no_table(profiled: Profiled, number: int):
    before = (profiled.results / "profile.json").read_bytes()
    command = [
        sys.executable,
        "-m",
        "regatta",
        "profile",
        "tiny.yaml",
        "--set",
        "profile.seconds=99",
    ]
    command += ["--set", "profile.timed=1000000", "--set", "profile.stages=[step]"]
    # The variable by which `processes_of` knows them.
    env = {**os.environ, ORDERS_VARIABLE: str(profiled.place)}
    child = subprocess.Popen(
        command, cwd=profiled.place, env=env, stderr=subprocess.PIPE, start_new_session=True
    )
    progress = profiled.place / "runs" / "tiny" / ".profile"
    try:
        wait_until(
            lambda: progress.is_dir() and len(processes_of(profiled.place)) >= 3, "a child measures"
        )
        os.kill(child.pid, number)
        _, error = child.communicate(timeout=20)
    finally:
        child.kill()
    assert child.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    wait_until(lambda: processes_of(profiled.place) == [], "every process is gone")
    assert (profiled.results / "profile.json").read_bytes() == before
    if number == signal.SIGINT:
        assert not progress.exists()
        assert b"nothing is written" in error


FACTS = {
    "batch_size": 8,
    "precision": "bf16",
    "precisions": ["fp32", "bf16", "fp16"],
    "stages": ["load", "forward", "backward", "step", "sweep"],
}


def test_on_a_gpu_the_recipes_own_format_is_compiled_too_and_swept():
    units = plan_units(ProfileSection(), FACTS, on_gpu=True)
    compiled = [(unit.stage, unit.precision) for unit in units if unit.compiled]
    assert compiled == [("forward", "bf16"), ("step", "bf16")]
    assert [u.batch for u in units if u.stage == "sweep"] == [8, 16, 32, 64, 128, 256]
    assert {u.precision for u in units if u.stage == "sweep"} == {"bf16"}
    assert [u.precision for u in units if u.stage == "backward"] == FACTS["precisions"]


def test_named_formats_and_batches_hold_for_the_sweep_in_rising_order():
    settings = ProfileSection.model_validate(
        {"stages": ["sweep"], "batch_sizes": [32, 8, 32], "precisions": ["fp32", "fp16"]}
    )
    units = plan_units(settings, FACTS, on_gpu=False)
    expected = [(8, "fp32"), (32, "fp32"), (8, "fp16"), (32, "fp16")]
    assert [(unit.batch, unit.precision) for unit in units] == expected
