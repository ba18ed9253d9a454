"""Promises of the decoder: frame i is the i-th of sequential decoding, or an error says why."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.frame import PictureType
from hypothesis import given, settings
from hypothesis import strategies as st

from regatta.core.errors import DecodeError, MissingExtraError, StopRequested
from regatta.data import decode, video_stream
from regatta.data.decode import content_hash_of, probe, read_chunks, read_frames
from regatta.data.video_files import write_video
from tests.torchcodec_here import needs_torchcodec

UPRIGHT_CLIPS = (
    "arm_wrestling.mp4",
    "av1_video.mkv",
    "flipping_a_pancake.mkv",
    "h264_10bits.mp4",
    "h265_video.mp4",
    "unordered.mov",
    "v_ucf101_sample.avi",
)
TURNED_CLIPS = {"video_90.mov": 3, "video_180.mov": 2}
"""Clip -> quarter turns that numpy counts against the clock."""


def decode_plainly(path: Path) -> list[np.ndarray]:
    """The reference: PyAV's own loop and conversion, nothing shared with the product."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def moving_pattern(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A different picture in every frame, uint8 [N, H, W, 3]."""
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin((columns + 5 * i) / 7) * np.cos(rows / 9) for i in range(frames)]
    return np.stack([np.stack([w, 255 - w, np.roll(w, 9, 0)], axis=-1) for w in waves]).astype("u1")


def write_xvid(path: Path, frames: int) -> Path:
    """An AVI with B-frames: by libxvid where its encoder is installed, else by FFmpeg's own."""
    if shutil.which("ffmpeg"):
        picture = f"testsrc=size=96x64:rate=25:duration={frames / 25}"
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", picture]
        made = subprocess.run(
            [*command, "-c:v", "libxvid", "-bf", "2", "-q:v", "4", str(path)], check=False
        )
        if made.returncode == 0:
            return path
    images = moving_pattern(frames)
    return write_video(path, images, fps=25, codec="mpeg4", tag="XVID", options={"bf": "2"})


