"""Promises about hostile, cut and odd files of images: bounded cost, no code, nothing unseen."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from regatta.config.partition import PartitionSection
from regatta.config.schema import DataSection
from regatta.core.errors import DataError, DiskError, RecordError
from regatta.data.image_decode import decode_image
from regatta.data.image_scan import ScannedImages, scan_images
from regatta.data.image_store import ImageStore
from regatta.data.import_cifar import _Refused, import_cifar, read_pickle
from tests.data.image_files import (
    pictures,
    write_cifar100,
    write_python_cifar100,
    write_tree,
    zip_of,
)


def scanned(root: Path, source: str = "image-folder", **keys: object) -> ScannedImages:
    section = {"source": source, "root": str(root), **keys}
    return scan_images(DataSection.model_validate(section))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def small_zip(folder: Path) -> Path:
    write_tree(folder / "tree", {"": 5})
    return zip_of(folder / "tree", folder / "a.zip")


def test_colours_of_16_bits_are_counted() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)

    def chunk(kind: bytes, content: bytes) -> bytes:
        sum_of = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + sum_of

    # Pillow writes no such file: 16 x 16 pixels, 16 bits, three channels.
    header = chunk(b"IHDR", bytes([0, 0, 0, 16, 0, 0, 0, 16, 16, 2, 0, 0, 0]))
    lines = b"".join(
        b"\0" + row.tobytes() for row in (levels.astype(np.uint16) * 257).astype(">u2")
    )
    body = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    image, remarks = decode_image(b"\x89PNG\r\n\x1a\n" + header + body, 16)
    np.testing.assert_array_equal(image.transpose(1, 2, 0), levels)
    assert remarks == ["with 16 bits a channel, brought to 8"]


def test_first_picture_of_several_is_taken_and_said() -> None:
    first, second = (Image.fromarray(i.transpose(1, 2, 0)).quantize(256) for i in pictures(2))
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=[second])
    image, remarks = decode_image(file.getvalue(), 32)
    np.testing.assert_array_equal(image.transpose(1, 2, 0), np.asarray(first.convert("RGB")))
    assert any("first is taken" in said for said in remarks)


def test_partly_transparent_colours_are_laid_on_white() -> None:
    base = pictures(1)[0].transpose(1, 2, 0)
    alpha = np.random.default_rng(5).integers(0, 256, (32, 32), dtype=np.uint8)
    image, _ = decode_image(png(np.dstack([base, alpha])), 32)
    share = alpha[:, :, None] / 255
    expected = base * share + 255 * (1 - share)
    # Pillow rounds twice.
    assert np.abs(image.transpose(1, 2, 0) - expected).max() <= 1.5


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        ({"train": 2, "test": 2, "other": 2}, "side by side: other"),
        ({"test": 2}, "none to train on"),
        ({"": 2}, "too few images to hold any out: cat, dog"),
    ],
)
def test_layouts_that_cannot_be_used_are_refused(
    tmp_path: Path, folders: dict[str, int], told: str
) -> None:
    write_tree(tmp_path, folders)
    with pytest.raises(DataError, match=told):
        scanned(tmp_path)


def test_an_empty_class_in_an_archive_is_named_as_in_a_folder(tmp_path: Path) -> None:
    path = small_zip(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.mkdir("cat")
        archive.mkdir("emu")
    with pytest.raises(DataError, match="without an image: emu"):
        scanned(path)


def test_odd_names_stand_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path, {"": 5}, ("cats & dogs", "b"))
    names = ["with space, 'quote' & 100%.png", "\u00e9-\u00fc.png", "line#1-2.png", "UPPER.PNG"]
    for name, image in zip(names, pictures(4), strict=True):
        (tmp_path / "cats & dogs" / name).write_bytes(png(image.transpose(1, 2, 0)))
    (tmp_path / "b" / ".hidden.png").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").write_bytes(b"")
    found = scanned(tmp_path).manifest
    assert {s.sample_id for s in found.samples} >= {f"cats & dogs/{name}" for name in names}
    assert len(found.samples) == 14
    assert not found.dropped


def test_a_link_to_nowhere_and_an_empty_file_are_damage(tmp_path: Path) -> None:
    write_tree(tmp_path, {"": 5})
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "cat" / "none.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 12 images cannot be used") as raised:
        scanned(tmp_path)
    assert "cat/gone.png: cannot be read: it leads to no file" in str(raised.value)
    assert "cat/none.png" in str(raised.value)


def test_names_that_begin_at_the_archive_itself_are_read(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {"": 5})
    with zipfile.ZipFile(tmp_path / "dot.zip", "w") as archive:
        for file in (tmp_path / "tree").rglob("*.png"):
            archive.writestr(f"./{file.relative_to(tmp_path / 'tree')}", file.read_bytes())
    plain, packed = scanned(tmp_path / "tree"), scanned(tmp_path / "dot.zip")
    assert packed.manifest.hash() == plain.manifest.hash()


@pytest.mark.parametrize("name", ["/etc/x.png", "a/../../x.png", "..\\x.png"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = small_zip(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(DataError, match="a name leaves the archive"):
        scanned(path)


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    path = small_zip(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="no whole zip archive"):
        scanned(path)


def test_a_member_larger_than_it_declares_is_not_unpacked_whole(tmp_path: Path) -> None:
    """100 MB of zeros, declared as 1,000 bytes: reading may not take their room."""
    path = small_zip(tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/z.png", bytes(100_000_000))
    path.write_bytes(path.read_bytes().replace((10**8).to_bytes(4, "little"), b"\xe8\x03\0\0"))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"cat/z\.png: cannot be read from the archive"):
            scanned(path)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


def test_a_member_packed_so_that_it_cannot_be_bounded_is_damage(tmp_path: Path) -> None:
    path = small_zip(tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("cat/z.png", b"anything")
    with pytest.raises(DataError, match=r"cat/z\.png: packed in another way"):
        scanned(path)


def test_a_class_lost_to_damage_is_told(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 9, "test": 2})
    for path in (tmp_path / "test" / "dog").iterdir():
        path.write_bytes(b"no image")
    notes = scanned(tmp_path, damaged="drop").manifest.notes
    assert "1 class(es) have no test image: dog" in notes
    for path in (tmp_path / "train" / "dog").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="no train image: dog"):
        scanned(tmp_path, damaged="drop")


def test_excluding_every_test_image_does_not_make_a_new_test_split(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 40, "test": 8})
    listed = tmp_path / "all.txt"
    listed.write_text("".join(f"test/{n:05d}\n" for n in range(8)))
    with pytest.raises(DataError, match="all 8 test images are excluded"):
        scanned(tmp_path, "cifar100", options={"exclude_ids": str(listed)})


def test_a_missing_test_file_is_named(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 40, "test": 8})
    (tmp_path / "test.bin").unlink()
    with pytest.raises(DataError, match="cannot be read") as raised:
        scanned(tmp_path, "cifar100")
    assert "test.bin" in str(raised.value)
    assert "regatta data import cifar" in str(raised.value)


class _Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def dealt_by(folder: Path, pool: Path) -> None:
    write_cifar100(folder / "data", {"train": 400, "test": 8})
    data = DataSection(source="cifar100", root=str(folder / "data"))
    scan_images(data, PartitionSection(pool_file=str(pool)))


def test_a_list_of_indices_with_objects_runs_nothing(tmp_path: Path) -> None:
    held = np.array([_Touches(tmp_path / "ran")], dtype=object)
    np.save(tmp_path / "p.npy", held, allow_pickle=True)
    with pytest.raises(DataError, match="holds Python objects"):
        dealt_by(tmp_path, tmp_path / "p.npy")
    assert not (tmp_path / "ran").exists()
    np.load(tmp_path / "p.npy", allow_pickle=True)
    assert (tmp_path / "ran").exists()


def test_a_list_of_indices_is_not_given_the_room_that_it_declares(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.arange(12))
    content = (tmp_path / "p.npy").read_bytes()
    # Eight terabytes.
    lie = content.replace(b"(12,), }" + b" " * 12, b"(1000000000000,), }" + b" ")
    assert len(lie) == len(content)
    assert lie != content
    (tmp_path / "p.npy").write_bytes(lie)
    with pytest.raises(DataError, match="cannot be read"):
        dealt_by(tmp_path, tmp_path / "p.npy")
    np.savez(tmp_path / "many.npz", a=np.arange(3))
    with pytest.raises(DataError, match="an archive of several arrays"):
        dealt_by(tmp_path, tmp_path / "many.npz")


def child(root: Path, folder: Path, limit: str = "true") -> subprocess.CompletedProcess[str]:
    """The import in a process of its own, under a limit of the shell."""
    command = f'{limit}; exec "$0" -m regatta.data.import_cifar "$1" "$2"'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, str(root), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_objects_in_a_python_release_run_nothing(tmp_path: Path, protocol: int) -> None:
    write_python_cifar100(tmp_path / "in", {"train": pictures(4), "test": pictures(4)})
    trace = tmp_path / "ran"
    for held in (_Touches(trace), np.array([_Touches(trace)], dtype=object)):
        content = pickle.dumps({b"data": held}, protocol)
        (tmp_path / "in" / "train").write_bytes(content)
        with pytest.raises(DataError, match="refused"):
            import_cifar(tmp_path / "in", tmp_path / "out")
        assert not trace.exists()
        assert not (tmp_path / "out").exists()
        # A working attack, so that the refusal means something.
        pickle.loads(content)
        trace.unlink()


def test_a_place_in_memory_far_out_is_refused_before_room_is_made() -> None:
    with pytest.raises(_Refused, match="LONG_BINPUT of number 4294967295"):
        read_pickle(b"\x80\x02Nr\xff\xff\xff\xff.")


def test_a_file_that_wants_all_memory_ends_its_own_process_only(tmp_path: Path) -> None:
    """A text of 8 MB, encoded 400 times over: 3 GB, where one is allowed."""
    write_python_cifar100(tmp_path / "in", {"train": pictures(4), "test": pictures(4)})
    size = 8_000_000
    text = b"X" + size.to_bytes(4, "little") + b"a" * size + b"q\x00"
    call = b"c_codecs\nencode\nq\x01X\x06\0\0\0latin1q\x02" + b"h\x01h\x00h\x02\x86R" * 400
    (tmp_path / "in" / "train").write_bytes(b"\x80\x02(" + text + call + b"l.")
    done = child(tmp_path / "in", tmp_path / "out", "ulimit -v 1000000")
    assert done.returncode == 2, done.stderr
    assert "MemoryError" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_import_that_is_cut_short_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_python_cifar100(tmp_path / "in", {"train": pictures(4), "test": pictures(4)})
    import_cifar(tmp_path / "in", out)
    write_python_cifar100(tmp_path / "in", {"train": pictures(40), "test": pictures(4)})
    # The files of names and test.bin fit into 40 kB, train.bin does not.
    done = child(tmp_path / "in", out, "ulimit -f 40")
    assert done.returncode == DiskError.exit_code, done.stderr
    left = ["coarse_label_names.txt", "fine_label_names.txt", "test.bin"]
    assert sorted(path.name for path in out.iterdir()) == left
    with pytest.raises(DataError, match=r"train\.bin is not in it"):
        scanned(out, "cifar100")
    done = child(tmp_path / "in", out)
    assert done.returncode == 0, done.stderr
    assert len(scanned(out, "cifar100").manifest.samples) == 44


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"ids": ["a"]}, "1 ids for 2 images"),
        ({"parts": {"pool": torch.tensor([0, 2])}}, r"part pool has rows outside 0\.\.1"),
        ({"parts": {"pool": torch.tensor([0.0])}}, "part pool is torch.float32"),
        ({"images": torch.zeros(2, 3, 8, 8)}, "they are torch.float32"),
    ],
)
def test_a_store_that_contradicts_itself_is_refused(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    store = ImageStore(["a", "b"], images, (0.5,) * 3, (0.2,) * 3)
    replace(store, **changed).save(tmp_path / "images")
    with pytest.raises(RecordError, match=told):
        ImageStore.load(tmp_path / "images")
