"""Promises of the plan: exactly what is missing, in an order that makes sense."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regatta.config.expand import expand_study
from regatta.core.errors import ConfigError, DeviceError, MissingExtraError
from regatta.core.extras import TRACKER_PACKAGES
from regatta.core.files import read_json, write_json
from regatta.orchestrate.devices import Gpu, Machine, Memory, make_pool
from regatta.orchestrate.plan import fit_to_machine, is_prepared, plan_study, start_together
from regatta.orchestrate.run_states import remember_in_run_json
from regatta.records.metrics_stream import append_metrics
from tests.orchestrate.toy import Toy, toy_mapping


def test_a_new_study_is_prepared_trained_and_judged_in_that_order(toy: Toy):
    plan = plan_study(toy.open(), toy.study)
    assert [task.kind for task in plan.tasks] == ["prepare", "train", "train", "judge"]
    train, judge = plan.of_kind("train"), plan.of_kind("judge")[0]
    assert all(task.needs == ("prepare",) for task in train)
    assert judge.needs == ("prepare",)
    assert set(judge.after) == {task.id for task in train}
    assert judge.run_ids == (toy.run_id("ann"), toy.run_id("bob"))


def test_worker_command_lines_keep_the_contract(toy: Toy):
    folder = toy.open()
    prepare, train, _, judge = plan_study(folder, toy.study).tasks
    worker = [sys.executable, "-m", "regatta.worker"]
    study, place = ["--study", str(folder.path)], ["--device", "cuda:0", "--threads", "3"]
    assert prepare.argv(device="cuda:0", threads=3) == [*worker, "prepare", *study]
    ann, bob = toy.run_id("ann"), toy.run_id("bob")
    assert train.argv(device="cuda:0", threads=3) == [
        *(*worker, "train", *study, "--run", ann, *place)
    ]
    assert judge.argv(device="cuda:0", threads=3) == [
        *(*worker, "judge", *study, "--runs", f"{ann},{bob}", "--shard", "1/1", *place)
    ]


RUN_STATES = st.lists(st.sampled_from(["new", "trained", "judged"]), min_size=3, max_size=3)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(states=RUN_STATES)
def test_the_plan_holds_exactly_what_is_missing(
    states: list[str], tmp_path_factory: pytest.TempPathFactory
):
    names = ("ann", "bob", "cyd")
    toy = Toy(tmp_path_factory.mktemp("plan"), toy_mapping(names))
    folder = toy.prepare()
    for name, state in zip(names, states, strict=True):
        toy.finish_training(*[name] * (state != "new"))
        toy.finish_judging(*[name] * (state == "judged"))
    plan = plan_study(folder, toy.study)
    expected_train = {toy.run_id(n) for n, s in zip(names, states, strict=True) if s == "new"}
    expected_judge = {toy.run_id(n) for n, s in zip(names, states, strict=True) if s != "judged"}
    assert not plan.of_kind("prepare")
    assert {task.run_ids[0] for task in plan.of_kind("train")} == expected_train
    assert {run for task in plan.of_kind("judge") for run in task.run_ids} == expected_judge
    assert bool(plan.tasks) == (states != ["judged"] * 3)


def test_changed_data_settings_are_prepared_again(toy: Toy):
    folder = toy.prepare()
    assert is_prepared(folder, toy.study)
    other = Toy(toy.root, {**toy.mapping, "data": {"source": "toy", "split_seed": 7}})
    assert not is_prepared(folder, other.study)


def test_a_new_entry_is_measured_against_the_clips_before_it_trains(toy: Toy):
    folder = toy.prepare()
    facts = read_json(folder.data_json)
    write_json(folder.data_json, {**facts, "short_clips": {"ann": 0, "bob": 0}})
    assert is_prepared(folder, toy.study)
    larger = Toy(toy.root, toy_mapping(("ann", "bob", "cyd")))
    assert not is_prepared(folder, larger.study)


def test_a_half_prepared_study_is_prepared_again(toy: Toy):
    folder = toy.prepare()
    folder.manifest.unlink()
    assert not is_prepared(folder, toy.study)


@pytest.mark.parametrize(
    ("places", "protocol", "expected"),
    [
        (8, {}, 3),  # 40 test samples in parts of 16 are three files
        (2, {}, 2),
        (8, {"sample_size": 16}, 1),
        (8, {"part_samples": 5}, 8),
    ],
)
def test_no_shard_is_started_without_a_part_to_judge(
    toy: Toy, places: int, protocol: dict, expected: int
):
    toy = Toy(toy.root, {**toy.mapping, "protocol": {"name": "toy", **protocol}})
    folder = toy.prepare()
    shards = [t.shard for t in plan_study(folder, toy.study, judge_shards=places).of_kind("judge")]
    assert shards == [f"{number}/{expected}" for number in range(1, expected + 1)]


def test_the_longest_training_starts_first(tmp_path: Path):
    names = ("ann", "bob", "cyd", "dan")
    toy = Toy(tmp_path, toy_mapping(names))
    toy.prepare()
    # Earlier attempts were timed: bob is the slowest that is known, cyd and dan are unknown.
    for entry, speed in (("ann", 40.0), ("bob", 10.0)):
        append_metrics(
            toy.run(entry).metrics, {"split": "train", "step": 1, "samples_per_second": speed}
        )
    order = [task.run_ids[0] for task in plan_study(toy.folder, toy.study).of_kind("train")]
    assert order == [toy.run_id(name) for name in ("cyd", "dan", "bob", "ann")]


def sharing(toy: Toy, *, seeds: list[int], **launch: object) -> Toy:
    launch = {**toy.mapping.get("launch", {}), "share": True, **launch}
    return Toy(toy.root, {**toy.mapping, "seeds": seeds, "launch": launch})


def test_runs_that_share_their_clips_start_one_seed_after_the_other(tmp_path: Path):
    toy = sharing(Toy(tmp_path, toy_mapping(("ann", "bob"))), seeds=[7, 3])
    toy.prepare()
    seeds = {spec.run_id: spec.seed for spec in expand_study(toy.study)}
    plan = plan_study(toy.folder, toy.study)
    assert [seeds[task.run_ids[0]] for task in plan.of_kind("train")] == [7, 7, 3, 3]


@pytest.mark.parametrize(
    ("cores", "gpus", "launch", "expected"),
    [
        (2, 0, {}, 3),  # all entries, on however few cores
        (8, 0, {}, 8),
        (2, 0, {"max_parallel": 2}, 2),
        (2, 0, {"share": False}, None),
        (2, 1, {"device": "auto"}, None),  # on GPUs the places are their shares
    ],
)
def test_runs_that_share_their_clips_have_a_place_each(
    tmp_path: Path, cores: int, gpus: int, launch: dict, expected: int | None
):
    toy = Toy(tmp_path, toy_mapping(("ann", "bob", "cyd")))
    toy = sharing(toy, seeds=[0, 1], **{"device": "cpu", "max_parallel": None, **launch})
    found = tuple(Gpu(number, f"GPU-{number}", "toy", 8.0, 8.0) for number in range(gpus))
    machine = Machine(cores, Memory(8.0, 8.0), found)
    assert start_together(toy.study, machine).max_parallel == expected


def test_the_length_of_training_counts_too(tmp_path: Path):
    mapping = toy_mapping(("ann", "bob"))
    mapping["entries"][0]["train"] = {"epochs": 10}
    toy = Toy(tmp_path, mapping)
    toy.prepare()
    for entry, speed in (("ann", 40.0), ("bob", 10.0)):
        append_metrics(
            toy.run(entry).metrics, {"split": "train", "step": 1, "samples_per_second": speed}
        )
    # 10 epochs at 40 per second take 2.5 times as long as 1 epoch at 10.
    first = plan_study(toy.folder, toy.study).of_kind("train")[0]
    assert first.run_ids == (toy.run_id("ann"),)


def test_what_is_given_up_is_not_planned_and_separate_judging_is_one_task_per_run(tmp_path: Path):
    names = ("ann", "bob", "cyd")
    toy = Toy(tmp_path, toy_mapping(names))
    folder = toy.prepare()
    toy.finish_training(*names)
    plan = plan_study(folder, toy.study, judge_separately=True, skip={toy.run_id("bob")})
    assert [task.run_ids for task in plan.tasks] == [(toy.run_id("ann"),), (toy.run_id("cyd"),)]
    assert all(task.shard == "1/1" for task in plan.tasks)


def with_parallel(root: Path, parallel: str | None, **launch: Any) -> Toy:
    mapping = toy_mapping(("ann",), **launch)
    mapping["train"] = {} if parallel is None else {"parallel": parallel}
    return Toy(root, mapping)


def test_several_devices_for_one_process_are_refused(tmp_path: Path):
    toy = with_parallel(tmp_path, "none", devices=2)
    with pytest.raises(ConfigError, match="ann is one process"):
        plan_study(toy.open(), toy.study)


@pytest.mark.parametrize(("said", "parallel"), [(None, "ddp"), ("ddp", "ddp"), ("fsdp", "fsdp")])
def test_several_devices_are_so_many_processes_and_mean_ddp_unless_said(
    tmp_path: Path, said: str | None, parallel: str
):
    toy = with_parallel(tmp_path, said, devices=2)
    assert toy.study.train.parallel == parallel
    plan = plan_study(toy.open(), toy.study)
    train, judge = plan.of_kind("train")[0], plan.of_kind("judge")[0]
    assert (train.resources.devices, judge.resources.devices) == (2, 1)
    assert (train.resources.processes, judge.resources.processes) == (2, 1)


@pytest.mark.parametrize(("gpus", "ids", "taken"), [(3, None, 3), (4, [0, 1, 3], 3), (2, None, 2)])
def test_dp_is_one_process_on_all_gpus_that_it_may_use(
    tmp_path: Path, gpus: int, ids: list[int] | None, taken: int
):
    cards = tuple(Gpu(i, f"GPU-{i}", "NVIDIA A100", 40.0, 40.0) for i in range(gpus))
    machine = Machine(8, Memory(64.0, 60.0), cards)
    toy = with_parallel(tmp_path, "dp", device="auto", device_ids=ids)
    study = fit_to_machine(toy.study, machine)
    train = plan_study(toy.open(), study).of_kind("train")[0]
    assert (train.resources.devices, train.resources.processes) == (taken, 1)
    placement = make_pool(machine, study.launch, runs=1).take(train.resources.devices)
    assert placement is not None
    assert placement.gpu_ids == tuple(ids or range(gpus))


@pytest.mark.parametrize(("gpus", "ids"), [(0, None), (1, None), (2, [1])])
def test_dp_without_two_gpus_is_refused_with_what_exists(
    tmp_path: Path, gpus: int, ids: list[int] | None
):
    cards = tuple(Gpu(i, f"GPU-{i}", "NVIDIA A100", 40.0, 40.0) for i in range(gpus))
    toy = with_parallel(tmp_path, "dp", device="auto", device_ids=ids)
    with pytest.raises(DeviceError, match="dp needs 2 or more GPUs") as refused:
        fit_to_machine(toy.study, Machine(8, Memory(64.0, 60.0), cards))
    assert f" {min(gpus, 1)}" in refused.value.what
    assert "this machine has" in str(refused.value)


def test_fsdp_with_fp16_is_refused(tmp_path: Path):
    toy = with_parallel(tmp_path, "fsdp", devices=2)
    train = toy.study.train.model_copy(update={"precision": "fp16"})
    study = toy.study.model_copy(update={"train": train})
    with pytest.raises(ConfigError, match="does not go with fp16"):
        plan_study(toy.open(), study)


def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(TRACKER_PACKAGES, "mlflow", "no_such_package_of_regatta")
    toy = with_parallel(tmp_path, None, track=["mlflow"])
    with pytest.raises(MissingExtraError, match="mlflow is not installed") as refused:
        plan_study(toy.open(), toy.study)
    assert "pip install -c constraints.txt 'regatta[mlflow]'" in str(refused.value)


def test_memory_is_what_the_user_says_else_what_was_measured_else_a_guess(tmp_path: Path):
    mapping = toy_mapping(("ann", "bob"), memory_gib_per_run=None)
    mapping["train"]["frame_cache_gib"] = 2.0
    toy = Toy(tmp_path, mapping)
    toy.prepare()
    remember_in_run_json(toy.run("ann"), peak_memory_gib=0.7)
    ann, bob = plan_study(toy.folder, toy.study).of_kind("train")
    assert ann.resources.memory_gib == 0.7
    assert bob.resources.memory_gib > 2.0  # the frame cache, and a tiny model
    judge = plan_study(toy.folder, toy.study).of_kind("judge")[0]
    assert judge.resources.memory_gib == bob.resources.memory_gib
    fixed = Toy(tmp_path, toy_mapping(("ann", "bob"), memory_gib_per_run=9.0))
    assert all(
        task.resources.memory_gib == 9.0 and task.resources.memory_is_fixed
        for task in plan_study(toy.folder, fixed.study).tasks
    )
