"""Keep a few samples as film-strips: thumbnails of what each entry saw of them in each condition.

The samples are decoded once more, by the decoder of the study, and cut, scaled and averaged by the
code that judging uses, only smaller. An entry whose own pictures are smaller than a thumbnail has
them kept as they are. Nothing of it touches a score.

Shapes: P pictures of a sample, S side of a thumbnail, 3 colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from av.codec import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from regatta.config.expand import protocol_id
from regatta.config.schema import Study
from regatta.core.errors import DecodeError, RecordError
from regatta.core.files import ensure_writable
from regatta.core.locks import alone
from regatta.core.seeds import stream
from regatta.data.decode import read_chunks
from regatta.data.frame_plan import spread_evenly
from regatta.data.manifest import Sample
from regatta.data.transforms import Cut
from regatta.evaluation.grid import EntryInput, SampleFrames, SampleTask, plan_task, read_task
from regatta.evaluation.part_files import split_parts
from regatta.evaluation.protocols import Protocol, View
from regatta.records.film import Film, FilmInput, FilmSample, Sprite, read_film, write_film
from regatta.records.run_folder import StudyFolder

SIDE, SMALL_SIDE = 72, 48
"""Most pixels of a thumbnail's side, of few and of many pictures."""
FEW_PICTURES, MOST_PICTURES = 160, 400
"""Thumbnails of one sample: up to so many are of the larger side; beyond the most an even choice is
kept."""
COLUMNS = 16
MOST_SPRITE_BYTES = 270_000
"""Four sprites then add at most 1.5 MB to the page, where a byte takes 4/3."""
QUALITIES = (4, 7, 11, 16, 24, 31)
"""Quantisers of JPEG from good to poor: the first whose sprite is small enough is taken."""
BLOCK = 8
"""Pixels that JPEG encodes together: thumbnails start at multiples, so none colours the next."""

Picture = tuple[Cut, tuple[int, ...]]
"""The place that is cut out, and the source frames whose mean is shown."""


@dataclass(frozen=True)
class FilmPlan:
    """What a sample is decoded for. strips: entry -> condition id -> pictures in order."""

    side: int
    task: SampleTask
    strips: dict[str, dict[str, list[Picture]]]
    pictures: set[Picture]


def record_film(
    folder: StudyFolder,
    study: Study,
    protocol: Protocol,
    samples: Sequence[Sample],
    entries: Mapping[str, EntryInput],
    *,
    manifest_hash: str,
    poll: Callable[[], None],
) -> None:
    """Write the film-strips of a protocol unless they are there for these samples and entries.

    Strips of entries that were judged before are kept. A sample that cannot be decoded is noted.

    Args:
        samples: those that are judged.
        entries: what each entry that is judged now takes.
        poll: called at every piece of a file; may raise to leave.
    Raises:
        DiskError: the folder cannot be written.
    """
    section = study.protocol
    if not section.film_samples or not entries:
        return
    target = folder.film(protocol_id(section))
    inputs = {name: FilmInput(*entry) for name, entry in entries.items()}
    settings = {
        "manifest": manifest_hash,
        "samples": section.film_samples,
        "seed": section.sample_seed,
        "decoder": study.data.decoder,
    }
    with _alone(target, poll):
        present = _present(target, settings)
        if present is not None and inputs.items() <= present.items():
            return
        names = {entry.name for entry in study.entries}
        inputs = {
            name: item for name, item in {**(present or {}), **inputs}.items() if name in names
        }
        numbers = _part_numbers(samples, section.part_samples)
        film_sample = partial(
            _film_sample, protocol=protocol, inputs=inputs, decoder=study.data.decoder, poll=poll
        )
        chosen = choose_film_samples(samples, section.film_samples, seed=section.sample_seed)
        strips = [film_sample(sample, part=numbers[sample.sample_id]) for sample in chosen]
        views = _view_counts(protocol, chosen[0], next(iter(inputs.values())))
        write_film(target, Film(settings, inputs, views, strips))


