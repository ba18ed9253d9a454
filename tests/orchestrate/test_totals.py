"""Promises of the estimates: schedules by the law, evidence in its order, nothing made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.config.expand import protocol_id
from regatta.core.files import append_json_line, write_json
from regatta.orchestrate.devices import DevicePool, Machine, Memory
from regatta.orchestrate.estimates import Counts, Estimate, estimate_entries
from regatta.orchestrate.plan import Plan, Resources, Task
from regatta.orchestrate.probe import Probe
from regatta.orchestrate.totals import finish_seconds, total
from tests.orchestrate.toy import Toy, toy_mapping

GIB = 2**30


def tasks_of(
    seconds: Sequence[float], *, devices: float = 1, needs: dict[int, list[int]] | None = None
) -> tuple[list[Task], dict[str, float]]:
    after = needs or {}
    tasks = [
        Task(
            str(i),
            "train",
            (),
            Path("log"),
            after=tuple(map(str, after.get(i, ()))),
            resources=Resources(devices),
        )
        for i in range(len(seconds))
    ]
    return tasks, {str(i): s for i, s in enumerate(seconds)}


@pytest.mark.parametrize(
    ("seconds", "places", "needs", "expected"),
    [
        ([3, 3, 3], 1, {}, 9),
        ([3, 3, 3], 3, {}, 3),
        ([3, 3, 3], 2, {}, 6),
        ([5, 3, 2], 2, {}, 5),  # 3 + 2 beside 5
        ([1, 1, 4], 3, {2: [0, 1]}, 5),  # the third waits for both
        ([2, 2, 2], 3, {1: [0], 2: [1]}, 6),  # a chain has no use for places
    ],
)
def test_the_time_is_that_of_list_scheduling(
    seconds: list[float], places: int, needs: dict, expected: float
):
    tasks, known = tasks_of(seconds, needs=needs)
    assert finish_seconds(tasks, known, lambda: DevicePool((), places)) == expected


def test_shares_of_a_gpu_run_side_by_side():
    tasks, known = tasks_of([4.0] * 4, devices=0.25)
    assert finish_seconds(tasks, known, lambda: DevicePool((0,), 4)) == 4
    tasks, known = tasks_of([4.0] * 4, devices=0.5)
    assert finish_seconds(tasks, known, lambda: DevicePool((0,), 2)) == 8


@given(seconds=st.lists(st.floats(0.1, 100), min_size=1, max_size=12), places=st.integers(1, 4))
def test_list_scheduling_keeps_grahams_bound(seconds: list[float], places: int):
    tasks, known = tasks_of(seconds)
    found = finish_seconds(tasks, known, lambda: DevicePool((), places))
    least = max(max(seconds), sum(seconds) / places)
    assert least - 1e-6 <= found <= (2 - 1 / places) * least + 1e-6


PROBE = Probe(
    "ok",
    train_seconds=0.1,
    judge_seconds=0.01,
    passes_per_sample=3,
    host_gib=1.0,
    kept_bytes=GIB,
    disk_bytes=2 * GIB,
    stages=("step",),
)
COUNTS = Counts(train=100, validation=20, judged=50)


def test_time_follows_from_samples_epochs_and_passes(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann",)))
    found = estimate_entries(toy.folder, toy.study, {"ann": PROBE}, COUNTS)["ann"]
    # 1 epoch of 100 training samples and 20 that are scored; then 50 samples, 3 passes each
    assert found.train_seconds == pytest.approx(100 * 0.1 + 20 * 0.01)
    assert found.judge_seconds == pytest.approx(50 * 3 * 0.01)
    assert found.train_basis == "probe"


def test_before_the_data_are_read_only_a_rate_is_told(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann",)))
    found = estimate_entries(toy.folder, toy.study, {"ann": PROBE}, None)["ann"]
    assert (found.train_seconds, found.judge_seconds) == (None, None)
    assert found.epoch_seconds_per_1000 == pytest.approx(100.0)


def test_without_evidence_nothing_is_known(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann",)))
    toy.mapping["launch"].pop("memory_gib_per_run")
    found = estimate_entries(toy.folder, toy.study, {}, COUNTS)["ann"]
    assert found == Estimate("ann")


def test_runs_that_were_trained_count_more_than_a_probe(tmp_path: Path):
    toy = Toy(tmp_path, {**toy_mapping(("ann",)), "seeds": [0, 1, 2]})
    toy.mapping["launch"].pop("memory_gib_per_run")
    toy.open()
    runs = [toy.folder.run(spec.run_id) for spec in toy.specs]
    write_json(runs[0].training_results, {"train_seconds": 40.0})
    write_json(runs[1].training_results, {"train_seconds": 60.0})
    write_json(runs[0].run_json, {**runs[0].info(), "peak_memory_gib": 2.5})
    folder = runs[0].predictions(protocol_id(toy.study.protocol))
    write_json(folder / "complete.json", {})
    write_json(
        folder / "cost-0-of-1.json",
        {"parts": {"0": {"wall_seconds": 2.0}, "1": {"wall_seconds": 3.0}}},
    )
    found = estimate_entries(toy.folder, toy.study, {"ann": PROBE}, COUNTS)["ann"]
    assert (found.train_seconds, found.train_basis) == (50.0, "2 trained runs")
    assert (found.host_gib, found.host_basis) == (2.5, "earlier runs")
    assert (found.judge_seconds, found.judge_basis) == (5.0, "1 judged run")


def test_a_run_that_began_tells_the_speed_of_all_that_it_does(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann",)))
    toy.open()
    run = toy.run("ann")
    append_json_line(run.metrics, {"step": 1, "split": "train", "samples_per_second": 4.0})
    append_json_line(run.metrics, {"step": 1, "split": "validation", "samples_per_second": 9.0})
    found = estimate_entries(toy.folder, toy.study, {"ann": PROBE}, COUNTS)["ann"]
    assert found.train_seconds == pytest.approx(100 / 4.0)


def test_what_the_user_fixed_holds(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann",), memory_gib_per_run=7.0))
    found = estimate_entries(toy.folder, toy.study, {"ann": PROBE}, COUNTS)["ann"]
    assert (found.host_gib, found.host_basis) == (7.0, "launch.memory_gib_per_run")


def totals_of(toy: Toy, estimate: Estimate, memory: Memory, *, free: int = 100 * GIB):
    tasks = [Task(f"train:{s.run_id}", "train", (), Path("log"), (s.run_id,)) for s in toy.specs]
    return total(
        toy.study,
        Plan(tuple(tasks)),
        {spec.entry.name: estimate for spec in toy.specs},
        machine=Machine(4, memory),
        make_pool=lambda: DevicePool((), 2),
        disk_free_bytes=free,
    )


def test_sums_are_of_what_runs_at_once_and_of_what_is_kept(tmp_path: Path):
    toy = Toy(tmp_path, {**toy_mapping(("ann",)), "seeds": [0, 1, 2, 3]})
    known = Estimate("ann", train_seconds=10.0, host_gib=3.0, kept_bytes=GIB, disk_bytes=2 * GIB)
    found = totals_of(toy, known, Memory(16.0, 8.0))
    assert (found.seconds, found.at_once, found.host_gib) == (20.0, 2, 6.0)
    # four runs are kept, and two are at their fullest at the end
    assert found.disk_bytes == 6 * GIB
    assert found.problems == []


def test_what_does_not_fit_is_told_with_its_sizes(tmp_path: Path):
    toy = Toy(tmp_path, {**toy_mapping(("ann",)), "seeds": [0, 1]})
    known = Estimate("ann", train_seconds=1.0, host_gib=30.0, kept_bytes=GIB, disk_bytes=GIB)
    (too_large,) = totals_of(toy, known, Memory(24.0, 20.0)).problems
    assert "30.0 GiB" in too_large
    assert "24.0" in too_large
    problems = totals_of(toy, known, Memory(64.0, 40.0), free=GIB).problems
    assert ["2 runs at once need 60.0 GiB" in text for text in problems] == [True, False]
    assert "the runs write 2.0 GiB" in problems[1]


def test_a_sum_that_lacks_a_measurement_is_none_and_names_it(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann",)))
    found = totals_of(toy, Estimate("ann"), Memory(16.0, 8.0))
    assert (found.seconds, found.host_gib, found.disk_bytes) == (None, None, None)
    assert set(found.unknown) == {"time", "memory", "disk"}
    assert found.unknown["time"] == ["ann"]
