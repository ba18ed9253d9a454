"""The published grid: its identical cells, as the published tables themselves betray them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from regatta.core.errors import ConfigError
from regatta.evaluation.protocols import degenerate_groups, plan_all, still_conditions
from tests.evaluation.designs import resolve

STILL = ["c10s8", "c10s16", "c25s16"]
IDENTICAL_AT_50 = {
    8: [STILL, ["c75s8", "c100s8"], ["c75s16", "c100s16"]],
    16: [STILL, ["c75s4", "c100s4"]],
    32: [STILL, ["c75s2", "c100s2"]],
}


def groups(frames: int, model_frames: int, base: str = "all") -> list[list[str]]:
    plans = plan_all(resolve("temporal-grid-legacy", base=base), frames, 25.0, model_frames)
    return degenerate_groups(plans)


@pytest.mark.parametrize("model_frames", IDENTICAL_AT_50)
def test_50_frame_clips_have_exactly_the_published_identical_cells(model_frames):
    assert groups(50, model_frames) == IDENTICAL_AT_50[model_frames]


@pytest.mark.parametrize("model_frames", [16, 32])
def test_a_base_of_four_times_the_model_is_the_clip_itself_where_that_is_shorter(model_frames):
    assert groups(50, model_frames, "4T") == IDENTICAL_AT_50[model_frames]


def test_a_base_of_32_frames_makes_six_cells_of_an_8_frame_model_one_still_picture():
    """Windows of 3, 8, 16, 24 and 32 base frames; 3 and 8 and 16 hold one frame at 4, 8 and 16."""
    still = ["c10s4", "c10s8", "c10s16", "c25s8", "c25s16", "c50s16"]
    assert groups(50, 8, "4T") == [still, ["c75s8", "c100s8"], ["c75s16", "c100s16"]]
    plans = plan_all(resolve("temporal-grid-legacy", base="4T"), 50, 25.0, 8)
    assert still_conditions(plans) == still


def test_equal_counts_in_the_published_table_are_the_identical_cells(shared_data: Path):
    """VideoMAE, T = 16, 12,227 segments of 50 frames: a tie to the last sample is no accident."""
    path = shared_data / "published-results" / "videomae_ucf101_temporal_sampling.csv"
    correct: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cell = f"c{row['coverage']}s{row['stride']}"
            correct.setdefault(row["correct"], []).append(cell)
    tied = {frozenset(cells) for cells in correct.values() if len(cells) > 1}
    assert tied == {frozenset(group) for group in groups(50, 16)}


def test_a_one_frame_clip_is_one_cell_25_times():
    assert [len(group) for group in groups(1, 8)] == [25]


def test_axes_ids_and_reference_are_those_of_the_grid():
    legacy, grid = resolve("temporal-grid-legacy"), resolve("temporal-grid")
    assert legacy.conditions == grid.conditions
    assert legacy.axes == grid.axes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "8T"}, "'all' or '4T'"),
        ({"coverage": [0]}, "coverage is 1 to 100, got 0"),
        ({"stride": [1, 1]}, "lists 1 twice"),
        ({"placement": "centre"}, "unknown option 'placement' of protocol temporal-grid-legacy"),
    ],
)
def test_bad_options_say_what_and_where(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve("temporal-grid-legacy", **options)
    assert str(caught.value.where).startswith("protocol.options")
