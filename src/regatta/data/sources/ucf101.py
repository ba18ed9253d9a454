"""UCF-101 with its official lists (Soomro, Zamir, Shah 2012, arXiv:1212.0402)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from regatta.core.errors import ConfigError, DataError
from regatta.core.files import path_under
from regatta.core.registry import SOURCES, nearest
from regatta.data.manifest import SampleRow, SplitName
from regatta.data.sources import FrameCount, existing_root
from regatta.data.sources._lists import list_lines, wanted_classes
from regatta.data.sources._number_files import whole_number

PUBLISHED_SPLITS = (1, 2, 3)
_SOURCE_VIDEO = re.compile(r"_(g\d+)_c\d+\.\w+$")
_LISTS_PAGE = "https://www.crcv.ucf.edu/data/UCF101.php"


@SOURCES.register("ucf101")
def read_ucf101(
    root: Path,
    *,
    split: int,
    seed: int,  # noqa: ARG001  the published split leaves nothing to draw
    lists: str = "ucfTrainTestlist",
    classes: list[str] | None = None,
    segment_frames: FrameCount | None = None,
) -> list[SampleRow]:
    """The clips of one published split; a group is one source video, "Archery/g07".

    Args:
        root: holds `UCF-101/<Class>/<file>` or `<Class>/<file>`.
        split: 1, 2 or 3.
        seed: not used.
        lists: folder of classInd.txt, trainlist0N.txt and testlist0N.txt, below the root or
            absolute.
        classes: read only these; None = all 101.
        segment_frames: cut each clip into pieces of this many frames.
    Raises:
        DataError: no root, a list is missing, a line is malformed, names an unknown class or a
            path outside the root, or its number is not that of its class.
        ConfigError: an unknown split or class name is asked for.
    """
    existing_root(root, "ucf101")
    if split not in PUBLISHED_SPLITS:
        raise ConfigError(f"UCF-101 has splits 1, 2 and 3, not {split}", where="data.split")
    folder = root / lists
    numbers = _read_classes(folder / "classInd.txt")
    wanted = wanted_classes(classes, numbers, "UCF-101")
    videos = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    rows: list[SampleRow] = []
    names: tuple[tuple[SplitName, str], ...] = (
        ("train", f"trainlist0{split}.txt"),
        ("test", f"testlist0{split}.txt"),
    )
    for split_name, file_name in names:
        for where, line in _lines(folder / file_name):
            entry, label_name = _parse(line, numbers, where)
            if label_name in wanted:
                rows.append(
                    SampleRow(
                        path=path_under(videos, entry, where=where),
                        label_name=label_name,
                        group=f"{label_name}/{_source_video(entry, where)}",
                        split=split_name,
                        segment_frames=segment_frames,
                    )
                )
    return rows


def _read_classes(path: Path) -> dict[str, int]:
    """Class name -> its number, counted from 1."""
    numbers: dict[str, int] = {}
    for where, line in _lines(path):
        text, _, name = line.partition(" ")
        number = whole_number(text)
        if number is None or not name.strip():
            raise DataError(f"expected '<number> <class>', not '{line}'", where=where)
        numbers[name.strip()] = number
    return numbers


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    hint = f"unpack the action recognition splits of {_LISTS_PAGE} there, or set data.options.lists"
    return list_lines(path, what="a UCF-101 list", hint=hint)


def _parse(line: str, numbers: dict[str, int], where: str) -> tuple[str, str]:
    """(path, class) of a list line: training lines end in the class number, test lines do not."""
    entry, _, number = line.partition(" ")
    label_name = entry.split("/")[0]
    if "/" not in entry or label_name not in numbers:
        close = nearest(label_name, numbers)
        raise DataError(
            f"'{label_name}' is not in classInd.txt",
            where=where,
            hint=f"did you mean '{close}'?" if close else "lines are '<Class>/<file> [<number>]'",
        )
    if number.strip() and number.strip() != str(numbers[label_name]):
        raise DataError(
            f"the line says class {number.strip()}, but {label_name} is {numbers[label_name]}",
            where=where,
            hint="take classInd.txt and the lists from one place",
        )
    return entry, label_name


def _source_video(entry: str, where: str) -> str:
    match = _SOURCE_VIDEO.search(entry)
    if match is None:
        raise DataError(
            f"'{entry}' does not name its source video as _gNN_cNN",
            where=where,
            hint="use the source 'manifest' for lists of your own",
        )
    return match[1]
