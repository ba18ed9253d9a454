"""Every study file of sensor activity recognition runs from its file; small settings, real data
made for it, all in this process but the worker's own start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from regatta.analysis.compare import compare_study
from regatta.cli.main import app
from regatta.config.load import load_study
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.records.run_folder import StudyFolder, open_study
from regatta.worker.judge import judge
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter
from regatta.worker.train import train

STUDIES = Path(__file__).parents[1] / "studies" / "har"
SMALL = (
    "data.source=har-synthetic",
    "data.options={subjects: 5, windows_per_class: 3}",
    "seeds=[0]",
    "train.epochs=2",
    "train.batch_size=16",
    "train.warmup_epochs=1",
    "train.early_stopping_patience=1",
)
SMALL_ENCODER = (
    "entries=[har-vit, cnn1d, features-linear]",
    "entries.har-vit.options.encoder=vit-micro",
    "entries.har-vit.checkpoint=none",
)
TRAINED = (
    "quick",
    "standard",
    "high-performance",
    "accumulation",
    "regularised",
    "fine-tune",
    "deep-head",
    "channel-average",
)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("har")


def small(name: str, data_root: Path, *more: str) -> list[str]:
    return [*SMALL, f"data.root={data_root / 'syn'}", *more]


def race(name: str, data_root: Path, tmp_path: Path, *more: str) -> StudyFolder:
    """Prepare, train, judge and compare a study file with small settings."""
    study = load_study(STUDIES / f"{name}.yaml", small(name, data_root, *more))
    folder, cpu = open_study(tmp_path, study), torch.device("cpu")
    prepare(folder, StopFlag(), StatusWriter([]))
    folds: dict[int | None, list[str]] = {}
    for spec, run in folder.runs():
        train(folder, spec.run_id, device=cpu, stop=StopFlag(), status=StatusWriter([run.status]))
        folds.setdefault(spec.fold, []).append(spec.run_id)
    for run_ids in folds.values():
        status = StatusWriter([folder.run(run_id).status for run_id in run_ids])
        judge(folder, run_ids, shard=(0, 1), device=cpu, threads=1, stop=StopFlag(), status=status)
    compare_study(folder)
    return folder


@pytest.mark.parametrize("name", TRAINED)
def test_a_scenario_trains_judges_and_compares(name: str, data_root: Path, tmp_path: Path):
    folder = race(name, data_root, tmp_path, *SMALL_ENCODER)
    written = load_study(STUDIES / f"{name}.yaml")
    results = {s.entry.name: read_json(run.training_results) for s, run in folder.runs()}
    vit, cnn = results["har-vit"], results["cnn1d"]
    frozen = name != "fine-tune"
    assert vit["config"]["freeze_encoder"] is frozen
    assert (vit["trained_parameters"] < vit["parameters"]) is frozen
    assert cnn["config"]["accumulate"] == written.train.accumulate
    assert cnn["config"]["lr"] == written.train.lr
    assert len(cnn["history"]["epoch"]) == 2 == len(cnn["history"]["val_loss"])
    assert 0 <= cnn["test_acc"] <= 1
    rows = (folder.results / "har_results.csv").read_text().splitlines()
    assert len(rows) == 1 + 3
    features = list((folder.path / "features").rglob("*.safetensors"))
    assert bool(features) is frozen


@pytest.mark.parametrize(
    ("name", "more", "file"),
    [
        ("head-to-head", ("entries=[har-vit, transformer1d, features-svm, majority]",), None),
        ("modes", ("entries=[flatten, flatten-window, average, first]",), None),
        (
            "label-fraction",
            ("entries=[cnn1d-025, cnn1d-100, features-linear-050]", "train.batch_size=4"),
            "har_results.csv",
        ),
        ("loso", ("data.folds=5", "entries=[transformer1d, majority]"), "har_results.csv"),
        ("robustness", ("entries=[har-vit, features-linear]",), "robustness.csv"),
    ],
)
def test_the_other_studies_run_from_their_files(
    name: str, more: tuple[str, ...], file: str | None, data_root: Path, tmp_path: Path
):
    folder = race(name, data_root, tmp_path, *more)
    comparison = read_json(folder.results / "comparison.json")
    assert not comparison["missing"]
    assert {e["name"] for e in comparison["entries"]} == {s.entry.name for s, _ in folder.runs()}
    assert file is None or (folder.results / file).is_file()


def test_a_smaller_share_of_labels_is_a_part_of_the_training_windows(
    data_root: Path, tmp_path: Path
):
    entries = "entries=[cnn1d-025, features-linear-025]"
    folder = race("label-fraction", data_root, tmp_path, entries, "train.batch_size=4")
    chosen = [run.label_indices.read_text() for _, run in folder.runs()]
    assert chosen[0] == chosen[1]
    count = len(chosen[0].splitlines()) - 1
    data = read_json(folder.data_json)
    total = sum(data["counts"]["train"].values())
    assert count == pytest.approx(0.25 * total, abs=len(data["classes"]))


@pytest.mark.parametrize("name", ["profile", "batch-size"])
def test_a_profile_is_measured_from_its_file(
    name: str, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    overrides = small(
        name,
        data_root,
        "entries=[har-vit, cnn1d]",
        *SMALL_ENCODER[1:],
        "profile.seconds=0.2",
        "profile.warmup=0",
        "profile.timed=3",
        "profile.precisions=[fp32]",
        "profile.batch_sizes=[8, 16]",
    )
    arguments = ["profile", str(STUDIES / f"{name}.yaml"), "--json", "--runs", str(tmp_path)]
    for override in overrides:
        arguments += ["--set", override]
    with pytest.raises(SystemExit) as end:
        app(arguments)
    assert end.value.code == 0
    content = json.loads(capsys.readouterr().out)
    stages = {row["stage"] for row in content["rows"]}
    assert stages == ({"sweep"} if name == "batch-size" else stages - {"sweep"})
    assert {row["entry"] for row in content["rows"]} == {"har-vit", "cnn1d"}
    assert all(row["status"] for row in content["rows"])
