"""torchcodec behind the contract of `decode.py`: the bytes that PyAV gives, or an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regatta.core.errors import DecodeError, MissingExtraError
from regatta.data.video_stream import beyond_the_end, open_video


@dataclass(frozen=True)
class TorchcodecSource:
    """A file opened by torchcodec; stamps_seconds: float64, one per frame of the file, rising."""

    path: Path
    decoder: Any
    stamps_seconds: np.ndarray
    shape: tuple[int, int, int]

    def images(self, wanted: Sequence[int]) -> np.ndarray:
        try:
            batch = self.decoder.get_frames_at(list(wanted))
        except (RuntimeError, ValueError, IndexError) as error:
            raise _torchcodec_failure(error, self.path) from error
        expected = self.stamps_seconds[list(wanted)]
        if not np.allclose(batch.pts_seconds.numpy(), expected, rtol=0, atol=1e-6):
            problem = "torchcodec gives other frames than those asked for"
            raise _torchcodec_error(problem, self.path)
        return batch.data.numpy()


def open_with_torchcodec(path: Path, wanted: Sequence[int]) -> TorchcodecSource:
    """torchcodec numbers frames by sorted packet times: right where those follow decode order."""
    decoder_class = _torchcodec_decoder()
    with open_video(path) as video:
        refusal = torchcodec_refusal(
            container=video.container.format.name, reordered=video.reordered, bits=video.bits
        )
        packets = video.container.demux(video.stream)
        times = [p.pts * p.time_base for p in packets if p.pts is not None and not p.is_discard]
        context = video.stream.codec_context
        shape = (context.height, context.width, 3)
    if refusal or not times:
        raise _torchcodec_error(refusal or "the file has no time stamps", path)
    if max(wanted) >= len(times):
        raise beyond_the_end(wanted, len(times), path)
    stamps = np.sort(np.array(times, dtype=np.float64))
    try:
        decoder = decoder_class(
            str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
    except (RuntimeError, ValueError) as error:
        raise _torchcodec_failure(error, path) from error
    return TorchcodecSource(path, decoder, stamps, shape)


def _torchcodec_failure(error: Exception, path: Path) -> DecodeError:
    problem = f"torchcodec fails on this file ({str(error).splitlines()[0][:200]})"
    return _torchcodec_error(problem, path)


def torchcodec_refusal(
    *, container: str, reordered: bool, bits: int, concealed_frames: int = 0
) -> str | None:
    """Why torchcodec would not give the bytes that PyAV gives for such a file; None if it does."""
    if container == "avi" and reordered:
        return "torchcodec numbers the frames of AVI files with B-frames wrongly"
    if bits > 8:
        return f"torchcodec converts {bits}-bit colour otherwise"
    if concealed_frames:
        return "torchcodec patches damaged frames otherwise"
    return None


def _torchcodec_decoder() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports, reportPrivateImportUsage]
    except (ImportError, RuntimeError) as error:
        absent = isinstance(error, ImportError)
        raise MissingExtraError(
            f"torchcodec {'is not installed' if absent else 'finds no FFmpeg libraries'}",
            hint="pip install regatta[torchcodec] and FFmpeg, or set data.decoder: pyav",
        ) from error
    return VideoDecoder


def _torchcodec_error(problem: str, path: Path) -> DecodeError:
    return DecodeError(problem, where=path, hint="set data.decoder: pyav")
