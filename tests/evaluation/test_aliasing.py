"""Point and box filter: the same places in time, and nothing but the filter between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.core.errors import ConfigError
from regatta.evaluation.protocols import identical_to, plan_all
from tests.evaluation.designs import resolve

totals = st.integers(1, 400)
model_frame_counts = st.integers(1, 64)
strides = st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True)


def test_conditions_stand_in_pairs_with_one_reference():
    protocol = resolve("antialias", stride=[4, 2])
    assert [c.id for c in protocol.conditions] == ["s4-point", "s4-box", "s2-point", "s2-box"]
    assert protocol.reference.id == "s2-point"
    assert protocol.conditions[1].axes == {"stride": 4, "filter": "box"}


@given(totals, model_frame_counts, strides)
def test_each_pair_has_the_same_truth_and_the_point_lies_in_its_box(total, frames, wanted):
    plans = plan_all(resolve("antialias", stride=wanted), total, 30.0, frames)
    for stride in wanted:
        point, box = plans[f"s{stride}-point"], plans[f"s{stride}-box"]
        assert point.blends is None
        for picture, segment in zip(point.indices, box.shown, strict=True):
            assert picture in segment
            assert len(segment) == min(stride, total)
        for name in ("distinct_frames", "span_seconds", "rate_hz", "mean_gap_frames", "pad_share"):
            assert getattr(point, name) == getattr(box, name)


@given(totals, model_frame_counts)
def test_without_a_stride_there_is_nothing_to_filter(total, frames):
    plans = plan_all(resolve("antialias"), total, 30.0, frames)
    assert plans["s1-box"] == plans["s1-point"]


def test_published_strides_on_50_frames():
    plans = plan_all(resolve("antialias"), 50, 25.0, 8)
    assert plans["s16-point"].indices == (0, 16, 32, 32, 32, 32, 32, 32)
    assert plans["s16-box"].shown[2] == tuple(range(32, 48))
    assert plans["s8-point"].indices == (0, 8, 16, 24, 32, 40, 40, 40)
    assert identical_to(plans) == {"s1-box": "s1-point"}


def test_points_are_the_cells_of_the_grid_on_a_64_frame_clip():
    points = plan_all(resolve("antialias"), 64, 32.0, 16)
    grid = plan_all(resolve("temporal-grid", coverage=[100]), 64, 32.0, 16)
    for stride in (1, 2, 4, 8, 16):
        assert points[f"s{stride}-point"] == grid[f"c100s{stride}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": [0]}, "stride is 1 or more, got 0"),
        ({"stride": []}, "empty"),
        ({"stride": [2, 2]}, "lists 2 twice"),
        ({"filter": "gauss"}, "unknown option 'filter'"),
        ({"pad": "reflect"}, "hold-last"),
    ],
)
def test_bad_options_say_what_and_where(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve("antialias", **options)
    assert str(caught.value.where).startswith("protocol.options")
