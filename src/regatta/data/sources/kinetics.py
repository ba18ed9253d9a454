"""Kinetics-400, -600 and -700 with their csv files, and lists of `path label` lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from regatta.core.errors import DataError
from regatta.core.files import path_under
from regatta.core.registry import SOURCES
from regatta.data.manifest import Listing, SampleRow, SplitName
from regatta.data.sources import (
    VIDEO_SUFFIXES,
    FrameCount,
    GroupBy,
    existing_root,
    only_split_one,
)
from regatta.data.sources._class_numbers import name_labels
from regatta.data.sources._lists import (
    FolderNames,
    first_file,
    grouped,
    list_lines,
    suffix_order,
    wanted_classes,
)

LIST_FOLDERS = ("", "annotations/", "lists/")
LIST_NAMES = {
    "train": ("train.csv", "train.txt", "train_list.txt", "kinetics400_train_list_videos.txt"),
    "validate": (
        *("validate.csv", "validation.csv", "val.csv", "val.txt", "val_list.txt"),
        "kinetics400_val_list_videos.txt",
    ),
    "test": ("test.csv", "test.txt", "test_list.txt", "kinetics400_test_list_videos.txt"),
}
VIDEO_FOLDERS = {
    "train": ("train", "videos_train", "videos/train", "videos", ""),
    "validate": (
        *("val", "validate", "validation", "videos_val", "videos/val", "videos/validate"),
        *("videos", ""),
    ),
    "test": ("test", "videos_test", "videos/test", "videos", ""),
}
REPLACEMENTS = "replacement/replacement_for_corrupted_k400"
"""Where the usual download keeps whole copies of files that are damaged in its archive."""
SUFFIXES = suffix_order(".mp4", ".webm", ".mkv")

_HINT = (
    "get the lists from https://github.com/cvdfoundation/kinetics-dataset, "
    "or set data.options.train_list and data.options.judge_list"
)
_WHAT = "a list of Kinetics"
_ENDINGS = "|".join(sorted(suffix[1:] for suffix in VIDEO_SUFFIXES))
_PATH_LABEL = re.compile(rf"(.+\.(?:{_ENDINGS}))\s*(?:::|,|\s)\s*(.+)", re.IGNORECASE)
_CLIP_NAME = re.compile(r"(.+)_\d{6}_\d{6}")
_YOUTUBE_ID = re.compile(r"[\w-]{11}")


@dataclass(frozen=True)
class _Entry:
    where: str
    label: str
    path: str
    """As listed; empty where the line gives a source video and times."""
    video_id: str = ""
    times: str = ""
    """`_<start>_<end>` in seconds, six digits each."""


@SOURCES.register("kinetics")
def read_kinetics(
    root: Path,
    *,
    split: int,
    seed: int,  # noqa: ARG001  the published split leaves nothing to draw
    train_list: str | None = None,
    judge_list: str | None = None,
    judge: Literal["validate", "test"] = "validate",
    class_list: str | None = None,
    first_class: Literal[0, 1] | None = None,
    classes: list[str] | None = None,
    group: GroupBy = "video",
    segment_frames: FrameCount | None = None,
) -> Listing:
    """A training list and the published validation, which is judged; a group is one YouTube video.

    A list is a csv file with the header `label,youtube_id,time_start,time_end,split` or has lines
    `<path> <label>`, parted by a space, a comma or `::`; a label is a name or a number.

    Args:
        root: of the csv form the files are `<folder>/[<class>/]<id>_<start>_<end>.mp4` or
            `<id>.mp4`, in one of the usual folders; listed paths are below the root or such a
            folder.
        split: 1, there is no other.
        seed: not used.
        train_list: below the root or absolute; by default one of the usual names.
        judge_list: the same, of the samples that are judged.
        judge: which published list that is, where judge_list is not given.
        class_list: names of numbered classes, as lines `[<number>] <name>`, csv or JSON.
        first_class: where numbers start, if the lists do not tell.
        classes: read only these; None = all.
        group: "clip" takes each clip for a source video of its own.
        segment_frames: cut each clip into pieces of this many frames.
    Raises:
        DataError: no root or list, a malformed line, a label outside the class list.
        ConfigError: numbers may start at 0 or 1, an unknown class is asked for.
        SplitLeakError: the lists part a source video.
    """
    only_split_one(split, "kinetics")
    existing_root(root, "kinetics")
    folders, entries = FolderNames(), {}
    sources: tuple[tuple[SplitName, str, str | None], ...] = (
        ("train", "train", train_list),
        ("test", judge, judge_list),
    )
    for part, published, given in sources:
        entries[part, published] = list(_entries(_list_path(root, published, given)))
    labels = [(entry.where, entry.label) for found in entries.values() for entry in found]
    names, notes = name_labels(labels, root / class_list if class_list else None, first_class)
    wanted = wanted_classes(classes, set(names.values()), "this list")
    rows: list[SampleRow] = []
    for (part, published), found in entries.items():
        place = _Places(root, published, folders)
        for entry in found:
            label = names[entry.label]
            if label in wanted:
                path, source = place.of(entry, label)
                rows.append(SampleRow(path, label, source, part, segment_frames=segment_frames))
    rows, torn = grouped(rows, group, where=root)
    if judge_list is None and judge == "validate":
        notes.append("the published validation list is judged as the test split")
    return Listing(rows, [*notes, *torn])


def _list_path(root: Path, published: str, given: str | None) -> Path:
    if given is not None:
        return root / given
    names = [folder + name for folder in LIST_FOLDERS for name in LIST_NAMES[published]]
    return first_file(root, names, what=f"the {published} list of Kinetics", hint=_HINT)


def _entries(path: Path) -> Iterator[_Entry]:
    """Every line of a list of either form."""
    lines = list_lines(path, what=_WHAT, hint=_HINT)
    first = next(lines, None)
    if first is None:
        raise DataError("the list is empty", where=path, hint=_HINT)
    header = [name.strip().lower() for name in first[1].split(",")]
    if "youtube_id" in header:
        yield from _csv_entries(lines, header, first[0])
        return
    yield _path_and_label(*first)
    for where, line in lines:
        yield _path_and_label(where, line)


def _csv_entries(
    lines: Iterator[tuple[str, str]], header: list[str], where: str
) -> Iterator[_Entry]:
    columns = ("label", "youtube_id", "time_start", "time_end")
    absent = [name for name in columns if name not in header]
    if absent:
        hint = (
            "a published test list has no labels; judge the validation list"
            if ("label" in absent)
            else "the header is label,youtube_id,time_start,time_end,split"
        )
        raise DataError(f"the list has no column {', '.join(absent)}", where=where, hint=hint)
    places = [header.index(name) for name in columns]
    for where, line in lines:
        try:
            cells = next(csv.reader([line], strict=False))
        except csv.Error as error:
            raise DataError(f"not CSV: {error}", where=where) from error
        if len(cells) < len(header):
            problem = f"{len(cells)} fields where the header has {len(header)}"
            raise DataError(problem, where=where)
        label, video_id, start, end = (cells[place].strip() for place in places)
        if not label or not video_id:
            raise DataError("the label or the youtube_id is empty", where=where)
        yield _Entry(
            where, label, "", video_id, f"_{_seconds(start, where)}_{_seconds(end, where)}"
        )


def _seconds(text: str, where: str) -> str:
    try:
        return f"{int(float(text)):06d}"
    except (ValueError, OverflowError) as error:
        raise DataError(f"'{text}' is no time in seconds", where=where) from error


def _path_and_label(where: str, line: str) -> _Entry:
    match = _PATH_LABEL.fullmatch(line)
    if match is None:
        raise DataError(
            f"expected '<path> <label>', not '{line}'",
            where=where,
            hint="parted by a space, a comma or '::'; a path ends in .mp4, .webm, .avi ...",
        )
    path, label = match[1].strip().strip('"'), match[2].strip().strip('"').strip()
    if re.fullmatch(r"\d+[\s,]+\d+", label):
        raise DataError(
            f"the line has three columns: '{line}'",
            where=where,
            hint="lists of frame folders are not read; give the list of the videos",
        )
    return _Entry(where, label, path)


class _Places:
    """Where the files of one published list are, found by listing each folder once."""

    def __init__(self, root: Path, published: str, folders: FolderNames) -> None:
        self._root, self._folders = root, folders
        self._bases = [
            str(root / name)
            for name in VIDEO_FOLDERS[published]
            if not name or folders.names(str(root / name))
        ]
        self._replacements = str(root / REPLACEMENTS)
        self._by_label: dict[str, list[str]] = {}
        self._by_folder: dict[str, list[Path]] = {}

    def of(self, entry: _Entry, label: str) -> tuple[Path, str]:
        """(path, source video) of a line; the expected path where there is no file."""
        if entry.path:
            return self._listed(entry), _source_video(entry.path)
        # An id from a list becomes part of a path; it must not lead anywhere else.
        if not set(entry.video_id) <= _ID_CHARACTERS:
            raise DataError(f"'{entry.video_id}' is no YouTube id", where=entry.where)
        folders = self._folders_of(label)
        for stem in (entry.video_id + entry.times, entry.video_id):
            if found := self._folders.video(folders, stem, SUFFIXES):
                return Path(found), entry.video_id
        return Path(self._bases[0], f"{entry.video_id}{entry.times}.mp4"), entry.video_id

    def _folders_of(self, label: str) -> list[str]:
        if label not in self._by_label:
            spellings = dict.fromkeys((label, label.replace(" ", "_")))
            # A label such as ".." must not lead out of the folder.
            safe = [name for name in spellings if "/" not in name and not name.startswith(".")]
            inner = [f"{base}/{name}" for base in self._bases for name in safe]
            self._by_label[label] = [self._replacements, *inner, *self._bases]
        return self._by_label[label]

    def _listed(self, entry: _Entry) -> Path:
        """A listed path below the root or below one of the usual folders, where it is first."""
        if entry.path.startswith("/"):
            return path_under(self._root, entry.path, where=entry.where)
        folder, _, name = entry.path.rpartition("/")
        if folder not in self._by_folder:
            tops = [self._root, *map(Path, self._bases)]
            below = [path_under(top, folder or ".", where=entry.where) for top in tops]
            existing = [path for path in below if self._folders.names(str(path))]
            self._by_folder[folder] = existing or below[:1]
        candidates = self._by_folder[folder]
        there = (path for path in candidates if name in self._folders.names(str(path)))
        return path_under(next(there, candidates[0]), name, where=entry.where)


_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def _source_video(path: str) -> str:
    """The YouTube id that a file name holds, else the path without its suffix."""
    stem = path.rpartition("/")[2].rpartition(".")[0]
    match = _CLIP_NAME.fullmatch(stem)
    if match:
        return match[1]
    return stem if _YOUTUBE_ID.fullmatch(stem) else path.rpartition(".")[0]
