"""Write small video files: for generated data sets, demos and tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec import Codec
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from regatta.core.errors import DataError
from regatta.core.files import atomic_path

MUXERS = {
    ".avi": "avi",
    ".mkv": "matroska",
    ".mov": "mov",
    ".mp4": "mp4",
    ".webm": "webm",
}
"""File name suffix -> FFmpeg's name of the container."""

DEFAULT_OPTIONS: dict[str, dict[str, str]] = {
    # On processors with AVX-512 the macroblock tree of x264 does not repeat its own bytes.
    "libx264": {"crf": "18", "mbtree": "0"},
    "mpeg4": {"qmin": "3", "qmax": "3"},
}
"""Near-lossless quality and repeatable bytes, per encoder; single keys give way to `options`."""

MAX_FPS = 65535
"""MPEG-4 part 2 counts time in 16 bits."""


def write_video(
    path: str | Path,
    images: np.ndarray,
    *,
    fps: float | Fraction,
    codec: str = "libx264",
    tag: str | None = None,
    pixel_format: str = "yuv420p",
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write frames as one video file, atomically; equal arguments give equal bytes.

    Args:
        path: the suffix picks the container, see `MUXERS`.
        images: uint8 [N, H, W, 3] RGB, N >= 1; H and W even where `pixel_format` halves the colour.
        fps: frames per second.
        codec: FFmpeg encoder, for example "libx264" or "mpeg4".
        tag: four-character code in the header, "XVID" for the AVI files of the UCF data sets.
        options: of the encoder, for example {"crf": "18"} or {"bf": "2"}.
    Raises:
        DataError: wrong array, unknown suffix, or settings that the encoder refuses.
        DiskError: the folder cannot be written.
    """
    path = Path(path)
    _check_images(images, path)
    muxer = MUXERS.get(path.suffix.lower())
    if muxer is None:
        raise DataError(
            f"no container is known for '{path.suffix}'",
            where=path,
            hint=f"use {', '.join(MUXERS)}",
        )
    settings = {"flags": "+bitexact", **DEFAULT_OPTIONS.get(codec, {}), **(options or {})}
    with atomic_path(path) as temporary:
        try:
            if Codec(codec, "w").type != "video":
                raise ValueError(f"{codec} does not encode video")
            # Without bitexact the library writes its version, and the content hash would follow it.
            flags = {"fflags": "+bitexact"}
            with av.open(str(temporary), "w", format=muxer, container_options=flags) as container:
                stream = container.add_stream(codec, rate=_rate(fps), options=settings)
                assert isinstance(stream, VideoStream)
                stream.height, stream.width = images.shape[1:3]
                stream.pix_fmt = pixel_format
                # More threads cut the picture otherwise, and the bytes would follow the machine.
                stream.codec_context.thread_count = 1
                if tag is not None:
                    stream.codec_context.codec_tag = tag
                for packet in _encode(stream, images, pixel_format):
                    container.mux(packet)
        except (FFmpegError, ValueError) as error:
            if isinstance(error, OSError):
                raise  # A full or read-only disk is not the encoder's fault.
            raise DataError(f"the video cannot be encoded: {error}", where=path) from error
    return path


def _encode(stream: VideoStream, images: np.ndarray, pixel_format: str) -> Iterator[Packet]:
    reformatter, tick = VideoReformatter(), 1 / stream.codec_context.framerate
    for ordinal, image in enumerate(images):
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = reformatter.reformat(picture, format=pixel_format, threads=1)
        frame.pts = ordinal
        frame.time_base = tick
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _check_images(images: np.ndarray, path: Path) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise DataError(
            f"frames must be uint8 [N, H, W, 3] with N >= 1, not {images.dtype} {images.shape}",
            where=path,
        )


def _rate(fps: float | Fraction) -> Fraction:
    rate = Fraction(fps).limit_denominator(1001)
    if not 0 < rate <= MAX_FPS:
        raise ValueError(f"frame rate {fps} is out of range")
    return rate
