"""Promises of `regatta data` for windows of signals: its own words, JSON, and import."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from regatta.cli.main import app
from tests.data.signal_files import CHANNELS, write_uci


def regatta(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", *arguments])


@pytest.fixture
def uci(tmp_path: Path) -> Path:
    people = {"train": [1, 2, 3, 4] * 6, "test": [5, 6] * 6}
    labels = {"train": np.repeat([1, 2, 3], 8).tolist(), "test": np.repeat([1, 2, 3], 4).tolist()}
    write_uci(tmp_path / "uci-har", labels=labels, subjects=people)
    return tmp_path / "uci-har"


def test_windows_are_counted_in_their_own_words(uci: Path) -> None:
    named = f"options.channels=[{','.join(CHANNELS)}]"
    shown = regatta("check", "uci-har", "--root", str(uci), "--set", named)
    assert shown.exit_code == 0, shown.output
    assert "36 windows, 3 classes" in shown.output
    assert "4 channels x 16 samples at 50 Hz (0.32 s)" in shown.output
    assert "classes walking, sitting, laying" in shown.output
    assert "fps" not in shown.output
    by_folder = regatta("check", str(uci), "--set", named, "--json")
    facts = json.loads(by_folder.output)
    assert facts["splits"]["test"] == {"samples": 12, "groups": 2, "classes": 3}
    assert facts["window"]["rate_hz"] == 50
    assert "fps" not in facts


def test_damaged_windows_end_with_code_2_and_are_named(uci: Path) -> None:
    file = uci / "train" / "Inertial Signals" / "pressure_train.txt"
    lines = file.read_text().splitlines()
    lines[5] = " ".join(["nan"] * 16)
    file.write_text("\n".join(lines) + "\n")
    options = ["--set", f"options.channels=[{','.join(CHANNELS)}]"]
    shown = regatta("check", "uci-har", "--root", str(uci), *options)
    assert shown.exit_code == 2
    assert "damaged: 1 window(s), train/00005: NaN or infinity in the signal" in shown.output
    assert regatta("check", str(uci), *options, "--set", "damaged=drop").exit_code == 0


def test_made_windows_are_checked_by_folds(tmp_path: Path) -> None:
    root = str(tmp_path / "syn")
    small = ["--set", "options.windows_per_class=2"]
    made = regatta("make", "har-synthetic", "--to", root, "--subjects", "4", *small)
    assert made.exit_code == 0, made.output
    assert "48 windows, 6 classes" in made.output
    loso = ["--set", "design=loso", "--set", "folds=4", "--set", "options.subjects=4"]
    shown = regatta("check", "har-synthetic", "--root", root, *loso, *small)
    assert "fold 3   train 24 of 2 groups, validation 12 of 1 groups" in shown.output


def test_imported_tensors_are_a_data_set(tmp_path: Path) -> None:
    files = []
    for name in ("train", "val", "test"):
        held = {"samples": torch.randn(12, 2, 8), "labels": torch.arange(12) % 2}
        torch.save(held, tmp_path / f"{name}.pt")
        files.append(str(tmp_path / f"{name}.pt"))
    done = regatta("import", *files, "--to", str(tmp_path / "out"), "--rate", "50")
    assert done.exit_code == 0, done.output
    assert "windows 12 x 2 x 8, 2 classes, validation split" in done.output
    shown = regatta("check", "windows-file", "--root", str(tmp_path / "out"), "--json")
    facts = json.loads(shown.output)
    assert [facts["splits"][name]["samples"] for name in ("train", "validation", "test")] == [
        12
    ] * 3
