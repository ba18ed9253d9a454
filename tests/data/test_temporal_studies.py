"""Promises of the studies of published data sets: they load, and stand-in trees become manifests
from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from regatta.config.load import load_study
from regatta.config.schema import TrainSection
from regatta.core.registry import MODELS, PROTOCOLS, SOURCES
from regatta.data.scan import check_options
from tests.data import stand_ins

STUDIES = Path(__file__).resolve().parents[2] / "studies" / "temporal"
NAMES = ["ucf101", "hmdb51", "kinetics400", "ssv2", "diving48"]
TREES: dict[str, Callable[[Path], Path]] = {
    "hmdb51": stand_ins.write_hmdb51,
    "kinetics": stand_ins.write_kinetics_csv,
    "ssv2": stand_ins.write_ssv2,
    "diving48": stand_ins.write_diving48,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_study_names_what_exists_and_changes_what_it_says(name: str):
    study = load_study(STUDIES / f"{name}.yaml")
    source = SOURCES.get(study.data.source)
    check_options(source, study.data.options, where="data.options")
    assert [entry.name for entry in study.entries] == ["timesformer", "videomae", "vivit"]
    for entry in study.entries:
        MODELS.check(entry.model)
        assert (entry.size, entry.checkpoint) == ("base", "default")
    PROTOCOLS.check(study.protocol.name)
    defaults = TrainSection().model_dump()
    changed = {k: v for k, v in study.train.model_dump().items() if v != defaults[k]}
    assert changed == {"kinetics400": {"epochs": 1}, "ssv2": {"flip": False}}.get(name, {})


def data_check(source: str, root: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "regatta", "data", "check", source, "--root", str(root)]
    return subprocess.run(
        [*command, *extra], cwd=root.parent, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("source", TREES)
def test_data_check_reads_each_layout(tmp_path: Path, source: str):
    told = data_check(source, TREES[source](tmp_path / "tree"), "--json")
    assert told.returncode == 0, told.stderr
    facts = json.loads(told.stdout)
    assert facts["classes"] == (3 if source == "hmdb51" else 2)
    assert all(facts["splits"][name]["samples"] for name in ("train", "validation", "test"))
    assert facts["damaged"] == facts["left_out"] == []


def test_data_check_counts_a_long_list_of_missing_files(tmp_path: Path):
    root = TREES["kinetics"](tmp_path / "tree")
    path = root / "annotations" / "train.csv"
    gone = [f"tai chi,gone{number:07d},1,11,train,0\r\n" for number in range(60)]
    path.write_text(path.read_text() + "".join(gone))
    told = data_check("kinetics", root)
    assert told.returncode == 2
    assert told.stdout.count("the file does not exist") == 50
    assert "damaged: 10 more; --json lists all" in told.stdout
    assert "data.damaged: drop" in told.stdout
