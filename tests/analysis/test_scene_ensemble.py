"""The ensemble of entries: weights and places by hand, and plain words about its best member."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.analysis.compare import compare_study
from tests.analysis.scene_build import Scenes, build_scene_study, drawn_scenes, right_scores

VALIDATION = {"left": 0.1, "right": 0.3}
"""Mean squared errors on validation: weights 1/0.1 : 1/0.3 = 3 : 1."""


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return drawn_scenes(40)


def ensemble(path: Path, scenes: Scenes, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "places": lambda name, _: (scenes.targets + (0.1 if name == "left" else -0.3))[None],
        "scores": lambda *_: right_scores(scenes.labels, np.ones(40, dtype=bool))[None],
        "training": lambda name, _: {"best_val_mse": VALIDATION[name]},
        **more,
    }
    folder = build_scene_study(path, {"left": {}, "right": {}}, scenes, **settings)
    return compare_study(folder)["scenes"]["ensemble"]


def test_places_are_weighted_by_one_over_the_error_on_validation(
    tmp_path: Path, scenes: Scenes
) -> None:
    found = ensemble(tmp_path, scenes)
    assert found["weights"]["0"] == pytest.approx({"left": 0.75, "right": 0.25})
    # 0.75 * 0.1 - 0.25 * 0.3 = 0: the two errors cancel.
    assert found["mse"]["value"]["estimate"] == pytest.approx(0.0, abs=1e-9)
    assert found["mse"]["gain_over_best"]["estimate"] == pytest.approx(0.01, rel=1e-4)
    assert found["mse"]["best_member"] == "left"
    assert found["mse"]["at_least_best"]
    assert found["mse"]["verdict"] == "ahead"
    assert "at least as good as its best member left" in found["mse"]["sentence"]


def test_worse_than_its_best_member_is_said_plainly(tmp_path: Path, scenes: Scenes) -> None:
    def places(name: str, _: int) -> np.ndarray:
        return (scenes.targets + (0.1 if name == "left" else 0.9))[None]

    found = ensemble(tmp_path, scenes, places=places)["mse"]
    # 0.75 * 0.1 + 0.25 * 0.9 = 0.3 in every coordinate, against 0.1.
    assert found["value"]["estimate"] == pytest.approx(0.09, rel=1e-4)
    assert found["gain_over_best"]["estimate"] == pytest.approx(-0.08, rel=1e-4)
    assert not found["at_least_best"]
    assert found["verdict"] == "behind"
    assert "not as good as its best member left" in found["sentence"]
    assert found["sentence"].endswith("the ensemble is worse")


def test_classes_are_those_of_the_mean_logits(tmp_path: Path, scenes: Scenes) -> None:
    def scores(name: str, _: int) -> np.ndarray:
        # Left is wrong by a little on the first ten, right is sure and right on them.
        right = np.arange(40) >= (10 if name == "left" else 0)
        return (right_scores(scenes.labels, right) * (0.25 if name == "left" else 1.0))[None]

    found = ensemble(tmp_path, scenes, scores=scores)["accuracy"]
    assert found["value"]["estimate"] == 1.0
    assert found["best_member"] == "right"
    assert found["verdict"] == "identical"


def test_each_seed_has_weights_of_its_own(tmp_path: Path, scenes: Scenes) -> None:
    errors = {("left", 0): 0.1, ("right", 0): 0.1, ("left", 1): 0.1, ("right", 1): 0.4}
    found = ensemble(
        tmp_path, scenes, seeds=(0, 1),
        training=lambda name, seed: {"best_val_mse": errors[name, seed]},
    )  # fmt: skip
    assert found["weights"]["0"] == pytest.approx({"left": 0.5, "right": 0.5})
    assert found["weights"]["1"] == pytest.approx({"left": 0.8, "right": 0.2})
    # Seed 0: 0.5 * 0.1 - 0.5 * 0.3 = -0.1; seed 1: 0.8 * 0.1 - 0.2 * 0.3 = 0.02.
    mean = (0.1**2 + 0.02**2) / 2
    assert found["mse"]["value"]["estimate"] == pytest.approx(mean, rel=1e-3)


def test_error_of_the_kept_epoch_stands_in_the_history(tmp_path: Path, scenes: Scenes) -> None:
    found = ensemble(tmp_path, scenes, training=lambda *_: {"best_val_mse": None, "best_epoch": 1})
    # The history has 0.2 at epoch 1 for both.
    assert found["weights"]["0"] == pytest.approx({"left": 0.5, "right": 0.5})


def test_unknown_error_on_validation_leaves_places_alone(tmp_path: Path, scenes: Scenes) -> None:
    found = ensemble(
        tmp_path, scenes, training=lambda *_: {"best_val_mse": None, "history": {"epoch": [1]}}
    )
    assert "mse" not in found
    assert "places are not averaged" in found["reason"]
    assert found["accuracy"]["value"]["estimate"] == 1.0


def test_single_entry_has_no_ensemble(tmp_path: Path, scenes: Scenes) -> None:
    folder = build_scene_study(
        tmp_path, {"left": {}}, scenes, places=lambda *_: scenes.targets[None],
        scores=lambda *_: right_scores(scenes.labels, np.ones(40, dtype=bool))[None],
    )  # fmt: skip
    assert compare_study(folder)["scenes"]["ensemble"] is None
