"""What disturbs a scene before models see it: frames taken away, pictures changed, made again.

Every draw follows from (seed, disturbance, sample id), of pictures also from the camera: a scene is
changed the same way in any company, and at every level of a disturbance by the same draw.

Shapes: n scenes, V views, T frames, S pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product

import av
import numpy as np
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from scipy.ndimage import gaussian_filter

from regatta.data.scenes.cameras import Cameras, moved
from regatta.data.scenes.render import render_scenes
from regatta.data.scenes.settings import FRAMES_PER_SECOND, SceneSettings
from regatta.evaluation.protocols import sample_stream

ORDERED = ("prefix", "spread", "stride", "dropped", "single-frame", "shuffled-frames")
"""Disturbances that only take frames away or turn their order around."""
RENDERED = ("camera", "distractors", "occluder")
"""Disturbances whose pictures are made again from the true track."""
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class ScenePart:
    """Some scenes as they are.

    frames: uint8 [n, V, T, 3, S, S], seen by the cameras `views`. positions: float64 [n, T, 3], of
    the shown frames, NaN where not known. indices: [n], of the generator.
    """

    sample_ids: Sequence[str]
    frames: np.ndarray
    views: tuple[int, ...]
    positions: np.ndarray
    indices: np.ndarray
    cameras: Cameras
    settings: SceneSettings


def frame_order(
    disturbance: str, level: float, frames: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Which frame stands at each of the T places [T].

    prefix: the first `level` frames, then the last of them. spread: `level` frames from first to
    last, each held until the next. stride: every `level`-th frame one after the other, then the
    last of them: motion is faster. dropped: a share `level` of the frames is lost, the one before
    is held; the first stays. single-frame: the last one throughout.

    Args:
        rng: for what is drawn: dropped and shuffled-frames.
    """
    places = np.arange(frames)
    if disturbance == "prefix":
        return np.minimum(places, int(level) - 1)
    if disturbance == "stride":
        return np.minimum(places * int(level), (frames - 1) // int(level) * int(level))
    if disturbance == "single-frame":
        return np.full(frames, frames - 1)
    if disturbance == "spread":
        return _held(np.round(np.linspace(0, frames - 1, int(level))).astype(int), frames)
    assert rng is not None
    if disturbance == "shuffled-frames":
        return rng.permutation(frames)
    lost = 1 + rng.permutation(frames - 1)[: round(level * frames)]
    return _held(np.setdiff1d(places, lost), frames)


def _held(kept: np.ndarray, frames: int) -> np.ndarray:
    """The last of the sorted `kept` frames at or before each place; the first is kept."""
    return kept[np.searchsorted(kept, np.arange(frames), side="right") - 1]


def scene_orders(
    disturbance: str, level: float, sample_ids: Sequence[str], frames: int, *, seed: int
) -> np.ndarray:
    """The frames [n, T] that a condition shows of each scene; all of them where it drops none."""
    if disturbance not in ORDERED:
        return np.tile(np.arange(frames), (len(sample_ids), 1))
    orders = [
        frame_order(disturbance, level, frames, sample_stream(seed, disturbance, sample_id))
        for sample_id in sample_ids
    ]
    return np.stack(orders)


def disturb(batch: ScenePart, disturbance: str, level: float, *, seed: int) -> np.ndarray:
    """Pictures uint8 of the shape of `batch.frames`, which is left as it is."""
    if disturbance in ORDERED:
        frames = batch.frames.shape[2]
        orders = scene_orders(disturbance, level, batch.sample_ids, frames, seed=seed)
        return _reordered(batch.frames, orders)
    if disturbance in RENDERED:
        return _rendered(batch, disturbance, level, seed=seed)
    if disturbance == "views-missing":
        return _without_views(batch, int(level), seed=seed)
    shown = np.empty_like(batch.frames)

    def change(clip: tuple[int, int]) -> None:
        row, place = clip
        clip_TCHW = batch.frames[clip]
        if disturbance == "noise":
            name = f"noise/{batch.views[place]}"
            rng = sample_stream(seed, name, batch.sample_ids[row])
            shown[clip] = add_noise(clip_TCHW, level, rng)
        elif disturbance == "blur":
            shown[clip] = blur(clip_TCHW, level)
        else:
            shown[clip] = recode_h264(clip_TCHW, int(level))

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="regatta-disturb") as pool:
        list(pool.map(change, product(range(shown.shape[0]), range(shown.shape[1]))))
    return shown


