"""Promises of the sources of images: right pixels, right labels, nothing dropped unseen."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regatta.core.errors import ConfigError, DataError
from regatta.data.image_scan import ScannedImages
from tests.data.image_files import (
    encoded,
    picture,
    scanned,
    write_cifar10,
    write_cifar100,
    write_classes,
    write_file,
    write_zip,
)


def pixels(found: ScannedImages, sample_id: str) -> np.ndarray:
    """uint8 [H, W, 3]."""
    ids = [sample.sample_id for sample in found.manifest.samples]
    return found.images[ids.index(sample_id)].transpose(1, 2, 0)


def labels(found: ScannedImages) -> dict[str, str]:
    return {sample.sample_id: sample.label_name for sample in found.manifest.samples}


@pytest.mark.parametrize("inner", ["", "cifar-100-binary"])
def test_cifar100_records_become_images_and_names(tmp_path: Path, inner: str) -> None:
    written = write_cifar100(tmp_path / inner)
    found = scanned(tmp_path, "cifar100")
    assert found.manifest.classes == ["fine 0", "fine 1", "fine 2", "fine 3"]
    for part, images in written.items():
        for number, image in enumerate(images):
            assert np.array_equal(pixels(found, f"{part}/{number:05d}"), image)
            assert labels(found)[f"{part}/{number:05d}"] == f"fine {number % 4}"
    assert found.statistics == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    assert any("a part of cifar100: 20 and 8" in note for note in found.manifest.notes)


def test_cifar100_coarse_labels_are_the_first_byte(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    found = scanned(tmp_path, "cifar100", options={"labels": "coarse"})
    assert found.manifest.classes == ["even", "odd"]
    assert labels(found)["train/00003"] == "odd"


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_cifar10_batches_follow_each_other(tmp_path: Path, inner: str) -> None:
    written = write_cifar10(tmp_path / inner)
    found = scanned(tmp_path, "cifar10")
    assert found.manifest.classes == [f"name{n}" for n in range(10)]
    for part, images in written.items():
        for number, image in enumerate(images):
            assert np.array_equal(pixels(found, f"{part}/{number:05d}"), image)
            assert labels(found)[f"{part}/{number:05d}"] == f"name{number % 10}"


def test_without_files_of_names_the_classes_are_numbered(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "batches.meta.txt").unlink()
    assert scanned(tmp_path, "cifar10").manifest.classes[3] == "class-3"


def _cut(folder: Path) -> None:
    path = folder / "train.bin"
    path.write_bytes(path.read_bytes()[: 3 * 3074 + 100])


def _wrong_label(folder: Path) -> None:
    path = folder / "test.bin"
    content = bytearray(path.read_bytes())
    content[5 * 3074 + 1] = 77
    path.write_bytes(bytes(content))


def _python_release(folder: Path) -> None:
    (folder / "train.bin").unlink()
    (folder / "meta").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_cut, ["train.bin", "inside record 3", "fetch the binary release again"]),
        (lambda f: (f / "train.bin").write_bytes(b""), ["train.bin", "record 0", "0 bytes"]),
        (_wrong_label, ["test.bin", "label 77 in record 5", "list of 4 names"]),
        (lambda f: (f / "test.bin").unlink(), ["test.bin", "cannot be read", "fetch"]),
        (lambda f: (f / "train.bin").unlink(), ["train.bin is not in it", "cifar-100-binary"]),
        (_python_release, ["python release", "regatta data import cifar --root"]),
        (
            lambda f: (f / "fine_label_names.txt").write_text("a\nb\na\nc\n"),
            ["fine_label_names.txt", "listed twice: a"],
        ),
    ],
)
def test_a_damaged_release_is_named_with_file_and_record(
    tmp_path: Path, damage: Callable[[Path], object], told: list[str]
) -> None:
    write_cifar100(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError) as raised:
        scanned(tmp_path, "cifar100")
    for text in told:
        assert text in str(raised.value)


def test_excluded_test_images_are_left_out_and_listed(tmp_path: Path) -> None:
    write_cifar100(tmp_path / "data")
    path = tmp_path / "near-copies.txt"
    path.write_text("# near copies\ntest/00001\n\ntest/00006\n")
    found = scanned(tmp_path / "data", "cifar100", options={"exclude_ids": str(path)})
    assert len(found.manifest.split("test")) == 6
    assert [item.path for item in found.manifest.dropped] == ["test/00001", "test/00006"]
    assert "2 test image(s) are left out by exclude_ids" in found.manifest.notes
    path.write_text("train/00001\n")
    with pytest.raises(DataError, match="1 of 1 ids are of no test image: train/00001"):
        scanned(tmp_path / "data", "cifar100", options={"exclude_ids": str(path)})
    path.write_text("".join(f"test/{n:05d}\n" for n in range(8)))
    with pytest.raises(DataError, match="all 8 test images are excluded"):
        scanned(tmp_path / "data", "cifar100", options={"exclude_ids": str(path)})


def test_split_folders_by_any_of_their_names(tmp_path: Path) -> None:
    write_classes(tmp_path, {f"{s}/{c}": 3 for s in ("Training", "val", "TEST") for c in "ab"})
    found = scanned(tmp_path, options={"image_size": 8})
    assert [len(found.manifest.split(s)) for s in ("train", "validation", "test")] == [6, 6, 6]
    assert np.array_equal(pixels(found, "Training/a/000.png"), picture(0, size=8))
    assert found.manifest.classes == ["a", "b"]


def test_a_zip_reads_as_its_folder_does_and_is_not_touched(tmp_path: Path) -> None:
    write_classes(tmp_path / "tree", {"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2})
    files = sorted((tmp_path / "tree").rglob("*.png"))
    for number, top in enumerate(("", "wrapped/", "./")):
        members = {
            top + path.relative_to(tmp_path / "tree").as_posix(): path.read_bytes()
            for path in files
        }
        path = write_zip(tmp_path / f"{number}.zip", members, zipfile.ZIP_DEFLATED)
        before = path.read_bytes()
        packed, plain = (scanned(r, options={"image_size": 8}) for r in (path, tmp_path / "tree"))
        assert packed.manifest.hash() == plain.manifest.hash()
        assert np.array_equal(packed.images, plain.images)
        assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.zip", "1.zip", "2.zip", "tree"]


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(picture(1)), exif=exif)


def _as_grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


def _forms() -> dict[str, tuple[bytes, np.ndarray, str]]:
    """name -> (file, what it shows, what the notes say)."""
    base = picture(1)
    grey = base[:, :, 0]
    alpha = np.random.default_rng(5).integers(0, 256, grey.shape).astype(np.uint8)
    alpha[:4], alpha[4:8] = 0, 255
    share = alpha[:, :, None] / 255
    palette = Image.fromarray(base).quantize(16)
    ink = Image.fromarray(picture(2)).convert("CMYK")
    ink_file = encoded(ink, "TIFF")
    deep = (base[:, :, 1].astype(np.uint16) * 257).astype(np.uint16)
    first, second = (Image.fromarray(picture(n)).quantize(256) for n in (1, 2))
    animated = io.BytesIO()
    first.save(animated, "GIF", save_all=True, append_images=[second])
    return {
        "rgb.png": (encoded(base), base, ""),
        "rgb.bmp": (encoded(base, "BMP"), base, ""),
        "grey.png": (encoded(grey), _as_grey(grey), "grey"),
        "palette.png": (encoded(palette), np.asarray(palette.convert("RGB")), "palette"),
        "alpha.png": (
            encoded(np.dstack([base, alpha])),
            np.rint(base * share + 255 * (1 - share)),
            "laid on white",
        ),
        "ink.tif": (ink_file, np.asarray(Image.open(io.BytesIO(ink_file)).convert("RGB")), "CMYK"),
        "deep.png": (encoded(Image.fromarray(deep)), _as_grey(base[:, :, 1]), "16 bits"),
        "deep-colour.png": (_deep_png(base), base, "16 bits"),
        "turned.png": (_turned(), np.rot90(base, -1), "EXIF"),
        "animated.gif": (
            animated.getvalue(),
            np.asarray(first.convert("RGB")),
            "first is taken",
        ),
    }


def _deep_png(base: np.ndarray) -> bytes:
    """A PNG of three channels with 16 bits each, which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        summed = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + summed

    deep = (base.astype(np.uint16) * 257).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in deep)
    size = base.shape[1].to_bytes(4, "big") + base.shape[0].to_bytes(4, "big")
    header = chunk(b"IHDR", size + bytes([16, 2, 0, 0, 0]))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )


