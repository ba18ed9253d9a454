"""The table of samples that all entries of a study share, and the rows that it is made from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from regatta.core.errors import RecordError
from regatta.core.files import atomic_path
from regatta.core.json_text import parse_json

SplitName = Literal["train", "validation", "test", "unknown", ""]
"""unknown = of a class that the study keeps from its models."""
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
MANIFEST_VERSION = 1
_METADATA_KEY = b"regatta"


@dataclass(frozen=True)
class SampleRow:
    """What a source says about one sample, before any file is opened.

    A row with `segment_frames` stands for as many samples as its range holds; the scan cuts it
    once the frames are counted. A row with `skip_reason` is no sample: it is listed under
    `Manifest.dropped`.
    """

    path: Path
    """Absolute, or below the data root."""
    label_name: str
    group: str
    """What must never be separated from this sample: the source video or the subject."""
    split: SplitName = ""
    """Empty = the source does not say."""
    start_frame: int = 0
    frames: int | None = None
    """Length of the range from `start_frame`; None = to the end of the file."""
    extra: Mapping[str, float | str] = field(default_factory=dict)
    segment_frames: int | None = None
    """Cut the range into consecutive pieces of this many frames; a shorter rest is left out."""
    skip_reason: str = ""


@dataclass(frozen=True)
class Listing:
    """What a source read, with remarks for the report; a source with none returns its rows."""

    rows: list[SampleRow]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """One sample: a whole file, or the frames [start_frame, start_frame + frames) of it."""

    sample_id: str
    """Path below the root in posix form, with `#start-end` (end excluded) for a part of a file."""
    path: str
    """Absolute."""
    label: int
    label_name: str
    group: str
    split: SplitName
    start_frame: int
    frames: int
    """Counted by decoding, never taken from a header."""
    fps: float
    width: int
    """Pixels, after rotation metadata is applied; so is `height`."""
    height: int
    duration_seconds: float
    content_hash: str
    """SHA-256 of the bytes of the whole file."""
    extra: dict[str, float | str] = field(default_factory=dict)
    """Facts of the source, and `folds` where several folds part the samples (see `with_folds`)."""


@dataclass(frozen=True)
class Dropped:
    """A file or part that the source listed and the manifest leaves out, for every entry alike."""

    path: str
    reason: str
    is_damage: bool = False
    """The file or part cannot be used, so that `data.damaged` decides; else it was never one."""


@dataclass(frozen=True)
class Manifest:
    """All samples of a study, its classes (label = index), what was left out, and remarks."""

    samples: list[Sample]
    classes: list[str]
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def split(self, name: str) -> list[Sample]:
        """The samples of one split, in manifest order."""
        return [sample for sample in self.samples if sample.split == name]

    @property
    def folds(self) -> int:
        """How many folds part the samples; 0 = there is one split."""
        return len(str(self.samples[0].extra.get("folds", ""))) if self.samples else 0

    def of_fold(self, fold: int | None) -> Manifest:
        """The same samples with the splits of one fold; None = as they stand.

        A sample that this fold leaves out, as a gap between its splits, has an empty split.

        Raises:
            RecordError: there is no such fold.
        """
        if fold is None and not self.folds:
            return self
        if fold is None or fold >= self.folds:
            raise RecordError(f"the manifest has {self.folds} folds, but fold {fold} is asked for")
        return replace(
            self,
            samples=[
                replace(s, split=_SPLIT_OF[str(s.extra["folds"])[fold]]) for s in self.samples
            ],
        )

    def hash(self) -> str:
        """Equal iff classes, ids, labels, groups, splits of all folds, ranges and contents are."""
        identity = [
            [
                s.sample_id,
                s.label,
                s.group,
                s.extra.get("folds") or s.split,
                s.start_frame,
                s.frames,
                s.content_hash,
            ]
            for s in sorted(self.samples, key=lambda sample: sample.sample_id)
        ]
        text = json.dumps([self.classes, identity], separators=(",", ":"))
        return sha256(text.encode("utf-8")).hexdigest()

    def save(self, path: Path) -> None:
        """Write one parquet file atomically."""
        rows = [asdict(sample) | {"extra": json.dumps(sample.extra)} for sample in self.samples]
        header = {
            "version": MANIFEST_VERSION,
            "classes": self.classes,
            "dropped": [asdict(item) for item in self.dropped],
            "notes": self.notes,
        }
        schema = _SCHEMA.with_metadata({_METADATA_KEY: json.dumps(header).encode("utf-8")})
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")

    def check(self) -> None:
        """ValueError where samples contradict each other or the list of classes."""
        texts = [*self.classes, *self.notes]
        if not all(isinstance(text, str) for text in texts) or _repeats(self.classes):
            raise ValueError("classes and notes are no texts, or a class stands there twice")
        if _repeats([sample.sample_id for sample in self.samples]):
            raise ValueError("a sample stands there twice")
        folds, places = self.folds, range(len(self.classes))
        for sample in self.samples:
            known = sample.label in places and self.classes[sample.label] == sample.label_name
            letters = str(sample.extra.get("folds", ""))
            if not known and sample.split != "unknown":
                raise ValueError(f"{sample.sample_id} has label {sample.label}, which is no class")
            if sample.split not in get_args(SplitName) or sample.start_frame < 0:
                raise ValueError(f"{sample.sample_id} has no split or place of its own")
            if not (sample.frames >= 0 and math.isfinite(sample.fps)):
                raise ValueError(f"{sample.sample_id} has no frames or frame rate")
            if len(letters) != folds or not set(letters) <= _SPLIT_OF.keys():
                raise ValueError(f"{sample.sample_id} has no split in each of {folds} folds")

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read what `save` wrote; RecordError when it is missing, damaged or of another version."""
        try:
            table = pq.read_table(path)
            header = parse_json((table.schema.metadata or {})[_METADATA_KEY])
            if header["version"] != MANIFEST_VERSION:
                raise _unreadable(
                    path, f"it has version {header['version']}, not {MANIFEST_VERSION}"
                )
            samples = [_sample_from_row(row) for row in table.to_pylist()]
            dropped = [Dropped(**item) for item in header["dropped"]]
            found = cls(samples, header["classes"], dropped, header["notes"])
            found.check()
            return found
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise _unreadable(path, str(error)) from error


def _repeats(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)


_SPLIT_OF: dict[str, SplitName] = {"r": "train", "v": "validation", "t": "test", "-": ""}
"""Letter of a fold -> split of the sample in it."""
_LETTER_OF = {split: letter for letter, split in _SPLIT_OF.items()}


def with_folds(sample: Sample, splits: Sequence[SplitName]) -> Sample:
    """The sample with its split in each fold: `extra["folds"]` holds a letter per fold, r, v, t for
    train, validation, test and - for left out. Its own split is then empty."""
    letters = "".join(_LETTER_OF[split] for split in splits)
    return replace(sample, split="", extra={**sample.extra, "folds": letters})


def _unreadable(path: Path, problem: str) -> RecordError:
    return RecordError(
        f"the manifest cannot be read: {problem}",
        where=path,
        hint="delete it and run the study again: it is rebuilt from the data folder",
    )


def _sample_from_row(row: dict[str, Any]) -> Sample:
    extra = parse_json(row["extra"])
    if not isinstance(extra, dict):
        raise ValueError(f"{row['sample_id']} has facts that are no JSON object")
    return Sample(**{**row, "extra": extra})


_ARROW_TYPES = {"int": pa.int64(), "float": pa.float64()}
_SCHEMA = pa.schema(
    [(item.name, _ARROW_TYPES.get(str(item.type), pa.string())) for item in fields(Sample)]
)
