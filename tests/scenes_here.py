"""Studies of scenes that are small enough for a test: real files, decoder and worker code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEFT_OUT = ("stride", "noise", "blur", "dropped", "camera", "distractors", "crf")
"""Disturbances that these studies do not judge."""
SHAPE = {"frames": 8, "image_size": 32}
DATA = {"per_class": 15, "cameras": 2, "frames": 8, "size": 32}


def scene_entry(name: str, extractor: str = "magvit", **options: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": "trajectory",
        "size": "tiny",
        "options": {"extractor": extractor, **SHAPE, **options},
    }


def scene_mapping(root: Path | None, **sections: Any) -> dict[str, Any]:
    """Two entries of one camera, one of two; a section's keys go over these.

    Args:
        root: folder of the files; None = drawn from the seed.
    """
    data = {"root": str(root)} if root else {}
    content: dict[str, Any] = {
        "name": "small",
        "data": {
            "source": "trajectories",
            "split_seed": 5,
            "options": {**DATA, "stream": root is None},
            **data,
        },
        "entries": [
            scene_entry("frames"),
            scene_entry("paths", "slowfast"),
            scene_entry("both", views=[0, 1]),
        ],
        "train": {"epochs": 2, "lr": 3e-3, "select_by": "joint", "keep_every_epochs": 2},
        "protocol": {
            "name": "trajectories",
            "batch_size": 8,
            "options": {
                **{name: [] for name in LEFT_OUT},
                "frames": [4],
                "occluder": False,
                "ood": ["figure-eight"],
                "attention": True,
                "attention_samples": 4,
                "explain": True,
            },
        },
        "compare": {"replicates": 100},
        "launch": {"threads_per_run": 1, "max_parallel": 3},
    }
    for name, keys in sections.items():
        mapped = isinstance(keys, Mapping) and isinstance(content.get(name), dict)
        content[name] = {**content[name], **keys} if mapped else keys
    return content
