"""Exported models over windows of signals: the card is true, and its program predicts one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from regatta.core.files import read_json, write_json
from regatta.models.spec import make_spec
from regatta.models.weights import load_model, save_model
from regatta.records.run_folder import StudyFolder
from regatta.report.model_export import export_models
from tests.report.sensor_build import ACTIVITIES, build_sensor_study

ENTRY = {"name": "cnn1d", "model": "cnn1d", "options": {"dropout": 0.3}}


def trained_study(path: Path, **settings: Any) -> StudyFolder:
    """Its runs hold real models; later runs have the better validation score."""
    folder = build_sensor_study(path, [ENTRY], windows=36, epochs=1, **settings)
    spec = make_spec("cnn1d", "base", ENTRY["options"], window=(9, 128))
    for number, (_, run) in enumerate(folder.runs()):
        torch.manual_seed(number)
        save_model(run.model, spec.build(len(ACTIVITIES)), spec, ACTIVITIES)
        record = read_json(run.training_results)
        write_json(run.training_results, {**record, "best_val_accuracy": 0.5 + 0.1 * number})
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    (model,) = export_models(trained_study(tmp_path / "runs"), tmp_path / "out")
    return model.path


def test_the_program_of_the_card_predicts_one_window(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(exported.parent)
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in ACTIVITIES


def test_the_exported_model_answers_as_the_one_that_was_trained(
    exported: Path, tmp_path: Path
) -> None:
    ((_, run),) = StudyFolder(tmp_path / "runs" / "windows").runs()
    windows = torch.randn(3, 9, 128)
    answers = [load_model(folder)[0](windows) for folder in (run.model, exported)]
    assert torch.equal(*answers)
    assert not (exported / "preprocessor_config.json").exists()


def test_the_card_speaks_of_windows(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "raw windows of 9 channels x 128 points" in card
    assert "MACs per window" in card
    # clip_norm is a limit of gradients.
    said = card.replace("clip\\_norm", "")
    assert not re.search(r"(clip|frame|video|coverage|stride)", said, re.IGNORECASE)
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "regatta"
    assert "pipeline_tag" not in head


def test_of_a_study_with_folds_the_best_validated_fold_is_exported_and_said(
    tmp_path: Path,
) -> None:
    folder = trained_study(tmp_path / "runs", data={"design": "subject-kfold", "folds": 2})
    (model,) = export_models(folder, tmp_path / "out")
    card = (model.path / "README.md").read_text(encoding="utf-8")
    assert "This is seed 0, fold 1: the best of 2 seeds and folds on the validation split." in card
    every = export_models(folder, tmp_path / "all", all_seeds=True)
    assert [m.path.name.rpartition("-s")[2] for m in every] == ["0-fold0", "0-fold1"]
