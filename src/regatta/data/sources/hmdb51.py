"""HMDB51 with its official lists (Kuehne et al. 2011, doi:10.1109/ICCV.2011.6126543)."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from regatta.core.errors import ConfigError, DataError
from regatta.core.files import path_under
from regatta.core.registry import SOURCES
from regatta.data.manifest import Listing, SampleRow, SplitName
from regatta.data.sources import FrameCount, GroupBy, existing_root
from regatta.data.sources._lists import first_folder, grouped, list_lines, wanted_classes

PUBLISHED_SPLITS = (1, 2, 3)
PUBLISHED_CLASSES = 51
LIST_FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits", "annotations", "splits")
VIDEO_FOLDERS = ("videos", "hmdb51_org", "HMDB51")

_FLAGS: dict[str, SplitName | None] = {"0": None, "1": "train", "2": "test"}
_HINT = (
    "unpack test_train_splits.rar of "
    "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/ there, "
    "or set data.options.lists"
)


@SOURCES.register("hmdb51")
def read_hmdb51(
    root: Path,
    *,
    split: int,
    seed: int,  # noqa: ARG001  the published split leaves nothing to draw
    lists: str | None = None,
    videos: str | None = None,
    classes: list[str] | None = None,
    group: GroupBy = "video",
    segment_frames: FrameCount | None = None,
) -> Listing:
    """The clips of one published split; a group is one source video of a class, "run/Crash".

    The lists keep the clips of one film together within a class, not across classes.

    Args:
        root: holds `<videos>/<class>/<file>.avi` and the folder of the lists.
        split: 1, 2 or 3.
        seed: not used.
        lists: folder of <class>_test_split<N>.txt, below the root or absolute; by default the
            first of the usual names, else the root.
        videos: folder of the class folders, below the root; found the same way.
        classes: read only these; None = all that have a list.
        group: "clip" takes each clip for a source video of its own.
        segment_frames: cut each clip into pieces of this many frames.
    Raises:
        DataError: no root, no list, a malformed line or one that leaves the root.
        ConfigError: an unknown split or class name is asked for.
        SplitLeakError: the lists part a source video.
    """
    existing_root(root, "hmdb51")
    if split not in PUBLISHED_SPLITS:
        raise ConfigError(f"HMDB51 has splits 1, 2 and 3, not {split}", where="data.split")
    list_folder = root / lists if lists else first_folder(root, LIST_FOLDERS)
    video_folder = (
        path_under(root, videos, where="data.options.videos")
        if videos
        else first_folder(root, VIDEO_FOLDERS)
    )
    files = _list_files(list_folder, split)
    wanted = wanted_classes(classes, files, "HMDB51")
    rows: list[SampleRow] = []
    unnamed, unused = 0, 0
    for label in sorted(wanted):
        named = _name_pattern(label)
        for where, line in list_lines(files[label], what="an HMDB51 list", hint=_HINT):
            name, part = _parse(line, where)
            if part is None:
                unused += 1
                continue
            match = named.match(name)
            unnamed += match is None
            source = match[1] if match else name
            path = path_under(video_folder / label, name, where=where)
            row = SampleRow(path, label, f"{label}/{source}", part, segment_frames=segment_frames)
            rows.append(row)
    rows, notes = grouped(rows, group, where=list_folder)
    return Listing(rows, [*_notes(rows, files, split, unused, unnamed), *notes])


def _list_files(folder: Path, split: int) -> dict[str, Path]:
    """Class -> its list of one split."""
    ending = f"_test_split{split}.txt"
    found = {
        path.name.removesuffix(ending): path
        for path in sorted(folder.glob(f"*{ending}"))
        if not path.name.startswith(".")
    }
    if not found:
        problem = f"there are no lists <class>{ending} here"
        raise DataError(problem, where=folder, hint=_HINT)
    return found


def _parse(line: str, where: str) -> tuple[str, SplitName | None]:
    """(file name, split) of a list line; None for a clip that this split leaves out."""
    name, *rest = line.rsplit(maxsplit=1)
    if not rest or rest[0] not in _FLAGS:
        raise DataError(
            f"expected '<file> <0, 1 or 2>', not '{line}'",
            where=where,
            hint="0 is unused, 1 training, 2 test",
        )
    return name, _FLAGS[rest[0]]


def _name_pattern(label: str) -> re.Pattern[str]:
    """`<source>_<class>_<visible part>_<camera motion>_np<people>_<view>_<quality>_<n>.avi`."""
    tags = r"[a-z]+_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|med|goo)_\d+\.\w+$"
    return re.compile(rf"(.+)_{re.escape(label)}_{tags}")


def _notes(
    rows: list[SampleRow], files: dict[str, Path], split: int, unused: int, unnamed: int
) -> list[str]:
    parts = Counter(row.split for row in rows)
    notes = [
        f"HMDB51 split {split}: {parts['train']} training and {parts['test']} test clips are "
        f"listed, {unused} are in neither"
    ]
    if len(files) != PUBLISHED_CLASSES:
        notes.append(f"there are lists of {len(files)} classes; HMDB51 has {PUBLISHED_CLASSES}")
    if unnamed:
        notes.append(f"{unnamed} file name(s) do not tell the source video; each is its own group")
    return notes
