"""Promises of the scan on odd trees: links, accents, missing files, files without a frame rate."""

from __future__ import annotations

import os
import shutil
import struct
import unicodedata
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from regatta.config.schema import DataSection
from regatta.core.errors import DataError, SplitLeakError
from regatta.data.decode import probe
from regatta.data.file_scan import scan_files
from regatta.data.manifest import Manifest
from regatta.data.scan import build_manifest
from tests.data.stand_ins import write_clip, write_lines

COMPOSED = unicodedata.normalize("NFC", "Café à côté")
APART = unicodedata.normalize("NFD", COMPOSED)


def build(root: Path, source: str = "folder", **changes: Any) -> Manifest:
    data = DataSection.model_validate({"source": source, "root": str(root), **changes})
    return build_manifest(data, cache_folder=root.parent / "cache")


def write_class_folders(root: Path, *labels: str) -> Path:
    for place, label in enumerate(labels):
        for number, split in enumerate(("train", "train", "val", "test")):
            write_clip(root / split / label / f"{number}.mp4", 10 * place + number)
    return root


def list_files(root: Path, *lines: str) -> Path:
    write_lines(root / "manifest.csv", ["video_path,label,split", *lines])
    return root


def without_rate(path: Path, *, stream: bool = True, main: bool = True) -> None:
    """Set the frame rates of an AVI header to zero: in the stream header, the main one, or both."""
    content = bytearray(path.read_bytes())
    if stream:
        struct.pack_into("<I", content, content.index(b"strh") + 32, 0)
    if main:
        struct.pack_into("<I", content, content.index(b"avih") + 8, 0)
    path.write_bytes(content)


def write_bare_stream(path: Path, container: str) -> Path:
    codec = {"h264": "libx264", "m4v": "mpeg4"}[container]
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(8):
            image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        output.mux(stream.encode(None))
    return path


def test_a_file_without_a_frame_rate_is_damage_and_not_25_per_second(tmp_path: Path):
    root = write_class_folders(tmp_path / "v", "a", "b")
    without_rate(write_clip(root / "train" / "a" / "zero.avi", 50))
    write_bare_stream(root / "train" / "b" / "bare.mp4", "h264")
    assert probe(root / "train" / "a" / "zero.avi").fps == 25.0  # what FFmpeg makes of it
    with pytest.raises(DataError, match="2 of 10 samples cannot be used") as error:
        build(root)
    assert "train/a/zero.avi: no frame rate: the header says 0 frames per second" in str(
        error.value
    )
    assert "train/b/bare.mp4: no frame rate: a bare h264 stream" in str(error.value)
    manifest = build(root, damaged="drop")
    assert {d.path for d in manifest.dropped} == {"train/a/zero.avi", "train/b/bare.mp4"}
    assert {sample.fps for sample in manifest.samples} == {12.0}


@pytest.mark.parametrize("zero", ["stream", "main"])
def test_one_stated_frame_rate_is_enough(tmp_path: Path, zero: str):
    path = write_clip(tmp_path / "clip.avi", 1)
    without_rate(path, stream=zero == "stream", main=zero == "main")
    facts = scan_files([path], cache_folder=tmp_path / "cache")[path]
    assert not isinstance(facts, str)
    assert facts.fps == pytest.approx(12.0, rel=1e-5)  # the main header counts microseconds


def test_a_bare_stream_that_states_its_rate_is_read(tmp_path: Path):
    path = write_bare_stream(tmp_path / "bare.m4v", "m4v")
    facts = scan_files([path], cache_folder=tmp_path / "cache")[path]
    assert not isinstance(facts, str)
    assert facts.fps == 10.0


def test_many_more_files_than_threads_are_all_scanned(tmp_path: Path):
    first = write_clip(tmp_path / "v" / "0.mp4", 1)
    paths = [first, *(tmp_path / "v" / f"{number}.mp4" for number in range(1, 150))]
    for path in paths[1:]:
        os.link(first, path)
    paths[70] = tmp_path / "v" / "missing.mp4"
    calls: list[int] = []
    found = scan_files(
        paths, cache_folder=tmp_path / "cache", progress=lambda done, _, __: calls.append(done)
    )
    assert list(found) == paths
    assert calls == list(range(151))
    assert [path.name for path in paths if isinstance(found[path], str)] == ["missing.mp4"]


def test_missing_files_are_counted_before_any_file_is_decoded(tmp_path: Path):
    root = list_files(tmp_path / "v", *(f"{c}/{n}.mp4,{c},train" for c in "ab" for n in range(20)))
    for label in "ab":
        write_clip(root / label / "3.mp4", ord(label))
    with pytest.raises(DataError, match="38 of 40 samples cannot be used") as error:
        build(root, "manifest")
    message = str(error.value)
    assert "a/0.mp4: the file does not exist" in message
    assert "and 28 more" in message
    assert "data.damaged: drop" in message
    assert not (tmp_path / "cache").exists()


