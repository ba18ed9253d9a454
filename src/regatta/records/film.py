"""Film-strips on disk: the pictures that models saw of a few samples, and where each stood.

runs/<study>/film/<protocol-id>/
  <hash>.jpg    sprite of one sample: its pictures in rows of `columns`, each `pitch` pixels wide
  index.json    written last: facts, strips and the hash of every sprite

A picture is the source frame, or the mean of the source frames, that a model frame showed. A strip
lists the pictures of one clip in the order in which the model saw them; a repeat stands there as a
repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from regatta.core.errors import RecordError
from regatta.core.files import read_json, write_bytes, write_json
from regatta.records.predictions import file_hash, part_path, read_complete, read_part

FORMAT = 1


@dataclass(frozen=True)
class FilmInput:
    """What an entry takes of a sample: model frames, input side in pixels, and how it is cut."""

    frames: int
    image_size: int
    resize: str


@dataclass(frozen=True)
class Sprite:
    """Thumbnails of one sample in one JPEG picture, row by row.

    side: of a thumbnail in pixels; pitch: from one to the next. count: how many there are.
    """

    content: bytes
    side: int
    pitch: int
    columns: int
    count: int

    @property
    def rows(self) -> int:
        return -(-self.count // self.columns)

    @property
    def digest(self) -> str:
        return sha256(self.content).hexdigest()

    @property
    def file_name(self) -> str:
        # Named by content: while strips are recorded anew, the old index keeps its own sprites.
        return f"{self.digest[:16]}.jpg"


@dataclass(frozen=True)
class FilmSample:
    """One sample and its strips.

    part: number of the prediction part that holds it. pictures: source frames of each picture,
    counted from the sample's first; those beyond `sprite.count` have no thumbnail. strips: entry ->
    condition id -> pictures of the clip. problem: why there is no sprite, else None.
    """

    sample_id: str
    label_name: str
    group: str
    frames: int
    fps: float
    part: int
    pictures: list[list[int]]
    strips: dict[str, dict[str, list[int]]]
    sprite: Sprite | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Film:
    """The strips of one protocol.

    settings: what decides which samples and pictures these are. views: condition id -> how many
    views are averaged in it, where there are several; strips show the first.
    """

    settings: dict[str, Any]
    inputs: dict[str, FilmInput]
    views: dict[str, int]
    samples: list[FilmSample]


def write_film(folder: Path, film: Film) -> None:
    """Write the sprites, then the index; at every moment the index on disk is whole.

    Raises:
        DiskError: the folder cannot be written.
    """
    sprites = [sample.sprite for sample in film.samples if sample.sprite is not None]
    for sprite in sprites:
        write_bytes(folder / sprite.file_name, sprite.content)
    write_json(
        folder / "index.json",
        {
            "format": FORMAT,
            "settings": film.settings,
            "inputs": {name: asdict(item) for name, item in film.inputs.items()},
            "views": film.views,
            "samples": [_sample_record(sample) for sample in film.samples],
        },
    )
    kept = {sprite.file_name for sprite in sprites}
    for path in folder.glob("*.jpg"):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _sample_record(sample: FilmSample) -> dict[str, Any]:
    sprite = sample.sprite
    record = {name: value for name, value in vars(sample).items() if name != "sprite"}
    if sprite is not None:
        facts = {name: value for name, value in vars(sprite).items() if name != "content"}
        record["sprite"] = {"file": sprite.file_name, "sha256": sprite.digest, **facts}
    return record


def read_film(folder: Path) -> Film | None:
    """What `write_film` wrote; None where there is no index.

    Raises:
        RecordError: damaged, of another format, or a sprite is missing or was changed.
    """
    path = folder / "index.json"
    if not path.is_file():
        return None
    record = read_json(path)
    try:
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}, not {FORMAT}")
        return Film(
            record["settings"],
            {str(name): FilmInput(**item) for name, item in record["inputs"].items()},
            {str(name): int(count) for name, count in record["views"].items()},
            [_sample(item, folder) for item in record["samples"]],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(
            f"the film-strips cannot be read: {error}",
            where=path,
            hint="delete the folder; they are recorded when the study is judged",
        ) from error


def _sample(record: dict[str, Any], folder: Path) -> FilmSample:
    facts = {name: value for name, value in record.items() if name != "sprite"}
    sprite = _sprite(record["sprite"], folder) if "sprite" in record else None
    sample = FilmSample(**facts, sprite=sprite)
    words = (sample.sample_id, sample.label_name, sample.group)
    numbers = (sample.frames, sample.part)
    if not all(isinstance(word, str) for word in words) or {*map(type, numbers)} != {int}:
        raise ValueError("a sample without name or number")
    if type(sample.fps) not in (int, float) or not isinstance(sample.problem, str | None):
        raise ValueError("a sample without a frame rate")
    known = range(len(sample.pictures))
    strips = [strip for cells in sample.strips.values() for strip in cells.values()]
    if any(place not in known for strip in strips for place in strip):
        raise ValueError("a strip names a picture that is not there")
    if sprite is not None and not 0 < sprite.count <= len(sample.pictures):
        raise ValueError("a sprite holds more pictures than are named")
    return sample


def _sprite(record: dict[str, Any], folder: Path) -> Sprite:
    # Only names that we give: an index that came from elsewhere must not name other files.
    path = folder / f"{str(record['sha256'])[:16]}.jpg"
    numbers = {name: int(record[name]) for name in ("side", "pitch", "columns", "count")}
    if min(numbers.values()) < 1:
        raise ValueError("a sprite without size")
    if path.name != record["file"] or not path.is_file() or file_hash(path) != record["sha256"]:
        raise RecordError(
            "a sprite of film-strips is missing or was changed",
            where=folder / str(record["file"]),
            hint="delete the folder; film-strips are recorded when the study is judged",
        )
    return Sprite(path.read_bytes(), **numbers)


def read_answers(folder: Path, wanted: Mapping[str, int]) -> dict[str, dict[str, tuple[int, int]]]:
    """What a run answered to a few samples: id -> condition id -> (predicted class, true class).

    A sample that the run was not judged on is left out.

    Args:
        folder: the run's predictions under one protocol.
        wanted: id of a sample -> number of the part that should hold it, so that of many parts few
            are read; if it is not there, the others are.
    Raises:
        RecordError: not judged, or a part is missing or was changed.
    """
    hashes = read_complete(folder)["parts"]
    likely = dict.fromkeys(part_path(folder, number).name for number in wanted.values())
    order = [name for name in likely if name in hashes]
    order += [name for name in hashes if name not in likely]
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name in order:
        if len(found) == len(wanted):
            break
        path = folder / name
        if not path.is_file() or hashes[name] != file_hash(path):
            raise RecordError("prediction file is missing or was changed", where=path)
        table, scores = read_part(path)
        rows = zip(
            table["sample_id"],
            table["condition"],
            scores.argmax(axis=1),
            table["label"],
            strict=True,
        )
        for sample_id, condition, answer, label in rows:
            if sample_id in wanted:
                found.setdefault(sample_id, {})[condition] = int(answer), int(label)
    return found
