"""One opened video file: limits, frames in order, time and orientation made sane.

`decode.py` stands on this. Nothing here trusts what a file says of itself without a check.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from regatta.core.errors import DecodeError, StopRequested
from regatta.records.in_hand import Note, in_hand

MAX_FRAME_PIXELS = 64_000_000
MAX_FRAMES = 1_000_000
MAX_DECODE_SECONDS = 3600.0
"""Per file and call. A file beyond a limit is a named error, never a machine out of memory."""

CONTAINERS = "avi,mov,mp4,matroska,webm,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,gif,h264,hevc,nut"
"""FFmpeg names. Playlists and scripts are not among them: they would open other files."""

_QUARTER_TOLERANCE = (1 << 16) // 100


@dataclass(frozen=True)
class Video:
    """An open file and the stream of it that is decoded."""

    path: Path
    container: InputContainer
    stream: VideoStream
    note: Note
    """That this thread has the file in hand."""

    @property
    def rate(self) -> float | None:
        """Frames per second by the header, None where it says nothing."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate else None

    @property
    def reordered(self) -> bool:
        """The stream may hold B-frames."""
        return bool(self.stream.codec_context.has_b_frames)

    @property
    def bits(self) -> int:
        """Bits per colour sample; 8 where the header does not say."""
        pixel_format = self.stream.codec_context.format
        parts = pixel_format.components if pixel_format else ()
        return max((part.bits for part in parts), default=8)

    @property
    def has_presentation_times(self) -> bool:
        """AVI stores decode times only; with B-frames they come out in the wrong order."""
        return not (self.container.format.name == "avi" and self.reordered)

    @property
    def header_seconds(self) -> float | None:
        """Length of this stream by the header; the container's own counts a longer sound track."""
        if self.container.format.name == "avi":
            # FFmpeg shortens the duration of a cut AVI to the bytes that are there, not the count.
            return self.stream.frames / self.rate if self.stream.frames and self.rate else None
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        tag = self.stream.metadata.get("DURATION", "").split(":")
        try:
            told = sum(float(part) * unit for part, unit in zip(tag, (3600, 60, 1), strict=True))
        except ValueError:
            return None
        return told if math.isfinite(told) else None


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a file for decoding with one thread.

    Raises:
        DecodeError: missing, not a regular file, empty, not a video, or its frames are too large.
    """
    if not path.is_file():
        problem = "is not a regular file" if path.exists() else "does not exist"
        raise DecodeError(f"the file {problem}", where=path)
    if path.stat().st_size == 0:
        raise DecodeError("the file is empty", where=path)
    with in_hand(path) as note:
        # A playlist that calls itself .avi must not make it open other files or the network.
        limits = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        name = str(path.absolute())
        try:
            container = av.open(name, container_options=limits, metadata_errors="replace")
        except (FFmpegError, OSError, UnicodeError) as error:
            raise DecodeError(f"not a readable video file ({reason(error)})", where=path) from error
        with container:
            # Cover art is a video stream too, of one picture.
            art = Disposition.attached_pic
            streams = [s for s in container.streams.video if not s.disposition & art]
            if not streams:
                raise DecodeError("the file has no video stream", where=path)
            context = streams[0].codec_context
            if context is None:  # The header is cut before it names a codec, or names none we have.
                raise DecodeError("there is no decoder for the video stream", where=path)
            context.thread_count, context.thread_type = 1, "NONE"
            _check_pixels(context.width, context.height, path)
            yield Video(path, container, streams[0], note)


@dataclass(frozen=True)
class Decoded:
    """One frame as the decoder gave it."""

    ordinal: int
    frame: VideoFrame
    seconds: float
    """Since the first frame."""

    @property
    def shown_seconds(self) -> float:
        """How long the file shows this frame; 0 where it does not say."""
        base = self.frame.time_base
        return float(self.frame.duration * base) if self.frame.duration and base else 0.0


def decode_stream(video: Video, *, stop: Callable[[], bool] | None = None) -> Iterator[Decoded]:
    """Every frame in decode order.

    Raises:
        DecodeError: damage that the decoder refuses, a change of picture size, a limit is passed.
        StopRequested: `stop()` became true.
    """
    clock, size, ordinal = _Clock(video), None, 0
    deadline = time.monotonic() + MAX_DECODE_SECONDS
    try:
        for frame in video.container.decode(video.stream):
            if size is None:
                size = (frame.width, frame.height)
                _check_pixels(*size, video.path)
            if (frame.width, frame.height) != size:
                change = f"{size[0]}x{size[1]} to {frame.width}x{frame.height}"
                problem = f"the picture size changes at frame {ordinal}, from {change}"
                raise DecodeError(problem, where=video.path)
            # With every frame: a large one may take seconds, and a silence counts as a hang.
            video.note.beat()
            _check_progress(ordinal, deadline, stop, video.path)
            yield Decoded(ordinal, frame, clock.seconds(frame, ordinal))
            ordinal += 1
    except FFmpegError as error:
        problem = f"decoding stops at frame {ordinal} ({reason(error)})"
        raise DecodeError(problem, where=video.path) from error


def _check_progress(
    ordinal: int, deadline: float, stop: Callable[[], bool] | None, path: Path
) -> None:
    if stop is not None and stop():
        raise StopRequested("stopped while decoding", where=path)
    if ordinal >= MAX_FRAMES:
        raise DecodeError(f"the file has more than {MAX_FRAMES} frames", where=path)
    if time.monotonic() > deadline:
        limit = f"{MAX_DECODE_SECONDS:.0f} seconds"
        raise DecodeError(f"decoding takes longer than {limit}", where=path)


def _check_pixels(width: int, height: int, path: Path) -> None:
    if width * height > MAX_FRAME_PIXELS:
        limit = f"{MAX_FRAME_PIXELS / 1e6:g} million pixels"
        raise DecodeError(f"frames of {width}x{height} are over the limit of {limit}", where=path)


class _Clock:
    """Seconds since the first frame.

    A stamp that is missing or does not move on becomes its predecessor's plus one frame period,
    and a file without presentation times has frame i at i / fps. What frame i gets depends on
    frames 0..i alone, so it is the same whatever else is read.
    """

    def __init__(self, video: Video) -> None:
        self._path, self._rate = video.path, video.rate
        self._trusted = video.has_presentation_times
        self._first = 0.0
        self._last = 0.0

    def seconds(self, frame: VideoFrame, ordinal: int) -> float:
        stamp = frame.time if self._trusted else None
        if ordinal == 0:
            self._trusted = stamp is not None
            self._first = stamp or 0.0
        elif not self._trusted:
            self._last = ordinal * self._period()
        elif stamp is not None and stamp - self._first > self._last:
            self._last = stamp - self._first
        else:
            self._last += self._period()
        return self._last

    def _period(self) -> float:
        if self._rate is None:
            problem = "the file gives neither time stamps nor a frame rate"
            raise DecodeError(problem, where=self._path)
        return 1.0 / self._rate


@dataclass(frozen=True)
class Orientation:
    """A display matrix of quarter turns and mirrors: transpose, flip columns, flip rows."""

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    @property
    def clockwise_degrees(self) -> int:
        """The turn, leaving out a mirror; 0, 90, 180 or 270."""
        if self.transpose:
            return 90 if self.flip_columns else 270
        return 180 if self.flip_rows else 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """A view of `image` [H, W, ...] as it is to be shown."""
        turned = image.swapaxes(0, 1) if self.transpose else image
        return turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def orientation_of(frame: VideoFrame, path: Path) -> Orientation:
    """How a frame is to be shown.

    The matrix is [a b u; c d v; x y w], int32, with x' = a x + c y and y' = b x + d y
    (FFmpeg, libavutil/display.h).
    """
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(side_data), dtype=np.int32)[:5].tolist()
    if max(abs(b), abs(c)) < _QUARTER_TOLERANCE:
        return Orientation(False, a < 0, d < 0)
    if max(abs(a), abs(d)) < _QUARTER_TOLERANCE:
        return Orientation(True, c < 0, b < 0)
    turn = f"about {-frame.rotation} degrees"
    raise DecodeError(f"the file's display matrix is no quarter turn ({turn})", where=path)


def beyond_the_end(wanted: Sequence[int], count: int, path: Path) -> DecodeError:
    """What to raise for frames that a file of `count` frames does not have."""
    index = min(index for index in wanted if index >= count)
    return DecodeError(f"frame {index} was asked for; the file has {count} frames", where=path)


def reason(error: Exception) -> str:
    """What FFmpeg or the system says, without file name and number."""
    return getattr(error, "strerror", None) or str(error)