def choose_film_samples(samples: Sequence[Sample], count: int, *, seed: int) -> list[Sample]:
    """One sample of each class in a seeded order of classes, then a second of each, and so on."""
    members: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.sample_id):
        members.setdefault(sample.label_name, []).append(sample)
    names = sorted(members)
    order = [names[place] for place in stream(seed, "film").permutation(len(names))]
    queues = []
    for name in order:
        mine = members[name]
        drawn = stream(seed, "film", name).permutation(len(mine))
        queues.append([mine[place] for place in drawn])
    rounds = range(max(map(len, queues)))
    return [queue[turn] for turn in rounds for queue in queues if turn < len(queue)][:count]


@contextmanager
def _alone(target: Path, poll: Callable[[], None]) -> Iterator[None]:
    """Entries that are judged by separate workers add to the same strips, one after the other."""
    ensure_writable(target)
    lock = target / ".lock"
    lock.touch()
    with alone(lock, wait=poll):
        yield


def _present(target: Path, settings: dict[str, Any]) -> dict[str, FilmInput] | None:
    """Entries whose strips are whole on disk for these settings."""
    try:
        film = read_film(target)
    except RecordError:
        # Damaged strips are recorded anew from the videos, which are the truth.
        return None
    return film.inputs if film is not None and film.settings == settings else None


def _part_numbers(samples: Sequence[Sample], part_samples: int) -> dict[str, int]:
    parts = split_parts(samples, part_samples)
    return {s.sample_id: number for number, part in enumerate(parts) for s in part}


def _view_counts(protocol: Protocol, sample: Sample, entry: FilmInput) -> dict[str, int]:
    counts = {
        condition.id: len(
            protocol.plan_views(
                sample.frames, sample.fps, condition, entry.frames, sample_id=sample.sample_id
            )
        )
        for condition in protocol.conditions
    }
    return {name: count for name, count in counts.items() if count > 1}


def _film_sample(
    sample: Sample,
    *,
    part: int,
    protocol: Protocol,
    inputs: Mapping[str, FilmInput],
    decoder: Any,
    poll: Callable[[], None],
) -> FilmSample:
    plan = _plan_film(sample, protocol, inputs, most_side=SIDE)
    if len(plan.pictures) > FEW_PICTURES:
        plan = _plan_film(sample, protocol, inputs, most_side=SMALL_SIDE)
    pictures, kept = _order_pictures(plan.pictures)
    place = {picture: number for number, picture in enumerate(pictures)}
    record = FilmSample(
        sample.sample_id,
        sample.label_name,
        sample.group,
        sample.frames,
        sample.fps,
        part,
        [list(shown) for _, shown in pictures],
        {
            name: {condition: [place[p] for p in clip] for condition, clip in cells.items()}
            for name, cells in plan.strips.items()
        },
    )
    try:
        frames = read_task(plan.task, _reader(decoder, poll), device=torch.device("cpu"))
    except DecodeError as error:
        return replace(record, problem=error.what)
    return replace(record, sprite=make_sprite(_thumbnails(frames, pictures[:kept], plan.side)))


def _plan_film(
    sample: Sample, protocol: Protocol, inputs: Mapping[str, FilmInput], *, most_side: int
) -> FilmPlan:
    side = min(most_side, max(item.image_size for item in inputs.values()))
    entries = {name: _thumbnail_input(item, side) for name, item in inputs.items()}
    task = plan_task(sample, _first_views(protocol), entries.values())
    strips = {name: _strips(task, protocol, entry) for name, entry in entries.items()}
    pictures = {p for cells in strips.values() for clip in cells.values() for p in clip}
    return FilmPlan(side, task, strips, pictures)


def _thumbnail_input(entry: FilmInput, side: int) -> EntryInput:
    # Pictures that are smaller than a thumbnail are kept as the model gets them.
    resize = "squash" if entry.resize == "squash" else "crop"
    return EntryInput(entry.frames, min(entry.image_size, side), resize)


