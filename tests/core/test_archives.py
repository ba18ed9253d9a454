"""Promise of archives that others made: what would unpack into a full memory is refused before
anything of it is unpacked."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from regatta.core.errors import DataError
from regatta.data.sources import _image_tree
from regatta.data.sources._image_tree import open_tree
from regatta.data.sources._window_arrays import read_arrays
from regatta.records.array_files import read_npz


def bomb(path: Path, name: str, *, unpacked: int) -> Path:
    """A small archive whose list says that one file unpacks to so many bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\0" * 4096)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, unpacked)
    path.write_bytes(content)
    return path


def test_an_archive_of_windows_that_unpacks_a_thousandfold_is_refused(tmp_path: Path) -> None:
    path = bomb(tmp_path / "w.npz", "samples.npy", unpacked=3 * 2**29)
    with pytest.raises(DataError, match=r"unpacks to 1\.5 GiB, \d+ times its own size"):
        read_arrays(path)


def test_an_archive_of_images_that_unpacks_a_thousandfold_is_refused(tmp_path: Path) -> None:
    path = bomb(tmp_path / "i.zip", "train/cat/1.png", unpacked=3 * 2**29)
    with open_tree(path) as tree, pytest.raises(DataError, match="times its own size"):
        tree.files()


def test_an_archive_of_too_many_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_image_tree, "MOST_FILES", 3)
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"train/cat/{number}.png", b"x")
    with open_tree(tmp_path / "i.zip") as tree, pytest.raises(DataError, match="holds 4 files"):
        tree.files()


def test_what_is_packed_tightly_but_is_small_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "z.npz", samples=np.zeros((4, 9, 4096), dtype=np.float32))
    found = read_npz(tmp_path / "z.npz", tmp_path / "z.npz", most_bytes=2**30)
    assert found["samples"].shape == (4, 9, 4096)
