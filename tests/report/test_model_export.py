"""Which models are exported, what is refused, and what is replaced: simulated studies suffice."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from regatta.analysis.compare import compare_study
from regatta.cli.main import app
from regatta.config.expand import protocol_id
from regatta.core.errors import ConfigError, DiskError, ForeignFolderError, RecordError
from regatta.core.files import read_json, write_json
from regatta.core.locks import own_folder
from regatta.records.predictions import file_hash
from regatta.records.run_folder import StudyFolder
from regatta.report.model_export import export_models
from tests.analysis.build import build_judged_study

BEYOND_ALL_PROCESSES = 2**22 + 1
"""No Linux numbers a process so."""
FILES = [
    "README.md",
    "config.json",
    "id2label.json",
    "model.safetensors",
    "preprocessor_config.json",
]


@pytest.fixture
def simulated(tmp_path: Path) -> StudyFolder:
    folder = build_judged_study(
        tmp_path / "runs",
        entries=["videomae", "vivit"],
        samples=24,
        classes=['clap "twice" | <b>', "run: fast", "walk"],
        seeds=(3, 5),
        compare={"replicates": 200},
    )
    for spec, run in folder.runs():
        better = spec.seed == 5
        record = read_json(run.training_results)
        scores = {"best_val_accuracy": 0.5 + 0.25 * better, "best_val_loss": 1.0}
        write_json(run.training_results, {**record, **scores})
        write_model_folder(run.model, read_json(folder.data_json)["classes"])
    return folder


def write_model_folder(model: Path, classes: list[str]) -> None:
    model.mkdir()
    (model / "model.safetensors").write_bytes(model.parent.name.encode())
    labels = {str(n): name for n, name in enumerate(classes)}
    settings = {"name": "videomae", "frames": 16, "image_size": 32, "extra": {"best_epoch": 2}}
    content = {"architectures": ["X"], "id2label": labels, "regatta": settings}
    write_json(model / "config.json", content)
    write_json(model / "preprocessor_config.json", {"image_mean": [0, 0, 0]})


def test_simulated_weights_are_the_judged_ones(simulated: StudyFolder) -> None:
    # The simulation gives as the judged weights' hash that of the run id, which stands in the file.
    for spec, run in simulated.runs():
        judged = read_json(
            run.predictions(protocol_id(simulated.study().protocol)) / "complete.json"
        )
        assert judged["fingerprint"]["weights"] == file_hash(run.model / "model.safetensors"), spec


def test_the_seed_with_the_best_validation_score_is_taken_and_said(
    simulated: StudyFolder, tmp_path: Path
) -> None:
    models = export_models(simulated, tmp_path / "out")
    assert [(m.entry, m.seed) for m in models] == [("videomae", 5), ("vivit", 5)]
    assert models[0].choice == "the best of 2 seeds on the validation split"
    card = (models[0].path / "README.md").read_text()
    assert "This is seed 5: the best of 2 seeds on the validation split." in card
    assert "| 3 | 50.0 |\n| 5 | 75.0 |" in card
    extra = read_json(models[0].path / "config.json")["regatta"]["extra"]
    assert extra["best_epoch"] == 2
    assert extra["export"]["seed"] == 5


def test_of_equal_accuracies_the_lower_loss_decides(simulated: StudyFolder, tmp_path: Path) -> None:
    for spec, run in simulated.runs():
        record = read_json(run.training_results)
        scores = {"best_val_accuracy": 0.5, "best_val_loss": 0.7 if spec.seed == 3 else 0.8}
        write_json(run.training_results, {**record, **scores})
    (model,) = export_models(simulated, tmp_path / "out", entries=["vivit"])
    assert model.seed == 3
    assert "the lowest validation loss" in model.choice


def test_a_seed_can_be_named_or_all_be_taken(simulated: StudyFolder, tmp_path: Path) -> None:
    (model,) = export_models(simulated, tmp_path / "one", seed=3, entries=["vivit"])
    assert (model.seed, model.path.name) == (3, "fine_tuned_vivit_rotors")
    models = export_models(simulated, tmp_path / "all", all_seeds=True)
    assert [m.path.name for m in models] == [
        f"fine_tuned_{entry}_rotors-s{seed}" for entry in ("videomae", "vivit") for seed in (3, 5)
    ]
    weights = {(m.path / "model.safetensors").read_bytes() for m in models}
    assert weights == {run.run_id.encode() for _, run in simulated.runs()}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"seed": 4}, "no seed 4.*3, 5"),
        ({"seed": 3, "all_seeds": True}, "exclude each other"),
        ({"entries": ["vivitt"]}, "did you mean 'vivit'"),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_is_written(
    simulated: StudyFolder, tmp_path: Path, choice: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        export_models(simulated, tmp_path / "out", **choice)
    assert re.search(told, str(caught.value), re.DOTALL)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_trained_is_named_with_the_way_on(
    simulated: StudyFolder, tmp_path: Path
) -> None:
    (run,) = [r for s, r in simulated.runs() if (s.entry.name, s.seed) == ("vivit", 3)]
    run.training_results.unlink()
    with pytest.raises(RecordError, match="vivit seed 3 is not trained") as caught:
        export_models(simulated, tmp_path / "out")
    assert "regatta run" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()
    assert len(export_models(simulated, tmp_path / "out", seed=5)) == 2


def test_a_model_folder_that_lost_a_file_is_refused(simulated: StudyFolder, tmp_path: Path) -> None:
    (run,) = [r for s, r in simulated.runs() if (s.entry.name, s.seed) == ("vivit", 5)]
    (run.model / "model.safetensors").unlink()
    with pytest.raises(RecordError, match=r"has lost its model\.safetensors"):
        export_models(simulated, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_never_touched(simulated: StudyFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    foreign = out / "fine_tuned_vivit_rotors"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(ForeignFolderError, match="no export of Regatta"):
        export_models(simulated, out)
    assert os.listdir(out) == [foreign.name]
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_an_export_of_another_study_is_not_replaced(simulated: StudyFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (model, _) = export_models(simulated, out)
    path = model.path / "config.json"
    content = read_json(path)
    content["regatta"]["extra"]["export"]["study"] = "another"
    write_json(path, content)
    with pytest.raises(ForeignFolderError, match="of study 'another'"):
        export_models(simulated, out)


def test_exporting_again_replaces_the_older_export_whole(
    simulated: StudyFolder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (model,) = export_models(simulated, out, seed=3, entries=["vivit"])
    (model.path / "notes.txt").write_text("added by hand")
    (again,) = export_models(simulated, out, seed=5, entries=["vivit"])
    assert again.path == model.path
    assert sorted(os.listdir(again.path)) == FILES
    assert b"s5" in (again.path / "model.safetensors").read_bytes()
    assert os.listdir(out) == [again.path.name]


def test_an_export_that_was_killed_leaves_the_older_one_and_is_cleared_next_time(
    simulated: StudyFolder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (model,) = export_models(simulated, out, entries=["vivit"])
    # Killed between its two renames, with its own new folder half written.
    os.replace(model.path, out / ".fine_tuned_vivit_rotors.previous.partial")
    (out / f".fine_tuned_vivit_rotors.{BEYOND_ALL_PROCESSES}.partial").mkdir()
    (again,) = export_models(simulated, out, entries=["vivit"])
    assert os.listdir(out) == [again.path.name]
    assert sorted(os.listdir(again.path)) == FILES


def test_an_export_leaves_alone_what_a_live_one_writes(
    simulated: StudyFolder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (model,) = export_models(simulated, out, entries=["vivit"])
    with own_folder(out, f".{model.path.name}.", ".partial") as live:
        # As if it were written in a container whose numbers mean nothing here.
        foreign = out / f".{model.path.name}.{BEYOND_ALL_PROCESSES}-0123abcd.partial"
        live.rename(foreign)
        (foreign / "model.safetensors").write_text("half")
        export_models(simulated, out, entries=["vivit"])
        assert (foreign / "model.safetensors").read_text() == "half"
    export_models(simulated, out, entries=["vivit"])
    assert os.listdir(out) == [model.path.name]


def test_a_place_that_cannot_be_written_is_a_disk_error(
    simulated: StudyFolder, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError):
        export_models(simulated, tmp_path / "file")


def test_without_a_comparison_the_card_says_not_measured(
    simulated: StudyFolder, tmp_path: Path
) -> None:
    (model,) = export_models(simulated, tmp_path / "out", entries=["vivit"])
    assert "not compared yet" in model.note
    card = (model.path / "README.md").read_text()
    assert "Not measured: the study is not compared yet" in card
    assert "Accuracy" not in card


def test_with_several_seeds_the_card_tells_their_mean_and_this_ones_own(
    simulated: StudyFolder, tmp_path: Path
) -> None:
    (entry,) = [e for e in compare_study(simulated)["entries"] if e["name"] == "vivit"]
    (model,) = export_models(simulated, tmp_path / "out", entries=["vivit"])
    assert model.note == ""
    card = (model.path / "README.md").read_text()
    assert f"Accuracy {100 * entry['accuracy']['estimate']:.1f} %, 95 % interval" in card
    assert "the mean of 2 seeds" in card
    own = entry["accuracy_by_seed"]
    assert f"This seed alone: {100 * own['5']:.1f} % at the same condition" in card
    rows = re.findall(r"^\| \d+ % \|.*$", card, re.MULTILINE)
    assert [row.split()[1] for row in rows] == ["100", "75", "50", "25", "10"]
    assert all(len(re.findall(r"\d+\.\d", row)) == 5 for row in rows)


def test_results_of_other_weights_are_not_shown(simulated: StudyFolder, tmp_path: Path) -> None:
    compare_study(simulated)
    for _, run in simulated.runs():
        (run.model / "model.safetensors").write_bytes(b"trained anew since")
    (model,) = export_models(simulated, tmp_path / "out", entries=["vivit"])
    assert "other weights of this run were judged" in model.note
    assert "Accuracy" not in (model.path / "README.md").read_text()


def test_names_from_the_data_are_text_and_not_markup(
    simulated: StudyFolder, tmp_path: Path
) -> None:
    (model,) = export_models(simulated, tmp_path / "out", entries=["vivit"])
    card = (model.path / "README.md").read_text()
    assert "<b>" not in card
    assert "twice" in card
    head = yaml.safe_load(card.split("---")[1])
    assert head["pipeline_tag"] == "video-classification"
    assert "license" not in head


def test_the_verb_prints_where_the_models_are(
    simulated: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = CliRunner().invoke(app, ["export"], catch_exceptions=False).stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        f"fine_tuned_models/fine_tuned_{entry}_rotors" for entry in ("videomae", "vivit")
    ]
    assert "seed 5 (the best of 2 seeds on the validation split; validation 75.0 %)" in lines[0]
    assert "no results in the card: the study is not compared yet" in lines[1]
    arguments = ["export", "demo", "--all-seeds", "--json", "--to", "all"]
    listed = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert [(row["entry"], row["seed"]) for row in listed] == [
        ("videomae", 3),
        ("videomae", 5),
        ("vivit", 3),
        ("vivit", 5),
    ]
    assert all((tmp_path / row["path"] / "README.md").is_file() for row in listed)