def test_every_form_of_image_becomes_the_right_rgb_and_is_counted(tmp_path: Path) -> None:
    forms = _forms()
    for name, (content, _, _) in forms.items():
        write_file(tmp_path / "train" / "a" / name, content)
    write_classes(tmp_path, {"train/b": 4, "test/a": 1, "test/b": 1}, first=900, size=32)
    found = scanned(tmp_path)
    for name, (_, expected, note) in forms.items():
        shown = pixels(found, f"train/a/{name}").astype(float)
        # Laying on white rounds twice in Pillow.
        assert np.abs(shown - expected).max() <= (1 if name == "alpha.png" else 0), name
        assert any(note in text for text in found.manifest.notes), name
    assert any(note.startswith("2 image(s) are with 16 bits") for note in found.manifest.notes)


def test_another_size_is_resized_as_pillow_does(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 6, "b": 6}, size=21)
    found = scanned(tmp_path, options={"image_size": 16})
    expected = Image.fromarray(picture(0, size=21)).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(pixels(found, "a/000.png"), np.asarray(expected))
    assert "12 image(s) are of another size, resized" in found.manifest.notes


def test_damage_fails_or_is_dropped_by_name(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 6, "b": 6}, size=32)
    whole = encoded(picture(50), "JPEG")
    write_file(tmp_path / "a" / "cut.jpg", whole[: len(whole) // 2])
    write_file(tmp_path / "a" / "cut.png", encoded(picture(51))[:900])
    write_file(tmp_path / "b" / "text.png", b"no image at all")
    write_file(tmp_path / "b" / "empty.png", b"")
    write_file(tmp_path / "b" / "notes.txt", b"words")
    write_file(tmp_path / "readme.md", b"words")
    (tmp_path / "b" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    with pytest.raises(DataError, match="5 of 17 images cannot be used") as raised:
        scanned(tmp_path)
    names = ["a/cut.jpg", "a/cut.png", "b/empty.png", "b/nowhere.png", "b/text.png"]
    assert all(name in str(raised.value) for name in names)
    assert "data.damaged: drop" in str(raised.value)
    found = scanned(tmp_path, damaged="drop").manifest
    assert len(found.samples) == 12
    assert sorted(item.path for item in found.dropped if item.is_damage) == names
    others = {item.path: item.reason for item in found.dropped if not item.is_damage}
    assert others == {
        "b/notes.txt": "not an image by its name",
        "readme.md": "stands outside the class folders",
    }
    assert (tmp_path / "a" / "cut.jpg").read_bytes() == whole[: len(whole) // 2]


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 6, "b": 6})
    header = encoded(Image.new("1", (8, 8)))
    huge = bytearray(header)
    huge[16:24] = (9000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(bytes(huge[12:29])).to_bytes(4, "big")
    write_file(tmp_path / "a" / "bomb.png", bytes(huge))
    with pytest.raises(DataError, match="9000 x 9000 pixels are too many"):
        scanned(tmp_path)


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        ({"train/a": 2, "train/b": 2, "test/a": 1}, "the classes differ between the splits"),
        ({"train/a": 2, "train/b": 2, "other/a": 2}, "side by side: other"),
        ({"a": 5, "b": 5, "c": 0}, "without an image: c"),
        ({"train/a": 2, "train/b": 2, "train/c": 0, "test/a": 1}, "without an image: train/c"),
        ({"a": 5}, "only one class: a"),
        ({"a": 5, "b": 2}, "too few images to hold any out: b"),
        ({"test/a": 2, "test/b": 2}, "none to train on"),
        ({"": 3}, "no class folders with images"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_layout_is_refused(
    tmp_path: Path, folders: dict[str, int], told: str, packed: bool
) -> None:
    root = tmp_path / "tree"
    write_classes(root, folders)
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    if packed:
        with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
            for path in sorted(root.rglob("*")):
                archive.write(path, path.relative_to(root).as_posix())
        root = tmp_path / "tree.zip"
    with pytest.raises(DataError, match=told):
        scanned(root)


def test_odd_names_stand_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    names = ["with space, 'quote' & 100%.png", "é-ü.png", "line#1-2.png", "UPPER.PNG"]
    for number, name in enumerate(names):
        write_file(tmp_path / "cats & dogs" / name, encoded(picture(number, size=8)))
    write_classes(tmp_path, {"b": 5}, first=100)
    write_file(tmp_path / "b" / ".hidden.png", b"")
    write_file(tmp_path / ".cache" / "x.png", b"")
    found = scanned(tmp_path, options={"image_size": 8}).manifest
    assert {s.sample_id for s in found.samples} >= {f"cats & dogs/{name}" for name in names}
    assert len(found.samples) == 9
    assert not found.dropped


@pytest.mark.parametrize("name", ["/etc/x.png", "../out.png", "a/../../out.png", "..\\out.png"])
def test_an_archive_whose_names_leave_it_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "inner").mkdir()
    path = write_zip(tmp_path / "inner" / "x.zip", {"a/1.png": encoded(picture(0)), name: b"x"})
    with pytest.raises(DataError, match="a name leaves the archive"):
        scanned(path)
    assert [p.name for p in tmp_path.rglob("*.png")] == []


def _members() -> dict[str, bytes]:
    return {
        f"{c}/{n}.png": encoded(picture(n + 50 * i)) for i, c in enumerate("ab") for n in range(5)
    }


def test_a_broken_archive_and_a_broken_member_are_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", _members())
    content = bytearray(path.read_bytes())
    content[400] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"1 of 10 images cannot be used:\n *a/0.png: .*CRC"):
        scanned(path)
    path.write_bytes(bytes(content[:500]))
    with pytest.raises(DataError, match="no whole zip archive"):
        scanned(path)


def test_a_member_larger_than_it_declares_is_not_unpacked_whole(tmp_path: Path) -> None:
    """200 MB of zeros, declared as 1,000 bytes: reading may not take their room."""
    import tracemalloc

    path = write_zip(tmp_path / "x.zip", _members() | {"a/z.png": bytes(200_000_000)}, 8)
    content = path.read_bytes()
    path.write_bytes(content.replace((200_000_000).to_bytes(4, "little"), b"\xe8\x03\0\0"))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"a/z.png: cannot be read from the archive"):
            scanned(path)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_member_packed_in_a_way_that_cannot_be_bounded_is_damage(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", _members())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a/z.png", encoded(picture(77)))
    with pytest.raises(DataError, match=r"a/z.png: packed in another way"):
        scanned(path)


def test_without_a_test_folder_every_class_gives_a_fifth_twice(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 10, "b": 25})
    found, again, other = (
        scanned(tmp_path, options={"image_size": 8}, split_seed=seed).manifest for seed in (1, 1, 2)
    )
    for split, counts in (("train", (6, 15)), ("validation", (2, 5)), ("test", (2, 5))):
        names = [sample.label_name for sample in found.split(split)]
        assert (names.count("a"), names.count("b")) == counts
    assert found.hash() == again.hash() != other.hash()
    assert any("20% for test and 20% for validation" in note for note in found.notes)


