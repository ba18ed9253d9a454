"""How the files of a scene are made and named, below the data folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Codec = Literal["ffv1", "h264"]
Layout = Literal["views", "tiled"]


@dataclass(frozen=True)
class Storage:
    """How the pictures of a scene lie on disk."""

    codec: Codec = "ffv1"
    """ffv1 = lossless; h264 loses a little, and more with a larger crf."""
    crf: int = 18
    layout: Layout = "views"
    """tiled = one video with all views side by side, in reading order."""


SUFFIX_OF = {"ffv1": ".mkv", "h264": ".mp4"}


def video_names(scene_id: str, cameras: int, storage: Storage) -> list[str]:
    """One per camera, or a single one with all views side by side."""
    suffix = SUFFIX_OF[storage.codec]
    if storage.layout == "tiled":
        return [f"videos/{scene_id}{suffix}"]
    return [f"videos/{scene_id}_cam{view}{suffix}" for view in range(cameras)]


def label_name(scene_id: str) -> str:
    return f"labels/{scene_id}.json"