def test_a_root_that_holds_none_of_the_files_is_told_at_once(tmp_path: Path):
    root = list_files(tmp_path / "v", "a/1.mp4,a,train", "b/1.mp4,b,train")
    with pytest.raises(DataError, match="none of the 2 listed files is there") as error:
        build(root, "manifest", damaged="drop")
    assert error.value.where == str(root)
    assert "data.root" in str(error.value)


def test_class_names_that_look_the_same_are_one_class(tmp_path: Path):
    assert COMPOSED != APART
    root = tmp_path / "v"
    for number, (split, label) in enumerate(
        [("train", COMPOSED), ("train", APART), ("val", APART), ("test", COMPOSED)]
    ):
        write_clip(root / split / label / f"{number}.mp4", number)
        write_clip(root / split / "b" / f"{number}.mp4", 10 + number)
    manifest = build(root)
    assert manifest.classes == [COMPOSED, "b"]
    assert len(manifest.samples) == 8
    assert all(Path(sample.path).is_file() for sample in manifest.samples)


def test_listed_names_find_files_whose_accents_are_spelt_otherwise(tmp_path: Path):
    root = tmp_path / "v"
    write_clip(root / APART / f"{APART}.mp4", 1)
    write_clip(root / COMPOSED.upper() / f"{COMPOSED}.mp4", 2)
    write_clip(root / "b" / "1.mp4", 3)
    write_clip(root / "b" / "2.mp4", 4)
    folder, other = COMPOSED, unicodedata.normalize("NFD", COMPOSED.upper())
    lines = [f"{folder}/{COMPOSED}.mp4,x,train", f"{other}/{APART}.mp4,x,validation"]
    list_files(root, *lines, "b/1.mp4,b,train", "b/2.mp4,b,validation")
    manifest = build(root, "manifest")
    assert {sample.sample_id for sample in manifest.samples} == {
        f"{APART}/{APART}.mp4",
        f"{COMPOSED.upper()}/{COMPOSED}.mp4",
        "b/1.mp4",
        "b/2.mp4",
    }


def test_equal_file_names_in_two_classes_are_two_samples(tmp_path: Path):
    manifest = build(write_class_folders(tmp_path / "v", "a", "b"))
    ids = [sample.sample_id for sample in manifest.samples]
    assert len(set(ids)) == len(ids) == 8
    assert {"train/a/0.mp4", "train/b/0.mp4"} <= set(ids)


def test_linked_roots_folders_and_files_are_followed_also_out_of_the_root(tmp_path: Path):
    store = write_class_folders(tmp_path / "store", "a", "b")
    root = tmp_path / "v"
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for label in "ab":
            (root / split / label).symlink_to(store / split / label)
    for label in "ab":
        (root / "val" / label).mkdir(parents=True)
        (root / "val" / label / "x.mp4").symlink_to(store / "val" / label / "2.mp4")
    (tmp_path / "link").symlink_to(root)
    manifest = build(tmp_path / "link")
    assert {sample.sample_id for sample in manifest.samples} == {
        f"{split}/{label}/{name}.mp4"
        for label in "ab"
        for split, name in (("train", 0), ("train", 1), ("val", "x"), ("test", 3))
    }


def test_a_broken_link_is_a_missing_file(tmp_path: Path):
    root = write_class_folders(tmp_path / "v", "a", "b")
    (root / "train" / "a" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with pytest.raises(DataError, match=r"train/a/gone\.mp4: the file does not exist"):
        build(root)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_of_two_splits_to_one_file_are_a_leak(tmp_path: Path, link: Any):
    root = write_class_folders(tmp_path / "v", "a", "b")
    link(root / "train" / "a" / "0.mp4", root / "test" / "a" / "other.mp4")
    with pytest.raises(SplitLeakError, match=r"test/a/other\.mp4 = train/a/0\.mp4"):
        build(root)


def test_copies_under_two_labels_are_noted(tmp_path: Path):
    root = write_class_folders(tmp_path / "v", "a", "b")
    shutil.copy(root / "train" / "a" / "0.mp4", root / "train" / "b" / "same.mp4")
    note = "1 video(s) have two labels as copies: 0.mp4, same.mp4"
    assert note in build(root).notes


def test_a_misspelt_class_of_the_test_list_names_the_nearest(tmp_path: Path):
    lines = ["a/1.mp4,running,train", "a/2.mp4,walking,train", "a/3.mp4,runing,test"]
    root = list_files(tmp_path / "v", *lines)
    with pytest.raises(DataError, match="no training sample: runing") as error:
        build(root, "manifest")
    assert "'runing' another spelling of 'running'?" in str(error.value.hint)


def test_a_class_that_is_not_judged_is_noted(tmp_path: Path):
    root = write_class_folders(tmp_path / "v", "a", "b")
    (root / "test" / "b" / "3.mp4").write_bytes(b"")
    note = "1 class(es) have no test sample: b"
    assert note in build(root, damaged="drop").notes
