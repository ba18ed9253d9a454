"""The section of a study of scenes: numbers worked out by hand, tests of other libraries, and what
is said where nothing can be told."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from statsmodels.stats.multitest import multipletests

from regatta.analysis.compare import compare_study
from regatta.core.errors import RecordError
from regatta.core.seeds import stream
from regatta.records.run_folder import StudyFolder
from tests.analysis.scene_build import (
    AHEAD,
    ROBUST,
    Scenes,
    build_scene_study,
    cameras,
    drawn_scenes,
    right_scores,
)

NONE = np.full((48, 3), np.nan)
OFFSETS = {"near": np.array([0.1, 0.0, 0.0]), "far": np.array([0.0, 0.2, 0.0])}
"""Every place of an entry is off by the same: its errors are known exactly."""


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return drawn_scenes(48)


def always_right(scenes: Scenes, cells: int = 1) -> Any:
    found = right_scores(scenes.labels, np.ones(len(scenes.ids), dtype=bool))
    return lambda *_: np.stack([found] * cells)


def study(path: Path, scenes: Scenes, **more: Any) -> StudyFolder:
    settings: dict[str, Any] = {
        "places": lambda entry, _: (scenes.targets + OFFSETS[entry])[None],
        "scores": always_right(scenes),
        **more,
    }
    return build_scene_study(path, {n: {"extractor": "i3d"} for n in OFFSETS}, scenes, **settings)


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory, scenes: Scenes) -> dict[str, Any]:
    labels = np.where(np.arange(48) < 36, scenes.labels, (scenes.labels + 1) % 4)
    baselines = [
        ("constant-velocity", "oracle", np.full(48, -1), scenes.constant_velocity),
        ("speed-only", "oracle", labels, NONE),
        ("majority", "", np.zeros(48, dtype=int), NONE),
    ]
    folder = study(tmp_path_factory.mktemp("scenes"), scenes, baselines=baselines)
    return compare_study(folder)["scenes"]


def entry(section: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in section["targets"][0]["entries"] if row["entry"] == name)


@pytest.mark.parametrize(("name", "size"), [("near", 0.1), ("far", 0.2)])
def test_error_of_a_constant_offset_is_exact(
    section: dict[str, Any], name: str, size: float
) -> None:
    found = entry(section, name)
    assert found["mse"]["estimate"] == pytest.approx(size**2 / 3, rel=1e-5)
    assert found["rmse"]["estimate"] == pytest.approx(size / 3**0.5, rel=1e-5)
    assert found["mae"]["estimate"] == pytest.approx(size / 3, rel=1e-5)
    assert found["median"] == pytest.approx(size, rel=1e-5)
    assert found["p90"] == pytest.approx(size, rel=1e-5)


def test_error_is_parted_by_motion_and_by_the_first_camera(
    section: dict[str, Any], scenes: Scenes
) -> None:
    found, offset = entry(section, "near"), OFFSETS["near"]
    way = scenes.velocity / np.linalg.norm(scenes.velocity, axis=1, keepdims=True)
    along = ((way @ offset) ** 2).mean() ** 0.5
    assert found["along"]["estimate"] == pytest.approx(along, rel=1e-4)
    # Camera 0 looks from (5, 0, 2) at the origin: of an error in x the share 5 / |(5, 2)| is depth.
    assert np.allclose(cameras()["positions"][0], [5, 0, 2])
    assert found["depth"]["estimate"] == pytest.approx(0.1 * 5 / 29**0.5, rel=1e-4)
    assert found["plane"]["estimate"] == pytest.approx(0.1 * 2 / 29**0.5, rel=1e-4)


def test_skill_is_against_constant_velocity_and_not_shown_for_straight_lines(
    section: dict[str, Any], scenes: Scenes
) -> None:
    reference = ((scenes.constant_velocity - scenes.targets) ** 2).mean()
    found = entry(section, "near")
    assert found["skill"]["estimate"] == pytest.approx(1 - (0.01 / 3) / reference, rel=1e-4)
    by_class = {row["class"]: row["skill"] for row in found["per_class"]}
    assert by_class["linear"] is None
    mine = scenes.labels == 1
    own = ((scenes.constant_velocity - scenes.targets)[mine] ** 2).mean()
    assert by_class["circular"]["estimate"] == pytest.approx(1 - (0.01 / 3) / own, rel=1e-4)


def test_smaller_error_is_called_closer_with_the_difference(section: dict[str, Any]) -> None:
    (pair,) = section["targets"][0]["pairs"]
    assert (pair["first"], pair["verdict"]) == ("near", "ahead")
    assert pair["difference"]["estimate"] == pytest.approx(-0.03 / 3, rel=1e-5)
    assert "near is closer than far: MSE lower by 0.0100" in section["sentences"][0]


def test_baselines_have_accuracy_or_error_and_never_both_made_up(section: dict[str, Any]) -> None:
    found = {row["baseline"]: row for row in section["baselines"]}
    assert found["speed-only"]["accuracy"]["estimate"] == 0.75
    assert found["speed-only"]["mse"] is None
    assert found["majority"]["accuracy"]["estimate"] == 0.25
    assert found["constant-velocity"]["accuracy"] is None
    assert found["constant-velocity"]["mse"]["estimate"] > 0
    above = section["above_shortcuts"][0]
    assert above["difference_points"]["estimate"] == pytest.approx(25.0)
    assert above["is_above"]


def noisy(scenes: Scenes, sizes: dict[str, float]) -> Any:
    def places(name: str, seed: int) -> np.ndarray:
        rng = stream(seed, "noise", name)
        return (scenes.targets + sizes[name] * rng.normal(size=scenes.targets.shape))[None]

    return places


def test_interval_agrees_with_that_of_scipy(tmp_path: Path) -> None:
    scenes = drawn_scenes(200)
    places = noisy(scenes, {"near": 0.1, "far": 0.1})
    folder = study(tmp_path, scenes, places=places, scores=always_right(scenes),
                   compare={"replicates": 4000})  # fmt: skip
    found = entry(compare_study(folder)["scenes"], "near")["mse"]
    squared = ((places("near", 0)[0] - scenes.targets) ** 2).mean(axis=1)
    theirs = scipy_bootstrap(
        (squared,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found["estimate"] == pytest.approx(squared.mean(), rel=1e-5)
    width = theirs.high - theirs.low
    assert found["low"] == pytest.approx(theirs.low, abs=0.06 * width)
    assert found["high"] == pytest.approx(theirs.high, abs=0.06 * width)


def test_all_pairs_are_corrected_as_one_family_by_holm(tmp_path: Path) -> None:
    scenes = drawn_scenes(48)
    sizes = {"a": 0.10, "b": 0.105, "c": 0.12, "d": 0.14}
    folder = build_scene_study(
        tmp_path, {n: {} for n in sizes}, scenes, places=noisy(scenes, sizes),
        scores=always_right(scenes),
    )  # fmt: skip
    pairs = compare_study(folder)["scenes"]["targets"][0]["pairs"]
    assert [(p["first"], p["second"]) for p in pairs] == list(combinations("abcd", 2))
    theirs = np.asarray(multipletests([p["p_value"] for p in pairs], method="holm")[1])
    assert [p["p_adjusted"] for p in pairs] == pytest.approx(theirs.tolist())


def test_equal_models_are_not_told_apart(tmp_path: Path, scenes: Scenes) -> None:
    folder = study(tmp_path, scenes, places=noisy(scenes, {"near": 0.1, "far": 0.1}))
    section = compare_study(folder)["scenes"]
    assert section["targets"][0]["pairs"][0]["verdict"] == "undecided"
    assert "the data cannot tell the places of" in section["sentences"][0]


def test_same_places_are_called_the_same(tmp_path: Path, scenes: Scenes) -> None:
    folder = study(tmp_path, scenes, places=lambda *_: scenes.targets[None] + 0.1)
    pair = compare_study(folder)["scenes"]["targets"][0]["pairs"][0]
    assert pair["verdict"] == "identical"
    assert pair["difference"]["estimate"] == 0


def test_forecast_no_better_than_staying_is_said_so(tmp_path: Path, scenes: Scenes) -> None:
    def places(name: str, _: int) -> np.ndarray:
        return scenes.last[None] if name == "near" else scenes.targets[None] + 1.0

    section = compare_study(study(tmp_path, scenes, places=places))["scenes"]
    assert any("near does not beat the last position seen" in n for n in section["notes"])
    assert any("far is worse than the last position seen" in n for n in section["notes"])


def test_perfect_forecast_beats_staying_and_nothing_is_noted(
    tmp_path: Path, scenes: Scenes
) -> None:
    section = compare_study(study(tmp_path, scenes, places=lambda *_: scenes.targets[None]))
    found = section["scenes"]
    assert not any("last position" in note for note in found["notes"])
    assert entry(found, "near")["skill"]["estimate"] == pytest.approx(1.0, abs=1e-6)


def test_last_visible_place_is_localisation_without_skill(tmp_path: Path, scenes: Scenes) -> None:
    folder = study(
        tmp_path, scenes, targets=scenes.last, horizon=0,
        places=lambda entry, _: (scenes.last + OFFSETS[entry])[None],
    )  # fmt: skip
    target = compare_study(folder)["scenes"]["targets"][0]
    assert target["target"] == "last-visible"
    assert target["entries"][0]["skill"] is None
    assert "localisation" in compare_study(folder)["scenes"]["sentences"][0]


def test_further_head_has_a_table_of_its_own(tmp_path: Path, scenes: Scenes) -> None:
    head = (lambda *_: (scenes.last + 0.3)[None], scenes.last, 0)
    found = compare_study(study(tmp_path, scenes, heads={"last-visible": head}))["scenes"]
    assert [t["target"] for t in found["targets"]] == ["forecast", "last-visible"]
    assert found["targets"][1]["entries"][0]["mse"]["estimate"] == pytest.approx(0.09, rel=1e-5)


def test_unknown_true_places_are_not_measured(tmp_path: Path, scenes: Scenes) -> None:
    folder = study(tmp_path, scenes, targets=np.full((48, 3), np.nan), truth=False)
    section = compare_study(folder)["scenes"]
    assert section["targets"][0]["entries"] == []
    assert any("true places are not known" in note for note in section["notes"])


def test_places_known_for_some_scenes_are_judged_on_those(tmp_path: Path, scenes: Scenes) -> None:
    targets = scenes.targets.copy()
    targets[:12] = np.nan
    found = entry(compare_study(study(tmp_path, scenes, targets=targets))["scenes"], "far")
    assert found["n"] == 36
    assert found["mse"]["estimate"] == pytest.approx(0.04 / 3, rel=1e-5)


def test_place_that_is_not_finite_is_refused_by_name(tmp_path: Path, scenes: Scenes) -> None:
    def places(name: str, _: int) -> np.ndarray:
        found = scenes.targets + OFFSETS[name]
        found[7] = np.inf
        return found[None]

    with pytest.raises(RecordError, match="not finite") as error:
        compare_study(study(tmp_path, scenes, places=places))
    assert "traj_00007" in str(error.value)


def test_conditions_have_errors_of_their_own(tmp_path: Path, scenes: Scenes) -> None:
    def places(name: str, _: int) -> np.ndarray:
        return np.stack([scenes.targets + (1 + c) * OFFSETS[name] for c in range(len(ROBUST))])

    folder = study(tmp_path, scenes, places=places, conditions=ROBUST,
                   scores=always_right(scenes, len(ROBUST)))  # fmt: skip
    section = compare_study(folder)["scenes"]
    found = {r["condition"]: r for r in section["robustness"] if r["entry"] == "near"}
    for c, condition in enumerate(ROBUST):
        mse = found[condition.id]["mse"]["estimate"]
        assert mse == pytest.approx(((1 + c) * 0.1) ** 2 / 3, rel=1e-5), condition.id
    assert (found["noise-0.2"]["change"], found["noise-0.2"]["level"]) == ("noise", 0.2)
    # One number has one interval, wherever it stands.
    assert found["clean"]["mse"] == entry(section, "near")["mse"]
    controls = {row["condition"] for row in section["controls"]}
    assert controls == {"single-frame", "shuffled-frames"}


def test_scenes_from_elsewhere_are_judged_by_answer_or_by_doubt(
    tmp_path: Path, scenes: Scenes
) -> None:
    labels = scenes.labels[:20]
    half = right_scores(labels, np.arange(20) < 10)
    sets = {
        "radius": (labels, half, np.full((20, 3), 0.3)),
        "figure-eight": (np.full(20, -1), np.zeros((20, 4), np.float32), np.zeros((20, 3))),
    }
    rows = compare_study(study(tmp_path, scenes, ood=sets))["scenes"]["ood"]
    found = {row["set"]: row for row in rows if row["entry"] == "near"}
    assert found["radius"]["accuracy"]["estimate"] == 0.5
    # Every place is 0.3 off in each coordinate of a target at 0.
    assert found["radius"]["mse"]["estimate"] == pytest.approx(0.09, rel=1e-5)
    assert found["radius"]["auroc"] is None
    # Flat scores against scores of 4 at one class: every unknown is doubted more.
    assert found["figure-eight"]["auroc"] == 1.0
    assert found["figure-eight"]["fpr95"] == 0.0
    assert found["figure-eight"]["accuracy"] is None


def test_horizon_stands_in_the_words_of_the_target(section: dict[str, Any]) -> None:
    assert section["targets"][0]["horizon_frames"] == AHEAD
    assert section["sentences"][0].startswith("place 5 frames after the last frame shown: ")
