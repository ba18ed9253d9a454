"""Promises of write_video: what comes back is what was written, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from regatta.core.errors import DataError, DiskError
from regatta.data.video_files import write_video


def pattern(frames: int = 20, height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    grey = [128 + 90 * np.sin((columns + 4 * i) / 6) * np.cos(rows / 8) for i in range(frames)]
    return np.repeat(np.stack(grey)[..., None], 3, axis=3).astype(np.uint8)


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mp4", {}),
        ("a.mkv", {"options": {"crf": "10"}}),
        ("a.mov", {"fps": Fraction(30000, 1001)}),
        ("a.avi", {"codec": "mpeg4", "tag": "XVID"}),
        ("b.avi", {"codec": "mpeg4", "tag": "XVID", "options": {"bf": "2"}}),
    ],
)
def test_frames_and_rate_come_back(tmp_path: Path, name: str, settings: dict):
    images, wanted = pattern(), {"fps": 25, **settings}
    path = write_video(tmp_path / "new folder" / name, images, **wanted)
    found = decoded(path)
    assert found.shape == images.shape
    assert np.abs(found.astype(int) - images).mean() < 3
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate or 0) == pytest.approx(float(wanted["fps"]), rel=1e-4)
        assert stream.codec_context.codec_tag == settings.get("tag", stream.codec_context.codec_tag)
        assert not container.streams.audio


def test_a_lossless_codec_gives_the_bytes_back(tmp_path: Path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 30, 46, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.mkv", images, fps=5, codec="ffv1", pixel_format="bgr0")
    np.testing.assert_array_equal(decoded(path), images)


def test_b_frames_are_written_when_asked_for(tmp_path: Path):
    settings = {"codec": "mpeg4", "tag": "XVID"}
    for name, bf in (("with.avi", "2"), ("without.avi", "0")):
        path = write_video(tmp_path / name, pattern(), fps=25, options={"bf": bf}, **settings)
        with av.open(str(path)) as container:
            kinds = {frame.pict_type for frame in container.decode(video=0)}
        assert (PictureType.B in kinds) == (bf == "2")


def test_crf_trades_size_for_quality(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 40, (20, 48, 64, 1), dtype=np.uint8)
    images = pattern() // 2 + noise
    sizes = [
        write_video(tmp_path / f"{crf}.mp4", images, fps=25, options={"crf": crf}).stat().st_size
        for crf in ("5", "40")
    ]
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize(
    ("name", "settings"), [("a.mp4", {}), ("a.avi", {"codec": "mpeg4", "tag": "XVID"})]
)
def test_equal_arguments_give_equal_bytes(tmp_path: Path, name: str, settings: dict):
    rng = np.random.default_rng(0)
    noisy = pattern(30, 64, 96) // 2 + rng.integers(0, 99, (30, 64, 96, 3)).astype(np.uint8)
    scratch: list[bytearray] = []
    contents = set()
    for attempt in range(12):
        # Other blocks of memory each time: an encoder that reads what it did not write shows it.
        scratch.append(bytearray(int(rng.integers(1_000, 2_000_000))))
        path = write_video(tmp_path / f"{attempt}{name}", noisy, fps=29.97, **settings)
        contents.add(path.read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("name", "images", "settings", "problem"),
    [
        ("a.mp4", pattern()[:0], {}, "N >= 1"),
        ("a.mp4", pattern().astype(np.float32), {}, "not float32"),
        ("a.mp4", pattern()[..., 0], {}, "must be uint8"),
        ("a.xyz", pattern(), {}, "no container is known for '.xyz'"),
        ("a.mp4", pattern(), {"codec": "no-such-encoder"}, "cannot be encoded"),
        ("a.mp4", pattern(), {"codec": "aac"}, "aac does not encode video"),
        ("a.mp4", pattern(), {"fps": 0}, "out of range"),
        ("a.mp4", pattern(2, 47, 63), {}, "cannot be encoded"),
    ],
)
def test_wrong_arguments_are_named_and_leave_nothing(
    tmp_path: Path, name: str, images: np.ndarray, settings: dict, problem: str
):
    with pytest.raises(DataError, match=problem) as error:
        write_video(tmp_path / name, images, **{"fps": 25, **settings})
    assert error.value.where == str(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", pattern(), fps=25)
    before = path.read_bytes()
    with pytest.raises(DataError):
        write_video(path, pattern(2, 47, 63), fps=25)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_disk_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskError):
        write_video(tmp_path / "file" / "a.mp4", pattern(), fps=25)


def test_a_full_disk_is_a_disk_error_and_leaves_nothing(tmp_path: Path):
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from regatta.core.errors import DiskError\n"
        "from regatta.data.video_files import write_video\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "images = np.random.default_rng(0).integers(0, 256, (30, 96, 96, 3), dtype=np.uint8)\n"
        "try:\n    write_video(sys.argv[1], images, fps=25)\n"
        "except DiskError:\n    print('named')\n"
    )
    path = tmp_path / "a.mp4"
    child = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == "named"
    assert list(tmp_path.iterdir()) == []
