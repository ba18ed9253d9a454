"""Frames of a video file by decode ordinal: frame i is the i-th that sequential decoding gives.

Header counts, seek tables and time stamps do not address frames: AVI files of XviD with B-frames
hold one or two frames fewer than their header says, and every library seeks wrongly in them. One
open and one forward pass serve any set of indices; only wanted frames become RGB. One thread per
call: two inside one decoder gain little, two calls side by side gain two times (no GIL held).

Shapes: N frames, H rows, W columns, RGB, after the file's rotation metadata is applied.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from av.video.reformatter import VideoReformatter

from regatta.core.errors import DecodeError
from regatta.data.torchcodec_frames import open_with_torchcodec
from regatta.data.video_stream import (
    Decoded,
    Orientation,
    Video,
    beyond_the_end,
    decode_stream,
    open_video,
    orientation_of,
)
from regatta.records.in_hand import in_hand

MAX_READ_BYTES = 8 << 30


@dataclass(frozen=True)
class Frames:
    """Decoded frames in the order they were asked for."""

    images: np.ndarray
    """uint8 [N, H, W, 3] RGB."""
    timestamps_seconds: np.ndarray
    """float64 [N], since the first frame of the file; rising along the file."""


@dataclass(frozen=True)
class Probe:
    """What one full decode of a file found."""

    header_frames: int | None
    """The container's own count; None where it has none (Matroska, raw streams)."""
    counted_frames: int
    fps: float
    """Mean frames per second."""
    width: int
    """Pixels, after rotation; so is `height`."""
    height: int
    duration_seconds: float
    """From the start of the first frame to the end of the last."""
    codec: str
    container: str
    rotation_degrees: int
    """Clockwise turn that the metadata asks for."""
    variable_rate: bool
    content_hash: str
    missing_seconds: float | None
    """How much earlier the frames end than the stream's header says; None where it does not."""
    concealed_frames: int
    """Frames that the decoder flagged as damaged and patched up."""
    reordered: bool
    """The stream may hold B-frames."""
    bits: int
    """Bits per colour sample."""


def read_frames(
    path: str | Path,
    indices: Sequence[int],
    *,
    backend: Literal["pyav", "torchcodec"] = "pyav",
    content_hash: str | None = None,
) -> Frames:
    """The frames `indices` of a file, in that order; repeats allowed.

    Args:
        path: the video file.
        indices: decode ordinals, at least one.
        backend: torchcodec gives the same bytes or an error; it refuses files it would get wrong.
        content_hash: when given, the file's bytes must still have it (see `content_hash_of`).
    Raises:
        DecodeError: the file is gone, changed or damaged, an index is beyond it, or over a limit.
        MissingExtraError: the backend is not installed.
    """
    path, wanted = Path(path), _checked_indices(path, indices)
    _check_content(path, content_hash)
    if backend == "torchcodec":
        return _read_with_torchcodec(path, wanted)
    return _read_with_pyav(path, wanted)


def read_chunks(
    path: str | Path,
    indices: Sequence[int],
    *,
    chunk_bytes: int,
    backend: Literal["pyav", "torchcodec"] = "pyav",
    content_hash: str | None = None,
) -> Iterator[np.ndarray]:
    """The images of `read_frames` for ascending distinct `indices`, piece by piece.

    One open and one pass. Only one piece exists at a time unless the caller keeps more, so memory
    does not grow with the number of frames; small pieces are also quicker than one big array,
    whose fresh memory costs as much as converting the frames that it holds.

    Args:
        chunk_bytes: most bytes of a piece; one frame is always allowed.
    Yields:
        uint8 [n, H, W, 3].
    Raises:
        As `read_frames`, when the first piece is asked for or at the piece that fails.
    """
    path, wanted = Path(path), _checked_indices(path, indices)
    if any(later <= earlier for earlier, later in pairwise(wanted)):
        raise ValueError("indices must ascend and must not repeat")
    _check_content(path, content_hash)
    if backend == "torchcodec":
        yield from _torchcodec_chunks(path, wanted, chunk_bytes)
        return
    chunk, filled, left = np.empty((0, 0, 0, 3), np.uint8), 0, len(wanted)
    for _, _, image in _pyav_images(path, wanted):
        if not filled:
            room = min(left, _per_chunk(image.nbytes, chunk_bytes))
            chunk = np.empty((room, *image.shape), np.uint8)
        chunk[filled] = image
        filled, left = filled + 1, left - 1
        if filled == len(chunk):
            yield chunk
            filled = 0


