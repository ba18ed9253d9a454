"""Something-Something V2 with its JSON lists (Goyal et al. 2017, arXiv:1706.04261)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from regatta.core.errors import DataError
from regatta.core.files import path_under
from regatta.core.registry import SOURCES
from regatta.data.manifest import Listing, SampleRow, SplitName
from regatta.data.sources import FrameCount, existing_root, only_split_one
from regatta.data.sources._lists import (
    FolderNames,
    first_file,
    first_folder,
    json_entries,
    read_json,
    suffix_order,
    unknown_label,
    wanted_classes,
)

LIST_FOLDERS = ("labels", "annotations")
VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", "sthv2")
SUFFIXES = suffix_order(".webm", ".mp4")

_HINT = (
    "get the labels of Something-Something V2 from its publisher (Qualcomm), "
    "or set data.options.lists"
)


@SOURCES.register("ssv2")
def read_ssv2(
    root: Path,
    *,
    split: int,
    seed: int,  # noqa: ARG001  the published split leaves nothing to draw
    lists: str | None = None,
    videos: str | None = None,
    classes: list[str] | None = None,
    segment_frames: FrameCount | None = None,
) -> Listing:
    """Training and validation lists; the published validation is judged, its test has no labels.

    A label is the template without its brackets. A group is one clip: who filmed it is not
    published, and the publisher keeps each person in one list.

    Args:
        root: holds `<videos>/<id>.webm` or .mp4.
        split: 1, there is no other.
        seed: not used.
        lists: folder of [something-something-v2-]{train,validation,labels}.json, below the root or
            absolute; by default `labels`, `annotations` or the root.
        videos: folder of the files, below the root; found the same way.
        classes: read only these; None = all 174.
        segment_frames: cut each clip into pieces of this many frames.
    Raises:
        DataError: no root, a list is missing or malformed, a template is no class.
        ConfigError: an unknown class name is asked for.
    """
    only_split_one(split, "ssv2")
    existing_root(root, "ssv2")
    list_folder = root / lists if lists else first_folder(root, LIST_FOLDERS)
    video_folder = (
        path_under(root, videos, where="data.options.videos")
        if videos
        else first_folder(root, VIDEO_FOLDERS)
    )
    labels = _read_labels(_list_file(list_folder, "labels"))
    wanted = wanted_classes(classes, labels, "Something-Something V2")
    folders = FolderNames()
    rows: list[SampleRow] = []
    parts: tuple[tuple[SplitName, str], ...] = (("train", "train"), ("test", "validation"))
    for part, name in parts:
        path = _list_file(list_folder, name)
        for where, entry in json_entries(path, what="a list of ssv2", hint=_HINT):
            clip, label = _clip_and_label(entry, labels, where)
            if label in wanted:
                file = _file(clip, video_folder, folders, where)
                rows.append(SampleRow(file, label, clip, part, segment_frames=segment_frames))
    return Listing(rows, ["the published validation list is judged as the test split"])


def _list_file(folder: Path, name: str) -> Path:
    names = (f"something-something-v2-{name}.json", f"{name}.json")
    return first_file(folder, names, what=f"the {name} list of ssv2", hint=_HINT)


def _read_labels(path: Path) -> set[str]:
    content = read_json(path, what="the class list of ssv2", hint=_HINT)
    if not isinstance(content, dict) or not content:
        problem = 'the class list of ssv2 is not {"<class>": "<number>", ...}'
        raise DataError(problem, where=path, hint=_HINT)
    return {_without_brackets(str(name)) for name in content}


def _clip_and_label(entry: dict[str, Any], labels: set[str], where: str) -> tuple[str, str]:
    clip, template = entry.get("id"), entry.get("template")
    if not isinstance(clip, str | int) or not str(clip).strip():
        raise DataError("the entry has no id", where=where, hint=_HINT)
    if not isinstance(template, str):
        problem = f"clip {clip} has no template"
        raise DataError(problem, where=where, hint="the published test list has no labels")
    label = _without_brackets(template)
    if label not in labels:
        raise unknown_label(label, labels, where=where, class_list="the class list of ssv2")
    return str(clip).strip(), label


def _without_brackets(template: str) -> str:
    """ "Putting [something] on [something]" is the class "Putting something on something"."""
    return template.replace("[", "").replace("]", "").strip()


def _file(clip: str, folder: Path, folders: FolderNames, where: str) -> Path:
    """Where the clip is, or where the published archive would have put it."""
    if os.sep in clip or clip.startswith("."):
        return path_under(folder, f"{clip}.webm", where=where)
    found = folders.video([str(folder)], clip, SUFFIXES)
    return Path(found) if found else path_under(folder, f"{clip}.webm", where=where)
