"""Scenes into video files and label files, each whole or absent; equal scenes give equal bytes.

Shapes: V views, T frames, S pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from regatta.core.files import atomic_path
from regatta.data.scenes.cameras import Cameras, camera_ring, project
from regatta.data.scenes.render import disc_radius, render_scenes, wholly_visible
from regatta.data.scenes.settings import FRAMES_PER_SECOND, SceneSettings
from regatta.data.scenes.stored_names import Storage, label_name, video_names
from regatta.data.scenes.world import Tracks, draw_scenes
from regatta.data.video_files import MUXERS

_TOGETHER = 8
"""Scenes that are drawn at once."""
_DECIMALS = 6
"""Of pixels in label files; positions are written in full."""


def write_scenes(
    root: Path,
    ids: Sequence[str],
    indices: Sequence[int],
    settings: SceneSettings,
    storage: Storage,
) -> None:
    """Write scenes one by one: the videos and then the label, each under a temporary name first."""
    for files in scene_files(ids, indices, settings, storage):
        for name, content in files.items():
            # Not flushed one by one: that would cost more than all else. The lists are, at the end.
            with atomic_path(root / name, durable=False) as temporary:
                temporary.write_bytes(content)


def scene_files(
    ids: Sequence[str], indices: Sequence[int], settings: SceneSettings, storage: Storage
) -> Iterator[dict[str, bytes]]:
    """Of each scene: name below the data folder -> bytes, the label last."""
    cameras = camera_ring(settings.cameras, settings.size)
    for start in range(0, len(ids), _TOGETHER):
        numbers = list(indices[start : start + _TOGETHER])
        tracks = draw_scenes(settings, numbers)
        shown = tracks.positions[:, : settings.frames]
        pictures = render_scenes(shown, cameras, settings, indices=numbers)
        for place, scene_id in enumerate(ids[start : start + _TOGETHER]):
            names = video_names(scene_id, settings.cameras, storage)
            seen = pictures[place]
            films = [tile(seen)] if storage.layout == "tiled" else list(seen)
            files = {
                name: encode(film, storage, Path(name).suffix)
                for name, film in zip(names, films, strict=True)
            }
            label = scene_label(tracks, place, cameras, settings, index=numbers[place])
            files[label_name(scene_id)] = (json.dumps(label) + "\n").encode()
            yield files


def tile_shape(views: int) -> tuple[int, int]:
    """Rows and columns of views in one picture."""
    columns = math.ceil(math.sqrt(views))
    return math.ceil(views / columns), columns


def tile(pictures: np.ndarray) -> np.ndarray:
    """[V, T, 3, S, S] -> [T, 3, rows S, columns S], in reading order; spare places are white."""
    views, frames, _, size, _ = pictures.shape
    rows, columns = tile_shape(views)
    sheet = np.full((rows * columns, *pictures.shape[1:]), 255, np.uint8)
    sheet[:views] = pictures
    grid = sheet.reshape(rows, columns, frames, 3, size, size).transpose(2, 3, 0, 4, 1, 5)
    return np.ascontiguousarray(grid).reshape(frames, 3, rows * size, columns * size)


def untile(film: np.ndarray, views: int) -> np.ndarray:
    """[T, 3, rows S, columns S] -> [V, T, 3, S, S]."""
    rows, columns = tile_shape(views)
    frames, _, height, width = film.shape
    grid = film.reshape(frames, 3, rows, height // rows, columns, width // columns)
    apart = grid.transpose(2, 4, 0, 1, 3, 5)
    return apart.reshape(rows * columns, frames, 3, height // rows, width // columns)[:views]


def encode(film: np.ndarray, storage: Storage, suffix: str) -> bytes:
    """A video file of pictures uint8 [T, 3, H, W]."""
    lossless = storage.codec == "ffv1"
    options = {"flags": "+bitexact"}
    if lossless:
        # One key frame per video, and the quicker of the two entropy coders.
        options |= {"coder": "0", "level": "1", "g": str(len(film))}
    else:
        options |= {"crf": str(storage.crf), "mbtree": "0", "preset": "veryfast"}
    target = BytesIO()
    with av.open(
        target, "w", format=MUXERS[suffix], container_options={"fflags": "+bitexact"}
    ) as container:
        codec = "ffv1" if lossless else "libx264"
        stream = container.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = film.shape[2:]
        stream.pix_fmt = "bgr0" if lossless else "yuv420p"
        stream.codec_context.thread_count = 1
        reformatter = None if lossless else VideoReformatter()
        for ordinal, frame in enumerate(_frames(film)):
            if reformatter is not None:
                frame = reformatter.reformat(frame, format="yuv420p", threads=1)
            frame.pts = ordinal
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return target.getvalue()


def _frames(film: np.ndarray) -> Iterator[VideoFrame]:
    """As blue, green, red and an unused byte, which is how FFmpeg wants lossless RGB.

    It is one frame that is filled again and again: it must be encoded before the next is taken.
    """
    _, _, height, width = film.shape
    packed = film[:, 0].astype("<u4")
    for channel in (1, 2):
        packed <<= 8
        packed |= film[:, channel]
    frame = VideoFrame(width, height, "bgr0")
    plane = frame.planes[0]
    room = plane.line_size // 4
    if room > width:
        packed = np.pad(packed, ((0, 0), (0, 0), (0, room - width)))
    for picture in packed:
        plane.update(picture.data)
        yield frame


def scene_label(
    tracks: Tracks, row: int, cameras: Cameras, settings: SceneSettings, *, index: int
) -> dict[str, Any]:
    """What is true of one scene: class, track, where each camera sees it, and what comes next."""
    frames, positions = settings.frames, tracks.positions[row]
    shown, label = positions[:frames], int(tracks.labels[row])
    pixels, depth = project(cameras, shown)
    radius = disc_radius(depth, settings, cameras.focal)
    visible = wholly_visible(shown[None], cameras, settings, indices=[index])[0]
    return {
        "class": settings.classes[label],
        "class_label": label,
        "num_frames": frames,
        "resolution": [settings.size, settings.size],
        "num_cameras": settings.cameras,
        "positions": shown.tolist(),
        "camera_positions": cameras.positions.tolist(),
        "future_position": positions[-1].tolist(),
        "future_frame": len(positions) - 1,
        "velocity_last": (shown[-1] - shown[-2]).tolist(),
        "parameters": tracks.parameters[row],
        "pixels": np.round(pixels, _DECIMALS).tolist(),
        "radius_px": np.round(radius, _DECIMALS).tolist(),
        "visible": visible.tolist(),
        "seed": settings.seed,
        "index": index,
        "rejected": int(tracks.rejected[row]),
    }
