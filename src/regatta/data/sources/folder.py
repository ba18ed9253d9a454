"""Class folders: `<root>/<class>/<file>`, or `<root>/<split>/<class>/<file>`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from regatta.core.errors import ConfigError, DataError
from regatta.core.registry import SOURCES
from regatta.data.manifest import SampleRow, SplitName
from regatta.data.sources import (
    SPLIT_ALIASES,
    VIDEO_SUFFIXES,
    FrameCount,
    Share,
    existing_root,
    only_split_one,
)
from regatta.data.splits import DEFAULT_TEST_FRACTION, assign_group_split


@SOURCES.register("folder")
def read_folder(
    root: Path,
    *,
    split: int,
    seed: int,
    group_pattern: str | None = None,
    segment_frames: FrameCount | None = None,
    test_fraction: Share = DEFAULT_TEST_FRACTION,
) -> list[SampleRow]:
    """Videos in one folder per class, with or without split folders above them.

    Args:
        root: links are followed; hidden files and folders are passed over.
        split: 1, there is no other.
        seed: of the group split, where there are no split folders.
        group_pattern: regular expression with one group, searched in the path below the root
            ("/" between folders); what the group matches is the sample's group. Without it each
            file name (less its suffix) is a group of its class.
        segment_frames: cut each file into pieces of this many frames.
        test_fraction: share held out for judging, where there are no split folders.
    Raises:
        DataError: no root, no class folder, class folders without a video, split folders and
            others mixed, a path that the pattern does not match.
        ConfigError: the pattern is not a regular expression with one group.
    """
    only_split_one(split, "folder")
    existing_root(root, "folder")
    pattern = None if group_pattern is None else _compiled(group_pattern)
    videos: list[tuple[SplitName, Path, Path]] = []
    left_out = list(_stray_files(root))
    empty: list[str] = []
    for split_name, folder in _class_folders(root):
        before = len(videos)
        for path in _visible(folder):
            if skip := _skip_reason(path):
                left_out.append(SampleRow(path, folder.name, "", skip_reason=skip))
                continue
            videos.append((split_name, folder, path))
        if len(videos) == before:
            empty.append(folder.relative_to(root).as_posix())
    if empty:
        raise DataError(
            f"class folder(s) without a video: {', '.join(empty)}",
            where=root,
            hint="add videos to them or move them elsewhere",
        )
    groups = _groups([path for _, _, path in videos], root, pattern)
    rows = [
        SampleRow(path, folder.name, group, split_name, segment_frames=segment_frames)
        for (split_name, folder, path), group in zip(videos, groups, strict=True)
    ]
    return assign_group_split(rows, seed, test_fraction=test_fraction) + left_out


def _class_folders(root: Path) -> list[tuple[SplitName, Path]]:
    """(split, class folder) pairs; the split is empty where there are no split folders."""
    folders = [path for path in _visible(root) if path.is_dir()]
    splits = [path for path in folders if path.name.lower() in SPLIT_ALIASES]
    if not splits:
        found: list[tuple[SplitName, Path]] = [("", path) for path in folders]
    elif len(splits) < len(folders):
        others = ", ".join(path.name for path in folders if path not in splits)
        raise DataError(
            f"split folders and others stand side by side: {others}",
            where=root,
            hint="have either <split>/<class>/<file> or <class>/<file>, not both",
        )
    else:
        found = [
            (SPLIT_ALIASES[parent.name.lower()], path)
            for parent in splits
            for path in _visible(parent)
            if path.is_dir()
        ]
    if not found:
        raise DataError(
            "there are no class folders here",
            where=root,
            hint="lay the videos out as <class>/<file> or <split>/<class>/<file>",
        )
    return found


def _stray_files(root: Path) -> Iterator[SampleRow]:
    """Videos above the class folders: of no class, so they are listed as left out."""
    above = [root, *(p for p in _visible(root) if p.name.lower() in SPLIT_ALIASES and p.is_dir())]
    for path in (path for folder in above for path in _visible(folder)):
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            yield SampleRow(path, "", "", skip_reason="stands outside the class folders")


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _skip_reason(path: Path) -> str:
    if path.is_dir():
        return "a folder inside a class folder is not read"
    return "" if path.suffix.lower() in VIDEO_SUFFIXES else "not a video by its name"


def _compiled(pattern: str) -> re.Pattern[str]:
    where = "data.options.group_pattern"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"not a regular expression: {error}", where=where) from error
    if compiled.groups != 1:
        raise ConfigError(
            f"the pattern has {compiled.groups} groups, not one",
            where=where,
            hint=r"put brackets around the source video's name, for example v_\w+_(g\d+)_",
        )
    return compiled


def _groups(paths: list[Path], root: Path, pattern: re.Pattern[str] | None) -> list[str]:
    if pattern is None:
        return [f"{path.parent.name}/{path.stem}" for path in paths]
    below = [path.relative_to(root).as_posix() for path in paths]
    groups = _searched(pattern.pattern, below)
    for name, group in zip(below, groups, strict=True):
        if not group:
            raise DataError(
                f"data.options.group_pattern does not match '{name}'",
                where=root,
                hint=f"the pattern is {pattern.pattern!r}; it is searched in the path below the "
                "root",
            )
    return groups


PATTERN_SECONDS = 20.0
_SEARCH = """
import json, re, sys
asked = json.load(sys.stdin)
search = re.compile(asked["pattern"]).search
json.dump([found and found[1] for found in map(search, asked["texts"])], sys.stdout)
"""


def _searched(pattern: str, texts: list[str]) -> list[str]:
    """What the pattern's group matches in each text. Some patterns try endlessly many ways, and
    nothing ends that in this process: hence another one."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH],
            input=json.dumps({"pattern": pattern, "texts": texts}),
            capture_output=True,
            text=True,
            check=True,
            timeout=PATTERN_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"searching the pattern in {len(texts)} paths takes more than {PATTERN_SECONDS:g} s",
            where="data.options.group_pattern",
            hint="repeat nothing that repeats already, as in (a+)+",
        ) from error
    return json.loads(done.stdout)
