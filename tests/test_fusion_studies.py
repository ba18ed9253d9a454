"""Studies of fusions through the real command line and real worker processes, from pictures to the
report; and what is said of those that go wrong."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file

from regatta.config.expand import protocol_id
from regatta.config.load import study_from_mapping
from regatta.core.errors import ConfigError, DataError, RegattaError
from regatta.core.files import read_json
from regatta.records.predictions import read_run_predictions
from regatta.records.run_folder import StudyFolder
from regatta.records.status import read_status
from tests.fusion_here import fusion_mapping, open_prepared, run_of, train_named, write_pictures
from tests.test_bad_input import assert_told, regatta

EXPERTS = ("resnet-expert-0", "resnet-expert-1")


def write_study(home: Path, **sections: Any) -> Path:
    file = home / "s.yaml"
    file.write_text(yaml.safe_dump(fusion_mapping(Path("pictures"), **sections)))
    return file


def columns(path: Path) -> list[str]:
    with path.open(newline="") as handle:
        return next(csv.reader(handle))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a study that ran from its file to its report."""
    home = tmp_path_factory.mktemp("finished")
    write_pictures(home / "pictures")
    write_study(home, fusion={"types": ["multiplicative"], "baselines": ["stacking"]})
    assert_told(regatta("run", "s.yaml", cwd=home), 0, "report.html")
    return home


@pytest.mark.slow
def test_experts_are_trained_before_what_joins_them(finished: Path):
    folder = StudyFolder(finished / "runs" / "small")
    done = {spec.entry.name: run.training_results.stat().st_mtime_ns for spec, run in folder.runs()}
    began = run_of(folder, "resnet-multiplicative").weights.stat().st_mtime_ns
    assert max(done[name] for name in EXPERTS) < began
    assert {read_status(run.status).state for _, run in folder.runs()} == {"done"}


@pytest.mark.slow
def test_a_study_leaves_the_files_that_it_promises(finished: Path):
    folder = StudyFolder(finished / "runs" / "small")
    results = folder.results
    expected = {
        "evaluation": "timestamp,model_type,fusion_type,alpha,expert_id,architecture,test_type,"
        "test_param,corruption_type,severity,accuracy,loss,correct,total,low,high,seed,run",
        "ood": "ood_dataset,ood_type,auroc,aupr,fpr95,detection_accuracy,threshold,score,n_in,"
        "n_out,status",
        "diversity": "disagreement,q,correlation,double_fault,oracle,ambiguity,cka",
        "cost": "run,parameters,macs_per_image,train_flops,images_seen,device_seconds,peak_gb",
        "matrix": "architecture,fusion_type,partition,alpha,accuracy,low,high,gain_over_average,"
        "gain_over_equal_cost,verdict",
        "csv_logs/resnet_fusions/resnet_multiplicative_training_log": "epoch,train_loss,val_loss,"
        "val_accuracy,experts_lr,fusion_lr,global_head_lr,loss_global,loss_individual,loss_total,"
        "expert_0_accuracy,expert_1_accuracy,expert_0_loss,expert_1_loss,alpha,fusion_type,"
        "model_architecture,timestamp,seed,train_accuracy,seconds,grad_norm_experts,"
        "grad_norm_fusion,run",
        "csv_logs/resnet_experts/resnet_expert_0_training_log": "epoch,train_loss,train_acc,"
        "val_loss,val_acc,lr,best_val_acc_so_far,seconds,run",
    }
    for name, listed in expected.items():
        assert set(listed.split(",")) <= set(columns(results / f"{name}.csv")), name
    assert "resnet-multiplicative" in (folder.report / "report.html").read_text()
    lists = {path.name for path in folder.splits.glob("*.npy")}
    assert {"expert_train_indices.npy", "fusion_holdout_indices.npy"} <= lists


@pytest.mark.slow
def test_the_clean_accuracy_in_the_table_is_that_of_the_scores(finished: Path):
    folder = StudyFolder(finished / "runs" / "small")
    run = run_of(folder, "resnet-multiplicative")
    found = read_run_predictions(
        run.predictions(protocol_id(folder.study().protocol)), run_id="", entry="", seed=0
    )
    with (folder.results / "matrix.csv").open(newline="") as handle:
        (row,) = csv.DictReader(handle)
    correct = found.scores[0].argmax(axis=1) == found.labels
    assert float(row["accuracy"]) == pytest.approx(correct.mean())


@pytest.mark.slow
def test_a_finished_study_starts_nothing_when_it_is_run_again(finished: Path):
    folder = StudyFolder(finished / "runs" / "small")
    kept = {
        path: path.stat().st_mtime_ns
        for pattern in ("log.txt", "model.safetensors", "part-*.parquet", "metrics.jsonl")
        for path in folder.path.rglob(pattern)
    }
    assert_told(regatta("run", "s.yaml", cwd=finished), 0)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    told = json.loads(regatta("status", "runs/small", "--json", cwd=finished).stdout)
    assert len(json.dumps(told)) > 2
    tree = regatta("export", "runs/small", "--layout", "fusion-tree", "--to", "tree", cwd=finished)
    assert_told(tree, 0, "resnet_expert_1_best", "resnet_multiplicative_global_head_best")
    assert list((finished / "tree/results/csv_logs").rglob("*.csv"))


