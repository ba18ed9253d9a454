"""Promises of the scan: everything wrong with a data folder is found and named before training."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import pytest
from pydantic import Field

from regatta.config.schema import DataSection
from regatta.core.errors import (
    ConfigError,
    DataError,
    SplitLeakError,
    StopRequested,
    UnknownNameError,
)
from regatta.core.registry import SOURCES
from regatta.data.decode import probe, read_frames
from regatta.data.file_scan import CACHE_NAME, is_truncated, scan_files
from regatta.data.manifest import Manifest, SampleRow
from regatta.data.scan import build_manifest, check_options
from regatta.data.video_files import write_video


def clip(path: Path, seed: int, frames: int = 12, **settings: Any) -> Path:
    """A small video that no other seed makes."""
    images = np.random.default_rng(seed).integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8)
    return write_video(path, images, **{"fps": 12, **settings})


def section(root: Path, source: str = "folder", **changes: Any) -> DataSection:
    return DataSection.model_validate({"source": source, "root": str(root), **changes})


def build(root: Path, source: str = "folder", **changes: Any) -> Manifest:
    return build_manifest(section(root, source, **changes), cache_folder=root.parent / "cache")


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of ten clips in class folders."""
    for number in range(10):
        clip(tmp_path / "videos" / "a" / f"{number}.mp4", number)
        clip(tmp_path / "videos" / "b" / f"{number}.mp4", 100 + number)
    return tmp_path / "videos"


@pytest.fixture
def listed(root: Path) -> Path:
    """The same clips with a list: 0-5 train, 6-7 validation, 8-9 test."""
    splits = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    lines = [f"{c}/{n}.mp4,{c},{split}" for c in "ab" for n, split in enumerate(splits)]
    write_list(root, lines)
    return root


def write_list(root: Path, lines: list[str], header: str = "video_path,label,split") -> None:
    (root / "manifest.csv").write_text("\n".join([header, *lines]) + "\n")


def test_a_folder_becomes_a_manifest_with_true_facts(root: Path):
    clip(root / "a" / "long.avi", 50, frames=31, fps=25, codec="mpeg4", tag="XVID")
    manifest = build(root)
    assert manifest.classes == ["a", "b"]
    assert not manifest.dropped
    assert [s.sample_id for s in manifest.samples] == sorted(s.sample_id for s in manifest.samples)
    sample = next(s for s in manifest.samples if s.sample_id == "a/long.avi")
    assert (sample.label, sample.label_name, sample.group) == (0, "a", "a/long")
    assert (sample.start_frame, sample.frames, sample.fps) == (0, 31, 25.0)
    assert (sample.width, sample.height) == (16, 16)
    assert sample.duration_seconds == pytest.approx(31 / 25)
    assert sample.content_hash == hashlib.sha256(Path(sample.path).read_bytes()).hexdigest()
    counts = Counter((s.split, s.label_name) for s in manifest.samples)
    assert all(counts[split, name] for split in ("train", "validation", "test") for name in "ab")


def test_nothing_in_the_data_folder_is_touched(root: Path):
    (root / "a" / "broken.avi").write_text("no video")
    before = snapshot(root)
    build(root, damaged="drop")
    assert snapshot(root) == before


def test_the_same_folder_gives_the_same_manifest_elsewhere(root: Path, tmp_path: Path):
    first = build(root)
    shutil.copytree(root, tmp_path / "other" / "place")
    (tmp_path / "link").symlink_to(tmp_path / "other" / "place")
    assert build(tmp_path / "link").hash() == first.hash()
    assert build(root, split_seed=7).hash() != first.hash()


def test_given_validation_is_kept_and_missing_validation_is_carved(listed: Path):
    manifest = build(listed, "manifest")
    assert {s.sample_id for s in manifest.split("validation")} == {
        f"{c}/{n}.mp4" for c in "ab" for n in (6, 7)
    }
    lines = [f"{c}/{n}.mp4,{c},{'test' if n > 7 else 'train'}" for c in "ab" for n in range(10)]
    write_list(listed, lines)
    carved = build(listed, "manifest", validation_fraction=0.25)
    assert Counter(s.label_name for s in carved.split("validation")) == {"a": 2, "b": 2}
    assert len(carved.split("test")) == 4


