"""Judging a whole study of signals: test accuracy noted, unknown classes apart, early refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from regatta.analysis.compare import compare_study
from regatta.config.expand import judging_settings, protocol_id
from regatta.config.load import study_from_mapping
from regatta.core.errors import ConfigError
from regatta.core.files import read_json, write_json
from regatta.core.signals import StopFlag
from regatta.data.manifest import Manifest
from regatta.data.windows import WindowStore
from regatta.models.spec import resolve_model
from regatta.models.weights import load_model, save_model
from regatta.records.run_folder import StudyFolder, open_study
from regatta.worker.judge import judge
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter

CPU = torch.device("cpu")


def prepared(root: Path, *, data: dict[str, Any], **protocol: Any) -> StudyFolder:
    """A study of three subjects with two small models as they were drawn."""
    study = study_from_mapping(
        {
            "name": "signals",
            "data": {
                "source": "har-synthetic",
                "root": str(root / "data"),
                "options": {"subjects": 3, "windows_per_class": 4},
                "validation_groups": 1,
                **data,
            },
            "entries": ["cnn1d", "transformer1d"],
            "protocol": {"part_samples": 5, **protocol},
            "compare": {"replicates": 100},
        },
        where="tests",
    )
    folder = open_study(root / "runs", study)
    prepare(folder, StopFlag(), StatusWriter([folder.prepare_status]))
    classes = Manifest.load(folder.manifest).classes
    window = WindowStore.load(folder.windows).window
    for spec, run in folder.runs():
        model = resolve_model(spec.entry, len(classes), seed=0, window=window)
        save_model(run.model, model.build(len(classes)), model, classes)
        write_json(run.training_results, {"test_acc": None, "temperature": 1.5})
    return folder


def judge_all(folder: StudyFolder, *, shards: int = 1) -> None:
    runs = [run for _, run in folder.runs()]
    for number in range(shards):
        judge(
            folder,
            [run.run_id for run in runs],
            shard=(number, shards),
            device=CPU,
            threads=1,
            stop=StopFlag(),
            status=StatusWriter([run.status for run in runs]),
        )


def scores_of(folder: StudyFolder, run_id: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The model on the stored windows of a split, and their labels."""
    manifest, store = Manifest.load(folder.manifest), WindowStore.load(folder.windows)
    samples = manifest.split(split)
    module, _, _ = load_model(folder.run(run_id).model)
    with torch.inference_mode():
        scores = module.eval()(store.select(samples)).numpy()
    return scores, np.array([sample.label for sample in samples])


def test_test_accuracy_and_unknown_classes_are_measured_once_all_shards_are_done(tmp_path):
    folder = prepared(tmp_path, data={"unknown_classes": ["laying"]})
    assert "laying" not in Manifest.load(folder.manifest).classes
    judge_all(folder, shards=2)
    comparison = compare_study(folder)
    for row in comparison["unknown"]["runs"]:
        known, labels = scores_of(folder, row["run"], "test")
        strange, _ = scores_of(folder, row["run"], "unknown")
        assert (row["n_known"], row["n_unknown"]) == (len(known), len(strange)) == (20, 4)
        doubt = 1 - softmax(np.concatenate([known, strange]), axis=1).max(axis=1)
        truth = np.repeat([0, 1], [len(known), len(strange)])
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, doubt), abs=0.02)
        results = read_json(folder.run(row["run"]).training_results)
        assert results["test_acc"] == pytest.approx((known.argmax(1) == labels).mean())
        assert results["temperature"] == 1.5


def test_every_setting_of_the_protocol_travels_with_the_predictions(tmp_path):
    folder = prepared(tmp_path, data={}, sample_size=12)
    judge_all(folder)
    section = folder.study().protocol
    for _, run in folder.runs():
        parts = run.predictions(protocol_id(section))
        found = read_json(parts / "complete.json")["fingerprint"]
        assert found == read_json(parts / "judging.json")["fingerprint"]
        assert found["settings"] == judging_settings(section)
        assert found["settings"]["sample_size"] == found["sample_ids"] == 12


def test_without_unknown_classes_the_table_says_not_measured(tmp_path):
    folder = prepared(tmp_path, data={}, sample_size=12)
    judge_all(folder)
    compare_study(folder)
    text = (folder.results / "unknown.csv").read_text(encoding="utf-8")
    assert text.count("not measured") == 2 * 5
    # A subset is not the test split, so its accuracy is not the test accuracy.
    assert read_json(folder.runs()[0][1].training_results)["test_acc"] is None


@pytest.mark.parametrize(
    ("data", "protocol", "words"),
    [
        ({"unknown_classes": ["lying"]}, {}, "there is no class 'lying'"),
        (
            {"unknown_classes": ["walking", "walking_upstairs", "walking_downstairs", "sitting",
                                 "standing"]},
            {},
            "1 known class",
        ),
        (
            {"design": "subject-kfold", "folds": 3, "unknown_classes": ["laying"]},
            {},
            "single split",
        ),
        (
            {},
            {"name": "sensor-robustness", "options": {"rates_hz": [20.0]}},
            "20 Hz is no whole fraction of the data's 50 Hz",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused_before_any_training(tmp_path, data, protocol, words):
    with pytest.raises(ConfigError, match=words):
        prepared(tmp_path, data=data, **protocol)
    assert not (tmp_path / "runs" / "signals" / "manifest.parquet").exists()


def test_unknown_classes_are_for_signals_only():
    mapping = {
        "name": "v",
        "data": {"source": "rotors", "unknown_classes": ["left"]},
        "entries": [{"model": "cnn3d", "checkpoint": "none"}],
    }
    with pytest.raises(ConfigError, match="for sources of signals, not for 'rotors'"):
        study_from_mapping(mapping, where="tests")