LONG = {"epochs": 20, "batch_size": 8, "warmup_epochs": 0, "checkpoint_every_steps": 1}
"""60 steps, so that a kill between two of them is certain to come before the last."""


def wait_until(ready: Callable[[], Any], child: subprocess.Popen[bytes]) -> Any:
    deadline = time.monotonic() + 90
    while not (found := ready()):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_a_fusion_killed_with_its_supervisor_ends_as_if_undisturbed(tmp_path: Path):
    write_pictures(tmp_path / "pictures")
    section = {
        "types": ["multiplicative"],
        "baselines": [],
        "fusion_train": {**LONG, "early_stopping_patience": None},
    }
    content = fusion_mapping(tmp_path / "pictures", fusion=section)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    folder = open_prepared(tmp_path / "runs", content)
    train_named(folder, *EXPERTS)
    shutil.copytree(tmp_path / "runs", tmp_path / "undisturbed")
    train_named(StudyFolder(tmp_path / "undisturbed" / "small"), "resnet-multiplicative")

    run = run_of(folder, "resnet-multiplicative")
    command = [sys.executable, "-m", "regatta", "train", "s.yaml"]
    child = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def worker() -> int | None:
        process = read_status(run.status).process
        begun = any(run.checkpoints.glob("slot-*/manifest.json"))
        return process["pid"] if begun and process else None

    try:
        pid = wait_until(worker, child)
        child.kill()
        os.kill(pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert not run.is_trained()
    assert_told(regatta("train", "s.yaml", cwd=tmp_path), 0)
    other = run_of(StudyFolder(tmp_path / "undisturbed" / "small"), "resnet-multiplicative")
    ended, undisturbed = (load_file(r.model / "model.safetensors") for r in (run, other))
    assert all((ended[key] == undisturbed[key]).all() for key in undisturbed)
    assert read_json(run.training_results)["steps"] == 60


@pytest.mark.slow
def test_a_failing_expert_holds_up_its_own_fusions_alone(tmp_path: Path):
    write_pictures(tmp_path / "pictures")
    section = {"families": ["resnet", "densenet"], "types": ["concatenation"], "baselines": []}
    write_study(tmp_path, fusion=section)
    bad = ("--set", "entries.resnet-expert-1.train.lr=1e30")
    folder = StudyFolder(tmp_path / "runs" / "small")
    told = regatta("train", "s.yaml", *bad, cwd=tmp_path)
    failed = run_of(folder, "resnet-expert-1").run_id
    assert_told(told, 1, failed, "non_finite")
    states = {spec.entry.name: read_status(run.status) for spec, run in folder.runs()}
    assert states["resnet-expert-1"].state == states["resnet-concatenation"].state == "failed"
    assert states["resnet-concatenation"].cause == "needs"
    assert failed in (states["resnet-concatenation"].message or "")
    trained = {spec.entry.name for spec, run in folder.runs() if run.is_trained()}
    assert trained == {
        "resnet-expert-0",
        "densenet-expert-0",
        "densenet-expert-1",
        "densenet-concatenation",
    }
    kept = {r: r.training_results.stat().st_mtime_ns for _, r in folder.runs() if r.is_trained()}
    assert_told(regatta("train", "s.yaml", cwd=tmp_path), 0)
    assert all(run.is_trained() for _, run in folder.runs())
    assert {run: run.training_results.stat().st_mtime_ns for run in kept} == kept


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"partition": {"experts": 1}}, ["at least 2 experts", "partition.experts"]),
        ({"loss": {"alpha": -1}}, ["alpha", "greater than or equal to 0", "-1"]),
        ({"loss": {"alpha": 1, "lambda_loss": 2}}, ["alpha", "lambda_loss"]),
        ({"fusion": {"alphas": [-0.5]}}, ["alphas", "greater than or equal to 0"]),
        ({"fusion": {"types": ["multiplicativ"]}}, ["did you mean 'multiplicative'"]),
        ({"fusion": {"families": ["resnett"]}}, ["resnett", "resnet"]),
        ({"partition": {"unique": 0.4}}, ["shared 0.4 + 2 x unique 0.4 is more than 1"]),
        ({"partition": {"validation": 0.5}}, ["smaller"]),
        ({"partition": {"kind": "noniid"}}, ["fusion.classes"]),
        ({"fusion": {"mixed": True}}, ["1 families, 2 experts"]),
        ({"fusion": {"expert_train": {"epoch": 1}}}, ["epoch", "did you mean 'epochs'?"]),
    ],
)
def test_a_wrong_setting_is_told_with_its_place(
    pictures: Path, sections: dict[str, Any], words: list[str]
):
    with pytest.raises(ConfigError) as caught:
        study_from_mapping(fusion_mapping(pictures, **sections), where="s.yaml")
    for word in words:
        assert word in str(caught.value)


