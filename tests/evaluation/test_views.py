"""Several views of a clip: where they lie, when they coincide, and which one is the reference."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.core.errors import ConfigError
from regatta.data.frame_plan import PlanCondition, plan_frames
from regatta.evaluation.protocols import Protocol, View, plan_all
from tests.evaluation.designs import resolve

totals = st.integers(1, 400)
model_frame_counts = st.integers(1, 40)
strides = st.integers(1, 9)


def views_of(protocol: Protocol, total: int, model_frames: int) -> dict[str, tuple[View, ...]]:
    return {
        condition.id: protocol.plan_views(total, 30.0, condition, model_frames, sample_id="a")
        for condition in protocol.conditions
    }


def test_published_numbers_of_views_and_crops():
    protocol = resolve("multi-view")
    views = views_of(protocol, 300, 16)
    assert {name: len(found) for name, found in views.items()} == {
        "v1x1": 1,
        "v5x3": 15,
        "v10x3": 30,
    }
    assert [view.crop for view in views["v5x3"][:3]] == [0.0, 0.5, 1.0]
    starts = sorted({view.plan.indices[0] for view in views["v5x3"]})
    assert starts == [0, 59, 118, 177, 236]
    assert protocol.average == "probability"


@given(st.integers(1, 40), model_frame_counts, strides)
def test_one_view_is_the_centre_clip(extra, frames, stride):
    """On a clip that has room: the centred window of model frames x stride."""
    length = frames * stride
    total = length + extra
    (view,) = views_of(resolve("multi-view", stride=stride), total, frames)["v1x1"]
    window = PlanCondition(length / total, stride_frames=stride, placement="centre")
    assert view == View(plan_frames(total, 30.0, window, frames), 0.5)


@given(totals, model_frame_counts, strides, st.integers(1, 12), st.integers(1, 5))
def test_views_stay_in_the_clip_and_reach_both_ends(total, frames, stride, clips, crops):
    name = f"{clips}x{crops}"
    views = views_of(resolve("multi-view", views=[name], stride=stride), total, frames)[f"v{name}"]
    assert len(views) == clips * crops
    length = min(total, frames * stride)
    for view in views:
        assert 0 <= view.plan.indices[0] <= view.plan.indices[-1] < total
        assert view.plan.indices[-1] - view.plan.indices[0] < length
    starts = [view.plan.indices[0] for view in views]
    if clips > 1:
        assert (min(starts), max(starts)) == (0, total - length)
    places = [view.crop for view in views[:crops]]
    assert places == ([0.5] if crops == 1 else [n / (crops - 1) for n in range(crops)])


@given(model_frame_counts, strides, st.data())
def test_views_of_a_short_clip_are_one_plan(frames, stride, data):
    total = data.draw(st.integers(1, frames * stride))
    for views in views_of(resolve("multi-view", stride=stride), total, frames).values():
        assert len({view.plan.unique_key for view in views}) == 1


@given(totals, model_frame_counts)
def test_an_odd_number_of_clips_and_crops_holds_the_one_view(total, frames):
    views = views_of(resolve("multi-view"), total, frames)
    assert views["v1x1"][0] in views["v5x3"]


def test_fewest_views_are_the_reference_wherever_they_stand():
    assert resolve("multi-view", views=["5x3", "2x1"]).reference.id == "v2x1"
    assert resolve("multi-view", views=["10x1"], average="logit").average == "logit"


def test_several_views_are_no_single_plan():
    protocol = resolve("multi-view")
    with pytest.raises(ConfigError, match="15 views, not one plan"):
        protocol.plan(100, 25.0, protocol.conditions[1], 8)


@given(totals, model_frame_counts, st.integers(1, 100), st.integers(1, 8).map(lambda n: 2 * n + 1))
def test_sliding_windows_step_evenly_from_start_to_end(total, frames, coverage, windows):
    protocol = resolve("sliding", windows=windows, coverage=coverage)
    plans = list(plan_all(protocol, total, 30.0, frames).values())
    length = max(1, total * coverage // 100)
    room = total - length
    starts = [plan.indices[0] for plan in plans]
    if frames > 1:
        assert starts == [n * room // (windows - 1) for n in range(windows)]
    assert all(plan.indices[-1] - plan.indices[0] < length for plan in plans)
    assert {plan.distinct_frames for plan in plans} == {min(frames, length)}
    middle = PlanCondition(coverage / 100, stride_frames=1, placement="centre")
    assert plans[windows // 2] == plan_frames(total, 30.0, middle, frames)


def test_sliding_positions_are_percent_of_the_free_room():
    protocol = resolve("sliding")
    assert [c.id for c in protocol.conditions][:5] == ["at0", "at12.5", "at25", "at37.5", "at50"]
    assert [c.axes["position"] for c in protocol.conditions] == [12.5 * n for n in range(9)]
    assert protocol.reference.id == "at50"
    sevenths = [c.axes["position"] for c in resolve("sliding", windows=7).conditions]
    assert all(math.isclose(p, 100 * n / 6, abs_tol=0.005) for n, p in enumerate(sevenths))


def test_sliding_by_hand():
    """40 frames, windows of 10 at 0, 15 and 30; every third frame of them."""
    protocol = resolve("sliding", windows=3, stride=3)
    plans = plan_all(protocol, 40, 25.0, 4)
    assert plans["at0"].indices == (0, 3, 6, 9)
    assert plans["at50"].indices == (15, 18, 21, 24)
    assert plans["at100"].indices == (30, 33, 36, 39)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("multi-view", {"views": []}, "empty"),
        ("multi-view", {"views": ["5"]}, "written NxM, got '5'"),
        ("multi-view", {"views": ["0x3"]}, "written NxM, got '0x3'"),
        ("multi-view", {"views": ["5 x 3"]}, "clips x crops"),
        ("multi-view", {"views": ["5x3", "5x3"]}, "lists 5x3 twice"),
        ("multi-view", {"views": ["101x1"]}, "at most 100"),
        ("multi-view", {"views": [3]}, "valid string"),
        ("multi-view", {"stride": 0}, "stride is 1 or more, got 0"),
        ("multi-view", {"average": "votes"}, "'probability' or 'logit'"),
        ("multi-view", {"view": ["5x3"]}, "did you mean 'views'"),
        ("sliding", {"windows": 4}, "windows is odd"),
        ("sliding", {"windows": 1}, "windows is 3 to 101, got 1"),
        ("sliding", {"coverage": 0}, "coverage is 1 to 100, got 0"),
        ("sliding", {"coverage": [25]}, "valid integer"),
        ("sliding", {"stride": 0}, "stride is 1 or more"),
    ],
)
def test_bad_options_say_what_and_where(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(name, **options)
    assert str(caught.value.where).startswith("protocol.options")