@pytest.mark.fault(12)
def test_damage_of_every_kind_is_found_by_name(root: Path, shared_data: Path):
    videos = shared_data / "video"
    shutil.copy(videos / "corrupted.mp4", root / "a" / "corrupted.mp4")
    whole = (videos / "v_ucf101_sample.avi").read_bytes()
    (root / "a" / "cut.avi").write_bytes(whole[:200_000])
    (root / "a" / "cut.mkv").write_bytes((videos / "flipping_a_pancake.mkv").read_bytes()[:300_000])
    (root / "b" / "text.avi").write_text("this is no video\n" * 20)
    (root / "b" / "empty.avi").touch()
    (root / "b" / "random.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    reasons = {
        "a/corrupted.mp4": "decoding stops at frame",
        "a/cut.avi": "truncated: 107 of the 164 frames in its header",
        "a/cut.mkv": "truncated: it ends 3.33 seconds before its header says",
        "b/text.avi": "not a readable video file",
        "b/empty.avi": "the file is empty",
        "b/random.mp4": "not a readable video file",
    }
    with pytest.raises(DataError) as error:
        build(root)
    for name, reason in reasons.items():
        assert f"{name}: {reason}" in str(error.value)
    assert "6 of 26 samples cannot be used" in str(error.value)
    assert "data.damaged: drop" in str(error.value)
    manifest = build(root, damaged="drop")
    assert {item.path for item in manifest.dropped} == set(reasons)
    assert all(item.reason.startswith(reasons[item.path]) for item in manifest.dropped)
    assert len(manifest.samples) == 20


def test_a_whole_copy_of_the_clips_is_not_damaged(shared_data: Path):
    videos = shared_data / "video"
    for path in sorted(videos.iterdir()):
        if path.name != "corrupted.mp4":
            assert not is_truncated(probe(path)), path.name


def test_long_damage_lists_are_cut_and_counted(root: Path):
    for number in range(25):
        (root / "a" / f"bad{number:02d}.mp4").touch()
    with pytest.raises(DataError, match=r"25 of 45 samples") as error:
        build(root)
    assert str(error.value).count("the file is empty") == 10
    assert "and 15 more" in str(error.value)


