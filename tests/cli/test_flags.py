"""Promises of flags: they build the study that a file would, and go on top of one that is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from regatta.cli.choose import Chosen, check_ranks, check_trained, choose_study, notes_on
from regatta.cli.flags import read_flags
from regatta.config.expand import expand_study
from regatta.config.load import load_study
from regatta.core.errors import ConfigError, RegattaError, UnknownNameError
from regatta.core.files import write_json
from regatta.core.signals import StopFlag
from regatta.orchestrate.supervise import run_study
from regatta.records.run_folder import open_study
from tests.orchestrate.toy import WORKER_COMMAND, Toy, toy_study

FILE = """
name: race
data: {source: ucf101, root: videos}
entries: [timesformer, {name: mae, model: videomae, size: small}, vivit]
protocol: {name: temporal-grid, options: {stride: [1, 4]}}
compare: {condition: c100s4}
train: {epochs: 3, lr: 1e-4}
"""


@pytest.fixture
def race(tmp_path: Path) -> Path:
    path = tmp_path / "race.yaml"
    path.write_text(FILE)
    return path


def choose(runs: Path, target: Path | None = None, *, build: bool = True, **flags: Any) -> Chosen:
    """The choice for `--model M --data D ...`; models as one text, keys as {dotted: value}."""
    models = flags.pop("models", None)
    read = read_flags([models] if models else None, **flags)
    return choose_study(target, read, runs, may_build=build)


def made(runs: Path, **flags: Any) -> Chosen:
    """A choice whose study is written down, as a launch does."""
    chosen = choose(runs, **flags)
    open_study(runs, chosen.study)
    return chosen


def finish_training(chosen: Chosen, *entries: str) -> None:
    for spec in chosen.specs:
        if spec.entry.name in entries:
            write_json(chosen.folder.run(spec.run_id).training_results, {"steps": 1})


def ids(chosen: Chosen) -> list[str]:
    return [spec.run_id for spec in expand_study(chosen.study)]


REFERENCE = {
    "data.root": "UCF101_data",
    "train.epochs": 5,
    "train.batch_size": 8,
    "train.lr": 1e-5,
    "train.accumulate": 2,
    "train.parallel": "ddp",
    "launch.device": "cpu",
}


def test_flags_build_exactly_the_study_of_the_file_that_says_the_same(tmp_path: Path):
    said = choose(tmp_path / "runs", models="all", data="ucf101", keys=REFERENCE)
    path = tmp_path / "ucf101.yaml"
    path.write_text(
        "data: {source: ucf101, root: UCF101_data}\n"
        "entries: [timesformer, videomae, vivit]\n"
        "train: {epochs: 5, batch_size: 8, lr: 1e-5, accumulate: 2, parallel: ddp}\n"
        "launch: {device: cpu}\n"
    )
    assert said.study == load_study(path)
    assert said.folder.path == tmp_path / "runs" / "ucf101"
    assert said.entries == ("timesformer", "videomae", "vivit")


def test_size_checkpoint_and_seeds_reach_the_entries_that_are_named(tmp_path: Path):
    chosen = choose(
        tmp_path,
        models="videomae, cnn3d",
        data="rotors",
        size="tiny",
        checkpoint="none",
        seeds=["0,1", "4"],
    )
    found = [(e.name, e.size, e.checkpoint) for e in chosen.study.entries]
    assert found == [("videomae", "tiny", "none"), ("cnn3d", "tiny", "none")]
    assert chosen.study.seeds == [0, 1, 4]


def test_the_same_words_again_find_the_same_runs(tmp_path: Path):
    words: dict[str, Any] = {"models": "all", "data": "ucf101", "keys": REFERENCE}
    first = made(tmp_path, **words)
    assert ids(choose(tmp_path, **words)) == ids(first)
    assert ids(choose(tmp_path, models="all", data="ucf101")) == ids(first)
    assert ids(choose(tmp_path, name="ucf101")) == ids(first)


def test_another_model_joins_the_study_and_is_the_only_one_worked_on(tmp_path: Path):
    first = made(tmp_path, models="videomae", data="ucf101", keys=REFERENCE)
    second = choose(tmp_path, models="vivit", data="ucf101")
    assert [entry.name for entry in second.study.entries] == ["videomae", "vivit"]
    assert [spec.entry.name for spec in second.specs] == ["vivit"]
    assert second.left_out == set(ids(first))


def test_flags_go_on_top_of_a_file_and_set_on_top_of_flags(tmp_path: Path, race: Path):
    keys = {"train.epochs": 1, "train.batch_size": 2}
    study = choose(tmp_path, race, keys=keys, overrides=["train.batch_size=4"], size="tiny").study
    assert (study.train.epochs, study.train.batch_size, study.train.lr) == (1, 4, 1e-4)
    assert {entry.size for entry in study.entries} == {"tiny"}
    assert (
        study
        == choose(
            tmp_path,
            race,
            overrides=[
                "train.epochs=1",
                "train.batch_size=4",
                *(f"entries.{name}.size=tiny" for name in ("timesformer", "mae", "vivit")),
            ],
        ).study
    )


@pytest.mark.parametrize("models", ["mae", "videomae"])
def test_models_pick_entries_of_a_file_by_name_or_model_and_the_study_keeps_the_rest(
    tmp_path: Path, race: Path, models: str
):
    chosen = choose(tmp_path, race, models=models)
    assert chosen.entries == ("mae",)
    assert chosen.study == load_study(race)


def test_a_study_folder_is_found_by_path_and_by_name(tmp_path: Path, race: Path):
    runs = tmp_path / "runs"
    open_study(runs, load_study(race))
    for target in (runs / "race", Path("race"), runs / "race" / "study.yaml"):
        chosen = choose(runs, target)
        assert (chosen.study, chosen.runs_root) == (load_study(race), runs)


def test_judging_finds_the_only_study_the_named_one_or_the_one_on_the_data(tmp_path: Path):
    first = made(tmp_path, models="vivit", data="rotors")
    assert choose(tmp_path, build=False).study == first.study
    second = made(tmp_path, models="vivit", data="ucf101")
    assert choose(tmp_path, build=False, data="ucf101").study == second.study
    assert choose(tmp_path, build=False, name="rotors", models="all").study == first.study
    with pytest.raises(ConfigError, match=r"several studies: .*rotors.*ucf101"):
        choose(tmp_path, build=False)
    made(tmp_path, models="vivit", data="ucf101", name="again")
    with pytest.raises(ConfigError, match="several studies are on ucf101: again, ucf101"):
        choose(tmp_path, build=False, data="ucf101")


def test_all_means_the_entries_of_the_study_that_is_judged(tmp_path: Path):
    made(tmp_path, models="cnn3d,vivit", data="rotors")
    assert choose(tmp_path, build=False, models="all").entries == ("cnn3d", "vivit")


def test_another_protocol_forgets_what_only_the_old_one_knows(tmp_path: Path, race: Path):
    same = choose(tmp_path, race, keys={"protocol.name": "temporal-grid"}).study
    assert same.protocol.options == {"stride": [1, 4]}
    other = choose(tmp_path, race, keys={"protocol.name": "plain"}).study
    assert (other.protocol.options, other.compare.condition) == ({}, "reference")


def test_another_protocol_by_set_forgets_too_and_takes_options_that_follow(
    tmp_path: Path, race: Path
):
    overrides = ["protocol.name=matched", "protocol.options.frames=[1, 4]"]
    study = choose(tmp_path, race, overrides=overrides).study
    assert (study.protocol.options, study.compare.condition) == ({"frames": [1, 4]}, "reference")
    same = choose(tmp_path, race, overrides=["protocol.name=temporal-grid"]).study
    assert (same.protocol.options, same.compare.condition) == ({"stride": [1, 4]}, "c100s4")


def test_only_trained_models_are_judged_and_the_others_are_named(tmp_path: Path):
    chosen = made(tmp_path, models="all", data="rotors")
    with pytest.raises(ConfigError, match="timesformer seed 0, videomae seed 0, vivit seed 0"):
        check_trained(chosen, named=False)
    finish_training(chosen, "vivit")
    check_trained(chosen, named=False)
    with pytest.raises(ConfigError, match="not trained: timesformer seed 0") as caught:
        check_trained(chosen, named=True)
    assert "--model timesformer,videomae; or judge only --model vivit" in str(caught.value)
    check_trained(choose(tmp_path, build=False, models="vivit"), named=True)


WRONG = {
    "model": ({"models": "videomea", "data": "rotors"}, "did you mean 'videomae'"),
    "source": ({"models": "all", "data": "rotor"}, "did you mean 'rotors'"),
    "no model": ({"data": "rotors"}, "--model all"),
    "no data": ({"models": "all"}, "neither a study file nor --data"),
    "no study": ({"name": "new", "models": "all"}, "no study 'new' yet"),
    "size": ({"models": "all", "data": "rotors", "size": "huge"}, "'tiny', 'small' or 'base'"),
    "parallel": (
        {"models": "all", "data": "rotors", "keys": {"train.parallel": "dpp"}},
        "'none', 'ddp', 'fsdp' or 'dp'",
    ),
    "seed": ({"models": "all", "data": "rotors", "seeds": ["x"]}, "a whole number, got 'x'"),
    "name": ({"models": "all", "data": "rotors", "name": "../out"}, "a letter or digit first"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_a_wrong_flag_is_told_with_its_cure_and_writes_nothing(tmp_path: Path, wrong: str):
    flags, said = WRONG[wrong]
    with pytest.raises(ConfigError) as caught:
        choose(tmp_path / "runs", **flags)
    assert said in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_model_that_is_no_entry_of_the_file_is_told_with_the_nearest(tmp_path: Path, race: Path):
    with pytest.raises(UnknownNameError, match="no entry named 'vivitt'") as caught:
        choose(tmp_path, race, models="vivitt")
    assert "did you mean 'vivit'" in str(caught.value)


def test_a_study_on_other_data_is_not_taken_for_the_one_that_is_meant(tmp_path: Path, race: Path):
    with pytest.raises(ConfigError, match="on 'ucf101', not on 'rotors'"):
        choose(tmp_path, race, data="rotors")
    made(tmp_path, models="vivit", data="rotors", name="mine")
    with pytest.raises(ConfigError, match="on 'rotors', not on 'ucf101'"):
        choose(tmp_path, models="vivit", data="ucf101", name="mine")


def test_a_folder_that_is_no_study_is_a_named_error(tmp_path: Path):
    with pytest.raises(RegattaError, match="not a study folder"):
        choose(tmp_path, tmp_path)


def test_runs_that_other_settings_put_aside_are_told(tmp_path: Path):
    chosen = made(tmp_path, models="vivit", data="rotors", keys={"train.epochs": 5})
    finish_training(chosen, "vivit")
    assert notes_on(chosen, trains=True, ranks=0) == []
    changed = choose(tmp_path, models="vivit", data="rotors", keys={"train.epochs": 3})
    (note,) = notes_on(changed, trains=True, ranks=0)
    assert "train.epochs 5 -> 3" in note
    assert ids(chosen)[0] in note


def test_ddp_with_one_process_is_told_unless_there_are_more(tmp_path: Path):
    keys = {"train.parallel": "ddp"}
    chosen = choose(tmp_path, models="vivit", data="rotors", keys=keys)
    (note,) = notes_on(chosen, trains=True, ranks=0)
    assert "--devices N" in note
    assert notes_on(chosen, trains=True, ranks=2) == []
    more = choose(tmp_path, models="vivit", data="rotors", keys={**keys, "launch.devices": 2})
    assert notes_on(more, trains=True, ranks=0) == []


def test_torchrun_takes_only_training_of_models_that_train_in_several_processes(tmp_path: Path):
    single = choose(tmp_path, models="vivit", data="rotors")
    check_ranks(single, 1, trains_only=True)
    with pytest.raises(ConfigError, match="torchrun started 2 processes, but vivit trains in one"):
        check_ranks(single, 2, trains_only=True)
    with pytest.raises(ConfigError, match="torchrun is for training"):
        check_ranks(single, 2, trains_only=False)


def test_runs_that_are_left_out_are_neither_started_nor_touched(tmp_path: Path):
    with toy_study(tmp_path) as toy:
        folder = toy.prepare()
        said: list[str] = []
        code = run_study(
            folder,
            toy.study,
            stop=StopFlag(),
            echo=said.append,
            leave_out={toy.run_id("bob")},
            worker_command=_with_toys(toy),
        )
        assert code == 0
        assert toy.is_judged("ann")
        assert not toy.run("bob").status.exists()
        assert "train 1, judge 1 of 1 runs" in said[0]


def _with_toys(toy: Toy) -> tuple[str, ...]:
    """The toy worker, told by a wrapper where its orders are: our environment stays as it is."""
    variables = [f"{key}={toy.environment()[key]}" for key in ("PYTHONPATH", "REGATTA_TOY_ORDERS")]
    return ("/usr/bin/env", *variables, *WORKER_COMMAND)


def regatta(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "regatta", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.mark.parametrize("verb", ["train", "evaluate", "run"])
def test_help_shows_the_flags_in_groups(tmp_path: Path, verb: str):
    shown = regatta(tmp_path, verb, "--help").stdout
    assert "What to race" in shown
    assert "--model" in shown
    assert ("Recipe" in shown) == (verb != "evaluate")
    assert ("Judging" in shown) == (verb != "train")


@pytest.mark.slow
def test_training_and_judging_by_flags_alone_end_in_a_report(tmp_path: Path):
    few = [f"data.options.{key}=8" for key in ("train_clips", "validation_clips", "test_clips")]
    sets = [part for key in (*few, "data.options.frames=16") for part in ("--set", key)]
    what = ["--model", "cnn3d", "--data", "rotors", "--size", "tiny", "--checkpoint", "none"]
    recipe = ["--epochs", "1", "--batch-size", "4", "--lr", "1e-3", "--device", "cpu"]
    trained = regatta(tmp_path, "train", *what, *recipe, *sets)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    grid = ["--protocol", "temporal-grid", "--sample-size", "4", "--batch-size", "6"]
    judged = regatta(tmp_path, "evaluate", "--model", "all", *grid, "--json")
    assert judged.returncode == 0, judged.stderr
    view = json.loads(judged.stdout)
    assert [run["judged"] for run in view["runs"]] == [True]
    assert (tmp_path / view["report"]).is_file()
    saved = yaml.safe_load((tmp_path / "runs/rotors/study.yaml").read_text())
    assert (saved["train"]["batch_size"], saved["protocol"]["batch_size"]) == (4, 6)
    rows = (tmp_path / "runs/rotors/results/results_cnn3d.csv").read_text().splitlines()
    assert len(rows) == 1 + 25
    assert rows[1].split(",")[rows[0].split(",").index("n_samples")] == "4"
