"""Diving48 with its JSON lists (Li, Li, Vasconcelos 2018, RESOUND, ECCV)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from regatta.core.errors import DataError
from regatta.core.files import path_under
from regatta.core.registry import SOURCES
from regatta.data.manifest import Listing, SampleRow, SplitName
from regatta.data.sources import FrameCount, GroupBy, existing_root, only_split_one
from regatta.data.sources._lists import (
    FolderNames,
    first_file,
    first_folder,
    grouped,
    json_entries,
    read_json,
    suffix_order,
    wanted_classes,
)

LIST_FOLDERS = ("annotations", "labels")
VIDEO_FOLDERS = ("rgb", "videos", "Diving48_rgb/rgb", "Diving48_rgb")
SUFFIXES = suffix_order(".mp4", ".webm")

_HINT = (
    "get the lists and the vocabulary from http://www.svcl.ucsd.edu/projects/resound/dataset.html, "
    "or set data.options.lists"
)


@SOURCES.register("diving48")
def read_diving48(
    root: Path,
    *,
    split: int,
    seed: int,  # noqa: ARG001  the published split leaves nothing to draw
    version: Literal["V1", "V2"] = "V2",
    lists: str | None = None,
    videos: str | None = None,
    classes: list[str] | None = None,
    group: GroupBy = "video",
    segment_frames: FrameCount | None = None,
) -> Listing:
    """The published training and test lists; a group is one competition video.

    Files are whole clips: start_frame and end_frame of the lists count their frames, no more.

    Args:
        root: holds `<videos>/<vid_name>.mp4`.
        split: 1, there is no other.
        seed: not used.
        version: of the labels; V2 corrects V1.
        lists: folder of Diving48[_V2]_{train,test}.json and Diving48_vocab.json, below the root or
            absolute; by default `annotations`, `labels` or the root.
        videos: folder of the files, below the root; found the same way.
        classes: read only these, for example "Back 15som 05Twis FREE"; None = all 48.
        group: "clip" takes each clip for a video of its own.
        segment_frames: cut each clip into pieces of this many frames.
    Raises:
        DataError: no root, a list is missing or malformed, a label outside the vocabulary.
        ConfigError: an unknown class name is asked for.
        SplitLeakError: the lists part a competition video.
    """
    only_split_one(split, "diving48")
    existing_root(root, "diving48")
    list_folder = root / lists if lists else first_folder(root, LIST_FOLDERS)
    video_folder = (
        path_under(root, videos, where="data.options.videos")
        if videos
        else first_folder(root, VIDEO_FOLDERS)
    )
    vocabulary = _read_vocabulary(list_folder)
    wanted = wanted_classes(classes, vocabulary, "Diving48")
    stem = "Diving48_V2" if version == "V2" else "Diving48"
    folders = FolderNames()
    rows: list[SampleRow] = []
    parts: tuple[SplitName, ...] = ("train", "test")
    for part in parts:
        path = list_folder / f"{stem}_{part}.json"
        for where, entry in json_entries(path, what="a list of Diving48", hint=_HINT):
            clip, label = _clip_and_label(entry, vocabulary, where)
            if label in wanted:
                file = _file(clip, video_folder, folders, where)
                source = clip.rpartition("_")[0] or clip
                rows.append(SampleRow(file, label, source, part, segment_frames=segment_frames))
    rows, notes = grouped(rows, group, where=list_folder)
    return Listing(rows, notes)


def _read_vocabulary(folder: Path) -> list[str]:
    """Class names in label order: take-off, somersaults, twists and position, joined by blanks."""
    names = ("Diving48_vocab.json",)
    path = first_file(folder, names, what="the vocabulary of Diving48", hint=_HINT)
    content = read_json(path, what="the vocabulary of Diving48", hint=_HINT)
    if not isinstance(content, list) or not content:
        raise DataError("the vocabulary is not a JSON list of classes", where=path, hint=_HINT)
    joined = [" ".join(map(str, c)) if isinstance(c, list) else str(c) for c in content]
    twice = sorted({name for name in joined if joined.count(name) > 1})
    if twice:
        raise DataError(f"the vocabulary names a class twice: {', '.join(twice)}", where=path)
    return joined


def _clip_and_label(entry: dict[str, Any], vocabulary: list[str], where: str) -> tuple[str, str]:
    clip, label = entry.get("vid_name"), entry.get("label")
    if not isinstance(clip, str) or not clip.strip():
        raise DataError("the entry has no vid_name", where=where, hint=_HINT)
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(vocabulary):
        raise DataError(
            f"label {label!r} of {clip} is not in the vocabulary of {len(vocabulary)} classes",
            where=where,
            hint=f"labels are whole numbers from 0 to {len(vocabulary) - 1}; "
            "take lists and vocabulary from one place",
        )
    return clip.strip(), vocabulary[label]


def _file(clip: str, folder: Path, folders: FolderNames, where: str) -> Path:
    """Where the clip is, or where the published archive would have put it."""
    if os.sep in clip or clip.startswith("."):
        return path_under(folder, f"{clip}.mp4", where=where)
    found = folders.video([str(folder)], clip, SUFFIXES)
    return Path(found) if found else path_under(folder, f"{clip}.mp4", where=where)