@pytest.mark.fault(12)
@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_a_cut_file_is_never_taken_for_a_whole_one(tmp_path: Path, suffix: str, cut: float):
    settings = {"codec": "mpeg4", "tag": "XVID"} if suffix == ".avi" else {}
    whole = clip(tmp_path / f"whole{suffix}", 3, frames=60, **settings)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.read_bytes()[: int(cut * whole.stat().st_size)])
    found = scan_files([whole, path], cache_folder=tmp_path / "cache")
    first, second = found[whole], found[path]
    assert not isinstance(first, str)
    assert not is_truncated(first)
    assert isinstance(second, str) or is_truncated(second)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("index_in_front.mp4", "libx264", {"bf": "0", "mbtree": "0"}),
        ("plain.avi", "mpeg4", {}),
        ("b_frames.avi", "mpeg4", {"bf": "2"}),
    ],
)
def test_a_copy_that_broke_off_between_two_frames_is_found(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
):
    # Nothing is undecodable here: only the count against the header tells.
    path, rng = tmp_path / name, np.random.default_rng(0)
    front = {"movflags": "+faststart"} if name.endswith("mp4") else {}
    with av.open(str(path), "w", container_options=front) as container:
        stream = container.add_stream(codec, rate=12, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for _ in range(40):
            image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    assert not is_truncated(probe(path))
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    ends = sorted((p.pos or 0) + p.size for p in packets)
    path.write_bytes(path.read_bytes()[: ends[33] + ends[33] % 2])
    facts = probe(path)
    assert (facts.concealed_frames, facts.header_frames) == (0, 40)
    assert facts.counted_frames in (33, 34)
    assert is_truncated(facts)


@pytest.mark.parametrize(
    ("changes", "truncated"),
    [
        # 25 frames per second; in AVI `missing_seconds` follows from the count.
        ({"container": "avi", "counted_frames": 100}, False),
        ({"container": "avi", "counted_frames": 99, "missing_seconds": 0.04}, True),
        (
            {"container": "avi", "counted_frames": 98, "missing_seconds": 0.08, "reordered": True},
            False,
        ),
        (
            {"container": "avi", "counted_frames": 97, "missing_seconds": 0.12, "reordered": True},
            True,
        ),
        (
            {
                "container": "avi",
                "counted_frames": 99,
                "missing_seconds": 0.04,
                "reordered": True,
                "concealed_frames": 1,
            },
            True,
        ),
        # Frames that an AVI repeats by an empty chunk are in its header, and no time is missing.
        ({"container": "avi", "counted_frames": 60, "missing_seconds": 0.0}, False),
        ({"container": "mov", "counted_frames": 60, "missing_seconds": 0.04}, False),
        ({"container": "mov", "counted_frames": 60, "missing_seconds": 1.6}, True),
        ({"container": "mov", "counted_frames": 100, "missing_seconds": 1.6}, False),
        ({"container": "mov", "counted_frames": 60, "missing_seconds": None}, True),
        ({"container": "matroska", "header_frames": None, "missing_seconds": 0.2}, False),
        ({"container": "matroska", "header_frames": None, "missing_seconds": 0.24}, True),
        ({"container": "h264", "header_frames": None, "missing_seconds": None}, False),
    ],
)
def test_when_a_file_counts_as_truncated(tmp_path: Path, changes: dict[str, Any], truncated: bool):
    whole = replace(probe(clip(tmp_path / "a.avi", 0, codec="mpeg4")), fps=25.0, header_frames=100)
    assert is_truncated(replace(whole, **{"missing_seconds": 0.0, **changes})) == truncated


def test_an_edit_list_is_no_damage(tmp_path: Path, shared_data: Path):
    if not shutil.which("ffmpeg"):
        pytest.skip("needs the ffmpeg command")
    path = tmp_path / "trimmed.mp4"
    source = shared_data / "video" / "arm_wrestling.mp4"
    command = ["ffmpeg", "-v", "error", "-ss", "3.3", "-i", str(source), "-t", "4", "-c", "copy"]
    subprocess.run([*command, "-an", str(path)], check=True)
    facts = probe(path)
    assert facts.header_frames is not None
    assert facts.counted_frames < facts.header_frames - 50
    assert not is_truncated(facts)


def test_frames_that_xvid_always_loses_are_a_note_and_no_damage(root: Path):
    if not shutil.which("ffmpeg"):
        pytest.skip("needs the ffmpeg command with libxvid")
    path = root / "a" / "xvid.avi"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=96x64:rate=25"]
    subprocess.run(
        [*command, "-frames:v", "60", "-c:v", "libxvid", "-bf", "2", str(path)], check=True
    )
    facts = probe(path)
    assert facts.header_frames == 60
    assert facts.counted_frames in (58, 59)
    manifest = build(root)
    assert not manifest.dropped
    assert any("fewer frames than their header" in n and "a/xvid.avi" in n for n in manifest.notes)
    sample = next(s for s in manifest.samples if s.path == str(path))
    assert sample.frames == facts.counted_frames
    assert len(read_frames(path, [sample.frames - 1]).images) == 1


def test_patched_up_frames_are_noted(root: Path, shared_data: Path):
    content = bytearray((shared_data / "video" / "arm_wrestling.mp4").read_bytes())
    noise = np.random.default_rng(1).bytes(200)
    content[300_000:300_200] = noise
    path = root / "a" / "scratched.mp4"
    path.write_bytes(content)
    facts = probe(path)
    assert facts.concealed_frames
    manifest = build(root)
    assert any("patched up" in n and "a/scratched.mp4" in n for n in manifest.notes)
    with pytest.raises(DataError, match="torchcodec patches damaged frames otherwise"):
        build(root, decoder="torchcodec")


def test_files_that_torchcodec_gets_wrong_are_found_before_training(root: Path):
    settings = {"codec": "mpeg4", "tag": "XVID", "options": {"bf": "2"}}
    clip(root / "a" / "b_frames.avi", 1, **settings)
    assert not build(root).dropped
    with pytest.raises(DataError, match=r"a/b_frames\.avi: torchcodec numbers"):
        build(root, decoder="torchcodec")


def test_varying_rates_are_noted(root: Path):
    path = root / "a" / "varying.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for stamp in (0, 4, 8, 30, 34, 90):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), stamp, np.uint8), "rgb24")
            frame.pts = stamp
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert any("varying frame rate" in n and "a/varying.mp4" in n for n in build(root).notes)


def test_a_listed_file_that_does_not_exist(listed: Path):
    (listed / "a" / "3.mp4").unlink()
    (listed / "b" / "9.mp4").unlink()
    with pytest.raises(DataError, match=r"a/3\.mp4: the file does not exist") as error:
        build(listed, "manifest")
    assert "b/9.mp4: the file does not exist" in str(error.value)
    manifest = build(listed, "manifest", damaged="drop")
    assert {item.path for item in manifest.dropped} == {"a/3.mp4", "b/9.mp4"}
    assert len(manifest.samples) == 18


def test_other_files_in_class_folders_are_listed_and_never_fail(root: Path):
    (root / "a" / "readme.txt").write_text("hello")
    manifest = build(root)
    assert [(d.path, d.reason) for d in manifest.dropped] == [
        ("a/readme.txt", "not a video by its name")
    ]


def test_known_files_are_not_opened_again(root: Path, tmp_path: Path):
    calls: list[tuple[int, int, str]] = []

    def scan() -> Manifest:
        calls.clear()
        return build_manifest(
            section(root), cache_folder=tmp_path / "cache", progress=lambda *c: calls.append(c)
        )

    first = scan()
    assert calls[0] == (0, 20, "scanning")
    assert [done for done, _, _ in calls] == list(range(21))
    assert scan() == first
    assert calls == [(20, 20, "scanning")]
    clip(root / "a" / "3.mp4", 999, frames=14)
    changed = scan()
    assert calls == [(19, 20, "scanning"), (20, 20, "scanning 3.mp4")]
    assert next(s.frames for s in changed.samples if s.sample_id == "a/3.mp4") == 14


def test_a_torn_or_foreign_cache_costs_time_and_nothing_else(root: Path, tmp_path: Path):
    first, cache = build(root), tmp_path / "cache" / CACHE_NAME
    lines = cache.read_text().splitlines()
    assert len(lines) == 20
    foreign = json.loads(lines[0])
    foreign["version"], foreign["probe"]["counted_frames"] = "another decoder", 1
    content = [json.dumps(foreign), "[1, 2]", "{}", lines[1][:40], *lines[2:19], lines[19][:-30]]
    cache.write_text("\n".join(content))
    assert build(root) == first


def test_failures_are_looked_at_again(root: Path):
    path = root / "a" / "3.mp4"
    content = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a/3\.mp4: the file is empty"):
        build(root)
    path.write_bytes(content)
    assert len(build(root).samples) == 20


def test_a_stop_is_heard_and_what_was_scanned_is_kept(root: Path, tmp_path: Path):
    done: list[int] = []
    with pytest.raises(StopRequested, match="stopped while scanning"):
        build_manifest(
            section(root),
            cache_folder=tmp_path / "cache",
            progress=lambda number, _, __: done.append(number),
            stop=lambda: len(done) > 5,
        )
    kept = len((tmp_path / "cache" / CACHE_NAME).read_text().splitlines())
    assert 5 <= kept < 20
    build_manifest(
        section(root),
        cache_folder=tmp_path / "cache",
        progress=lambda number, _, __: done.append(-number),
    )
    assert done[-(21 - kept)] == -kept


def test_files_are_cut_into_pieces(root: Path):
    clip(root / "a" / "long.mp4", 60, frames=27)
    clip(root / "a" / "short.mp4", 61, frames=4)
    manifest = build(root, options={"segment_frames": 5})
    pieces = [s for s in manifest.samples if s.sample_id.startswith("a/long")]
    assert [s.sample_id for s in pieces] == [f"a/long.mp4#{n}-{n + 5}" for n in (0, 10, 15, 20, 5)]
    assert {(s.frames, s.group) for s in pieces} == {(5, "a/long")}
    assert len({s.split for s in pieces}) == 1
    assert pieces[0].duration_seconds == pytest.approx(5 / 12)
    assert [(d.path, d.reason) for d in manifest.dropped] == [
        ("a/short.mp4", "too few frames for a piece of 5")
    ]
    # 20 clips of 12 frames leave 2 each, 27 leave 2, and 4 are not enough for one piece.
    assert any(note.startswith("46 frames at the ends of 22") for note in manifest.notes)


def test_a_listed_range_is_cut_within_itself(listed: Path):
    header = "video_path,label,split,start_frame,end_frame"
    lines = [
        f"{c}/{n}.mp4,{c},{s},3,11" for c in "ab" for n, s in ((1, "train"), (2, "validation"))
    ]
    write_list(listed, lines, header)
    ids = [s.sample_id for s in build(listed, "manifest", options={"segment_frames": 4}).samples]
    expected = [f"{c}/{n}.mp4#{part}" for c in "ab" for n in (1, 2) for part in ("3-7", "7-11")]
    assert ids == expected


def test_ranges_of_one_file_are_samples_of_one_group(listed: Path):
    header = "video_path,label,split,start_frame,end_frame"
    lines = [f"{c}/{n}.mp4,{c},{s},," for c in "ab" for n, s in ((1, "train"), (2, "validation"))]
    lines += ["a/0.mp4,a,train,0,5", "a/0.mp4,a,train,5,12", "b/0.mp4,b,test,3,"]
    write_list(listed, lines, header)
    samples = {s.sample_id: s for s in build(listed, "manifest").samples}
    assert (samples["a/0.mp4#5-12"].start_frame, samples["a/0.mp4#5-12"].frames) == (5, 7)
    assert samples["b/0.mp4#3-12"].frames == 9
    assert samples["a/0.mp4#0-5"].group == samples["a/0.mp4#5-12"].group == "a/0.mp4"


@pytest.mark.parametrize(("start", "end"), [("0", "13"), ("12", ""), ("20", "30")])
def test_a_range_beyond_the_counted_frames_is_damage(listed: Path, start: str, end: str):
    header = "video_path,label,split,start_frame,end_frame"
    lines = [f"{c}/{n}.mp4,{c},train,," for c in "ab" for n in (1, 2)]
    write_list(listed, [*lines, f"a/0.mp4,a,train,{start},{end}"], header)
    with pytest.raises(DataError, match=rf"a/0\.mp4: frames {start} to \d+ are listed"):
        build(listed, "manifest")


def test_one_sample_listed_twice_is_an_error(listed: Path):
    with (listed / "manifest.csv").open("a") as handle:
        handle.write("a/3.mp4,a,train\n")
    with pytest.raises(DataError, match=r"listed more than once: a/3\.mp4"):
        build(listed, "manifest")


def test_a_group_in_two_splits_is_a_leak(listed: Path):
    lines = [f"{c}/{n}.mp4,{c},{s},film{n}" for c in "ab" for n, s in ((0, "train"), (8, "test"))]
    write_list(listed, [*lines, "a/9.mp4,a,test,film0"], "video_path,label,split,group")
    with pytest.raises(SplitLeakError, match=r"film0 \(test, train\)"):
        build(listed, "manifest")


def test_parts_of_one_file_in_two_splits_are_a_leak_under_any_group_names(listed: Path):
    header = "video_path,label,split,group,start_frame,end_frame"
    lines = ["a/0.mp4,a,train,x,0,6", "a/0.mp4,a,test,y,6,12", "b/0.mp4,b,train,z,,"]
    write_list(listed, lines, header)
    with pytest.raises(SplitLeakError, match=r"in more than one split: a/0\.mp4"):
        build(listed, "manifest")


def test_copies_across_splits_are_noted(listed: Path):
    shutil.copy(listed / "a" / "0.mp4", listed / "a" / "9.mp4")
    notes = build(listed, "manifest").notes
    assert any("1 video(s) stand in two splits as copies: 0.mp4, 9.mp4" in note for note in notes)


def test_a_class_that_is_judged_but_never_trained_is_an_error(listed: Path):
    lines = [f"{c}/{n}.mp4,{c},{s}" for c in "ab" for n, s in ((0, "train"), (6, "validation"))]
    write_list(listed, [*lines, "a/9.mp4,juggling,test"])
    with pytest.raises(DataError, match=r"no training sample: juggling"):
        build(listed, "manifest")


def test_a_class_whose_files_are_all_damaged_is_an_error_even_when_dropping(root: Path):
    for path in (root / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"no file of 1 class\(es\) can be used: b"):
        build(root, damaged="drop")


def test_one_class_is_not_enough(root: Path):
    shutil.rmtree(root / "b")
    with pytest.raises(DataError, match="only one class: a"):
        build(root)


def test_no_validation_is_possible_is_an_error_and_no_test_is_a_note(tmp_path: Path):
    for label in "ab":
        clip(tmp_path / "v" / "train" / label / "1.mp4", ord(label))
    with pytest.raises(DataError, match="no validation set can be held out"):
        build(tmp_path / "v")
    for label in "ab":
        clip(tmp_path / "v" / "val" / label / "2.mp4", 5 + ord(label))
    assert "there is no test split" in build(tmp_path / "v").notes


def test_training_can_be_limited_and_says_so(root: Path):
    whole, limited = build(root), build(root, max_train_samples=6)
    assert Counter(s.label_name for s in limited.split("train")) == {"a": 3, "b": 3}
    for name in ("validation", "test"):
        assert limited.split(name) == whole.split(name)
    trained = len(whole.split("train"))
    assert f"training uses 6 of {trained} samples (data.max_train_samples)" in limited.notes
    with pytest.raises(ConfigError, match="there are 2 classes"):
        build(root, max_train_samples=1)


def test_a_missing_root_names_the_default_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    data = DataSection.model_validate({"source": "folder"})
    with pytest.raises(DataError, match="does not exist") as error:
        build_manifest(data, cache_folder=tmp_path / "cache")
    assert error.value.where == str(tmp_path / "data" / "folder")
    assert "data.root" in str(error.value)


def test_unknown_sources_and_options_name_the_nearest(root: Path):
    with pytest.raises(UnknownNameError, match="no source named 'fodler'") as unknown:
        build(root, "fodler")
    assert "did you mean 'folder'" in str(unknown.value)
    with pytest.raises(ConfigError, match="unknown option 'segment_frame'") as option:
        build(root, options={"segment_frame": 5})
    assert "did you mean 'segment_frames'" in str(option.value)
    with pytest.raises(ConfigError, match="unknown option 'root'"):
        build(root, options={"root": "/"})


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"segment_frames": 0}, "segment_frames"),
        ({"segment_frames": "many"}, "segment_frames"),
        ({"test_fraction": 1.5}, "test_fraction"),
        ({"group_pattern": ["a"]}, "group_pattern"),
    ],
)
def test_options_are_checked_against_the_types_of_the_source(
    root: Path, options: dict[str, Any], key: str
):
    with pytest.raises(ConfigError) as error:
        build(root, options=options)
    assert error.value.where == f"data.options.{key}"


