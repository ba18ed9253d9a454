"""What entries cost and were given: sums in closed form, and "not measured" where a part lacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regatta.analysis.budget import BUDGET_KEYS, device_seconds, training_flops
from regatta.analysis.compare import compare_study
from regatta.analysis.folds import join_training
from regatta.config.expand import TRAINING_RECORD_VERSION
from regatta.core.errors import ConfigError
from regatta.core.files import read_json, write_json
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study

QUICK = {"replicates": 200}
Change = Callable[[str, int], dict[str, Any]]


def built(path: Path, **settings: Any) -> StudyFolder:
    options = {"entries": 2, "samples": 24, "protocol": "plain", "compare": QUICK}
    return build_judged_study(path, **{**options, **settings})


def altered(folder: StudyFolder, change: Change) -> dict[str, Any]:
    """The comparison after `change(entry, seed)` was written over each training record."""
    for spec, run in folder.runs():
        record = read_json(run.training_results)
        write_json(run.training_results, {**record, **change(spec.entry.name, spec.seed)})
    return compare_study(folder)


def costs(comparison: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry["cost"] for entry in comparison["entries"]}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"train_seconds": 10.0, "devices": 4}, 40.0),
        ({"train_seconds": 10.0, "devices": 4, "world": 1}, 40.0),
        ({"train_seconds": 10.0, "world": 2}, 20.0),
        ({"train_seconds": 10.0, "config": {"world": 3, "mode": "ddp"}}, 30.0),
        # One process that drives several GPUs; records from before their number was kept.
        ({"train_seconds": 10.0, "world": 1, "config": {"mode": "dp", "world": 1}}, None),
        ({"train_seconds": 10.0, "devices": 2, "config": {"mode": "dp", "world": 1}}, 20.0),
        ({"devices": 2}, None),
        ({"train_seconds": 10.0}, None),
        ({}, None),
    ],
)
def test_device_seconds_are_seconds_times_devices(
    record: dict[str, Any], expected: float | None
) -> None:
    assert device_seconds(record) == expected


WHOLE = {"flops_per_clip": 2e9, "samples_seen": 100, "parameters": 7, "trained_parameters": 7}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 6e11),
        ({"trained_parameters": 3}, None),
        ({"trained_parameters": None}, None),
        ({"flops_per_clip": None}, None),
        ({"samples_seen": None}, None),
        ({"fitted": {"setting": {}}}, None),
    ],
)
def test_training_flops_are_estimated_only_where_the_whole_model_learns(
    change: dict[str, Any], expected: float | None
) -> None:
    assert training_flops({**WHOLE, **change}) == expected


def test_every_cost_of_an_entry_is_the_mean_of_its_seeds(tmp_path: Path) -> None:
    folder = built(tmp_path, seeds=(0, 1))

    def change(entry: str, seed: int) -> dict[str, Any]:
        return {
            "train_seconds": 10.0 + 20.0 * seed,
            "devices": 2,
            "peak_memory_gib": 1.0 + seed,
            "energy_joules": 100.0 + 50.0 * seed,
            "energy_source": "gpu board",
        }

    cost = costs(altered(folder, change))["timesformer"]
    assert cost["train_seconds"] == 20.0
    assert cost["device_seconds"] == 40.0
    assert cost["peak_memory_gib"] == 2.0
    assert (cost["energy_joules"], cost["energy_source"]) == (125.0, "gpu board")
    # 6 s decoding, 1.5 s preparing, 0.25 s for each of 8 frames; 24 samples in one condition.
    assert cost["judging_seconds_per_sample"] == pytest.approx(9.5 / 24)
    assert cost["parameters"] == 1_080_000
    assert cost["flops_per_clip"] == 8e9


def test_energy_of_a_seed_that_was_not_measured_leaves_the_entry_unmeasured(tmp_path: Path) -> None:
    folder = built(tmp_path, seeds=(0, 1))
    # Records of former versions do not even have the keys.
    assert costs(compare_study(folder))["videomae"]["energy_joules"] is None
    sources = ("cpu package", "gpu board")
    comparison = altered(folder, lambda _, s: {"energy_joules": 5.0, "energy_source": sources[s]})
    assert costs(comparison)["videomae"]["energy_joules"] is None
    comparison = altered(folder, lambda *_: {"energy_joules": 5.0, "energy_source": sources[0]})
    assert costs(comparison)["videomae"]["energy_joules"] == 5.0
    comparison = altered(folder, lambda _, s: {"energy_joules": None if s else 5.0})
    assert costs(comparison)["videomae"]["energy_joules"] is None


def test_energy_of_folds_is_their_sum_and_of_one_kind() -> None:
    parts = [{"energy_joules": 2.0, "energy_source": "cpu package"} for _ in range(3)]
    joined = join_training(parts)
    assert (joined["energy_joules"], joined["energy_source"]) == (6.0, "cpu package")
    mixed = join_training([*parts, {"energy_joules": 2.0, "energy_source": "gpu board"}])
    assert "energy_source" not in mixed
    assert join_training([*parts, {"energy_joules": None}])["energy_joules"] is None


def test_the_ledger_has_every_part_of_the_budget(tmp_path: Path) -> None:
    comparison = compare_study(built(tmp_path))
    assert BUDGET_KEYS == ("epochs", "steps", "samples_seen", "trials")
    for row in comparison["budget"]["entries"]:
        assert set(BUDGET_KEYS) <= set(row)
        assert {"flops_per_clip", "training_flops_estimate", "train_seconds"} <= set(row)
        assert {"device_seconds", "skipped_steps", "best_epoch", "runs"} <= set(row)


@pytest.mark.fault(18)
def test_steps_that_were_left_out_are_counted_and_told(tmp_path: Path) -> None:
    folder = built(tmp_path, seeds=[0, 1])
    comparison = altered(
        folder,
        lambda name, seed: {"skipped_steps": 2 + seed} if name == "videomae" else {},
    )
    said = "videomae: 5 optimizer steps were left out because loss or gradient was not finite"
    assert [w for w in comparison["budget"]["warnings"] if said in w]
    assert not [w for w in comparison["budget"]["warnings"] if "timesformer: " in w]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("history", {"epoch": [1, 2]}, "different epochs: timesformer 3, videomae 2"),
        ("steps", 74, "different steps: timesformer 75, videomae 74"),
        ("samples_seen", 599, "different samples seen: timesformer 600, videomae 599"),
        ("trials", 5, "different numbers of tuning trials: timesformer not recorded, videomae 5"),
    ],
)
def test_each_difference_of_the_budget_is_warned_about(
    tmp_path: Path, key: str, value: Any, said: str
) -> None:
    folder = built(tmp_path)
    assert compare_study(folder)["budget"]["warnings"] == []
    comparison = altered(folder, lambda entry, _: {key: value} if entry == "videomae" else {})
    (warning,) = comparison["budget"]["warnings"]
    assert said in warning
    assert warning in comparison["notes"]


def test_unequal_compute_is_told_with_its_ratio_and_called_an_estimate(tmp_path: Path) -> None:
    folder = built(tmp_path)
    assert compare_study(folder)["budget"]["compute"] is None
    parameters = {"timesformer": 1_080_000, "videomae": 1_160_000}
    comparison = altered(folder, lambda entry, _: {"trained_parameters": parameters[entry]})
    budget = comparison["budget"]
    # 3 x 8e9 and 3 x 16e9 operations on each of 600 clips.
    assert [r["training_flops_estimate"] for r in budget["entries"]] == [1.44e13, 2.88e13]
    assert budget["compute"].startswith("estimated training FLOPs differ up to 2-fold: timesformer")
    assert "1.44e+13, videomae 2.88e+13 (3 x forward x samples seen" in budget["compute"]
    assert budget["warnings"] == []


def test_trials_that_the_author_states_stand_in_the_ledger(tmp_path: Path) -> None:
    stated = {"timesformer": 12, "videomae": 3}
    folder = built(tmp_path, compare={**QUICK, "tuning_trials": stated})
    budget = compare_study(folder)["budget"]
    assert {row["entry"]: row["trials"] for row in budget["entries"]} == stated
    assert "different numbers of tuning trials: timesformer 12, videomae 3" in budget["warnings"][0]
    assert budget["stated_trials"] == stated


def test_trials_of_an_unknown_entry_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tuning_trials names no entry: vivitt"):
        built(tmp_path, compare={"tuning_trials": {"vivitt": 2}})


def test_costs_and_trials_change_no_run_id(tmp_path: Path) -> None:
    plain = [spec.run_id for spec, _ in built(tmp_path / "plain").runs()]
    stated = built(tmp_path / "stated", compare={**QUICK, "tuning_trials": {"videomae": 9}})
    assert [spec.run_id for spec, _ in stated.runs()] == plain
    # Energy and the number of devices are facts of a run and nothing that its weights depend on.
    assert TRAINING_RECORD_VERSION == 2
