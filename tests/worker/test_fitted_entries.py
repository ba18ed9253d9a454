"""Fitted entries go through the same worker as trained ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from regatta.config.load import study_from_mapping
from regatta.core.errors import ConfigError
from regatta.core.files import read_json
from regatta.data.manifest import Manifest, Sample
from regatta.data.windows import WindowStore
from regatta.models.spec import make_spec
from regatta.models.weights import load_model
from regatta.worker.labels import with_label_share
from regatta.worker.window_inputs import check_inputs, read_inputs
from tests.worker.small_windows import drawn, small_study, train_entry

REPOSITORY = Path(__file__).parents[2]
ENTRIES = [{"name": name, "model": name} for name in ("majority", "features-linear")]


def test_fitted_entries_are_trained_beside_networks_and_beat_the_majority(tmp_path: Path):
    folder = small_study(tmp_path, [*ENTRIES, {"name": "svm", "model": "features-svm"}])
    runs = {name: train_entry(folder, name) for name in ("majority", "features-linear", "svm")}
    scores = {name: read_json(run.training_results)["best_val_acc"] for name, run in runs.items()}
    assert scores["majority"] == pytest.approx(1 / 6)
    assert min(scores["features-linear"], scores["svm"]) > 0.5
    for run in runs.values():
        assert not run.checkpoints.exists()
        assert read_json(run.status)["state"] == "queued"


@pytest.mark.slow
def test_two_ranks_fit_and_encode_what_one_process_does(tmp_path: Path):
    """Rank 0 fits for both; both encode, each channel once, and train one head together."""
    entries = [ENTRIES[1], drawn("flat", dropout=0.0)]
    alone = small_study(tmp_path / "one", entries)
    pair = small_study(tmp_path / "two", entries, batch_size=8, parallel="ddp")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for spec, run in pair.runs():
        worker = ["-m", "regatta.worker", "train", "--study", str(pair.path)]
        command = [*launch, *worker, "--runs", spec.run_id, "--device", "cpu", "--threads", "1"]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("trained on frozen features") == (spec.entry.name == "flat")
        first = train_entry(alone, spec.entry.name)
        one, two = (load_file(r.model / "model.safetensors") for r in (first, run))
        for key in one:
            torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-5)
        assert read_json(run.training_results)["world"] == 2
    names = [path.name for path in pair.features.rglob("channel-*.safetensors")]
    assert len(names) == 2 * 9


def store_with_features(columns: int | None) -> WindowStore:
    features = None if columns is None else torch.arange(4.0 * columns).reshape(4, columns)
    return WindowStore(list("abcd"), torch.zeros(4, 9, 128), tuple("123456789"), 50.0, (), features)


def reading_study(protocol: str = "plain", **options: Any) -> Any:
    entry = {"name": "theirs", "model": "features561-linear", "options": options}
    content = {
        "name": "s",
        "data": {"source": "har-synthetic"},
        "entries": [entry],
        "protocol": {"name": protocol},
    }
    return study_from_mapping(content)


@pytest.mark.parametrize(
    ("columns", "protocol", "what"),
    [
        (None, "plain", "brings none"),
        (30, "plain", "brings 30 features per window, this entry takes 561"),
        (561, "sensor-robustness", "changes signals"),
    ],
)
def test_entries_that_cannot_read_the_data_are_refused_before_training(
    columns: int | None, protocol: str, what: str
):
    with pytest.raises(ConfigError, match=what):
        check_inputs(reading_study(protocol), store_with_features(columns))


def test_features_of_the_data_set_are_read_in_the_order_of_the_samples():
    store = store_with_features(30)
    check_inputs(reading_study(features=30), store)
    spec = make_spec("features561-linear", "base", {"features": 30}, window=(9, 128))
    assert spec.input_shape == (30,)
    chosen = [sample(name) for name in "ca"]
    assert store.features is not None
    assert torch.equal(read_inputs(store, spec, chosen), store.features[[2, 0]])


def sample(name: str, *, label: int = 0, split: Any = "train") -> Sample:
    return Sample(name, name, label, f"class-{label}", name, split, 0, 8, 25.0, 64, 48, 1.0, name)


def test_the_label_share_of_videos_is_listed_and_leaves_other_splits_alone(tmp_path: Path):
    """One sample per class at least, the same for every seed."""
    splits = ["train"] * 30 + ["validation"] * 6 + ["test"] * 6
    samples = [sample(f"v{n:02d}", label=n % 3, split=split) for n, split in enumerate(splits)]
    manifest = Manifest(samples, ["class-0", "class-1", "class-2"])
    folder = small_study(tmp_path, ENTRIES, label_fraction=0.01)
    (run_spec, run), *_ = folder.runs()
    share = with_label_share(manifest, run_spec, run, seed=42, writes=True)
    assert np.bincount([s.label for s in share.split("train")]).tolist() == [1, 1, 1]
    assert share.split("validation") == manifest.split("validation")
    assert share.split("test") == manifest.split("test")
    written = run.label_indices.read_text().splitlines()
    rows = [f"{chosen.sample_id},{chosen.label}" for chosen in share.split("train")]
    assert written == ["sample_id,label", *rows]
    again = with_label_share(manifest, run_spec, run, seed=42, writes=False)
    assert again == share


def test_a_saved_fit_names_its_classes_and_setting(tmp_path: Path):
    folder = small_study(tmp_path, ENTRIES)
    run = train_entry(folder, "features-linear")
    _, spec, classes = load_model(run.model)
    assert spec.name == "features-linear"
    assert classes == Manifest.load(folder.manifest).classes
    fitted = json.loads(run.training_results.read_text())["fitted"]
    assert fitted["setting"] in [{"C": row["C"]} for row in fitted["tried"]]
    assert fitted["converged"]
