"""Readers of layouts on disk: one function per file, registered in `core.registry.SOURCES`.

A source gets `root`, `split` and `seed` from the study's `data:` section, and everything in
`data.options` by keyword; `data.scan` checks those against the types of its signature. It returns
one `SampleRow` per sample, in a list or with remarks in a `Listing`, and opens no video: the scan
finds out whether a file exists and decodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from regatta.core.errors import ConfigError, DataError
from regatta.data.manifest import SplitName

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m4v", ".mkv", ".mov"}
    | {".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)
"""Suffixes read as videos; other files beside them are listed in the manifest and left out."""

SPLIT_ALIASES: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Spellings of a split on disk -> its one name in Regatta."""

FrameCount = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
GroupBy = Literal["video", "clip"]
"""What stays in one split: all clips of a source video, or each clip alone (as published)."""


def existing_root(root: Path, source: str) -> Path:
    """`root` when it is a folder (or a link to one); DataError with the next step otherwise."""
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(
            f"the data folder of source '{source}' {problem}",
            where=root,
            hint="set data.root (or --root) to the folder that holds the videos",
        )
    return root


def only_split_one(split: int, source: str) -> None:
    """ConfigError when a study asks for split 2 or 3 of a layout that has a single one."""
    if split != 1:
        raise ConfigError(
            f"source '{source}' has one split, but data.split is {split}",
            where="data.split",
            hint="remove data.split, or vary data.split_seed to draw another one",
        )
