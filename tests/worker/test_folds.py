"""Promises of folds: every sample is judged once per entry and seed, by a run that never saw its
group, and an entry that lacks a fold is left out whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from regatta.analysis.folds import join_training
from regatta.analysis.judged import read_judged_study
from regatta.config.expand import expand_study, protocol_id
from regatta.config.load import study_from_mapping
from regatta.core.errors import ConfigError, DataError, RecordError
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.orchestrate.plan import plan_study
from regatta.records.predictions import read_run_predictions
from regatta.records.run_folder import StudyFolder, open_study
from regatta.worker.judge import judge
from regatta.worker.prepare import prepare
from regatta.worker.run_data import load_fold_data, load_run_data
from regatta.worker.status_writer import StatusWriter
from regatta.worker.train import train

CPU = torch.device("cpu")


def mapping(root: Path, **data: object) -> dict:
    section = {
        "source": "har-synthetic",
        "root": str(root / "syn"),
        "options": {"subjects": 4, "windows_per_class": 2},
        **data,
    }
    return {
        "name": "folds",
        "data": section,
        "entries": [{"name": "ann", "model": "cnn1d", "checkpoint": "none"}],
        "train": {"epochs": 1, "batch_size": 16, "lr": 1e-3, "precision": "fp32"},
        "protocol": {"name": "plain", "part_samples": 8},
    }


def prepared(root: Path, **data: object) -> StudyFolder:
    study = study_from_mapping(mapping(root, **data))
    folder = open_study(root / "runs", study)
    prepare(folder, StopFlag(), StatusWriter([]))
    return folder


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Leave-one-subject-out over four subjects: all trained, the last fold not judged."""
    folder = prepared(tmp_path_factory.mktemp("loso"), design="loso", folds=4)
    for spec, run in folder.runs():
        status = StatusWriter([run.status])
        train(folder, spec.run_id, device=CPU, stop=StopFlag(), status=status)
        if spec.fold != 3:
            judge_run(folder, spec.run_id)
    return folder


def judge_run(folder: StudyFolder, run_id: str) -> None:
    status = StatusWriter([folder.run(run_id).status])
    judge(folder, [run_id], shard=(0, 1), device=CPU, threads=1, stop=StopFlag(), status=status)


def test_folds_join_into_one_judging_of_every_sample(raced: StudyFolder) -> None:
    with pytest.raises(RecordError, match="no run of this study is judged"):
        read_judged_study(raced)
    specs = [spec for spec, _ in raced.runs()]
    judge_run(raced, specs[3].run_id)
    judged = read_judged_study(raced)
    data = load_run_data(raced, specs[0])
    labels = {s.sample_id: s.label for s in data.manifest.samples}
    assert judged.sample_ids.tolist() == sorted(labels)
    assert judged.labels.tolist() == [labels[name] for name in sorted(labels)]
    assert sorted(set(judged.groups)) == [f"subject-{n:02d}" for n in range(1, 5)]
    assert len(judged.runs) == 1
    joined = judged.runs[0]
    assert joined.run_ids == [spec.run_id for spec in specs]
    protocol = protocol_id(raced.study().protocol)
    for spec, run in raced.runs():
        own = read_run_predictions(
            run.predictions(protocol), run_id=spec.run_id, entry="ann", seed=0
        )
        assert set(own.groups) == {f"subject-{(spec.fold or 0) + 1:02d}"}
        places = np.searchsorted(judged.sample_ids, own.sample_ids)
        assert np.array_equal(joined.correct[:, places], own.correct())
    each = [read_json(run.training_results) for _, run in raced.runs()]
    assert joined.training["train_seconds"] == pytest.approx(sum(r["train_seconds"] for r in each))
    assert joined.training["steps"] == sum(r["steps"] for r in each)
    assert joined.training["parameters"] == each[0]["parameters"]


def test_no_run_sees_the_group_that_it_is_judged_on(raced: StudyFolder) -> None:
    for spec, _ in raced.runs():
        manifest = load_run_data(raced, spec).manifest
        seen = {s.group for split in ("train", "validation") for s in manifest.split(split)}
        judged = {s.group for s in manifest.split("test")}
        assert len(judged) == 1
        assert not seen & judged