def refusal(runs: Path, content: dict[str, Any]) -> str:
    """What reading the data says; nothing of it is left behind."""
    with pytest.raises(RegattaError) as caught:
        open_prepared(runs, content)
    assert not list(runs.rglob("manifest.parquet")) + list(runs.rglob("images.safetensors"))
    return f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"partition": {"unique": 0.0, "shared": 0.02}}, ["expert-0", "no image of", "class"]),
        ({"fusion": {"options": {}}}, ["takes images of 32 x 32 pixels, the data has 16 x 16"]),
    ],
)
def test_what_cannot_be_trained_is_told_while_reading_the_data(
    pictures: Path, tmp_path: Path, sections: dict[str, Any], words: list[str]
):
    told = refusal(tmp_path, fusion_mapping(pictures, **sections))
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (np.array([0, 1, 1, 2]), ["stand there more than once", "1"]),
        (np.array([0, 500]), ["1 of 2 indices are outside 0..119", "500"]),
        (np.array([0.5, 1.0]), ["not a list of whole numbers"]),
        (np.array([{"a": 1}], dtype=object), ["holds Python objects"]),
        (np.array([], dtype=np.int64), ["empty"]),
    ],
)
def test_a_wrong_list_of_indices_is_refused_with_counts(
    pictures: Path, tmp_path: Path, numbers: np.ndarray, words: list[str]
):
    np.save(tmp_path / "pool.npy", numbers, allow_pickle=True)
    section = {"pool_file": str(tmp_path / "pool.npy")}
    told = refusal(tmp_path / "runs", fusion_mapping(pictures, partition=section))
    for word in words:
        assert word in told


def test_a_hold_out_that_overlaps_the_pool_is_refused_with_the_count(
    pictures: Path, tmp_path: Path
):
    np.save(tmp_path / "pool.npy", np.arange(80))
    np.save(tmp_path / "holdout.npy", np.arange(70, 120))
    lists = {f"{name}_file": str(tmp_path / f"{name}.npy") for name in ("pool", "holdout")}
    told = refusal(tmp_path / "runs", fusion_mapping(pictures, partition=lists))
    assert "10 of 50 hold-out indices are in the pool too" in told


def test_splits_of_other_classes_are_refused(pictures: Path, tmp_path: Path):
    root = shutil.copytree(pictures, tmp_path / "p")
    shutil.rmtree(root / "test" / "west")
    told = refusal(tmp_path / "runs", fusion_mapping(root))
    assert "the classes differ between the splits" in told
    assert "west" in told


def test_grey_and_transparent_pictures_are_taken_and_counted(pictures: Path, tmp_path: Path):
    root = shutil.copytree(pictures, tmp_path / "p")
    for number, mode in enumerate(("L", "L", "RGBA")):
        path = root / "train" / "east" / f"{number:03}.png"
        shown = Image.open(path).convert(mode)
        if mode == "RGBA":
            shown.putalpha(100)
        shown.save(path)
    folder = open_prepared(tmp_path / "runs", fusion_mapping(root))
    notes = " ".join(read_json(folder.data_json)["notes"])
    assert "2 image(s) are" in notes
    assert "1 image(s) are" in notes
    assert not read_json(folder.data_json)["dropped"]


def test_an_unreadable_picture_stops_or_is_listed_and_never_deleted(pictures: Path, tmp_path: Path):
    root = shutil.copytree(pictures, tmp_path / "p")
    broken = root / "train" / "east" / "000.png"
    broken.write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"1 of 160 images cannot be used[\s\S]*east/000\.png"):
        open_prepared(tmp_path / "one", fusion_mapping(root))
    folder = open_prepared(tmp_path / "two", fusion_mapping(root, data={"damaged": "drop"}))
    (dropped,) = read_json(folder.data_json)["dropped"]
    assert dropped["path"] == "train/east/000.png"
    assert broken.read_bytes() == b"\x89PNG"


def cifar10(root: Path, *, cut: int = 0, label: int | None = None) -> Path:
    """The binary release with few records: a label and 3,072 bytes each."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]:
        records = rng.integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(20) % 10
        (root / name).write_bytes(records.tobytes())
    first = bytearray((root / "data_batch_1.bin").read_bytes())
    if label is not None:
        first[3 * 3073] = label
    (root / "data_batch_1.bin").write_bytes(bytes(first[: len(first) - cut]))
    return root


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ({"cut": 100}, ["data_batch_1.bin", "3073"]),
        ({"label": 10}, ["data_batch_1.bin", "10"]),
    ],
)
def test_a_damaged_binary_release_names_its_file(
    tmp_path: Path, harm: dict[str, int], words: list[str]
):
    root = cifar10(tmp_path / "c", **harm)
    content = fusion_mapping(root, fusion={"options": {}})
    content["data"] = {"source": "cifar10", "root": str(root)}
    told = refusal(tmp_path / "runs", content)
    for word in words:
        assert word in told


def test_a_missing_data_folder_is_told_before_anything_starts(tmp_path: Path):
    write_study(tmp_path)
    assert_told(regatta("check", "s.yaml", cwd=tmp_path), 2, "does not exist", "data.root")
    assert not (tmp_path / "runs").exists()