def _first_views(protocol: Protocol) -> Protocol:
    def plan_views(*arguments: Any, **names: Any) -> tuple[View, ...]:
        return protocol.plan_views(*arguments, **names)[:1]

    return replace(protocol, plan_views=plan_views)


def _strips(task: SampleTask, protocol: Protocol, entry: EntryInput) -> dict[str, list[Picture]]:
    """Condition id -> pictures of the clip, in order."""
    clips = task.clips[entry]
    shown = {}
    for condition, places in zip(protocol.conditions, clips.places, strict=True):
        plan, cut = clips.distinct[places[0]]
        shown[condition.id] = [(cut, frames) for frames in plan.shown]
    return shown


def _order_pictures(pictures: set[Picture]) -> tuple[list[Picture], int]:
    """The pictures in film order, those without a thumbnail last, and how many have one."""
    ordered = sorted(pictures)
    kept = spread_evenly(len(ordered), MOST_PICTURES)
    missing = sorted(set(range(len(ordered))) - set(kept))
    return [ordered[place] for place in [*kept, *missing]], len(kept)


def _reader(decoder: Any, poll: Callable[[], None]) -> Callable[..., Iterator[np.ndarray]]:
    def read(sample: Sample, indices: Sequence[int], chunk_bytes: int) -> Iterator[np.ndarray]:
        poll()
        places = [sample.start_frame + index for index in indices]
        for images in read_chunks(
            sample.path,
            places,
            chunk_bytes=chunk_bytes,
            backend=decoder,
            content_hash=sample.content_hash,
        ):
            yield images
            poll()

    return read


def _thumbnails(frames: SampleFrames, pictures: Sequence[Picture], side: int) -> np.ndarray:
    """uint8 [P, S, S, 3] of the pictures."""
    task = frames.task
    row_of = {(index,): row for row, index in enumerate(task.union)}
    row_of |= {blend: row for row, blend in enumerate(task.blends, len(task.union))}
    thumbnails = []
    for cut, shown in pictures:
        picture = frames.prepared[cut][row_of[shown]]
        if cut.size < side:
            picture = F.interpolate(picture[None], size=(side, side), mode="nearest-exact")[0]
        thumbnails.append(picture.permute(1, 2, 0).numpy())
    return np.stack(thumbnails)


def make_sprite(thumbnails: np.ndarray) -> Sprite:
    """Lay uint8 [P, S, S, 3] out in rows of COLUMNS and encode them as one JPEG picture."""
    count, side = thumbnails.shape[:2]
    pitch = -(-side // BLOCK) * BLOCK
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    margin = (0, pitch - side)
    tiles = np.pad(thumbnails, ((0, 0), margin, margin, (0, 0)), mode="edge")
    canvas = np.zeros((rows * columns, pitch, pitch, 3), np.uint8)
    canvas[:count] = tiles
    sheet = canvas.reshape(rows, columns, pitch, pitch, 3).swapaxes(1, 2)
    image = np.ascontiguousarray(sheet.reshape(rows * pitch, columns * pitch, 3))
    content = b""
    for quality in QUALITIES:
        content = encode_jpeg(image, quality)
        if len(content) <= MOST_SPRITE_BYTES:
            break
    return Sprite(content, side, pitch, columns, count)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """A JPEG file of uint8 [H, W, 3]; `quality` is a quantiser, 2 (best) to 31. Colours keep their
    resolution: thumbnails are small."""
    codec = CodecContext.create("mjpeg", "w")
    assert isinstance(codec, VideoCodecContext)
    codec.height, codec.width = image.shape[:2]
    codec.pix_fmt, codec.time_base, codec.thread_count = "yuvj444p", Fraction(1, 25), 1
    # Without bitexact the library writes its version into the file.
    codec.options = {"qmin": str(quality), "qmax": str(quality), "flags": "+bitexact"}
    frame = VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj444p")
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