def test_the_validation_folder_stays_validation(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train/a": 10, "train/b": 10, "val/a": 3, "val/b": 3})
    found = scanned(tmp_path, options={"image_size": 8}).manifest
    assert {s.sample_id.split("/")[0] for s in found.split("validation")} == {"val"}
    assert {s.sample_id.split("/")[0] for s in found.split("test")} == {"train"}
    assert [len(found.split(s)) for s in ("train", "validation", "test")] == [16, 6, 4]


def test_equal_pixels_in_train_and_test_are_noted(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train/a": 9, "train/b": 9, "test/a": 2, "test/b": 2})
    write_file(tmp_path / "test" / "b" / "copy.bmp", encoded(picture(0, size=8), "BMP"))
    notes = scanned(tmp_path, options={"image_size": 8}).manifest.notes
    torn = [note for note in notes if "stand in two splits as equal copies" in note]
    assert torn == [
        "1 image(s) stand in two splits as equal copies: test/b/copy.bmp, train/a/000.png"
    ]
    assert any("1 image(s) have two labels" in note for note in notes)


def test_a_class_lost_to_damage_is_told(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train/a": 9, "train/b": 9, "test/a": 2})
    write_file(tmp_path / "test" / "b" / "bad.png", b"no image")
    notes = scanned(tmp_path, options={"image_size": 8}, damaged="drop").manifest.notes
    assert "1 class(es) have no test image: b" in notes
    for path in (tmp_path / "train" / "b").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="no train image: b"):
        scanned(tmp_path, options={"image_size": 8}, damaged="drop")


def test_mean_and_deviation_are_those_of_the_training_images(tmp_path: Path) -> None:
    write_cifar100(tmp_path, each=600)
    found = scanned(tmp_path, "cifar100", options={"normalisation": "data"})
    rows = [n for n, s in enumerate(found.manifest.samples) if s.split == "train"]
    values = found.images[rows] / 255
    assert found.statistics[0] == pytest.approx(values.mean(axis=(0, 2, 3)), abs=1e-12)
    assert found.statistics[1] == pytest.approx(values.std(axis=(0, 2, 3)), abs=1e-12)


def test_training_images_are_limited_by_class(tmp_path: Path) -> None:
    write_cifar100(tmp_path, each=20)
    found = scanned(tmp_path, "cifar100", max_train_samples=40).manifest
    training = found.split("train") + found.split("validation")
    names = [sample.label_name for sample in training]
    assert [names.count(f"fine {n}") for n in range(4)] == [10] * 4
    assert len(found.split("test")) == 8
    assert any("training uses 40 of 80" in note for note in found.notes)


def test_options_of_a_wrong_kind_are_refused(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    for options in ({"labels": "middle"}, {"lables": "fine"}):
        with pytest.raises(ConfigError, match="data.options|labels"):
            scanned(tmp_path, "cifar100", options=options)
    with pytest.raises(ConfigError, match="one split"):
        scanned(tmp_path, "cifar100", split=2)


def test_real_images_in_the_archive_read_as_pillow_reads_them(
    shared_data: Path, tmp_path: Path
) -> None:
    path = shared_data / "cifar10-images.zip"
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith(("/0000.jpg", "/0011.jpg"))]
        members = {name: archive.read(name) for name in names}
    found = scanned(write_zip(tmp_path / "some.zip", members))
    assert len(found.manifest.classes) == 10
    assert [len(found.manifest.split(s)) for s in ("train", "validation", "test")] == [10, 10, 20]
    for name, content in members.items():
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        assert np.array_equal(pixels(found, name.removeprefix("cifar10-images/")), expected)
