"""Promises of judging pictures: scores are those of the saved model on the pictures as they are,
every head has its own, and what cannot be measured is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from regatta.analysis.compare import compare_study
from regatta.config.expand import protocol_id
from regatta.core.files import read_json
from regatta.data.image_store import ImageStore
from regatta.data.manifest import Manifest
from regatta.models.weights import load_model
from regatta.records.predictions import HEADS_FOLDER, RunPredictions, read_run_predictions
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.worker.image_parts import OUTSIDE
from tests.fusion_here import (
    CLASSES,
    fusion_mapping,
    judge_all,
    open_prepared,
    picture,
    run_of,
    train_named,
    write_pictures,
)

EXPERTS = ("resnet-expert-0", "resnet-expert-1")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def judged_study(pictures: Path, runs: Path, *names: str, **sections: object) -> StudyFolder:
    folder = open_prepared(runs, fusion_mapping(pictures, **sections))
    train_named(folder, *names)
    judge_all(folder)
    return folder


@pytest.fixture(scope="module")
def judged(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "any"
    elsewhere.mkdir()
    for path in sorted(pictures.rglob("*.png"))[:5]:
        shutil.copy(path, elsewhere)
    (elsewhere / "torn.png").write_bytes(b"no picture")
    options = {
        "noise": [0.1],
        "corruptions": "none",
        "ood": ["gaussian-noise", "images:nowhere/svhn", f"images:{elsewhere.parent}"],
    }
    return judged_study(
        pictures,
        tmp_path_factory.mktemp("runs"),
        *(*EXPERTS, "resnet-multiplicative", "resnet-stacking"),
        protocol={"options": options},
    )


@pytest.fixture(scope="module")
def class_split(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return judged_study(
        pictures,
        tmp_path_factory.mktemp("split"),
        *(*EXPERTS, "resnet-concatenation"),
        partition={"kind": "noniid"},
        fusion={"classes": 4},
    )


def predictions(folder: StudyFolder, run: RunFolder, *below: str) -> RunPredictions:
    place = run.predictions(protocol_id(folder.study().protocol)).joinpath(*below)
    return read_run_predictions(place, run_id=run.run_id, entry="", seed=0)


def answers(folder: StudyFolder, run: RunFolder, ids: list[str]) -> np.ndarray:
    """Scores of the saved model, the pictures normalised here by hand: [N, K] or [N, H, K]."""
    store, manifest = ImageStore.load(folder.images), Manifest.load(folder.manifest)
    by_id = {sample.sample_id: sample for sample in manifest.samples}
    shown = store.select([by_id[name] for name in ids]).double() / 255
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (store.mean, store.std)
    )
    module, _, _ = load_model(run.model)
    with torch.no_grad():
        return module(((shown - mean) / std).float()).numpy()


def test_scores_are_those_of_the_saved_model_on_pictures_normalised_as_in_training(
    judged: StudyFolder,
):
    for name in (EXPERTS[0], "resnet-stacking"):
        run = run_of(judged, name)
        found = predictions(judged, run)
        assert [c.id for c in found.conditions] == ["clean", "noise-0.1"]
        expected = answers(judged, run, list(found.sample_ids))
        np.testing.assert_allclose(found.scores[0], expected, atol=1e-5)
        assert np.abs(found.scores[1] - expected).max() > 1e-3


def test_every_head_of_a_fusion_has_its_own_predictions(judged: StudyFolder):
    run = run_of(judged, "resnet-multiplicative")
    whole = predictions(judged, run)
    expected = answers(judged, run, list(whole.sample_ids))
    np.testing.assert_allclose(whole.scores[0], expected[:, 0], atol=1e-5)
    for k in (0, 1):
        head = predictions(judged, run, HEADS_FOLDER, f"expert-{k}")
        assert list(head.sample_ids) == list(whole.sample_ids)
        np.testing.assert_allclose(head.scores[0], expected[:, 1 + k], atol=1e-5)


def test_the_whole_test_split_is_judged_with_its_labels(judged: StudyFolder):
    found = predictions(judged, run_of(judged, EXPERTS[0]))
    manifest = Manifest.load(judged.manifest)
    truth = {s.sample_id: s.label for s in manifest.split("test")}
    assert dict(zip(found.sample_ids, found.labels.tolist(), strict=True)) == truth
    assert found.classes == sorted(CLASSES)


def test_pictures_from_elsewhere_lie_beside_and_an_absent_set_leaves_nothing(judged: StudyFolder):
    for _, run in judged.runs():
        if run.is_trained():
            found = predictions(judged, run, "ood", "gaussian-noise")
            assert set(found.labels) == {-1}
            assert len(found.sample_ids) == 40
    assert not list(judged.path.rglob("svhn*"))


def test_what_of_elsewhere_could_not_be_taken_stands_in_the_comparison(judged: StudyFolder):
    told = " | ".join(compare_study(judged)["notes"])
    assert "not measured, it is not there: images:nowhere/svhn" in told
    assert "1 images of images:" in told
    assert "torn.png" in told
    # Every run lacks the same: it is said once, of all.
    assert told.count("torn.png") == 1
    assert "resnet-expert-0: " not in told


def test_the_mean_and_spread_that_normalise_are_those_of_the_training_pictures(
    judged: StudyFolder,
):
    manifest, store = Manifest.load(judged.manifest), ImageStore.load(judged.images)
    shown = store.select(manifest.split("train")).double() / 255
    np.testing.assert_allclose(store.mean, shown.mean(dim=(0, 2, 3)).numpy(), rtol=1e-9)
    for _, run in judged.runs():
        if run.is_trained():
            saved = read_json(run.model / "preprocessor_config.json")
            np.testing.assert_allclose(saved["image_mean"], store.mean, rtol=1e-12)
            np.testing.assert_allclose(saved["image_std"], store.std, rtol=1e-12)


def test_pixels_reach_the_store_as_they_lie_in_the_file(judged: StudyFolder):
    store, manifest = ImageStore.load(judged.images), Manifest.load(judged.manifest)
    (sample,) = [s for s in manifest.samples if s.sample_id.startswith("train/west/007")]
    shown = store.select([sample])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(shown, picture(CLASSES.index("west"), 5007))


def test_a_class_split_expert_answers_over_all_classes_and_chooses_its_own(
    class_split: StudyFolder,
):
    for k, name in enumerate(EXPERTS):
        run = run_of(class_split, name)
        found = predictions(class_split, run)
        own = [2 * k, 2 * k + 1]
        others = [c for c in range(4) if c not in own]
        expected = answers(class_split, run, list(found.sample_ids))
        assert found.classes == sorted(CLASSES)
        np.testing.assert_allclose(found.scores[0][:, own], expected, atol=1e-5)
        assert set(found.scores[..., others].ravel().tolist()) == {OUTSIDE}
        assert set(found.scores[0].argmax(axis=1)) <= set(own)


def test_heads_of_a_class_split_fusion_answer_over_all_classes(class_split: StudyFolder):
    run = run_of(class_split, "resnet-concatenation")
    for k in (0, 1):
        head = predictions(class_split, run, HEADS_FOLDER, f"expert-{k}")
        assert head.scores.shape[2] == 4
        assert head.scores.min() > OUTSIDE / 2


def test_judging_again_writes_nothing(judged: StudyFolder):
    kept = {p: p.stat().st_mtime_ns for p in judged.path.rglob("part-*.parquet")}
    judge_all(judged)
    assert {p: p.stat().st_mtime_ns for p in judged.path.rglob("part-*.parquet")} == kept
