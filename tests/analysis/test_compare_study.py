"""A whole comparison on judged studies on disk: numbers, files, and answers to bad input."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regatta.analysis.compare import compare_study
from regatta.config.expand import protocol_id
from regatta.core.errors import ConfigError
from regatta.core.files import read_json, write_json
from regatta.records.predictions import read_run_predictions
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study

QUICK = {"replicates": 400}
HOSTILE = ("=cmd()", '"><img src=x onerror=alert(1)>', "$\\input{x}$", "-1+1", "a,b\nc")

Study = tuple[StudyFolder, dict[str, Any]]


def compared(path: Path, **changes: Any) -> Study:
    options: dict[str, Any] = {"samples": 48, "compare": QUICK, **changes}
    folder = build_judged_study(path, **options)
    return folder, compare_study(folder)


def stored_accuracy(folder: StudyFolder) -> dict[str, np.ndarray]:
    """Entry -> accuracy per condition, straight from the prediction files, mean over seeds."""
    found: dict[str, list[np.ndarray]] = {}
    for spec, run in folder.runs():
        predictions = read_run_predictions(
            run.predictions(protocol_id(folder.study().protocol)),
            run_id=spec.run_id,
            entry=spec.entry.name,
            seed=spec.seed,
        )
        found.setdefault(spec.entry.name, []).append(predictions.correct().mean(axis=1))
    return {entry: np.mean(values, axis=0) for entry, values in found.items()}


def read_table(path: Path) -> Any:
    return pd.read_csv(path)


def walk(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [x for item in value.values() for x in walk(item)]
    if isinstance(value, list):
        return [x for item in value for x in walk(item)]
    return [value]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return compared(tmp_path_factory.mktemp("three"), samples=240, classes=8)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return compared(tmp_path_factory.mktemp("seeds"), entries=2, seeds=(0, 1, 2))


def test_result_table_has_75_rows_with_the_accuracies_of_the_store(three: Study) -> None:
    folder, _ = three
    table = read_table(folder.results / "results_multimodel.csv")
    assert len(table) == 75
    for entry, accuracy in stored_accuracy(folder).items():
        mine = table[table["model"] == entry]
        assert mine["accuracy"].to_numpy() == pytest.approx(accuracy)
        assert (mine["correct"] / mine["n_samples"]).to_numpy() == pytest.approx(accuracy)
        assert (mine["accuracy_low"] <= mine["accuracy"]).all()
        assert (mine["accuracy"] <= mine["accuracy_high"]).all()
        alone = read_table(folder.results / f"results_{entry}.csv")
        assert alone.equals(mine.reset_index(drop=True))


def test_identical_and_still_conditions_are_marked(three: Study) -> None:
    table = read_table(three[0].results / "results_videomae.csv").set_index("condition")
    assert table.loc["c10s8", "identical_to"] == "c10s16"
    assert table.loc["c10s16", "still_share"] == 1
    assert table.loc["c10s8", "accuracy"] == table.loc["c10s16", "accuracy"]
    assert np.isnan(float(table["rate_hz"]["c10s16"]))


def test_per_class_table_averages_back_to_the_result_table(three: Study) -> None:
    folder, _ = three
    per_class = read_table(folder.results / "per_class_vivit.csv")
    assert list(per_class.columns) == ["class", "coverage", "stride", "accuracy", "n_samples"]
    assert len(per_class) == 25 * 8
    hits = (per_class["accuracy"] * per_class["n_samples"]).groupby(
        [per_class["coverage"], per_class["stride"]]
    )
    results = read_table(folder.results / "results_vivit.csv").set_index(["coverage", "stride"])
    assert hits.sum().to_numpy() == pytest.approx(results["correct"].sort_index().to_numpy())


def test_every_file_listed_is_there_and_no_other(three: Study) -> None:
    folder, comparison = three
    there = {str(p.relative_to(folder.results)) for p in folder.results.rglob("*") if p.is_file()}
    assert there == set(comparison["files"])
    for name in (
        "results_timesformer.csv",
        "results_multimodel.csv",
        "per_class_vivit.csv",
        "multimodel_analysis.json",
        "comparison.json",
        "videomae/statistical_results.json",
        "videomae/pairwise_coverage_comparisons.csv",
        "videomae/summary_statistics_by_coverage.csv",
        "videomae/per_class_drop.csv",
    ):
        assert name in there


def test_comparison_json_is_what_was_returned_and_holds_no_nan(three: Study) -> None:
    folder, comparison = three
    text = (folder.results / "comparison.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == comparison
    assert not any(isinstance(x, float) and not np.isfinite(x) for x in walk(comparison))


def test_verdict_is_about_the_two_best_at_the_reference(three: Study) -> None:
    folder, comparison = three
    at_reference = {name: values[20] for name, values in stored_accuracy(folder).items()}
    order = sorted(at_reference, key=lambda name: -at_reference[name])
    verdict = comparison["verdict"]
    assert verdict["condition"] == comparison["headline_condition"] == "c100s1"
    assert (verdict["leader"], verdict["runner_up"]) == (order[0], order[1])
    assert "paired over 60 groups, 1 seed; training noise is not covered" in verdict["sentence"]
    assert len(verdict["details"]) == 3
    assert comparison["entries"][0]["accuracy"]["estimate"] == pytest.approx(
        at_reference["timesformer"]
    )


def test_clearly_best_entry_is_ahead(tmp_path: Path) -> None:
    _, comparison = compared(tmp_path, samples=400, protocol="plain", skills=(4.0, 0.0, -1.0))
    assert comparison["verdict"]["kind"] == "ahead"
    assert comparison["verdict"]["sentence"].startswith("timesformer is ahead of videomae by")
    assert comparison["ranking"]["headline"][0]["probability_first"] > 0.99


def test_pairs_carry_design_and_exact_companions(three: Study) -> None:
    pairs = three[1]["pairs"]
    assert pairs["family_sizes"] == {"headline": 3, "average": 3, "by_condition": 75}
    first = pairs["headline"][0]
    counts = first["mcnemar"][0]
    gap = (counts["only_first"] - counts["only_second"]) / 240
    assert first["difference_points"]["estimate"] == pytest.approx(100 * gap)
    assert pairs["cochran_q"][0]["df"] == 2
    assert len(pairs["by_condition"]) == 25


def test_provenance_states_what_the_numbers_rest_on(three: Study) -> None:
    provenance = three[1]["provenance"]
    assert (provenance["n"], provenance["groups"], provenance["replicates"]) == (240, 60, 400)
    assert provenance["correction"] == "holm"
    assert "60 groups" in three[1]["methods"]


def test_published_analysis_stands_beside_with_its_faults(three: Study) -> None:
    folder, comparison = three
    statistics = read_json(folder.results / "vivit" / "statistical_results.json")
    assert statistics["anova_coverage"]["df_within"] == 5 * 8 - 5
    assert len(statistics["faults"]) >= 3
    assert comparison["published"]["across_models"]["anova_models"]["df_within"] == 72
    multimodel = read_json(folder.results / "multimodel_analysis.json")
    assert multimodel["anova_models"] == comparison["published"]["across_models"]["anova_models"]


def test_cost_is_attributed_and_the_ledger_is_even(three: Study) -> None:
    _, comparison = three
    cost = comparison["entries"][2]["cost"]
    # 6 s decode, 1.5 s preprocess, 0.25 s per frame forward, for 25 conditions of 240 samples.
    assert cost["judging_seconds"] == pytest.approx(15.5)
    assert cost["judging_seconds_per_sample"] == pytest.approx(15.5 / 240)
    rows = [row for row in comparison["table"] if row["model"] == "vivit"]
    assert rows[0]["elapsed_time"] == pytest.approx(15.5 / 25)
    ledger = comparison["budget"]
    assert [row["samples_seen"] for row in ledger["entries"]] == [600, 600, 600]
    assert ledger["warnings"] == []
    assert ledger["entries"][0]["trials"] is None


def test_same_study_compares_to_the_same_bytes(three: Study) -> None:
    folder, _ = three
    before = {p: p.read_bytes() for p in folder.results.rglob("*") if p.is_file()}
    compare_study(folder)
    assert before == {p: p.read_bytes() for p in folder.results.rglob("*") if p.is_file()}


def test_seeds_are_averaged_and_shown_one_by_one(seeds: Study) -> None:
    folder, comparison = seeds
    table = read_table(folder.results / "results_multimodel.csv")
    assert len(table) == 50
    assert set(table["seeds"]) == {3}
    for entry, accuracy in stored_accuracy(folder).items():
        mine = table[table["model"] == entry]
        assert mine["accuracy"].to_numpy() == pytest.approx(accuracy)
    first = comparison["entries"][0]
    assert list(first["accuracy_by_seed"]) == ["0", "1", "2"]
    mean = np.mean(list(first["accuracy_by_seed"].values()))
    assert first["accuracy"]["estimate"] == pytest.approx(mean)
    assert comparison["verdict"]["sentence"].endswith("12 groups, 3 seeds")
    assert len(comparison["pairs"]["headline"][0]["mcnemar"]) == 3


def test_unfinished_seed_is_listed_and_the_rest_compared(tmp_path: Path) -> None:
    _, comparison = compared(
        tmp_path, entries=2, seeds=(0, 1), protocol="plain", unjudged=[("videomae", 1)]
    )
    assert comparison["provenance"]["seeds_per_entry"] == {"timesformer": 2, "videomae": 1}
    assert "videomae seed 1" in comparison["missing"][0]
    assert comparison["missing"][0] in comparison["notes"]
    assert "2 and 1 seeds" in comparison["verdict"]["sentence"]


def test_one_entry_has_a_verdict_without_pairs(tmp_path: Path) -> None:
    folder, comparison = compared(tmp_path, entries=1)
    assert comparison["verdict"]["kind"] == "single"
    assert comparison["pairs"]["headline"] == []
    assert comparison["published"]["across_models"]["anova_models"]["f_statistic"] is None
    assert len(read_table(folder.results / "results_multimodel.csv")) == 25


def test_plain_protocol_has_condition_tables_and_no_grid_files(tmp_path: Path) -> None:
    folder, comparison = compared(tmp_path, protocol="plain")
    table = read_table(folder.results / "results_multimodel.csv")
    assert list(table.columns[:4]) == ["model", "condition", "accuracy", "n_samples"]
    assert len(table) == 3
    assert comparison["published"] is None
    assert comparison["robustness"]["entries"] == {}
    assert not (folder.results / "vivit").exists()


def test_hostile_class_names_pass_harmless_through_every_table(tmp_path: Path) -> None:
    folder, comparison = compared(tmp_path, entries=2, classes=HOSTILE)
    for path in folder.results.rglob("*.csv"):
        with open(path, newline="", encoding="utf-8") as handle:
            for field in (field for row in csv.reader(handle) for field in row):
                is_number = field.lstrip("-").replace(".", "").replace("e-", "").isdigit()
                assert is_number or not field.startswith(("=", "+", "-", "@")), (path, field)
    table = read_table(folder.results / "per_class_videomae.csv")
    escaped = {"'=cmd()", HOSTILE[1], HOSTILE[2], "'-1+1", HOSTILE[4]}
    assert set(table["class"]) == escaped
    assert comparison["per_class"]["classes"] == list(HOSTILE)


def test_identical_entries_are_called_identical(tmp_path: Path) -> None:
    def same(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(1)
        return rng.normal(size=scores.shape).astype(np.float32)

    _, comparison = compared(tmp_path, entries=2, protocol="plain", alter=same)
    assert comparison["verdict"]["kind"] == "identical"
    assert "right on exactly the same samples" in comparison["verdict"]["sentence"]


@pytest.mark.parametrize(("place", "accuracy"), [(0, 1.0), (1, 0.0)])
def test_perfect_and_hopeless_entries_get_finite_answers_everywhere(
    tmp_path: Path, place: int, accuracy: float
) -> None:
    def extreme(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        scores[:] = 0
        target = (labels + place) % scores.shape[2]
        np.put_along_axis(scores, np.broadcast_to(target[:, None], (*scores.shape[:2], 1)), 1, 2)
        return scores

    _, comparison = compared(tmp_path, entries=2, alter=extreme)
    assert not any(isinstance(x, float) and not np.isfinite(x) for x in walk(comparison))
    entry = comparison["entries"][0]
    assert entry["accuracy"]["estimate"] == accuracy
    assert entry["accuracy"]["low"] < entry["accuracy"]["high"]
    assert f"{'right' if accuracy else 'wrong'} on every sample" in entry["notes"][0]


def test_constant_entry_is_noted(tmp_path: Path) -> None:
    def constant(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.eye(scores.shape[2], dtype=np.float32)[1], scores.shape)

    _, comparison = compared(tmp_path, entries=1, protocol="plain", alter=constant)
    assert "answers 'turn-right' for every sample" in comparison["entries"][0]["notes"][0]
    assert comparison["entries"][0]["accuracy"]["estimate"] == pytest.approx(0.25)


def test_single_group_is_said_and_gives_no_intervals(tmp_path: Path) -> None:
    _, comparison = compared(tmp_path, entries=2, samples=20, samples_per_group=20)
    assert "one group" in comparison["notes"][0]
    assert comparison["entries"][0]["accuracy"]["low"] is None
    assert comparison["ranking"]["headline"][0]["probability_first"] is None
    assert comparison["verdict"]["kind"] == "undecided"
    assert any("of one class" in note for note in comparison["notes"])
    assert any("without a judged sample" in note for note in comparison["notes"])


def test_uneven_budgets_are_warned_about(tmp_path: Path) -> None:
    _, comparison = compared(
        tmp_path, entries=2, protocol="plain", entry_train={"videomae": {"epochs": 6, "lr": 1e-4}}
    )
    warnings = " ".join(comparison["budget"]["warnings"])
    assert "different epochs: timesformer 3, videomae 6" in warnings
    assert "different samples seen: timesformer 600, videomae 1200" in warnings
    assert comparison["budget"]["recipe_differences"]["lr"] == {
        "timesformer": 1e-5,
        "videomae": 1e-4,
    }


def test_unmeasured_cost_is_empty_never_zero(tmp_path: Path) -> None:
    folder = build_judged_study(tmp_path, entries=1, samples=24, protocol="plain", compare=QUICK)
    run = folder.runs()[0][1]
    marker = run.predictions(protocol_id(folder.study().protocol)) / "complete.json"
    write_json(marker, {**read_json(marker), "cost": {}})
    run.training_results.unlink()
    comparison = compare_study(folder)
    assert comparison["table"][0]["elapsed_time"] is None
    assert comparison["entries"][0]["cost"]["train_seconds"] is None
    text = (folder.results / "results_timesformer.csv").read_text()
    header, row = list(csv.reader(text.splitlines()))
    assert row[header.index("elapsed_time")] == ""


def test_headline_condition_can_be_chosen_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    _, comparison = compared(tmp_path / "a", entries=2, compare={**QUICK, "condition": "c25s8"})
    assert comparison["verdict"]["condition"] == "c25s8"
    with pytest.raises(ConfigError, match="no condition 'c25s9'") as caught:
        compared(tmp_path / "b", entries=1, compare={**QUICK, "condition": "c25s9"})
    assert "c25s" in (caught.value.hint or "")


def test_tables_of_an_entry_that_left_the_study_are_removed(tmp_path: Path) -> None:
    folder, _ = compared(tmp_path, entries=2, samples=24)
    ours = folder.results / "videomae" / "notes.txt"
    ours.write_text("by hand")
    build_judged_study(tmp_path, entries=1, samples=24, compare=QUICK)
    compare_study(folder)
    assert not (folder.results / "results_videomae.csv").exists()
    assert not (folder.results / "videomae" / "statistical_results.json").exists()
    assert ours.read_text() == "by hand"


def test_damaged_earlier_comparison_is_replaced(tmp_path: Path) -> None:
    folder, comparison = compared(tmp_path, entries=1, samples=24, protocol="plain")
    (folder.results / "comparison.json").write_text("{")
    assert compare_study(folder) == comparison


def test_missing_data_record_is_noted(tmp_path: Path) -> None:
    folder, comparison = compared(tmp_path, entries=1, samples=24, protocol="plain")
    assert comparison["data"]["dropped"][0]["reason"] == "12 of 150 frames decode"
    folder.data_json.unlink()
    assert any("data.json is missing" in note for note in compare_study(folder)["notes"])


def test_comparing_loads_no_torch(tmp_path: Path) -> None:
    folder = build_judged_study(tmp_path, entries=1, samples=8, protocol="plain", compare=QUICK)
    code = (
        "import sys; from pathlib import Path; from regatta.analysis.compare import compare_study;"
        "from regatta.records.run_folder import StudyFolder;"
        f"compare_study(StudyFolder(Path({str(folder.path)!r})));"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