def _per_chunk(image_bytes: int, chunk_bytes: int) -> int:
    return max(1, chunk_bytes // image_bytes)


def _checked_indices(path: str | Path, indices: Sequence[int]) -> list[int]:
    wanted = [int(index) for index in indices]
    if not wanted:
        raise ValueError("no frames were asked for")
    if min(wanted) < 0:
        raise DecodeError(f"frame {min(wanted)} was asked for; the first is 0", where=path)
    return wanted


def _check_content(path: Path, content_hash: str | None) -> None:
    if content_hash is not None and content_hash_of(path) != content_hash:
        raise DecodeError(
            "the file changed since the data folder was scanned",
            where=path,
            hint="put the old file back, or start a new study on the new data",
        )


def probe(path: str | Path, *, stop: Callable[[], bool] | None = None) -> Probe:
    """Decode a file from end to end, without colour conversion, and count what is there.

    Raises:
        DecodeError: not a video, no frame, a damaged stream, no frame rate, or over a limit.
        StopRequested: `stop()` became true.
    """
    path = Path(path)
    stamps: list[float] = []
    concealed, first, last = 0, None, None
    with open_video(path) as video:
        for last in decode_stream(video, stop=stop):
            first = first or last
            stamps.append(last.seconds)
            concealed += last.frame.is_corrupt
        if first is None or last is None:
            raise DecodeError("no frame could be decoded", where=path)
        return _summary(video, first, last, stamps, concealed)


def _summary(
    video: Video, first: Decoded, last: Decoded, stamps: list[float], concealed: int
) -> Probe:
    fps, variable = _frame_rate(stamps, video.rate, video.path)
    orientation = orientation_of(first.frame, video.path)
    size = (first.frame.width, first.frame.height)
    duration = last.seconds + (last.shown_seconds or 1.0 / fps)
    # Some headers count from zero, some from the first frame: no frame is missing in either case.
    late_start = (first.frame.time or 0.0) if video.has_presentation_times else 0.0
    covered, header = duration + max(0.0, late_start), video.header_seconds
    return Probe(
        header_frames=video.stream.frames or None,
        counted_frames=len(stamps),
        fps=fps,
        width=size[orientation.transpose],
        height=size[not orientation.transpose],
        duration_seconds=duration,
        codec=video.stream.codec_context.codec.canonical_name,
        container=video.container.format.name,
        rotation_degrees=orientation.clockwise_degrees,
        variable_rate=variable,
        content_hash=content_hash_of(video.path),
        missing_seconds=None if header is None else header - covered,
        concealed_frames=concealed,
        reordered=video.reordered,
        bits=video.bits,
    )


def _frame_rate(stamps: list[float], header_rate: float | None, path: Path) -> tuple[float, bool]:
    """Mean rate and whether it varies; the header's fraction where it agrees with the stamps."""
    if len(stamps) < 2:
        if header_rate is None:
            raise DecodeError("there is one frame and no frame rate", where=path)
        return header_rate, False
    measured = (len(stamps) - 1) / (stamps[-1] - stamps[0])
    gaps = np.diff(stamps)
    middle = statistics.median(gaps.tolist())
    # Matroska rounds stamps to milliseconds: gaps of 33, 33, 34 ms are a constant rate.
    variable = bool(np.abs(gaps - middle).max() > max(0.1 * middle, 0.002))
    if header_rate is not None and abs(header_rate / measured - 1.0) < 0.01:
        return header_rate, variable
    return measured, variable


def content_hash_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, computed once per process for each version (size and time)."""
    try:
        facts = Path(path).stat()
        return _hash_of_version(str(path), facts.st_size, facts.st_mtime_ns)
    except FileNotFoundError as error:
        raise DecodeError("the file does not exist", where=path) from error
    except OSError as error:
        raise DecodeError(f"the file cannot be read: {error.strerror}", where=path) from error


@lru_cache(maxsize=1 << 17)
def _hash_of_version(path: str, size: int, mtime_ns: int) -> str:  # noqa: ARG001  they are the key
    with in_hand(path), open(path, "rb") as handle:
        return file_digest(handle, "sha256").hexdigest()


def _read_with_pyav(path: Path, wanted: list[int]) -> Frames:
    places: dict[int, list[int]] = {}
    for place, index in enumerate(wanted):
        places.setdefault(index, []).append(place)
    images, stamps = np.empty((0, 0, 0, 3), np.uint8), np.empty(len(wanted))
    for ordinal, seconds, image in _pyav_images(path, wanted):
        if not len(images):
            _check_read_size(len(wanted), image.shape, path)
            images = np.empty((len(wanted), *image.shape), np.uint8)
        for place in places[ordinal]:
            images[place] = image
            stamps[place] = seconds
    return Frames(images, stamps)


def _pyav_images(path: Path, wanted: Sequence[int]) -> Iterator[tuple[int, float, np.ndarray]]:
    """(ordinal, seconds, uint8 [H, W, 3]) of each wanted frame, in decode order.

    An image is a view of the decoder's memory or a copy: it is to be used before the next one.
    """
    missing = set(wanted)
    # One reformatter, one thread: a new one per frame, or more threads, costs two to four times.
    reformatter, count = VideoReformatter(), 0
    turn: Orientation | None = None
    turned_by = 0
    shape: tuple[int, ...] | None = None
    with open_video(path) as video:
        for item in decode_stream(video):
            count = item.ordinal + 1
            if item.ordinal not in missing:
                continue
            rgb = reformatter.reformat(item.frame, format="rgb24", threads=1).to_ndarray()
            # Not for every frame: reading side data ties a frame into a cycle that keeps its
            # picture in memory until the next garbage collection.
            if turn is None or item.frame.rotation != turned_by:
                turn, turned_by = orientation_of(item.frame, path), item.frame.rotation
            image = turn.apply(rgb)
            shape = shape or image.shape
            if image.shape != shape:
                raise DecodeError(f"the picture turns at frame {item.ordinal}", where=path)
            yield item.ordinal, item.seconds, image
            missing.remove(item.ordinal)
            if not missing:
                return
    raise beyond_the_end(wanted, count, path)


def _read_with_torchcodec(path: Path, wanted: list[int]) -> Frames:
    with in_hand(path):
        source = open_with_torchcodec(path, wanted)
        _check_read_size(len(wanted), source.shape, path)
        stamps = source.stamps_seconds
        return Frames(source.images(wanted), stamps[wanted] - stamps[0])


def _torchcodec_chunks(path: Path, wanted: list[int], chunk_bytes: int) -> Iterator[np.ndarray]:
    with in_hand(path) as note:
        source = open_with_torchcodec(path, wanted)
        step = _per_chunk(math.prod(source.shape), chunk_bytes)
        for first in range(0, len(wanted), step):
            note.beat()
            yield source.images(wanted[first : first + step])


def _check_read_size(count: int, shape: tuple[int, ...], path: Path) -> None:
    gib = count * int(np.prod(shape)) / 2**30
    if gib > MAX_READ_BYTES / 2**30:
        problem = f"{count} frames of {shape[1]}x{shape[0]} need {gib:.1f} GiB at once"
        raise DecodeError(
            f"{problem}; the limit is {MAX_READ_BYTES / 2**30:g}",
            where=path,
            hint="scale the videos down, or read fewer frames at once",
        )
