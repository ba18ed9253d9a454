"""Promises of the sources of images: what the files hold is what a study gets, or a refusal."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regatta.config.schema import DataSection
from regatta.core.errors import DataError, DecodeError
from regatta.data.image_decode import decode_image
from regatta.data.image_scan import scan_images
from regatta.data.sources.cifar10 import cifar10
from regatta.data.sources.cifar100 import cifar100
from regatta.data.sources.image_folder import image_folder
from regatta.data.sources.shapes import draw_shapes, shapes
from tests.data.image_files import (
    COARSE,
    FINE,
    TEN,
    write_cifar10,
    write_cifar100,
    write_python_cifar100,
    write_tree,
    zip_of,
)


@pytest.mark.parametrize("below", ["", "cifar-100-binary"])
def test_cifar100_records_are_read_byte_for_byte(tmp_path: Path, below: str) -> None:
    written = write_cifar100(tmp_path / below, {"train": 8, "test": 4})
    fine, coarse = cifar100(tmp_path), cifar100(tmp_path, labels="coarse")
    np.testing.assert_array_equal(fine.images, np.concatenate(list(written.values())))
    assert [row.label_name for row in fine.rows[:5]] == [*FINE, FINE[0]]
    assert [row.label_name for row in coarse.rows[:3]] == [*COARSE, COARSE[0]]
    assert [row.sample_id for row in fine.rows[7:9]] == ["train/00007", "test/00000"]
    assert fine.normalisation == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    assert "8 and 4 training and test images" in fine.notes[0]


def test_cifar100_without_names_counts_its_hundred_classes(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 8, "test": 4})
    (tmp_path / "fine_label_names.txt").unlink()
    listing = cifar100(tmp_path)
    assert len(listing.classes) == 100
    assert listing.rows[3].label_name == "class-03"


def test_cifar10_batches_are_one_training_list(tmp_path: Path) -> None:
    images = write_cifar10(tmp_path / "cifar-10-batches-bin", 6)
    listing = cifar10(tmp_path)
    np.testing.assert_array_equal(listing.images, images)
    assert listing.classes == list(TEN)
    assert [row.split for row in listing.rows].count("train") == 30
    assert listing.rows[29].sample_id == "train/00029"
    assert listing.rows[29].path.name == "data_batch_5.bin"
    assert listing.rows[29].record == 5


def test_cut_archive_names_file_record_and_expected_size(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 8, "test": 4})
    path = tmp_path / "train.bin"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"record 7: it has {8 * 3074 - 100} .* {8 * 3074}") as hit:
        cifar100(tmp_path)
    assert str(hit.value.where) == str(path)


def test_label_outside_the_list_names_its_record(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 8, "test": 4})
    content = bytearray((tmp_path / "test.bin").read_bytes())
    content[2 * 3074 + 1] = 99
    (tmp_path / "test.bin").write_bytes(content)
    with pytest.raises(DataError, match="label 99 in record 2 is outside the list of 4 names"):
        cifar100(tmp_path)


def test_python_release_is_never_opened_and_says_what_to_do(tmp_path: Path) -> None:
    write_python_cifar100(tmp_path / "cifar-100-python", {})
    with pytest.raises(DataError, match="pickle") as caught:
        cifar100(tmp_path)
    assert "regatta data import cifar" in str(caught.value.hint)


def test_tree_zip_and_wrapped_zip_give_the_same_images(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_tree(tree, {"train": 3, "val": 2, "test": 2}, size=40)
    listings = [
        image_folder(root)
        for root in (
            tree,
            zip_of(tree, tmp_path / "a.zip"),
            zip_of(tree, tmp_path / "b.zip", "pictures/"),
        )
    ]
    ids = [row.sample_id for row in listings[0].rows]
    assert ids[0] == "test/cat/000.png"
    assert {row.split for row in listings[0].rows} == {"train", "validation", "test"}
    assert listings[0].notes == ["14 image(s) are of another size, resized"]
    for other in listings[1:]:
        assert [row.sample_id for row in other.rows] == ids
        np.testing.assert_array_equal(other.images, listings[0].images)
    with Image.open(tree / "train/cat/000.png") as picture:
        expected = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(
        listings[0].images[ids.index("train/cat/000.png")], expected.transpose(2, 0, 1)
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip", "tree"]


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def flat(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (16, 16), colour)  # type: ignore[arg-type]


def deep(level: int) -> Image.Image:
    return Image.fromarray(np.full((16, 16), level, dtype=np.uint16))


def palette() -> Image.Image:
    return flat("RGB", (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)


@pytest.mark.parametrize(
    ("content", "rgb", "remark"),
    [
        (encoded(flat("L", 77)), (77, 77, 77), "grey"),
        (encoded(flat("1", 1)), (255, 255, 255), "grey"),
        (encoded(palette()), (10, 200, 30), "palette"),
        # Half transparent black on white: 255 * (1 - 102/255) = 153.
        (encoded(flat("RGBA", (0, 0, 0, 102))), (153, 153, 153), "white"),
        (encoded(flat("LA", (0, 102))), (153, 153, 153), "white"),
        (encoded(deep(40_000)), (156, 156, 156), "16 bits"),
        (encoded(flat("CMYK", (0, 0, 0, 0)), "TIFF"), (255, 255, 255), "CMYK"),
    ],
)
def test_every_kind_of_picture_becomes_rgb(
    content: bytes, rgb: tuple[int, ...], remark: str
) -> None:
    image, remarks = decode_image(content, 16)
    assert image.shape == (3, 16, 16)
    np.testing.assert_array_equal(image, np.broadcast_to(np.array(rgb)[:, None, None], image.shape))
    assert any(remark in said for said in remarks)


def test_picture_is_turned_as_its_exif_says() -> None:
    levels = np.zeros((16, 16, 3), dtype=np.uint8)
    levels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    image, remarks = decode_image(encoded(Image.fromarray(levels), exif=exif.tobytes()), 16)
    # 6 = to be turned clockwise: the left half comes to stand on top.
    assert image[:, :8].min() == 255
    assert image[:, 8:].max() == 0
    assert any("EXIF" in said for said in remarks)


def test_bomb_and_foreign_formats_are_refused() -> None:
    with pytest.raises(DecodeError, match="pixels"):
        decode_image(encoded(Image.new("1", (12_000, 12_000))), 32)
    with pytest.raises(DecodeError, match="known kind"):
        decode_image(encoded(flat("RGB", 0), "EPS"), 32)


def test_damaged_images_stop_the_study_or_are_listed(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 12, "test": 4})
    broken = tmp_path / "train/cat/003.png"
    broken.write_bytes(broken.read_bytes()[:500])
    (tmp_path / "test/dog/000.png").write_text("no picture")
    (tmp_path / "train/dog/notes.txt").write_text("about dogs")
    with pytest.raises(DataError, match="2 of 32 images") as caught:
        scan_images(DataSection(source="image-folder", root=str(tmp_path)))
    assert "train/cat/003.png" in caught.value.what
    assert "test/dog/000.png" in caught.value.what
    data = DataSection(source="image-folder", root=str(tmp_path), damaged="drop")
    manifest = scan_images(data).manifest
    assert len(manifest.samples) == 30
    listed = {item.path: item.is_damage for item in manifest.dropped}
    assert listed == {
        "train/cat/003.png": True,
        "test/dog/000.png": True,
        "train/dog/notes.txt": False,
    }
    assert broken.exists()


def test_damaged_entry_of_an_archive_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {"train": 2, "test": 2})
    path = zip_of(tmp_path / "tree", tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train/dog/001.png")
    content = bytearray(path.read_bytes())
    middle = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(content)
    damaged = [item.path for item in image_folder(path).dropped if item.is_damage]
    assert damaged == ["train/dog/001.png"]


def test_archive_with_a_name_that_leaves_it_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../cat/1.png", b"")
    with pytest.raises(DataError, match="leaves the archive"):
        image_folder(tmp_path / "a.zip")


def test_splits_of_different_classes_are_named(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train": 2}, ("cat", "dog", "emu"))
    write_tree(tmp_path, {"test": 2}, ("cat", "dog", "fox"))
    with pytest.raises(DataError, match=r"test has 3 .* fox; train has 3 classes, among them emu"):
        image_folder(tmp_path)


@pytest.mark.parametrize("content", [None, "readme.txt"])
def test_class_folder_without_an_image_is_named(tmp_path: Path, content: str | None) -> None:
    write_tree(tmp_path, {"": 2})
    (tmp_path / "emu").mkdir()
    if content:
        (tmp_path / "emu" / content).write_text("soon")
    with pytest.raises(DataError, match="without an image: emu"):
        image_folder(tmp_path)


def test_folders_without_test_are_split_60_20_20_in_every_class(tmp_path: Path) -> None:
    write_tree(tmp_path, {"": 20})
    first, again, other = (
        scan_images(DataSection(source="image-folder", root=str(tmp_path), split_seed=seed))
        for seed in (1, 1, 2)
    )
    for name, count in (("train", 12), ("validation", 4), ("test", 4)):
        labels = [sample.label for sample in first.manifest.split(name)]
        assert labels.count(0) == labels.count(1) == count
    assert first.manifest.hash() == again.manifest.hash() != other.manifest.hash()
    assert any("no test split" in note for note in first.manifest.notes)


def test_excluded_test_images_are_listed_and_training_ones_refused(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"train": 40, "test": 8})
    listed = tmp_path / "near-copies.txt"
    listed.write_text("# near-copies\ntest/00001\ntest/00006\n")
    data = DataSection(source="cifar100", root=str(tmp_path), options={"exclude_ids": str(listed)})
    manifest = scan_images(data).manifest
    assert len(manifest.split("test")) == 6
    assert [item.path for item in manifest.dropped] == ["test/00001", "test/00006"]
    listed.write_text("train/00001\n")
    with pytest.raises(DataError, match="1 of 1 ids are of no test image: train/00001"):
        scan_images(data)


def test_shapes_do_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    many = draw_shapes(3, "train", 600, classes=4, image_size=16, noise=0.1)
    few = draw_shapes(3, "train", 300, classes=4, image_size=16, noise=0.1)
    np.testing.assert_array_equal(many[:300], few)
    assert not np.array_equal(
        draw_shapes(4, "train", 300, classes=4, image_size=16, noise=0.1), few
    )
    listing = shapes(tmp_path / "a", classes=4, train_per_class=75, test_per_class=10, seed=3)
    again = shapes(tmp_path / "a", classes=4, train_per_class=75, test_per_class=10, seed=3)
    np.testing.assert_array_equal(listing.images, again.images)
    assert len({image.tobytes() for image in listing.images}) == 340
    with pytest.raises(DataError, match="other settings"):
        shapes(tmp_path / "a", classes=5, seed=3)


def test_real_jpeg_archive_is_read_whole(shared_data: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(shared_data / "cifar10-images.zip") as whole,
        zipfile.ZipFile(tmp_path / "some.zip", "w") as some,
    ):
        for name in whole.namelist():
            if name.endswith(("00.jpg", "50.jpg")):
                some.writestr(name, whole.read(name))
        picture = Image.open(io.BytesIO(whole.read("cifar10-images/test/cat/0000.jpg")))
    scanned = scan_images(DataSection(source="image-folder", root=str(tmp_path / "some.zip")))
    manifest = scanned.manifest
    assert (len(manifest.samples), len(manifest.classes)) == (600, 10)
    assert len(manifest.split("test")) == 100
    ids = [sample.sample_id for sample in manifest.samples]
    expected = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(scanned.images[ids.index("test/cat/0000.jpg")], expected)
    # The published mean and sd of CIFAR-10 are (.491, .482, .447) and (.247, .243, .262).
    mean, deviation = scanned.statistics
    assert mean == pytest.approx((0.491, 0.482, 0.447), abs=0.03)
    assert deviation == pytest.approx((0.247, 0.243, 0.262), abs=0.03)