def _reordered(frames: np.ndarray, orders: np.ndarray) -> np.ndarray:
    return np.stack([scene[:, order] for scene, order in zip(frames, orders, strict=True)])


def _rendered(batch: ScenePart, disturbance: str, level: float, *, seed: int) -> np.ndarray:
    settings = batch.settings
    if disturbance == "distractors":
        settings = replace(settings, distractors=int(level))
    if disturbance == "occluder":
        settings = replace(settings, occluder=True)
    if disturbance != "camera":
        return render_scenes(
            batch.positions, batch.cameras, settings, indices=batch.indices, views=batch.views
        )
    shown = np.empty_like(batch.frames)
    for row, sample_id in enumerate(batch.sample_ids):
        rng = sample_stream(seed, disturbance, sample_id)
        shown[row] = render_scenes(
            batch.positions[row : row + 1],
            moved(batch.cameras, level, rng),
            settings,
            indices=batch.indices[row : row + 1],
            views=batch.views,
        )[0]
    return shown


def _without_views(batch: ScenePart, missing: int, *, seed: int) -> np.ndarray:
    """`missing` of the shown cameras are black throughout; the same ones for every model."""
    shown = batch.frames.copy()
    for row, sample_id in enumerate(batch.sample_ids):
        turn = sample_stream(seed, "views-missing", sample_id).permutation(len(batch.cameras))
        lost = [view for view in turn if view in batch.views][:missing]
        shown[row, [batch.views.index(view) for view in lost]] = 0
    return shown


def add_noise(clip: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """uint8 pictures with normal noise; sd is a share of the range of grey levels."""
    noise = rng.standard_normal(clip.shape, dtype=np.float32)
    return np.rint(np.clip(clip + np.float32(255 * sd) * noise, 0, 255)).astype(np.uint8)


def blur(clip: np.ndarray, sd: float) -> np.ndarray:
    """uint8 pictures [..., S, S] under a Gaussian of `sd` pixels, cut at four of them; the border
    goes on as it ends."""
    soft = gaussian_filter(clip.astype(np.float32), sd, mode="nearest", axes=(-2, -1))
    return np.rint(soft).astype(np.uint8)


def recode_h264(clip_TCHW: np.ndarray, crf: int) -> np.ndarray:
    """What is left of uint8 [T, 3, S, S] after H.264 at this rate factor, with halved colour.

    Encoded and decoded in memory, in one thread and without the macroblock tree, so that the
    bytes are always the same.
    """
    size = clip_TCHW.shape[-1]
    encoder = av.VideoCodecContext.create("libx264", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width = encoder.height = size
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, FRAMES_PER_SECOND)
    encoder.thread_count = 1
    # On processors with AVX-512 the macroblock tree of x264 does not repeat its own bytes.
    encoder.options = {"crf": str(crf), "preset": "medium", "mbtree": "0"}
    packets, reformatter = [], VideoReformatter()
    for number, picture in enumerate(np.ascontiguousarray(clip_TCHW.transpose(0, 2, 3, 1))):
        drawn = VideoFrame.from_ndarray(picture, format="rgb24")
        frame = reformatter.reformat(drawn, format="yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_count = 1
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    frames.sort(key=lambda frame: frame.pts or 0)
    shown = np.stack([reformatter.reformat(frame, format="rgb24").to_ndarray() for frame in frames])
    return shown.transpose(0, 3, 1, 2)
