"""Promises of records on a disk without room: need and rest are named, nothing old is harmed."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from regatta.core import files
from regatta.core.errors import DiskError
from regatta.records.metrics_stream import append_metrics, read_metrics
from regatta.records.predictions import part_schema, write_part
from regatta.records.status import Status, read_status, write_status
from tests.disks_here import SmallDisk, small_disk

NEED = r"^disk full: need [\d.]+ (bytes|KiB|MiB), have 0 bytes"
NEED_MORE = r"^disk full: need more than [\d.]+ (bytes|KiB|MiB), have [\d.]+ (bytes|KiB|MiB)"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("disk"), mebibytes=1) as mounted:
        yield mounted


@pytest.fixture
def folder(disk: SmallDisk, request: pytest.FixtureRequest) -> Iterator[Path]:
    disk.make_room()
    made = disk.path / request.node.name[:40]
    made.mkdir()
    yield made
    disk.make_room()


@pytest.mark.fault(8)
def test_a_line_that_does_not_fit_is_named_and_what_it_tore_is_left_out(
    disk: SmallDisk, folder: Path
):
    path = folder / "metrics.jsonl"
    append_metrics(path, {"step": 1})
    # To the end of its block: the next line fits in part, as at the end of a real disk.
    append_metrics(path, {"step": 2, "words": "x" * (4096 - path.stat().st_size - 60)})
    disk.fill()
    with pytest.raises(DiskError, match=NEED) as caught:
        append_metrics(path, {"step": 3, "words": "y" * 100})
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert path.read_bytes()[-1:] != b"\n", "the line is torn, or this proves nothing"
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    disk.make_room()
    append_metrics(path, {"step": 3})
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]


@pytest.mark.fault(8)
def test_a_status_keeps_its_content_and_last_words_are_written_all_the_same(
    disk: SmallDisk, folder: Path
):
    path = folder / "status.json"
    write_status(path, Status(state="running", step=3))
    disk.fill()
    with pytest.raises(DiskError, match=NEED):
        write_status(path, Status(state="running", step=4))
    assert read_status(path).step == 3
    write_status(path, Status(state="failed", step=4, cause="environment", message="disk full"))
    assert disk.free_bytes == 0
    assert json.loads(path.read_text())["cause"] == "environment"
    assert [entry.name for entry in folder.iterdir()] == ["status.json"]


@pytest.mark.fault(8)
def test_a_part_of_predictions_that_does_not_fit_leaves_nothing(disk: SmallDisk, folder: Path):
    scores = np.random.default_rng(0).standard_normal((4000, 8), dtype=np.float32)
    schema = part_schema(scores.shape[1])
    columns = {
        field.name: pa.nulls(len(scores), field.type) for field in schema if field.name != "scores"
    }
    disk.fill(leave_bytes=40_960)
    with pytest.raises(DiskError, match=NEED_MORE):
        write_part(folder, 0, columns, scores)
    assert list(folder.iterdir()) == []


@pytest.mark.fault(8)
def test_what_a_library_words_as_its_own_error_is_named_too(disk: SmallDisk, folder: Path):
    disk.fill(leave_bytes=40_960)
    with (
        pytest.raises(DiskError, match=r"^disk full: need"),
        files.atomic_path(folder / "a.safetensors") as temporary,
    ):
        save_file({"a": np.zeros(200_000, dtype=np.uint8)}, temporary)
    assert list(folder.iterdir()) == []


@pytest.mark.fault(8)
def test_a_used_up_quota_is_not_called_a_full_disk(tmp_path: Path):
    found = files.disk_error(
        OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path, need_bytes=2048
    )
    assert found.what.startswith("disk quota used up: need 2.0 KiB, have ")
    assert found.exit_code == 3
    assert found.hint


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "1 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (2**40, "1024.0 GiB"),
    ],
)
def test_sizes_are_told_in_their_unit(count: int, words: str, tmp_path: Path):
    found = files.disk_error(OSError(errno.ENOSPC, ""), tmp_path, need_bytes=count)
    assert f"need {words}, have" in found.what
