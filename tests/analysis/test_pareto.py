"""The accuracy-cost front: closed forms, laws, and a defined answer to every odd input."""

from __future__ import annotations

import csv
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.analysis.compare import compare_study
from regatta.analysis.pareto import beaten, front_chances
from regatta.core.files import read_json, write_json
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study

QUICK = {"replicates": 400}


def on_front(accuracy: list[float], cost: list[float]) -> list[bool]:
    return [not row.any() for row in beaten(np.array(accuracy), np.array(cost))]


@pytest.mark.parametrize(
    ("accuracy", "cost", "expected"),
    [
        ([0.9, 0.8, 0.7], [3, 2, 1], [True, True, True]),
        ([0.7, 0.8, 0.9], [3, 2, 1], [False, False, True]),
        ([0.8, 0.9, 0.85], [1, 5, 6], [True, True, False]),
        # Equal in both: neither is better than the other.
        ([0.8, 0.8], [2, 2], [True, True]),
        # Equal cost: the more accurate one beats. Equal accuracy: the cheaper one.
        ([0.8, 0.7], [2, 2], [True, False]),
        ([0.8, 0.8], [2, 3], [True, False]),
        ([0.5], [7], [True]),
        # Sums of equal fractions that differ in the last bit are the same accuracy.
        ([0.1 + 0.2, 0.3], [1, 1], [True, True]),
    ],
)
def test_the_front_is_what_nobody_beats(
    accuracy: list[float], cost: list[float], expected: list[bool]
) -> None:
    assert on_front(accuracy, cost) == expected


