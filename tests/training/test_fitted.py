"""Entries that are fitted directly leave what a trained run leaves."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from regatta.config.schema import TrainSection
from regatta.core.errors import DataError, NonFiniteError, StopRequested
from regatta.core.files import write_json
from regatta.core.seeds import stream
from regatta.core.signals import StopFlag
from regatta.data.sources.uci_har import uci_har
from regatta.models.spec import make_spec
from regatta.models.weights import load_model
from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import RunFolder
from regatta.training import fitted
from regatta.training.fitted import FitSamples, fit_run
from regatta.training.loop import train_run
from regatta.training.progress import beating
from tests.training.tiny_training import tiny_run

CLASSES = ["still", "slow", "fast"]


def samples(count: int, *, seed: int, split: str) -> FitSamples:
    """Noise with a tone whose frequency is the class, weak enough for errors."""
    rng = stream(seed, "windows")
    labels = np.arange(count) % 3
    signals = rng.standard_normal((count, 2, 40))
    signals[:, 0] += 0.6 * np.sin(2 * np.pi * (2 + 2 * labels[:, None]) * np.arange(40) / 40)
    inputs = torch.from_numpy(signals.astype(np.float32))
    return FitSamples(inputs, labels.tolist(), [f"{split}-{row}" for row in range(count)])


def fit(path: Path, model: str = "features-linear", **changes: Any) -> dict[str, Any]:
    spec = make_spec(model, "base", {}, window=(2, 40))
    folder = RunFolder(path)
    write_json(folder.run_json, {"run_id": path.name, "content_hash": "abc"})
    recipe = {k: changes.pop(k) for k in list(changes) if k in TrainSection.model_fields}
    arguments: dict[str, Any] = {
        "module": spec.build(3),
        "spec": spec,
        "train": TrainSection(**recipe),
        "training": samples(90, seed=0, split="train"),
        "validation": samples(60, seed=1, split="validation"),
        "folder": folder,
        "seed": 3,
        "classes": CLASSES,
        "stop": StopFlag(),
        "report": lambda _: None,
        **changes,
    }
    return fit_run(**arguments)


def test_a_fitted_run_has_the_files_and_keys_of_a_trained_run(tmp_path: Path):
    observed: list[dict[str, Any]] = []
    fitted = fit(tmp_path / "fitted", observe=observed.append)
    trained = train_run(**tiny_run(tmp_path / "trained"))
    assert set(fitted) - set(trained) == {"fitted", "trials"}
    assert set(trained) <= set(fitted)
    assert set(fitted["history"]) == set(trained["history"])
    assert {len(column) for column in fitted["history"].values()} == {1}
    assert set(trained["config"]) == set(fitted["config"])
    folder = RunFolder(tmp_path / "fitted")
    records = read_metrics(folder.metrics)
    assert records == observed
    like = [r for r in read_metrics(RunFolder(tmp_path / "trained").metrics) if "macro_f1" in r]
    assert [set(record) for record in records] == [set(like[0])]
    assert json.loads(folder.training_results.read_text()) == fitted
    _, _, classes = load_model(folder.model)
    assert classes == CLASSES


def test_the_setting_is_the_best_on_validation_and_validation_is_not_fitted(tmp_path: Path):
    results = fit(tmp_path)
    module, _, _ = load_model(RunFolder(tmp_path).model)
    training, validation = (samples(90, seed=0, split=""), samples(60, seed=1, split=""))
    features = [module.describe(split.inputs).numpy() for split in (training, validation)]  # pyright: ignore[reportCallIssue]
    mean, sd = features[0].mean(axis=0), features[0].std(axis=0)
    train_x, validation_x = ((table - mean) / np.where(sd > 0, sd, 1) for table in features)
    scores = {
        row["C"]: LogisticRegression(C=row["C"], max_iter=5000)
        .fit(train_x, training.labels)
        .score(validation_x, validation.labels)
        for row in results["fitted"]["tried"]
    }
    assert results["best_val_acc"] == max(scores.values())
    assert scores[results["fitted"]["setting"]["C"]] == max(scores.values())
    assert {row["C"]: row["val_acc"] for row in results["fitted"]["tried"]} == scores


def test_a_fitted_run_is_read_back_and_not_fitted_again(tmp_path: Path):
    first = fit(tmp_path)
    before = (tmp_path / "training_results.json").stat().st_mtime_ns
    assert fit(tmp_path, seed=99) == first
    assert (tmp_path / "training_results.json").stat().st_mtime_ns == before


def test_a_stop_request_between_two_settings_leaves_no_half_run(tmp_path: Path):
    stop = StopFlag()

    def ask(progress: dict[str, Any]) -> None:
        if progress["step"] == 2:
            stop.request("SIGTERM")

    with pytest.raises(StopRequested) as caught:
        fit(tmp_path, stop=stop, report=ask)
    assert caught.value.exit_code == 143
    assert not RunFolder(tmp_path).is_trained()
    assert not (tmp_path / "model").exists()
    assert fit(tmp_path)["best_val_acc"] > 0.5


def test_features_that_are_not_finite_are_refused_by_name(tmp_path: Path):
    broken = samples(90, seed=0, split="train")
    broken.inputs[7, 1, 3] = torch.inf
    with pytest.raises(NonFiniteError, match="train-7"):
        fit(tmp_path, training=broken)
    assert not RunFolder(tmp_path).is_trained()


def test_a_class_without_training_samples_is_refused_by_name(tmp_path: Path):
    few = samples(90, seed=0, split="train")
    kept = [row for row, label in enumerate(few.labels) if label != 1]
    lacking = FitSamples(
        few.inputs[kept], [few.labels[r] for r in kept], [few.sample_ids[r] for r in kept]
    )
    with pytest.raises(DataError, match="slow"):
        fit(tmp_path, training=lacking)


@pytest.fixture(scope="module")
def real_parts(shared_data: Path) -> tuple[dict[str, FitSamples], list[str]]:
    """Real windows: training files without every eighth block, those blocks, the test files."""
    listing = uci_har(shared_data / "UCI HAR Dataset")
    signals = torch.from_numpy(listing.signals)
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for number, row in enumerate(listing.rows):
        held = row.split == "train" and sum(row.recording.encode()) % 8 == 0
        rows["validation" if held else row.split].append(number)
    parts = {
        split: FitSamples(
            signals[chosen],
            [listing.classes.index(listing.rows[number].label_name) for number in chosen],
            [listing.rows[number].sample_id for number in chosen],
        )
        for split, chosen in rows.items()
    }
    return parts, listing.classes


@pytest.mark.parametrize(("model", "least"), [("features-linear", 0.93), ("features-svm", 0.95)])
def test_real_windows_are_told_apart(
    tmp_path: Path,
    real_parts: tuple[dict[str, FitSamples], list[str]],
    model: str,
    least: float,
):
    """Settings are chosen on blocks held out of the training files; the test files come last."""
    parts, classes = real_parts
    spec = make_spec(model, "base", {}, window=(9, 128))
    fit(
        tmp_path,
        model,
        module=spec.build(6),
        spec=spec,
        training=parts["train"],
        validation=parts["validation"],
        classes=classes,
    )
    module, _, _ = load_model(RunFolder(tmp_path).model)
    right = module(parts["test"].inputs).argmax(dim=1) == torch.tensor(parts["test"].labels)
    assert right.double().mean() >= least


def test_one_long_fit_gives_signs_of_life_and_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted, "beating", partial(beating, seconds=0.02))
    said: list[dict[str, Any]] = []
    before = threading.active_count()
    spec = make_spec("features-linear", "base", {}, window=(2, 40))
    module: Any = spec.build(3)
    quick = module.fit

    def slow(*arguments: Any, **options: Any) -> dict[str, Any]:
        time.sleep(0.3)
        return quick(*arguments, **options)

    monkeypatch.setattr(module, "fit", slow)
    settings = len(module.candidates())
    fit(tmp_path, module=module, report=said.append)
    assert len(said) > 3 * settings
    assert threading.active_count() == before
