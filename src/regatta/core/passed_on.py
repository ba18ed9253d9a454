"""What is passed on (results, report, cards) names no folder of its author's disk."""

from __future__ import annotations

import re
from typing import Any

ABSOLUTE_FOLDER = re.compile(r"(?<![\w.…])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:'\"<>|]+[/\\])+")


def without_folders(text: object) -> str:
    """`text` without absolute folders: a report is passed on, its author's disk is not."""
    return ABSOLUTE_FOLDER.sub("…/", str(text))


def hide_folders(content: Any) -> Any:
    """JSON with `without_folders` for every text in it; keys stay."""
    if isinstance(content, str):
        return without_folders(content)
    if isinstance(content, dict):
        return {key: hide_folders(value) for key, value in content.items()}
    return [hide_folders(item) for item in content] if isinstance(content, list) else content