def test_the_front_equals_the_one_of_a_sorted_sweep() -> None:
    """Kung, Luccio and Preparata 1975: sorted by cost, the front is where accuracy rises."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 13))
        accuracy, cost = rng.integers(0, 6, count) / 5, rng.integers(1, 6, count).astype(float)
        best, swept = -1.0, set()
        for c in sorted(set(cost)):
            top = accuracy[cost == c].max()
            if top > best:
                swept |= set(np.flatnonzero((cost == c) & (accuracy == top)))
                best = top
        assert set(np.flatnonzero(on_front(accuracy.tolist(), cost.tolist()))) == swept


def test_a_chance_is_the_share_of_replicates_that_are_not_beaten() -> None:
    """A dearer entry is on the front exactly where it is strictly more accurate."""
    rng = np.random.default_rng(1)
    cheap, dear = rng.integers(0, 11, (2, 50_000)) / 10
    chances = front_chances(np.stack([cheap, dear], axis=1), np.array([1.0, 2.0]))
    assert chances[0] == 1.0
    assert chances[1] == (dear > cheap).mean()
    # Uniform on 11 values: P(dear > cheap) = (1 - 1/11) / 2.
    assert chances[1] == pytest.approx(5 / 11, abs=0.01)


def test_of_many_equal_rivals_in_a_row_of_costs_each_is_first_by_chance() -> None:
    """Independent continuous accuracies, rising costs: entry k is on the front with chance 1/k."""
    replicates = np.random.default_rng(2).uniform(size=(40_000, 6))
    chances = front_chances(replicates, np.arange(1.0, 7.0))
    assert chances == pytest.approx(1 / np.arange(1, 7), abs=0.01)


def altered(folder: StudyFolder, change: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
    for spec, run in folder.runs():
        record = read_json(run.training_results)
        write_json(run.training_results, {**record, **change(spec.entry.name, record)})


def axis_of(comparison: dict[str, Any], cost: str) -> dict[str, Any]:
    return next(axis for axis in comparison["pareto"]["axes"] if axis["cost"] == cost)


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return build_judged_study(
        tmp_path, samples=96, protocol="plain", compare=QUICK, skills=(3.0, 1.5, -1.0)
    )


def test_the_section_tells_front_chance_and_rivals_of_every_cost(study: StudyFolder) -> None:
    seconds = {"timesformer": 30.0, "videomae": 10.0, "vivit": 20.0}
    altered(study, lambda entry, _: {"train_seconds": seconds[entry]})
    comparison = compare_study(study)
    axis = axis_of(comparison, "train_seconds")
    rows = {row["entry"]: row for row in axis["entries"]}
    accuracy = {e["name"]: e["accuracy"] for e in comparison["entries"]}
    assert {name: row["accuracy"] for name, row in rows.items()} == accuracy
    assert {name: row["cost"] for name, row in rows.items()} == seconds
    assert axis["front"] == ["videomae", "timesformer"]
    assert rows["vivit"]["beaten_by"] == ["videomae"]
    assert rows["videomae"]["probability_on_front"] == 1.0
    assert rows["vivit"]["probability_on_front"] == 0.0
    assert axis["sentence"] == (
        "by training time, videomae and timesformer are on the front; vivit is beaten by videomae"
    )
    # Parameters and operations rise in the order of the study, and accuracy falls.
    assert axis_of(comparison, "parameters")["front"] == ["timesformer"]
    assert comparison["pareto"]["sentence"].startswith("timesformer is on the front of every cost")
    assert comparison["pareto"]["replicates"] == 400


def test_the_file_has_a_row_per_cost_and_entry(study: StudyFolder) -> None:
    compare_study(study)
    with open(study.results / "pareto.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 3
    assert {row["cost"] for row in rows if not row["value"]} == {"energy_joules"}
    beaten_rows = {(row["cost"], row["entry"]): row for row in rows}
    assert beaten_rows["parameters", "vivit"]["beaten_by"] == "timesformer videomae"


def test_a_missing_cost_neither_wins_nor_loses(study: StudyFolder) -> None:
    altered(study, lambda entry, _: {"train_seconds": None if entry == "timesformer" else 5.0})
    axis = axis_of(compare_study(study), "train_seconds")
    assert axis["not_measured"] == ["timesformer"]
    assert axis["front"] == ["videomae"]
    altered(study, lambda entry, _: {"train_seconds": 5.0 if entry == "vivit" else None})
    axis = axis_of(compare_study(study), "train_seconds")
    assert axis["sentence"] == "training time: known of vivit alone, so there is nothing to weigh"


def test_without_any_cost_there_is_a_sentence_and_no_front(study: StudyFolder) -> None:
    for _, run in study.runs():
        run.training_results.unlink()
    section = compare_study(study)["pareto"]
    axis = next(axis for axis in section["axes"] if axis["cost"] == "parameters")
    assert (axis["front"], axis["entries"]) == ([], [])
    assert axis["sentence"] == "parameters: not measured, so there is no front"


def test_energy_of_other_counters_is_not_weighed(study: StudyFolder) -> None:
    energy = {"energy_joules": 4.0, "energy_source": "cpu package"}
    altered(study, lambda *_: energy)
    axis = axis_of(compare_study(study), "energy_joules")
    assert axis["front"] == ["timesformer"]
    altered(
        study,
        lambda entry, _: {"energy_source": "gpu board" if entry == "vivit" else "cpu package"},
    )
    axis = axis_of(compare_study(study), "energy_joules")
    assert axis["entries"] == []
    assert axis["not_measured"] == ["timesformer", "videomae", "vivit"]
    assert "measured by different counters" in axis["sentence"]


def test_times_of_different_devices_are_marked(study: StudyFolder) -> None:
    altered(study, lambda entry, _: {"device": "cuda:1" if entry == "vivit" else "cuda:0"})
    assert axis_of(compare_study(study), "train_seconds")["note"] is None
    altered(study, lambda entry, _: {"device": "cpu" if entry == "vivit" else "cuda:0"})
    assert "cpu, cuda" in axis_of(compare_study(study), "train_seconds")["note"]


def test_one_entry_and_one_group_have_a_front_without_chances(tmp_path: Path) -> None:
    folder = build_judged_study(
        tmp_path, entries=1, samples=8, samples_per_group=8, protocol="plain", compare=QUICK
    )
    section = compare_study(folder)["pareto"]
    (row,) = section["axes"][0]["entries"]
    assert (row["on_front"], row["probability_on_front"]) == (True, None)
    assert "none can be weighed" in section["sentence"]


def test_identical_entries_of_equal_cost_share_the_front(tmp_path: Path) -> None:
    def same(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.random.default_rng(1).normal(size=scores.shape).astype(np.float32)

    folder = build_judged_study(
        tmp_path, entries=["vivit", "vivit-b"], samples=48, protocol="plain", compare=QUICK,
        alter=same,
    )  # fmt: skip
    axis = axis_of(compare_study(folder), "parameters")
    assert axis["front"] == ["vivit", "vivit-b"]
    assert [row["probability_on_front"] for row in axis["entries"]] == [1.0, 1.0]


def test_memory_does_not_grow_with_replicates_times_pairs() -> None:
    """One table of all replicates and pairs alone would take 36 MB."""
    replicates = np.random.default_rng(0).uniform(size=(10_000, 60))
    tracemalloc.start()
    chances = front_chances(replicates, np.arange(60.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chances[0] == 1.0
    assert peak < 24e6
