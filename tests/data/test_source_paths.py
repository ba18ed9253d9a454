"""Source paths: each class has the form its name says, and nothing but the form."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from regatta.core.errors import ConfigError, DataError
from regatta.core.registry import SOURCES
from regatta.data.manifest import SampleRow
from regatta.data.sources.paths import (
    FAMILIES,
    PathSettings,
    plan_path,
    read_paths,
)
from regatta.data.sources.rotors import read_rotors

SMALL: dict[str, Any] = {"train_clips": 8, "validation_clips": 4, "test_clips": 4, "frames": 16}
FINE = PathSettings(frames=400, generator_seed=3)


def generate(root: Path, **options: Any) -> list[SampleRow]:
    return read_paths(root, split=1, seed=7, **{**SMALL, **options})


def paths(family: str, count: int = 25) -> list[np.ndarray]:
    """Finely sampled positions [N, 2] of `count` clips of one class."""
    first = FAMILIES.index(family)  # type: ignore[arg-type]
    return [plan_path(FINE, "train", first + len(FAMILIES) * n) for n in range(count)]


def steps(path: np.ndarray) -> np.ndarray:
    return np.hypot(*np.diff(path, axis=0).T)


def test_linear_paths_are_straight_and_even():
    for path in paths("linear"):
        spread = np.linalg.svd(path - path.mean(axis=0), compute_uv=False)
        assert spread[1] < 1e-9 * spread[0]
        assert np.ptp(steps(path)) < 1e-9


def test_circular_paths_keep_one_distance_and_turn_either_way():
    senses = set()
    for path in paths("circular"):
        # A circle is x^2 + y^2 = 2 a x + 2 b y + c: linear in its centre (a, b).
        design = np.column_stack([2 * path, np.ones(len(path))])
        (a, b, _), *_ = np.linalg.lstsq(design, (path**2).sum(axis=1), rcond=None)
        away = np.hypot(path[:, 0] - a, path[:, 1] - b)
        assert np.ptp(away) < 1e-3 * away.mean()
        angle = np.unwrap(np.arctan2(path[:, 1] - b, path[:, 0] - a))
        turns = (angle[-1] - angle[0]) / (2 * math.pi)
        assert 0.6 <= abs(turns) <= 0.95
        senses.add(np.sign(turns))
    assert senses == {-1, 1}


def test_parabolic_paths_have_one_constant_acceleration():
    for path in paths("parabolic"):
        time = np.arange(len(path))
        residual = [
            np.abs(np.polyval(np.polyfit(time, path[:, axis], 2), time) - path[:, axis]).max()
            for axis in (0, 1)
        ]
        assert max(residual) < 1e-3
        velocity = np.diff(path, axis=0)
        assert np.linalg.norm(velocity[-1] - velocity[0]) > np.linalg.norm(velocity[200])


def test_zigzag_paths_turn_back_and_forth_at_sharp_corners():
    for path in paths("zigzag"):
        heading = np.unwrap(np.arctan2(*np.diff(path, axis=0).T[::-1]))
        # Three places apart: a corner may lie between two frames. Then the most of each run.
        turns = np.degrees(heading[3:] - heading[:-3])
        sharp = np.flatnonzero(np.abs(turns) > 20)
        runs = np.split(sharp, np.flatnonzero(np.diff(sharp) > 1) + 1)
        corners = [max(turns[run], key=abs) for run in runs]
        assert 2 <= len(corners) <= 4
        assert all(one * other < 0 for one, other in pairwise(corners))
        assert all(79 < abs(turn) < 121 for turn in corners)


def test_every_class_shares_one_range_of_lengths_and_places():
    lengths = {family: [steps(path).sum() / 63 for path in paths(family)] for family in FAMILIES}
    for values in lengths.values():
        assert min(values) >= 0.45 - 0.005
        assert max(values) <= 0.70 + 0.005
        assert min(values) < 0.52
        assert max(values) > 0.63
    everything = np.concatenate([path for family in FAMILIES for path in paths(family)]) / 63
    assert everything.min() >= 0.12 - 1e-9
    assert everything.max() <= 0.88 + 1e-9


@pytest.mark.parametrize("codec", ["h264", "xvid"])
def test_decoded_blob_follows_the_planned_path(tmp_path, codec):
    settings = PathSettings(**SMALL, codec=codec, generator_seed=7)
    for row in generate(tmp_path, codec=codec)[:8]:
        with av.open(str(row.path)) as container:
            images = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        assert images.shape == (16, 64, 64, 3)
        light = np.clip(images.mean(axis=3) / 255 - 0.45, 0, None)
        total, grid = light.sum(axis=(1, 2)), np.arange(64)
        seen = np.column_stack([light.sum(axis=1) @ grid, light.sum(axis=2) @ grid])
        planned = plan_path(settings, row.split, int(row.path.stem[-5:]))
        assert np.abs(seen / total[:, None] - planned).max() < 0.7


def test_rows_name_balanced_splits_and_classes(tmp_path):
    rows = generate(tmp_path)
    assert Counter(row.split for row in rows) == {"train": 8, "validation": 4, "test": 4}
    assert Counter(row.label_name for row in rows) == dict.fromkeys(FAMILIES, 4)
    assert len({row.group for row in rows}) == 16
    assert rows[0].path == tmp_path / "train" / "linear" / "trajectory-00000.mp4"
    assert SOURCES.get("paths") is read_paths


def test_second_call_restores_what_is_missing_with_the_same_bytes(tmp_path):
    rows = generate(tmp_path)
    whole = rows[5].path.read_bytes()
    kept = rows[4].path.stat().st_mtime_ns
    rows[5].path.unlink()
    assert generate(tmp_path) == rows
    assert rows[5].path.read_bytes() == whole
    assert rows[4].path.stat().st_mtime_ns == kept


def test_other_settings_and_other_sources_need_another_root(tmp_path):
    generate(tmp_path)
    with pytest.raises(DataError, match="size_px is 64, not 32"):
        generate(tmp_path, size_px=32)
    with pytest.raises(DataError, match="source is paths, not rotors"):
        read_rotors(tmp_path, split=1, seed=7)


def test_some_families_can_be_picked(tmp_path):
    rows = generate(tmp_path, families=["circular", "zigzag"])
    assert {row.label_name for row in rows} == {"circular", "zigzag"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ["linear"]}, "families"),
        ({"families": ["linear", "linear"]}, "families"),
        ({"families": ["linear", "spiral"]}, "families"),
        ({"frames": 1}, "frames"),
        ({"size_px": 63}, "size_px"),
        ({"noise": 2.0}, "noise"),
        ({"test_clips": 3}, "test_clips"),
        ({"codec": "gif"}, "codec"),
    ],
)
def test_impossible_paths_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PathSettings(**options)


def test_there_is_one_split(tmp_path):
    with pytest.raises(ConfigError, match="one split"):
        read_paths(tmp_path, split=3, seed=0)
