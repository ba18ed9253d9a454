"""Intervals and verdicts of errors on simulated places: they keep the rates that they promise."""

from __future__ import annotations

import numpy as np
import pytest

from regatta.analysis.judged import JudgedStudy, read_judged_study
from regatta.analysis.positions import squared_error
from regatta.analysis.scene_errors import Errors, Frame, Placing, resample_errors
from regatta.analysis.scene_pairs import compare_errors
from tests.analysis.scene_build import build_scene_study, drawn_scenes, right_scores

SCENES, ROUNDS = 160, 400
ORIGIN = np.zeros((SCENES, 3))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> JudgedStudy:
    """A study whose groups and draws are used; the places are drawn anew in every round."""
    scenes = drawn_scenes(SCENES)
    right = right_scores(scenes.labels, np.ones(SCENES, dtype=bool))[None]
    folder = build_scene_study(
        tmp_path_factory.mktemp("rounds"), {"a": {}}, scenes,
        places=lambda *_: scenes.targets[None], scores=lambda *_: right,
        compare={"replicates": 500},
    )  # fmt: skip
    return read_judged_study(folder)


def drawn(judged: JudgedStudy, rng: np.random.Generator) -> tuple[Errors, dict[str, np.ndarray]]:
    """Two entries that are equally good: errors of sd 0.1 in every coordinate."""
    places = {name: 0.1 * rng.normal(size=(1, SCENES, 3)) for name in ("a", "b")}
    placings = [Placing(name, each) for name, each in places.items()]
    errors = resample_errors(judged, placings, Frame(judged.labels, 4, ORIGIN))
    return errors, {name: squared_error(each, ORIGIN) for name, each in places.items()}


def test_interval_holds_the_true_error_in_95_of_100_rounds(judged: JudgedStudy) -> None:
    rng, hits = np.random.default_rng(8), 0
    for _ in range(ROUNDS):
        found = drawn(judged, rng)[0].mean("a", "squared")
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.01 <= found.high
    assert 0.93 <= hits / ROUNDS <= 0.97


def test_equal_entries_are_told_apart_in_5_of_100_rounds(judged: JudgedStudy) -> None:
    rng, told = np.random.default_rng(9), 0
    for _ in range(ROUNDS):
        errors, squared = drawn(judged, rng)
        (row,) = compare_errors(judged, errors, squared, [("a", "b")])
        told += row["verdict"] in ("ahead", "behind")
    assert 0.03 <= told / ROUNDS <= 0.07
