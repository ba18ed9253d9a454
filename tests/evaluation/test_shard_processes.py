"""Promise of sharded judging: the same bits on one, two and three real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from regatta.config.expand import protocol_id
from regatta.config.schema import Study
from regatta.core.signals import StopFlag
from regatta.data.manifest import Manifest
from regatta.models.spec import resolve_model
from regatta.models.weights import save_model
from regatta.records.predictions import file_hash
from regatta.records.run_folder import StudyFolder, open_study
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter

GRID = {"name": "temporal-grid", "options": {"coverage": [25, 100], "stride": [1, 4]}}
VIEWS = {"name": "multi-view", "options": {"views": ["1x1", "2x3"], "stride": 2}}
CONV = {"model": "cnn3d", "size": "tiny", "checkpoint": "none"}

WORK = """
import sys
from regatta.worker.__main__ import main

shard, *studies = sys.argv[1:]
for study in studies:
    path, runs = study.split("=")
    sys.argv = ["worker", "judge", "--study", path, "--runs", runs, "--shard", shard]
    code = main()
    if code:
        sys.exit(code)
"""
"""The worker on one study after the other: a process spends most of its time on being born."""


def make_study(runs: Path, data: Path, protocol: dict[str, Any]) -> StudyFolder:
    """A prepared study of 7 test videos in parts of 2, its two models as they were drawn."""
    study = Study.model_validate(
        {
            "name": protocol["name"],
            "data": {
                "source": "rotors",
                "root": str(data),
                "options": {
                    "train_clips": 8,
                    "validation_clips": 4,
                    "test_clips": 8,
                    "frames": 24,
                },
            },
            "entries": [
                {**CONV, "name": "short", "options": {"frames": 8}},
                {**CONV, "name": "long", "options": {"frames": 16}},
            ],
            # Batches of 3: neither 28 clips of a part nor 14 of the last one fill them evenly.
            "protocol": {**protocol, "sample_size": 7, "part_samples": 2, "batch_size": 3},
        }
    )
    folder = open_study(runs, study)
    prepare(folder, StopFlag(), StatusWriter([folder.prepare_status]))
    classes = Manifest.load(folder.manifest).classes
    for spec, run in folder.runs():
        model = resolve_model(spec.entry, len(classes), seed=0)
        save_model(run.model, model.build(len(classes)), model, classes)
    return folder


def judge_in_processes(folders: list[StudyFolder], count: int) -> None:
    studies = [
        f"{folder.path}={','.join(spec.run_id for spec, _ in folder.runs())}" for folder in folders
    ]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, f"{number}/{count}", *studies],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for number in range(1, count + 1)
    ]
    for child in children:
        output, _ = child.communicate(timeout=240)
        assert child.returncode == 0, output


def parts_of(folder: StudyFolder) -> dict[str, str]:
    protocol = protocol_id(folder.study().protocol)
    found = {}
    for _, run in folder.runs():
        place = run.predictions(protocol)
        assert (place / "complete.json").is_file()
        for part in sorted(place.glob("part-*.parquet")):
            found[f"{run.path.name}/{part.name}"] = file_hash(part)
    return found


def test_parts_are_bit_equal_on_one_two_and_three_processes(tmp_path):
    prepared = [make_study(tmp_path / "0", tmp_path / "data", design) for design in (GRID, VIEWS)]
    found = {}
    for count in (1, 2, 3):
        shutil.copytree(tmp_path / "0", tmp_path / str(count))
        copies = [StudyFolder(tmp_path / str(count) / study.path.name) for study in prepared]
        judge_in_processes(copies, count)
        found[count] = [parts_of(study) for study in copies]
    # 7 samples in parts of 2 are 4 parts of each of 2 runs, the last with one sample.
    assert [len(parts) for parts in found[1]] == [8, 8]
    assert found[1] == found[2] == found[3]
