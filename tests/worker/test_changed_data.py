"""Files that change between the scan and the reading: videos are refused by name; images, signals
and scenes are read once, into a file of the study: nothing that happens to theirs reaches a run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from regatta.config.load import load_study
from regatta.core.errors import DecodeError, RecordError
from regatta.core.signals import StopFlag
from regatta.data.image_store import ImageStore
from regatta.records.run_folder import StudyFolder, open_study
from regatta.worker.prepare import prepare
from regatta.worker.run_data import load_run_data
from regatta.worker.status_writer import StatusWriter
from regatta.worker.train import train
from tests.fusion_here import (
    CPU,
    fusion_mapping,
    judge_all,
    open_prepared,
    run_of,
    train_named,
    write_pictures,
)
from tests.scenes_here import scene_entry, scene_mapping
from tests.test_bad_input import STUDY, write_clip, write_videos
from tests.worker.small_windows import drawn, small_study, train_entry


def replace_keeping_time(path: Path) -> None:
    before = path.stat()
    write_clip(path, seed=99)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "removed": (Path.unlink, "does not exist"),
    "replaced": (lambda path: write_clip(path, seed=99), "the file changed since"),
    "replaced, time kept": (replace_keeping_time, "the file changed since"),
    "cut": (lambda path: os.truncate(path, 3000), "the file changed since"),
}


def train_first(folder: StudyFolder) -> bytes:
    ((spec, run),) = folder.runs()
    status = StatusWriter([run.status])
    train(folder, spec.run_id, device=CPU, stop=StopFlag(), status=status)
    return (run.model / "model.safetensors").read_bytes()


@pytest.mark.fault(14)
def test_a_video_that_changes_before_judging_is_refused_by_name(tmp_path: Path):
    write_videos(tmp_path / "videos")
    (tmp_path / "s.yaml").write_text(STUDY)
    overrides = [f"data.root={tmp_path / 'videos'}"]
    folder = open_study(tmp_path / "runs", load_study(tmp_path / "s.yaml", overrides))
    prepare(folder, StopFlag(), StatusWriter([]))
    train_first(folder)
    ((_, run),) = folder.runs()
    path = tmp_path / "videos" / "test" / "b" / "1-test0.avi"
    good = path.read_bytes()
    for change, words in CHANGES.values():
        change(path)
        with pytest.raises(DecodeError, match=words) as error:
            judge_all(folder)
        assert error.value.where == str(path)
        assert not list(run.path.glob("predictions/*/complete.json"))
        path.write_bytes(good)
    # With the old file back it is judged: the bytes count, not the time.
    judge_all(folder)
    assert len(list(run.path.glob("predictions/*/complete.json"))) == 1


@pytest.mark.fault(14)
def test_pictures_that_vanish_after_the_scan_change_nothing(tmp_path: Path):
    root = write_pictures(tmp_path / "pictures", train=30, test=2)
    expert = "resnet-expert-0"
    weights = []
    for number in range(2):
        folder = open_prepared(tmp_path / f"runs{number}", fusion_mapping(root))
        if number:
            shutil.rmtree(root)
        train_named(folder, expert)
        weights.append((run_of(folder, expert).model / "model.safetensors").read_bytes())
    assert not root.exists()
    assert weights[0] == weights[1]


@pytest.mark.fault(14)
def test_signals_that_vanish_after_the_scan_change_nothing(tmp_path: Path):
    weights = []
    for number in range(2):
        folder = small_study(tmp_path / str(number), [drawn("a")])
        if number:
            shutil.rmtree(tmp_path / str(number) / "data")
        weights.append((train_entry(folder, "a").model / "model.safetensors").read_bytes())
    assert not (tmp_path / "1" / "data").exists()
    assert weights[0] == weights[1]


@pytest.mark.fault(14)
def test_scenes_that_vanish_after_the_scan_change_nothing(tmp_path: Path):
    weights = []
    for number in range(2):
        root = tmp_path / "scenes"
        content = scene_mapping(root, entries=[scene_entry("frames")], train={"epochs": 1})
        folder = open_prepared(tmp_path / f"runs{number}", content)
        if number:
            assert list(root.rglob("*.mkv"))
            shutil.rmtree(root)
        weights.append(train_first(folder))
    assert weights[0] == weights[1]


@pytest.mark.fault(14)
def test_the_studys_own_file_is_refused_when_it_is_lost_cut_or_of_other_data(tmp_path: Path):
    root = write_pictures(tmp_path / "pictures", train=6, test=2)
    folder = open_prepared(tmp_path / "runs", fusion_mapping(root))
    spec, good = folder.runs()[0][0], folder.images.read_bytes()
    assert load_run_data(folder, spec).images is not None

    store = ImageStore.load(folder.images)
    other = ImageStore([f"x{name}" for name in store.ids], store.images, store.mean, store.std)
    other.save(folder.images)
    with pytest.raises(RecordError, match="lacks 32 samples of manifest") as error:
        load_run_data(folder, spec)
    assert str(folder.images) == error.value.where
    for cut in (0, 100, len(good) - 1):
        folder.images.write_bytes(good[:cut])
        with pytest.raises(RecordError, match="images cannot be read"):
            load_run_data(folder, spec)
    folder.images.write_bytes(good)
    assert load_run_data(folder, spec).images is not None
