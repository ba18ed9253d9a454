"""Whole studies with planted effects: what is there is found, what is not there is not."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.analysis.compare import compare_study
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study
from tests.analysis.planted import planted
from tests.analysis.protocol_conditions import PROTOCOLS, conditions_of

QUICK = {"replicates": 1000}
ENTRIES = ("timesformer", "videomae")


def compared(
    path: Path, protocol: str, accuracy: Any = None, **settings: Any
) -> tuple[StudyFolder, dict[str, Any]]:
    options: dict[str, Any] = {"entries": ENTRIES, "samples": 400, "compare": QUICK, **settings}
    alter = None if accuracy is None else planted(accuracy)
    folder = build_judged_study(path, protocol=protocol, alter=alter, **options)
    return folder, compare_study(folder)


def rows_of(comparison: dict[str, Any], entry: str) -> dict[str, dict[str, Any]]:
    """Contrast in words -> its row."""
    rows = comparison["contrasts"]["tests"]
    return {row["contrast"]: row for row in rows if row["entry"] == entry}


# Accuracies at s1, s2, s4, s8, s16, point then box of each.
ALIASED = [0.90, 0.90, 0.90, 0.90, 0.70, 0.89, 0.50, 0.70, 0.30, 0.30]
BLIND = [0.80, 0.80, 0.80, 0.80, 0.60, 0.50, 0.40, 0.40, 0.30, 0.30]
CEILING = {f"s{s}-{kind}": 1.0 for s in (1, 2, 4, 8) for kind in ("point", "box")}
CEILING |= {"s4-point": 0.5, "s8-point": 0.5, "s16-point": 0.5, "s16-box": 0.5}


@pytest.fixture(scope="module")
def antialias(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, dict[str, Any]]:
    accuracy = {"timesformer": ALIASED, "videomae": BLIND}
    return compared(tmp_path_factory.mktemp("antialias"), "antialias", accuracy, ceiling=CEILING)


Study = tuple[StudyFolder, dict[str, Any]]


def test_planted_recovery_is_found_and_its_absence_is_not(antialias: Study) -> None:
    readings = {
        entry: [row["reading"] for row in rows_of(antialias[1], entry).values()]
        for entry in ENTRIES
    }
    recovered, missing = "recovered by filtering: aliasing", "not recovered: missing evidence"
    nothing = "nothing to recover"
    assert readings["timesformer"][0] == nothing
    assert readings["timesformer"][2:] == [recovered, recovered, missing]
    assert readings["videomae"][0] == nothing
    assert readings["videomae"][2] == "harmed by filtering"
    assert readings["videomae"][4] == missing
    assert recovered not in readings["videomae"]


def test_recovered_share_and_loss_are_the_planted_ones(antialias: Study) -> None:
    rows = rows_of(antialias[1], "timesformer")
    row = rows["stride 8: box − point"]
    assert row["difference_points"]["estimate"] == pytest.approx(20)
    assert row["loss_points"]["estimate"] == pytest.approx(40)
    share = row["recovered_share"]
    assert share["estimate"] == pytest.approx(0.5)
    assert 0.3 < share["low"] < 0.5 < share["high"] < 0.7
    assert row["ceiling_gain_points"] == pytest.approx(50)
    assert rows["stride 1: box − point"]["recovered_share"] is None


def test_the_sentence_of_a_stride_says_reading_size_share_and_theory(antialias: Study) -> None:
    sentence = rows_of(antialias[1], "timesformer")["stride 8: box − point"]["sentence"]
    assert sentence.startswith(
        "timesformer, stride 8: recovered by filtering (aliasing); box − point +20.0 points ["
    )
    assert "50.0 % [" in sentence
    assert sentence.endswith("theory allows +50.0 points")
    (summary,) = antialias[1]["contrasts"]["entries"]["timesformer"]["sentences"]
    assert "at stride 4 and 8 recovered by filtering (aliasing)" in summary


def test_a_gain_where_an_ideal_reader_loses_nothing_is_called_the_models_own(
    tmp_path: Path,
) -> None:
    _, comparison = compared(
        tmp_path, "antialias", ALIASED, entries=1, ceiling=dict.fromkeys(CEILING, 1.0)
    )
    summary, caveat = comparison["contrasts"]["entries"]["timesformer"]["sentences"]
    assert "at stride 4 and 8 recovered" in summary
    assert caveat.startswith("timesformer: at stride 4 and 8 an ideal reader")


def test_identical_clips_are_no_test_of_the_family(antialias: Study) -> None:
    section = antialias[1]["contrasts"]
    assert len(section["tests"]) == 10
    assert section["family_size"] == 8
    row = rows_of(antialias[1], "videomae")["stride 1: box − point"]
    assert (row["p_value"], row["same_clips"]) == (None, True)


def test_contrasts_csv_holds_every_row_and_its_reading(antialias: Study) -> None:
    folder, comparison = antialias
    with open(folder.results / "contrasts.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["reading"] for row in rows] == [
        row["reading"] for row in comparison["contrasts"]["tests"]
    ]
    eighth = rows[3]
    assert (eighth["first"], eighth["second"]) == ("s8-box", "s8-point")
    assert float(eighth["difference_points"]) == pytest.approx(20)
    assert float(eighth["low"]) < 20 < float(eighth["high"])
    assert float(eighth["recovered_share"]) == pytest.approx(0.5)
    assert "contrasts.csv" in comparison["files"]
    table = (folder.results / "results_videomae.csv").read_text().splitlines()[0]
    assert table.startswith("model,filter,stride,accuracy,n_samples")


def test_matched_gives_area_and_critical_budget_of_the_planted_curve(tmp_path: Path) -> None:
    accuracy = {"vivit": [0.2, 0.4, 0.6, 0.8, 0.82], "videomae": [0.5] * 5}
    _, comparison = compared(tmp_path, "matched", accuracy, entries=("vivit", "videomae"))
    section = comparison["contrasts"]["entries"]["vivit"]
    # Trapezoids over 1, 2, 4, 8, 16 frames, divided by the range of 15.
    area = (0.3 * 1 + 0.5 * 2 + 0.7 * 4 + 0.81 * 8) / 15
    assert section["area"]["estimate"] == pytest.approx(area)
    assert section["area"]["low"] < area < section["area"]["high"]
    assert section["critical_frames"]["estimate"] == 8
    assert "reaches 95 % of its best accuracy with 8 distinct frames" in section["sentences"][0]
    assert comparison["contrasts"]["entries"]["videomae"]["critical_frames"]["estimate"] == 1
    assert section["points"][0]["accuracy_low"] < 0.2 < section["points"][0]["accuracy_high"]


def test_a_model_that_takes_fewer_frames_has_no_budget_that_it_never_saw(tmp_path: Path) -> None:
    _, comparison = compared(tmp_path, "matched", [0.2, 0.4, 0.6, 0.8, 0.8])
    section = comparison["contrasts"]["entries"]["timesformer"]
    assert [point["distinct_frames"] for point in section["points"]] == [1, 2, 4, 8, 8]
    assert section["critical_frames"]["high"] == 8


def test_span_tells_whether_reach_matters(tmp_path: Path) -> None:
    accuracy = {"timesformer": [0.4, 0.5, 0.7, 0.8, 0.8], "videomae": [0.7] * 5}
    _, comparison = compared(tmp_path, "span", accuracy)
    reaching = rows_of(comparison, "timesformer")
    assert reaching["10 % − 100 %"]["difference_points"]["estimate"] == pytest.approx(-40)
    assert reaching["10 % − 100 %"]["verdict"] == "behind"
    assert reaching["75 % − 100 %"]["verdict"] == "identical"
    sections = comparison["contrasts"]["entries"]
    assert "reach matters" in sections["timesformer"]["sentences"][0]
    assert "cannot tell whether reach matters" in sections["videomae"]["sentences"][0]
    seconds = [point["span_seconds"] for point in sections["videomae"]["points"]]
    assert seconds == sorted(seconds)


def test_controls_say_who_uses_time(tmp_path: Path) -> None:
    # full, one-frame, static, shuffled, reversed
    accuracy = {
        "timesformer": [0.9, 0.4, 0.4, 0.6, 0.3],
        "videomae": [0.7, 0.7, 0.85, 0.7, 0.7],
        "vivit": [0.9, 0.4, 0.4, 0.89, 0.9],
    }
    _, comparison = compared(tmp_path, "controls", accuracy, entries=3)
    sections = comparison["contrasts"]["entries"]
    assert [sections[e]["uses_time"] for e in accuracy] == ["yes", "no", "cannot tell"]
    assert sections["timesformer"]["sentences"][0].startswith(
        "timesformer uses time: yes (full − static +50.0 points ["
    )
    drop = rows_of(comparison, "timesformer")["full − reversed"]
    assert drop["difference_points"]["estimate"] == pytest.approx(60)
    assert drop["p_adjusted"] < 0.05
    assert drop["ceiling_second"] is None


def test_multi_view_gives_the_gain_over_one_view(tmp_path: Path) -> None:
    _, comparison = compared(
        tmp_path, "multi-view", {"timesformer": [0.7, 0.8, 0.9], "videomae": [0.7] * 3}
    )
    rows = rows_of(comparison, "timesformer")
    assert list(rows) == ["5x3 − 1x1", "10x3 − 1x1"]
    assert rows["10x3 − 1x1"]["difference_points"]["estimate"] == pytest.approx(20)
    assert {row["verdict"] for row in rows.values()} == {"ahead"}
    assert {row["verdict"] for row in rows_of(comparison, "videomae").values()} == {"identical"}


def test_sliding_compares_positions_with_the_middle(tmp_path: Path) -> None:
    accuracy = [0.3, 0.4, 0.5, 0.6, 0.8, 0.6, 0.5, 0.4, 0.3]
    _, comparison = compared(tmp_path, "sliding", accuracy, entries=1)
    rows = rows_of(comparison, "timesformer")
    assert rows["at 0 % − at 50 %"]["difference_points"]["estimate"] == pytest.approx(-50)
    section = comparison["contrasts"]["entries"]["timesformer"]
    assert "30.0 % (window at 0 %) to 80.0 % (window at 50 %)" in section["sentences"][0]
    assert 0 < section["concentration"]["mean"]["estimate"] < 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_has_finite_answers_on_a_single_group(tmp_path: Path, protocol: str) -> None:
    _, comparison = compared(tmp_path, protocol, samples=20, samples_per_group=20, entries=1)
    section = comparison["contrasts"]
    assert all(row["p_value"] is None for row in section["tests"])
    assert all(row["difference_points"]["low"] in (None, 0) for row in section["tests"])
    assert comparison["headline_condition"] == section["reference"]
    numbers = [row["difference_points"]["estimate"] for row in section["tests"]]
    assert np.isfinite(numbers).all()
    assert section["entries"]["timesformer"]["sentences"]


@pytest.mark.parametrize("protocol", ["plain", "temporal-grid", "temporal-grid-legacy"])
def test_protocols_without_contrasts_have_no_section(tmp_path: Path, protocol: str) -> None:
    folder, comparison = compared(tmp_path, protocol, entries=1, samples=24)
    assert comparison["contrasts"] is None
    assert not (folder.results / "contrasts.csv").exists()
    assert (comparison["published"] is None) == (protocol == "plain")


def test_the_legacy_grid_is_analysed_as_the_other_grid(tmp_path: Path) -> None:
    folder, comparison = compared(tmp_path, "temporal-grid-legacy", samples=80)
    assert len(comparison["table"]) == 50
    assert comparison["robustness"]["entries"]["videomae"]["drops"]["stride"] == 8
    assert set(comparison["robustness"]["entries"]["videomae"]["critical_rate_hz"]) == set(
        comparison["per_class"]["classes"]
    )
    assert "exactly as in the published system" in comparison["methods"]
    assert (folder.results / "videomae" / "statistical_results.json").is_file()
    still = [row for row in comparison["table"] if row["condition"] == "c10s16"]
    assert all(row["still_share"] == 1 and row["identical_to"] for row in still)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_reference_is_the_one_of_the_table_of_protocols(protocol: str) -> None:
    assert sum(condition.is_reference for condition in conditions_of(protocol)) == 1
