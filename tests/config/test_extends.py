"""`extends`: one study file on top of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from regatta.config.expand import expand_study
from regatta.config.load import load_study
from regatta.core.errors import ConfigError, UnknownNameError

BASE = """
name: base
data: {source: rotors, options: {train_clips: 8}}
entries:
  - {name: a, model: cnn3d, options: {dropout: 0.1}}
  - cnn3d
train: {epochs: 3, lr: 1e-3}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_own_keys_stand_over_those_of_the_base(tmp_path: Path):
    write(tmp_path, "base.yaml", BASE)
    path = write(tmp_path, "sub/own.yaml", "extends: ../base.yaml\ntrain: {epochs: 7}\n")
    study = load_study(path)
    assert (study.name, study.train.epochs, study.train.lr) == ("own", 7, 1e-3)
    assert study.data.options == {"train_clips": 8}
    assert [entry.name for entry in study.entries] == ["a", "cnn3d"]


def test_an_entry_is_changed_by_name_and_a_list_replaces_all(tmp_path: Path):
    write(tmp_path, "base.yaml", BASE)
    changed = write(
        tmp_path, "x.yaml", "extends: base.yaml\nentries: {a: {train: {lr: 5e-5}}, cnn3d:}\n"
    )
    first, second = load_study(changed).entries
    assert (first.options, first.train) == ({"dropout": 0.1}, {"lr": 5e-5})
    assert second.model == "cnn3d"
    replaced = write(tmp_path, "y.yaml", "extends: base.yaml\nentries: [r3d18]\n")
    assert [entry.name for entry in load_study(replaced).entries] == ["r3d18"]
    wrong = write(tmp_path, "z.yaml", "extends: base.yaml\nentries: {b: {}}\n")
    with pytest.raises(UnknownNameError, match="'b'"):
        load_study(wrong)


def test_a_study_is_the_same_written_out_or_extended(tmp_path: Path):
    write(tmp_path, "base.yaml", BASE)
    extended = write(tmp_path, "w.yaml", "extends: base.yaml\ntrain: {epochs: 7}\n")
    written = write(tmp_path, "out/w.yaml", BASE.replace("epochs: 3", "epochs: 7"))
    ids = [spec.run_id for spec in expand_study(load_study(extended))]
    assert ids == [spec.run_id for spec in expand_study(load_study(written))]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("extends: own.yaml", "in a circle: own.yaml -> own.yaml"),
        ("extends: other.yaml", "in a circle: own.yaml -> other.yaml -> own.yaml"),
        ("extends: nowhere.yaml", "no such study file"),
        ("extends: [a, b]", "names one other study file"),
    ],
)
def test_a_base_that_cannot_be_read_is_named(tmp_path: Path, text: str, problem: str):
    write(tmp_path, "other.yaml", "extends: own.yaml")
    path = write(tmp_path, "own.yaml", text)
    with pytest.raises(ConfigError, match=problem):
        load_study(path)
