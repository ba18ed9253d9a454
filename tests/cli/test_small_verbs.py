"""Promises of the verbs that start nothing: init, ls, check, doctor, and how errors leave the
program."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from regatta.config.load import load_study
from regatta.config.schema import Study


def regatta(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regatta", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_every_verb_has_help(tmp_path: Path):
    top = regatta("--help", cwd=tmp_path)
    assert top.returncode == 0
    names = (
        "run train evaluate compare report profile export status watch stop init check ls data "
        "doctor demo"
    )
    verbs = list(names.split())
    assert [verb for verb in verbs if verb not in top.stdout] == []
    for verb in verbs:
        assert regatta(verb, "--help", cwd=tmp_path).returncode == 0


def test_init_writes_a_study_that_loads_with_all_defaults(tmp_path: Path):
    assert regatta("init", "race.yaml", cwd=tmp_path).returncode == 0
    study = load_study(tmp_path / "race.yaml")
    assert study.name == "race"
    assert study.train == Study.model_fields["train"].default


def test_init_shows_the_true_defaults(tmp_path: Path):
    regatta("init", "race.yaml", cwd=tmp_path)
    section = (tmp_path / "race.yaml").read_text().partition("\ntrain:\n")[2].partition("\n\n")[0]
    shown = re.findall(r"^  # (\w+): (.*?)(?:   #.*)?$", section, re.MULTILINE)
    written = {key: yaml.safe_load(value) for key, value in shown}
    train = Study.model_fields["train"].default.model_dump(mode="json")
    assert {key: written[key] for key in train} == train


def test_init_names_every_key_of_the_schema(tmp_path: Path):
    regatta("init", "race.yaml", cwd=tmp_path)
    text = (tmp_path / "race.yaml").read_text()
    for section in ("data", "train", "protocol", "compare", "launch"):
        model = Study.model_fields[section].annotation
        for key in model.model_fields:  # type: ignore[union-attr]
            assert f"{key}:" in text


def test_init_never_replaces_a_file_unasked(tmp_path: Path):
    (tmp_path / "race.yaml").write_text("mine")
    child = regatta("init", "race.yaml", cwd=tmp_path)
    assert child.returncode == 2
    assert "--force" in child.stderr
    assert (tmp_path / "race.yaml").read_text() == "mine"


def test_init_offers_a_study_of_signals_that_loads_and_names_the_templates(tmp_path: Path):
    assert regatta("init", "steps.yaml", "--for", "sensor", cwd=tmp_path).returncode == 0
    study = load_study(tmp_path / "steps.yaml")
    assert (study.name, study.data.source, study.train.batch_size) == ("steps", "uci-har", 32)
    wrong = regatta("init", "other.yaml", "--for", "sensr", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "did you mean 'sensor'" in wrong.stderr
    assert not (tmp_path / "other.yaml").exists()


def test_ls_tells_kinds_and_hides_what_the_data_fill(tmp_path: Path):
    listed = json.loads(regatta("ls", "--json", cwd=tmp_path).stdout)
    kinds = {row["name"]: row["kind"] for rows in listed.values() for row in rows}
    assert (kinds["cnn1d"], kinds["uci-har"]) == ("signal", "signal")
    assert (kinds["vivit"], kinds["ucf101"]) == ("video", "video")
    options = {name for row in listed["models"] for name in row["options"]}
    assert not options & {"channels", "length", "size"}
    assert "dropout" in options
    text = regatta("ls", "models", cwd=tmp_path).stdout
    assert re.search(r"^  cnn1d +signal ", text, re.MULTILINE)


def test_ls_lists_names_summaries_and_options_as_json(tmp_path: Path):
    rows = json.loads(regatta("ls", "models", "--json", cwd=tmp_path).stdout)["models"]
    by_name = {row["name"]: row for row in rows}
    assert {"timesformer", "videomae", "vivit", "cnn3d"} <= set(by_name)
    assert all(row["summary"].endswith(".") for row in rows)
    assert "frames" in by_name["videomae"]["options"]


def test_ls_of_an_unknown_kind_names_the_nearest(tmp_path: Path):
    child = regatta("ls", "modles", cwd=tmp_path)
    assert child.returncode == 2
    assert "did you mean 'models'?" in child.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {source: folder, rot: x}\nentries: [vivit]", ["data.rot", "did you mean 'root'"]),
        ("data: {source: folder, root: nowhere}\nentries: [vivit]", ["does not exist", "nowhere"]),
        ("data: {source: rotors}\nentries: [vivitt]", ["did you mean 'vivit'"]),
        (
            "data: {source: rotors}\nentries: [{model: vivit, options: {framez: 4}}]",
            ["did you mean 'frames'"],
        ),
        (
            "data: {source: rotors}\nentries: [vivit]\nlaunch: {device: cuda, device_ids: [7]}",
            ["--set launch.device=cpu"],
        ),
    ],
)
def test_check_names_mistakes_before_anything_starts(tmp_path: Path, text: str, words: list[str]):
    (tmp_path / "s.yaml").write_text(text)
    child = regatta("check", "s.yaml", cwd=tmp_path)
    assert child.returncode in (2, 3)
    for word in words:
        assert word in child.stderr
    assert "Traceback" not in child.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["s.yaml"]


def test_check_lists_runs_and_writes_nothing(tmp_path: Path):
    (tmp_path / "s.yaml").write_text(
        "data: {source: rotors}\nseeds: [0, 1]\n"
        "entries: [vivit, {name: cnn3d, model: cnn3d, checkpoint: none}]"
    )
    facts = json.loads(regatta("check", "s.yaml", "--no-probe", "--json", cwd=tmp_path).stdout)
    assert [(r["entry"], r["seed"]) for r in facts["runs"]] == [
        ("vivit", 0),
        ("vivit", 1),
        ("cnn3d", 0),
        ("cnn3d", 1),
    ]
    assert facts["slots"]
    assert [p.name for p in tmp_path.iterdir()] == ["s.yaml"]


def test_doctor_names_state_and_cure(tmp_path: Path):
    child = regatta("doctor", "--json", cwd=tmp_path)
    findings = {f["topic"]: f for f in json.loads(child.stdout)}
    assert findings["torch"]["state"] == "good"
    assert findings["transformers"]["state"] == "good"
    assert findings["torchvision"]["state"] == "good"
    assert findings["trackers"]["state"] in ("good", "note")
    assert child.returncode == 0
    assert all(f["cure"] for f in findings.values() if f["state"] == "bad")
