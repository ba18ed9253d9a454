"""Promises of reading the data: killed at whatever moment, no data of other settings count as
prepared, and what lies there from data read before decides nothing."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from regatta.config.load import study_from_mapping
from regatta.config.schema import Study
from regatta.core.errors import RecordError
from regatta.core.files import read_json, write_json
from regatta.core.signals import StopFlag
from regatta.orchestrate.plan import is_prepared
from regatta.records.run_folder import StudyFolder, open_study
from regatta.worker.prepare import prepare
from regatta.worker.run_data import RunData, load_run_data
from regatta.worker.status_writer import StatusWriter


def signals(root: Path, **data: Any) -> Study:
    section = {
        "source": "har-synthetic",
        "root": str(root / "signals"),
        "options": {"subjects": 6, "windows_per_class": 2},
        **data,
    }
    entries = [{"name": "net", "model": "cnn1d", "checkpoint": "none"}]
    return study_from_mapping({"name": "s", "data": section, "entries": entries})


def images(root: Path) -> Study:
    section = {
        "source": "shapes",
        "root": str(root / "images"),
        "options": {"train_per_class": 10, "test_per_class": 5},
    }
    entries = [{"name": "net", "model": "resnet18", "checkpoint": "none"}]
    return study_from_mapping({"name": "s", "data": section, "entries": entries})


def prepared(root: Path, study: Study) -> StudyFolder:
    folder = open_study(root / "runs", study)
    prepare(folder, StopFlag(), StatusWriter([]))
    return folder


def of_first_run(folder: StudyFolder) -> RunData:
    return load_run_data(folder, folder.runs()[0][0])


def prepare_killed_at(folder: StudyFolder, change: int) -> bool:
    """Whether a process that prepares was killed before its `change`-th rename or removal in the
    study's folder."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    left = change

    def kill(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in ("os.rename", "os.remove") and str(folder.path) in str(arguments[-2:]):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    prepare(folder, StopFlag(), StatusWriter([]))
    os._exit(0)


@pytest.mark.slow
@pytest.mark.fault(1)
def test_killed_between_its_writes_no_mixture_counts_as_prepared(tmp_path: Path) -> None:
    first, second = signals(tmp_path, validation_groups=1), signals(tmp_path, validation_groups=2)
    expected = of_first_run(prepared(tmp_path, first))
    killed, change = 0, 1
    while prepare_killed_at(open_study(tmp_path / "runs", second), change):
        killed += 1
        folder = open_study(tmp_path / "runs", first)
        if not is_prepared(folder, first):
            folder = prepared(tmp_path, first)
        found = of_first_run(folder)
        assert found.manifest.hash() == expected.manifest.hash(), f"after change {change}"
        assert found.store is not None
        assert expected.store is not None
        assert torch.equal(found.store.signals, expected.store.signals)
        change += 1
    # Away with data.json; then windows, manifest and data.json are put in place.
    assert killed >= 4


def test_a_manifest_that_data_json_does_not_describe_is_refused(tmp_path: Path) -> None:
    folder = prepared(tmp_path, signals(tmp_path))
    facts = read_json(folder.data_json)
    write_json(folder.data_json, {**facts, "manifest_hash": "0" * 64})
    with pytest.raises(RecordError, match=r"not the one that data\.json describes") as caught:
        of_first_run(folder)
    assert "delete data.json" in str(caught.value)


def test_data_of_another_kind_read_before_decide_nothing(tmp_path: Path) -> None:
    folder = prepared(tmp_path, images(tmp_path))
    assert of_first_run(folder).images is not None
    stale = folder.images.read_bytes()
    folder = prepared(tmp_path, signals(tmp_path))
    assert not folder.images.exists()
    # As a version left it that removed nothing.
    folder.images.write_bytes(stale)
    found = of_first_run(folder)
    assert found.store is not None
    assert (found.images, found.scenes) == (None, None)
