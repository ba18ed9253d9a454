"""Promises of the study file: nothing unread, nothing run, every mistake named with its cure."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from regatta.config.load import dump_study, load_study
from regatta.core.errors import ConfigError, UnknownNameError

GOOD = """
name: quick
data: {source: folder, root: videos}
entries:
  - videomae
  - {name: slow, model: timesformer, size: tiny, checkpoint: none, options: {frames: 4}}
train: {epochs: 2, lr: 1e-3}
"""


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return _write


def test_a_bare_entry_is_the_model_of_that_name(write):
    study = load_study(write(GOOD))
    assert [(e.name, e.model, e.size) for e in study.entries] == [
        ("videomae", "videomae", "base"),
        ("slow", "timesformer", "tiny"),
    ]


def test_scientific_notation_without_a_dot_is_a_number(write):
    assert load_study(write(GOOD)).train.lr == 0.001


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs: 2", "epochz: 2", ["train.epochz", "did you mean 'epochs'"]),
        ("source: folder", "source: foldr", ["no source named 'foldr'", "did you mean 'folder'"]),
        ("- videomae", "- videomea", ["no model named 'videomea'", "did you mean 'videomae'"]),
        ("size: tiny", "sise: tiny", ["entries.1.sise", "did you mean 'size'"]),
        ("epochs: 2", "epochs: -2", ["train.epochs", "greater than or equal to 0", "-2"]),
        ("epochs: 2", "epochs: two", ["train.epochs", "two"]),
        ("name: quick", "name: ../quick", ["name: 1 to 64 of a-z", "../quick"]),
        ("name: slow", "name: videomae", ["entry names must differ", "videomae"]),
        ("root: videos", "root: videos, root: other", ["'root' is written twice"]),
        ("train:", "train: [", ["not valid YAML"]),
        ("lr: 1e-3", "lr: !!python/object/apply:os.system [true]", ["not valid YAML"]),
    ],
)
def test_mistakes_are_named(write, old: str, new: str, words: list[str]):
    with pytest.raises(ConfigError) as caught:
        load_study(write(GOOD.replace(old, new)))
    for word in words:
        assert word in str(caught.value)


def test_code_in_yaml_never_runs(write, tmp_path: Path):
    text = GOOD + f"title: !!python/object/apply:pathlib.Path.touch [{tmp_path}/ran]\n"
    with pytest.raises(ConfigError):
        load_study(write(text))
    assert not (tmp_path / "ran").exists()


def test_alias_bomb_is_refused(write):
    bomb = "a: &a [x]\n" + "b: [" + ", ".join(["*a"] * 100) + "]\n"
    with pytest.raises(ConfigError, match="aliases"):
        load_study(write(bomb))


def test_missing_file_names_init(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such study file") as caught:
        load_study(tmp_path / "none.yaml")
    assert "regatta init" in str(caught.value)


def test_set_overrides_sections_entries_and_lists(write):
    study = load_study(
        write(GOOD),
        [
            "train.epochs=1",
            "entries=[slow]",
            "entries.slow.size=small",
            "seeds=[0,1]",
            "launch.retries=0",
        ],
    )
    assert study.train.epochs == 1
    assert [(e.name, e.model, e.size, e.options) for e in study.entries] == [
        ("slow", "timesformer", "small", {"frames": 4})
    ]
    assert study.seeds == [0, 1]
    assert study.launch.retries == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs", "wants key=value"),
        ("train.epohcs=1", "did you mean 'epochs'"),
        ("name.x=1", "is a value, not a section"),
        ("entries.slwo.size=tiny", "did you mean 'slow'"),
        ("entries=[videoma]", "did you mean 'videomae'"),
    ],
)
def test_bad_overrides_are_named(write, override: str, words: str):
    with pytest.raises(ConfigError) as caught:
        load_study(write(GOOD), [override])
    assert words in str(caught.value)


def test_resolved_study_reads_back_as_itself(write, tmp_path: Path):
    study = load_study(write(GOOD))
    again = tmp_path / "again.yaml"
    again.write_text(dump_study(study))
    assert load_study(again) == study
    assert yaml.safe_load(again.read_text())["train"]["clip_norm"] == 1.0


def test_unknown_protocol_is_an_unknown_name(write):
    with pytest.raises(UnknownNameError, match="protocol"):
        load_study(write(GOOD + "protocol: {name: temporal-gird}\n"))