def test_data_record_counts_what_all_folds_judge(raced: StudyFolder) -> None:
    facts = read_json(raced.data_json)
    assert sum(facts["counts"]["test"].values()) == 4 * 6 * 2
    assert sum(facts["counts"]["train"].values()) == 2 * 6 * 2
    assert facts["groups"] == {"train": 2, "validation": 1, "test": 4}
    assert [fold["groups"]["test"] for fold in facts["folds"]] == [1, 1, 1, 1]


def test_runs_of_two_folds_are_never_judged_together(raced: StudyFolder) -> None:
    ids = [spec.run_id for spec, _ in raced.runs()][:2]
    with pytest.raises(RecordError, match="folds 0, 1"):
        load_fold_data(raced, ids)


def test_each_fold_is_judged_by_a_task_of_its_own_after_its_own_training(tmp_path: Path) -> None:
    content = mapping(tmp_path, design="subject-kfold", folds=2)
    content["entries"].append({"name": "bob", "model": "cnn1d", "checkpoint": "none"})
    study = study_from_mapping(content)
    plan = plan_study(open_study(tmp_path / "runs", study), study, judge_shards=4)
    tasks = plan.of_kind("judge")
    assert [task.id for task in tasks] == ["judge:fold0:1/1", "judge:fold1:1/1"]
    assert len({task.log for task in tasks}) == 2
    for fold, task in enumerate(tasks):
        runs = [spec.run_id for spec in expand_study(study) if spec.fold == fold]
        assert list(task.run_ids) == runs
        assert set(task.after) == {f"train:{run_id}" for run_id in runs}


def test_fold_stands_in_label_and_id_and_single_splits_keep_their_ids(tmp_path: Path) -> None:
    runs = expand_study(study_from_mapping(mapping(tmp_path, design="subject-kfold", folds=3)))
    assert [run.label for run in runs] == [f"ann seed 0 fold {n}" for n in range(3)]
    assert [run.run_id.rpartition("-")[0] for run in runs] == [f"ann-s0-fold{n}" for n in range(3)]
    assert len({run.content_hash for run in runs}) == 3
    (single,) = expand_study(study_from_mapping(mapping(tmp_path)))
    assert (single.fold, single.label) == (None, "ann seed 0")
    assert len(expand_study(study_from_mapping(mapping(tmp_path, design="subject-kfold")))) == 5


def test_wrong_number_of_loso_folds_is_answered_with_the_true_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are 4 subjects") as caught:
        prepared(tmp_path, design="loso", folds=30)
    assert caught.value.hint == "set data.folds: 4"
    assert not (tmp_path / "runs" / "folds" / "manifest.parquet").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"design": "loso"}, "loso needs folds"),
        ({"folds": 5}, "folds is for loso and subject-kfold"),
        ({"design": "subject-kfold", "max_train_samples": 9}, "max_train_samples"),
    ],
)
def test_keys_that_do_not_fit_the_design_are_refused(
    tmp_path: Path, data: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        study_from_mapping(mapping(tmp_path, **data))


@pytest.mark.parametrize("data", [{"design": "window-random"}, {"validation_groups": 3}])
def test_designs_are_refused_for_videos(data: dict) -> None:
    with pytest.raises(ConfigError, match="for sources of signals, not for 'rotors'"):
        study_from_mapping(
            {"name": "v", "data": {"source": "rotors", **data}, "entries": ["cnn3d"]}
        )


def test_training_records_of_folds_are_sums_means_and_what_they_share() -> None:
    records = [
        {"steps": 10, "train_seconds": 1.5, "best_val_acc": 0.5, "device": "a", "history": [1]},
        {
            "steps": 20,
            "train_seconds": 2.5,
            "best_val_acc": 0.7,
            "device": "a",
            "history": [1, 2],
        },
    ]
    joined = join_training(records)
    assert (joined["steps"], joined["train_seconds"], joined["device"]) == (30, 4.0, "a")
    assert joined["best_val_acc"] == pytest.approx(0.6)
    assert joined["epochs_trained"] == 1.5
    assert "history" not in joined
    assert join_training([records[0], {}]) == {}
    assert join_training(records[:1]) == records[0]
