"""What is passed on (results, report, cards) names no folder of its author's disk."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

ABSOLUTE_FOLDER = re.compile(r"(?<![\w.…])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:'\"<>|…]+[/\\])+")
_FOLDERS = r"(?:[/\\](?:[^\s/\\:'\"<>|]+[/\\])*)?"
_NO_MORE = r"(?=[\s/\\:'\"<>|,;.)\]]|$)"
"""Behind a whole name: it does not go on."""
_HOMES = re.compile(
    # A user's name may have spaces where it stands in the middle of a path.
    r"(?<![\w.…])(?:[A-Za-z]:)?[/\\](?:home|Users|Documents and Settings)[/\\]"
    rf"(?:[^/\\:'\"<>|\n]{{1,40}}(?=[/\\])|[^\s/\\:'\"<>|,;)\]]+){_FOLDERS}"
)
_known: set[str] = set()
"""Folders that are known by name, as people wrote them and as they are."""


def hide_below(*folders: Path | str | None) -> None:
    """From now on have `without_folders` hide these folders too, whatever stands in their names."""
    for folder in folders:
        if folder is not None:
            path = os.path.abspath(os.path.expanduser(folder))
            _known.update({path, os.path.realpath(path)})


def without_folders(text: object) -> str:
    """`text` without absolute folders: a report is passed on, its author's disk is not."""
    found = str(text)
    for place in sorted({*_known, *_always()}, key=len, reverse=True):
        if len(Path(place).parts) > 1 and place in found:
            found = re.sub(re.escape(place) + _NO_MORE + _FOLDERS, _shortened, found)
    return ABSOLUTE_FOLDER.sub("…/", _HOMES.sub(_shortened, found))


def _always() -> set[str]:
    """Home and working folder, as far as they are known."""
    places = {os.path.expanduser("~")}
    with suppress(OSError):
        places.add(os.getcwd())
    return places | {os.path.realpath(place) for place in places}


def _shortened(found: re.Match[str]) -> str:
    return "…/" if found[0].endswith(("/", "\\")) else "…"


def hide_folders(content: Any) -> Any:
    """JSON with `without_folders` for every text in it; keys stay."""
    if isinstance(content, str):
        return without_folders(content)
    if isinstance(content, dict):
        return {key: hide_folders(value) for key, value in content.items()}
    return [hide_folders(item) for item in content] if isinstance(content, list) else content