def write_with_stamps(path: Path, stamps: list[int], base: Fraction) -> Path:
    """An H.264 file whose frame i is shown at `stamps[i] * base`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(1 / base), options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = base
        for stamp, image in zip(stamps, moving_pattern(len(stamps)), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def assert_same_frames(path: Path, reference: list[np.ndarray], indices: list[int]) -> None:
    images = read_frames(path, indices).images
    assert images.dtype == np.uint8
    assert images.shape == (len(indices), *reference[0].shape)
    wrong = [i for i, image in zip(indices, images, strict=True) if (image != reference[i]).any()]
    assert not wrong


@pytest.mark.parametrize("name", UPRIGHT_CLIPS)
def test_any_indices_give_the_bytes_of_sequential_decoding(shared_data: Path, name: str):
    path = shared_data / "video" / name
    reference = decode_plainly(path)
    count, rng = len(reference), np.random.default_rng(0)
    assert_same_frames(path, reference, rng.integers(count, size=20).tolist())
    assert_same_frames(path, reference, list(range(count))[:: -max(1, count // 20)])
    assert_same_frames(path, reference, [count - 1, 0, count - 1, 0, 0, count // 2])


def test_every_frame_of_a_real_ucf101_clip_is_right(shared_data: Path):
    path = shared_data / "video" / "v_ucf101_sample.avi"
    reference = decode_plainly(path)
    assert_same_frames(path, reference, list(range(len(reference))))


def test_xvid_with_b_frames_is_read_by_decode_order(tmp_path: Path):
    path = write_xvid(tmp_path / "clip.avi", 40)
    with av.open(str(path)) as container:
        kinds = {frame.pict_type for frame in container.decode(video=0)}
    assert PictureType.B in kinds
    reference = decode_plainly(path)
    assert_same_frames(path, reference, list(reversed(range(len(reference)))))
    facts = probe(path)
    assert (facts.counted_frames, facts.header_frames) == (len(reference), 40)
    assert facts.reordered


@settings(max_examples=20, deadline=None)
@given(indices=st.lists(st.integers(0, 11), min_size=1, max_size=20))
def test_each_read_is_a_selection_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, indices: list[int]
):
    path = tmp_path_factory.getbasetemp() / "selection.mp4"
    if not path.exists():
        write_video(path, moving_pattern(12), fps=12)
    whole, some = read_frames(path, range(12)), read_frames(path, indices)
    np.testing.assert_array_equal(some.images, whole.images[indices])
    np.testing.assert_array_equal(some.timestamps_seconds, whole.timestamps_seconds[indices])


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_an_index_beyond_the_counted_frames_names_file_index_and_count(tmp_path: Path, suffix: str):
    path = write_video(tmp_path / f"clip{suffix}", moving_pattern(7), fps=10)
    with pytest.raises(DecodeError, match="frame 7 was asked for; the file has 7 frames") as error:
        read_frames(path, [0, 7, 9])
    assert error.value.where == str(path)
    with pytest.raises(DecodeError, match="frame -1"):
        read_frames(path, [-1])


@pytest.mark.fault(12)
@pytest.mark.parametrize(("name", "turns"), TURNED_CLIPS.items())
def test_rotation_metadata_is_honoured(shared_data: Path, name: str, turns: int):
    path = shared_data / "video" / name
    reference = [np.rot90(image, turns) for image in decode_plainly(path)]
    assert_same_frames(path, reference, [2, 0, 1])
    facts = probe(path)
    assert (facts.height, facts.width) == reference[0].shape[:2]
    assert facts.rotation_degrees == {3: 90, 2: 180}[turns]


@pytest.mark.parametrize("name", TURNED_CLIPS)
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")
def test_rotation_agrees_with_the_ffmpeg_command(shared_data: Path, name: str):
    path = shared_data / "video" / name
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-frames:v", "1", "-f", "rawvideo"]
    made = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    image = read_frames(path, [0]).images[0].astype(int)
    shown = np.frombuffer(made.stdout, np.uint8).reshape(image.shape)
    # Turning before or after the colour conversion moves colours by a step or two.
    assert np.abs(image - shown).mean() < 2.0


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("first", [1, -1])
@pytest.mark.parametrize("second", [1, -1])
def test_every_quarter_turn_and_mirror_moves_pixels_as_the_matrix_says(
    tmp_path: Path, swap: bool, first: int, second: int
):
    a, b, c, d = (0, first, second, 0) if swap else (first, 0, 0, second)
    path, height, width = tmp_path / "turned.mp4", 32, 48
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        one = 1 << 16
        stream.set_display_matrix([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
        image = moving_pattern(1, height, width)[0]
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    stored = decode_plainly(path)[0]
    shown = np.zeros((width, height, 3) if swap else (height, width, 3), np.uint8)
    left, top = (
        min(0, a * (width - 1) + c * (height - 1)),
        min(0, b * (width - 1) + d * (height - 1)),
    )
    for y in range(height):
        for x in range(width):
            shown[b * x + d * y - top, a * x + c * y - left] = stored[y, x]
    np.testing.assert_array_equal(read_frames(path, [0]).images[0], shown)


def test_a_turn_that_is_no_quarter_is_an_error(tmp_path: Path):
    path = tmp_path / "tilted.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(30)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(moving_pattern(1)[0], "rgb24")))
        container.mux(stream.encode(None))
    for read in (lambda: read_frames(path, [0]), lambda: probe(path)):
        with pytest.raises(DecodeError, match="no quarter turn"):
            read()


def test_timestamps_are_those_of_a_varying_frame_rate(tmp_path: Path):
    stamps = [0, 40, 80, 200, 210, 400, 1000]
    path = write_with_stamps(tmp_path / "varying.mp4", stamps, Fraction(1, 1000))
    times = read_frames(path, range(7)).timestamps_seconds
    np.testing.assert_allclose(times, np.array(stamps) / 1000, atol=1e-9)
    facts = probe(path)
    assert facts.variable_rate
    assert facts.fps == pytest.approx(6 / 1.0)


def test_timestamps_count_from_the_first_frame(tmp_path: Path):
    path = write_with_stamps(tmp_path / "late.mkv", [500, 600, 700], Fraction(1, 1000))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).time == pytest.approx(0.5)
    np.testing.assert_allclose(read_frames(path, [2, 0]).timestamps_seconds, [0.2, 0.0])
    assert probe(path).missing_seconds == pytest.approx(0, abs=0.11)


@pytest.mark.fault(12)
def test_stamps_that_stand_still_or_run_backwards_are_mended(tmp_path: Path):
    path, wrong = tmp_path / "muddled.mkv", [10, 50, 50, 30, 170, 210]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for number, image in enumerate(moving_pattern(6)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = 40 * number, Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for number, (packet, stamp) in enumerate(zip(packets, wrong, strict=True)):
            packet.dts, packet.pts = number, stamp
            container.mux(packet)
    with av.open(str(path)) as container:
        stored = [round(1000 * (frame.time or 0)) for frame in container.decode(video=0)]
    assert stored == wrong
    times = read_frames(path, range(6)).timestamps_seconds
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(times[[0, 1, 4, 5]], [0, 0.04, 0.16, 0.2], atol=1e-9)
    np.testing.assert_array_equal(read_frames(path, [3]).timestamps_seconds, times[[3]])


def test_avi_with_b_frames_has_frame_i_at_i_over_fps(shared_data: Path):
    path = shared_data / "video" / "v_ucf101_sample.avi"
    with av.open(str(path)) as container:
        stored = [frame.time or 0.0 for frame in container.decode(video=0)]
    assert stored != sorted(stored), "this clip no longer shows the accident that the rule prevents"
    times = read_frames(path, range(164)).timestamps_seconds
    np.testing.assert_allclose(times, np.arange(164) / 25)


def test_raw_stream_without_stamps_falls_back_to_the_frame_rate(tmp_path: Path):
    path = tmp_path / "clip.h264"
    path.write_bytes(raw_h264(moving_pattern(5)))
    facts = probe(path)
    expected = np.arange(5) / facts.fps
    np.testing.assert_allclose(read_frames(path, range(5)).timestamps_seconds, expected)


def raw_h264(images: np.ndarray) -> bytes:
    context = av.VideoCodecContext.create("libx264", "w")
    context.height, context.width = images.shape[1:3]
    context.pix_fmt, context.framerate, context.time_base = "yuv420p", Fraction(25), Fraction(1, 25)
    packets = []
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = number, context.time_base
        packets += context.encode(frame)
    return b"".join(bytes(packet) for packet in [*packets, *context.encode(None)])


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(12)])
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".mov"])
def test_probe_finds_what_was_written(tmp_path: Path, suffix: str, fps: Fraction):
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    path = write_video(tmp_path / f"a{suffix}", moving_pattern(24, 48, 80), fps=fps, codec=codec)
    facts = probe(path)
    assert (facts.width, facts.height, facts.counted_frames) == (80, 48, 24)
    assert facts.header_frames == (None if suffix == ".mkv" else 24)
    assert facts.fps == pytest.approx(float(fps), rel=1e-4)
    assert facts.duration_seconds == pytest.approx(24 / float(fps), abs=0.002)
    assert facts.missing_seconds == pytest.approx(0, abs=0.002)
    assert facts.codec == {"libx264": "h264"}.get(codec, codec)
    assert not facts.variable_rate
    assert not facts.concealed_frames
    assert facts.content_hash == hashlib.sha256(path.read_bytes()).hexdigest()


def test_probe_agrees_with_ffprobe_on_real_clips(shared_data: Path):
    if not shutil.which("ffprobe"):
        pytest.skip("needs the ffprobe command")
    for name in ("h265_video.mp4", "h264_10bits.mp4", "v_ucf101_sample.avi"):
        path = shared_data / "video" / name
        shown = "stream=nb_read_frames,codec_name,width,height"
        command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0"]
        said = subprocess.run(
            [*command, "-show_entries", shown, "-of", "default=nk=1:nw=1", str(path)],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        facts = probe(path)
        found = [facts.codec, facts.width, facts.height, facts.counted_frames]
        assert said == [str(item) for item in found]
        assert facts.bits == (10 if "10bits" in name else 8)


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"this is a text file\n" * 50, "not a readable video file"),
        (np.random.default_rng(0).bytes(20_000), "not a readable video file"),
    ],
)
@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_files_that_are_no_videos_are_named(
    tmp_path: Path, content: bytes, problem: str, suffix: str
):
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(content)
    for read in (lambda: read_frames(path, [0]), lambda: probe(path)):
        with pytest.raises(DecodeError, match=problem) as error:
            read()
        assert error.value.where == str(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(DecodeError, match="does not exist"):
        read_frames(tmp_path / "gone.mp4", [0])
    with pytest.raises(DecodeError, match="not a regular file"):
        probe(tmp_path)


def test_a_picture_is_no_video(tmp_path: Path):
    from PIL import Image

    path = tmp_path / "clip.avi"
    Image.fromarray(moving_pattern(1)[0]).save(path, format="png")
    with pytest.raises(DecodeError, match="not a readable video file"):
        probe(path)


def test_playlists_do_not_open_other_files(tmp_path: Path):
    video = write_video(tmp_path / "real.mp4", moving_pattern(5), fps=5)
    playlists = {
        "hls.avi": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n",
        "concat.avi": "ffconcat version 1.0\nfile real.mp4\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DecodeError, match="not a readable video file"):
            probe(tmp_path / name)


def test_text_in_another_encoding_inside_a_file_does_no_harm(tmp_path: Path):
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf?"
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in moving_pattern(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert content.count(b"caf?") == 1
    path.write_bytes(content.replace(b"caf?", b"caf\xe9"))
    assert probe(path).counted_frames == 3


@pytest.mark.parametrize("cover", [False, True])
def test_sound_without_pictures_is_named(tmp_path: Path, cover: bool):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        if cover:
            art = container.add_stream("mjpeg", rate=1)
            art.width, art.height, art.pix_fmt = 64, 48, "yuvj420p"
            art.disposition = Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(moving_pattern(1)[0], format="rgb24")
            container.mux(art.encode(picture))
            container.mux(art.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "f4"), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DecodeError, match="no video stream"):
        probe(path)


@pytest.mark.fault(12)
def test_damage_inside_a_file_is_an_error_with_the_frame(shared_data: Path):
    path = shared_data / "video" / "corrupted.mp4"
    with pytest.raises(DecodeError, match=r"decoding stops at frame \d+"):
        probe(path)
    with pytest.raises(DecodeError, match=r"decoding stops at frame \d+"):
        read_frames(path, [49])
    assert len(read_frames(path, [0, 5]).images) == 2


def test_a_change_of_picture_size_is_an_error(tmp_path: Path):
    path = tmp_path / "two.h264"
    path.write_bytes(raw_h264(moving_pattern(4)) + raw_h264(moving_pattern(4, 96, 128)))
    with pytest.raises(DecodeError, match="from 64x48 to 128x96"):
        probe(path)


@pytest.mark.fault(12)
def test_limits_are_named_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_video(tmp_path / "clip.mp4", moving_pattern(40), fps=10)
    with monkeypatch.context() as limit:
        limit.setattr(video_stream, "MAX_FRAME_PIXELS", 64 * 48 - 1)
        with pytest.raises(DecodeError, match="64x48 are over the limit"):
            probe(path)
    with monkeypatch.context() as limit:
        limit.setattr(video_stream, "MAX_FRAMES", 30)
        with pytest.raises(DecodeError, match="more than 30 frames"):
            probe(path)
    with monkeypatch.context() as limit:
        limit.setattr(video_stream, "MAX_DECODE_SECONDS", -1.0)
        with pytest.raises(DecodeError, match="decoding takes longer"):
            read_frames(path, [39])
    with monkeypatch.context() as limit:
        limit.setattr(decode, "MAX_READ_BYTES", 3 * 64 * 48 * 2)
        assert len(read_frames(path, [0, 1]).images) == 2
        with pytest.raises(DecodeError, match="3 frames of 64x48 need"):
            read_frames(path, [0, 1, 2])


def test_a_stop_request_ends_a_probe(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", moving_pattern(40), fps=10)
    polled: list[int] = []
    with pytest.raises(StopRequested):
        probe(path, stop=lambda: len(polled) == 2 or polled.append(1) is not None)
    assert len(polled) == 2


@pytest.mark.fault(14)
def test_a_replaced_file_is_an_error_never_another_video(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", moving_pattern(6), fps=10)
    scanned = content_hash_of(path)
    assert len(read_frames(path, [3], content_hash=scanned).images) == 1
    write_video(path, moving_pattern(6)[::-1], fps=10)
    with pytest.raises(DecodeError, match="changed since") as error:
        read_frames(path, [3], content_hash=scanned)
    assert error.value.where == str(path)
    path.unlink()
    with pytest.raises(DecodeError, match="does not exist"):
        read_frames(path, [3], content_hash=scanned)


def test_no_indices_is_a_mistake_of_the_caller(tmp_path: Path):
    with pytest.raises(ValueError, match="no frames"):
        read_frames(tmp_path / "any.mp4", [])


def test_torchcodec_that_is_not_installed_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_video(tmp_path / "clip.mp4", moving_pattern(6), fps=10)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(MissingExtraError) as error:
        read_frames(path, [0], backend="torchcodec")
    assert "pip install regatta[torchcodec]" in str(error.value)


@pytest.mark.parametrize("name", [*UPRIGHT_CLIPS, *TURNED_CLIPS])
def test_torchcodec_gives_the_same_bytes_or_an_error(shared_data: Path, name: str):
    needs_torchcodec()
    path, count = shared_data / "video" / name, probe(shared_data / "video" / name).counted_frames
    indices = [count - 1, 0, 0, *np.random.default_rng(1).integers(count, size=5).tolist()]
    expected = read_frames(path, indices)
    if name in ("v_ucf101_sample.avi", "h264_10bits.mp4"):
        with pytest.raises(DecodeError, match="torchcodec"):
            read_frames(path, indices, backend="torchcodec")
        return
    found = read_frames(path, indices, backend="torchcodec")
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_allclose(found.timestamps_seconds, expected.timestamps_seconds, atol=1e-6)
    with pytest.raises(DecodeError, match=f"frame {count} was asked for"):
        read_frames(path, [count], backend="torchcodec")


@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
@pytest.mark.parametrize("name", ["arm_wrestling.mp4", "video_90.mov", "unordered.mov"])
def test_pieces_are_the_frames_of_one_read(
    shared_data: Path, name: str, backend: Literal["pyav", "torchcodec"]
):
    if backend == "torchcodec":
        needs_torchcodec()
    path = shared_data / "video" / name
    indices = list(range(1, probe(path).counted_frames, 3))
    whole = read_frames(path, indices).images
    for per_piece in (1, 4, len(indices)):
        limit = per_piece * whole[0].nbytes + whole[0].nbytes // 2
        pieces = list(read_chunks(path, indices, chunk_bytes=limit, backend=backend))
        assert [len(piece) for piece in pieces[:-1]] == [per_piece] * (len(pieces) - 1)
        assert 1 <= len(pieces[-1]) <= per_piece
        np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_a_piece_holds_one_frame_however_small_the_limit(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", moving_pattern(4), fps=10)
    assert [len(piece) for piece in read_chunks(path, [0, 3], chunk_bytes=1)] == [1, 1]


@pytest.mark.parametrize("indices", [[1, 0], [2, 2]])
def test_pieces_take_ascending_indices_only(tmp_path: Path, indices: list[int]):
    with pytest.raises(ValueError, match="ascend"):
        next(read_chunks(tmp_path / "any.mp4", indices, chunk_bytes=1))


def test_pieces_keep_the_checks_of_one_read(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", moving_pattern(6), fps=10)
    pieces = read_chunks(path, [0, 9], chunk_bytes=1)
    next(pieces)
    with pytest.raises(DecodeError, match="frame 9 was asked for; the file has 6 frames"):
        next(pieces)
    scanned = content_hash_of(path)
    write_video(path, moving_pattern(6)[::-1], fps=10)
    with pytest.raises(DecodeError, match="changed since"):
        next(read_chunks(path, [0], chunk_bytes=1, content_hash=scanned))
