"""The files of a study of scenes: their columns are a contract, their rows those of the section."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.analysis.compare import compare_study
from regatta.analysis.scene_tables import usual_features
from regatta.core.registry import EXTRACTORS
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study
from tests.analysis.scene_build import ROBUST, build_scene_study, drawn_scenes, right_scores

COLUMNS = [
    *("extractor", "feature_dim", "views", "target", "accuracy", "accuracy_low", "accuracy_high"),
    *("mse_next_position", "mse_low", "mse_high", "rmse", "skill", "training_time_s"),
    *("model_size_mb", "parameters", "clips_per_second", "seeds", "verdict"),
]
ENTRIES = {
    "i3d": {"extractor": "i3d", "views": [0, 1, 2, 3]},
    "slowfast": {"extractor": "slowfast", "dim": 2048},
    "magvit": {"extractor": "magvit"},
}
SCENES = drawn_scenes(48)


def build(path: Path, **more: Any) -> StudyFolder:
    right = right_scores(SCENES.labels, np.arange(48) < 36)
    none = np.full((48, 3), np.nan)
    settings: dict[str, Any] = {
        "places": lambda name, _: np.stack([SCENES.targets + 0.01 * len(name)] * len(ROBUST)),
        "scores": lambda *_: np.stack([right] * len(ROBUST)),
        "conditions": ROBUST,
        "baselines": [
            ("speed-only", "oracle", SCENES.labels, none),
            ("last-position", "oracle", np.full(48, -1), SCENES.last),
        ],
        "ood": {"radius": (SCENES.labels[:8], right[:8], np.zeros((8, 3)))},
        **more,
    }
    folder = build_scene_study(path, ENTRIES, SCENES, **settings)
    compare_study(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return build(tmp_path_factory.mktemp("tables"))


def rows_of(folder: StudyFolder, name: str) -> list[dict[str, str]]:
    with open(folder.results / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_columns_of_the_comparison_are_exactly_those_promised(folder: StudyFolder) -> None:
    text = (folder.results / "compare_results.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0].split(",") == COLUMNS


def test_comparison_holds_extractor_cost_and_error(folder: StudyFolder) -> None:
    found = {row["extractor"]: row for row in rows_of(folder, "compare_results.csv")}
    assert list(found) == ["i3d", "slowfast", "frame CNN + attention (magvit)"]
    i3d = found["i3d"]
    assert (i3d["feature_dim"], i3d["views"], i3d["target"]) == ("1024", "4", "forecast")
    assert found["slowfast"]["feature_dim"] == "2048"
    assert float(i3d["accuracy"]) == 0.75
    assert float(i3d["accuracy_low"]) < 0.75 < float(i3d["accuracy_high"])
    # Off by 0.03 in every coordinate.
    assert float(i3d["mse_next_position"]) == pytest.approx(0.0009, rel=1e-4)
    assert float(i3d["rmse"]) == pytest.approx(0.03, rel=1e-4)
    # 2,000,000 parameters of 4 bytes; 7 conditions of 48 scenes in 2 seconds of forward passes.
    assert (i3d["parameters"], i3d["model_size_mb"]) == ("2000000", "8")
    assert float(i3d["clips_per_second"]) == pytest.approx(7 * 48 / 2)
    assert float(i3d["training_time_s"]) == 6.5
    assert i3d["seeds"] == "1"
    assert i3d["verdict"] == "accuracy: the data cannot tell it from slowfast, magvit; place: first"
    assert found["slowfast"]["verdict"].endswith("place: behind i3d")


LONG = {
    "per_class.csv": "class",
    "confusion_matrix.csv": "class",
    "position_error.csv": "class",
    "robustness.csv": "condition",
    "ood.csv": "condition",
    "shortcuts.csv": "condition",
}


@pytest.mark.parametrize(("name", "place"), LONG.items())
def test_long_tables_have_one_number_per_row(folder: StudyFolder, name: str, place: str) -> None:
    rows = rows_of(folder, name)
    assert rows
    assert list(rows[0]) == ["run", "extractor", place, "metric", "value", "low", "high", "n"]
    keys = [(row["run"], row[place], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        if row["low"] and row["value"]:
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])


def test_shares_of_a_true_class_sum_to_one(folder: StudyFolder) -> None:
    rows = [r for r in rows_of(folder, "confusion_matrix.csv") if r["run"] == "i3d"]
    for label in ("linear", "helical"):
        mine = [r for r in rows if r["class"] == label]
        assert sum(float(r["value"]) for r in mine) == pytest.approx(1)
        assert sum(int(r["n"]) for r in mine) == 12


def test_error_of_another_target_has_a_file_and_a_column_of_its_name(tmp_path: Path) -> None:
    places = np.stack([SCENES.last] * len(ROBUST))
    found = build(tmp_path, heads={"last-visible": (lambda *_: places, SCENES.last, 0)})
    (row, *_) = rows_of(found, "compare_results_last_visible.csv")
    names = ["mse_last_visible" if n == "mse_next_position" else n for n in COLUMNS]
    assert list(row) == names
    assert row["target"] == "last-visible"
    assert row["skill"] == ""


def test_entries_with_the_same_extractor_keep_their_names(tmp_path: Path) -> None:
    right = right_scores(SCENES.labels, np.ones(48, dtype=bool))
    entries = {"one-view": {"extractor": "i3d"}, "four": {"extractor": "i3d", "views": [0, 1]}}
    folder = build_scene_study(
        tmp_path, entries, SCENES, places=lambda *_: SCENES.targets[None],
        scores=lambda *_: right[None],
    )  # fmt: skip
    compare_study(folder)
    found = [row["extractor"] for row in rows_of(folder, "compare_results.csv")]
    assert found == ["i3d: one-view", "i3d: four"]


def test_study_of_videos_has_none_of_these_files(tmp_path: Path) -> None:
    folder = build_judged_study(tmp_path, entries=1, samples=24, classes=2, protocol="plain",
                                compare={"replicates": 100})  # fmt: skip
    comparison = compare_study(folder)
    assert comparison["scenes"] is None
    assert "compare_results.csv" not in comparison["files"]


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
@pytest.mark.parametrize("extractor", ["i3d", "slowfast", "transformer", "magvit"])
def test_features_that_no_study_states_are_those_of_the_extractor(
    extractor: str, size: str
) -> None:
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        built = EXTRACTORS.get(extractor)(size=size, dim=None, frames=16, image_size=32)
    assert usual_features(extractor, size) == built.feature_dim
    assert usual_features("of-another-package", size) is None