def test_options_without_a_default_must_be_given():
    def source(
        root: Path, *, split: int, seed: int, count: Annotated[int, Field(ge=1)], name: str = "x"
    ) -> list[SampleRow]:
        return []

    assert check_options(source, {"count": "3"}, where="data.options") == {"count": 3}
    with pytest.raises(ConfigError, match=r"not given: count"):
        check_options(source, {"name": "y"}, where="data.options")


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> list[SampleRow]:
    """A source of another package, registered for one test; the test fills in its rows."""
    rows: list[SampleRow] = []

    def read(root: Path, *, split: int, seed: int) -> list[SampleRow]:
        return rows

    monkeypatch.setitem(SOURCES._loaded, "plugged-in", read)
    return rows


def test_a_source_that_gives_no_split_gets_one_by_group(root: Path, plugged_in: list[SampleRow]):
    for label in "ab":
        for number in range(10):
            path = Path(f"{label}/{number}.mp4")
            plugged_in.append(SampleRow(path, label, f"{label}{number // 2}", extra={"rate": 2.5}))
    manifest = build(root, "plugged-in")
    assert {s.split for s in manifest.samples} == {"train", "validation", "test"}
    assert all(Path(s.path).is_absolute() and s.extra == {"rate": 2.5} for s in manifest.samples)
    groups = {(s.group, s.split) for s in manifest.samples}
    assert len(groups) == len({group for group, _ in groups}) == 10


def test_a_source_without_samples_or_with_half_a_split_is_an_error(
    root: Path, plugged_in: list[SampleRow]
):
    with pytest.raises(DataError, match="lists no samples"):
        build(root, "plugged-in")
    plugged_in += [
        SampleRow(Path("a/1.mp4"), "a", "g1", "train"),
        SampleRow(Path("b/1.mp4"), "b", "g2"),
    ]
    with pytest.raises(DataError, match="1 of 2 samples have no split"):
        build(root, "plugged-in")


def test_a_file_name_that_is_not_utf8_is_named_readably(root: Path):
    shutil.copy(root / "a" / "1.mp4", root / "a" / os.fsdecode(b"caf\xe9.mp4"))
    with pytest.raises(DataError, match="not valid UTF-8") as error:
        build(root)
    assert r"caf\udce9.mp4" in str(error.value)


def test_scanning_loads_no_torch():
    code = (
        "import sys, regatta.data.scan\nfrom regatta.core.registry import SOURCES\n"
        "for name in SOURCES.listed: SOURCES.get(name)\n"
        "print('torch' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "False"
