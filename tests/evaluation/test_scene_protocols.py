"""Promises of the protocol of scenes: conditions, what is refused, what is left out and said."""

from __future__ import annotations

import pytest

from regatta.core.errors import ConfigError, UnknownNameError
from regatta.data.scenes.settings import SceneSettings
from regatta.evaluation.scene_protocols import fit_protocol
from tests.evaluation.tiny_scenes import protocol


def ids(design):
    return [condition.id for condition in design.conditions]


def test_all_disturbances_of_the_study_are_conditions_and_clean_is_the_reference():
    design = protocol()
    assert ids(design) == [
        "clean",
        *(f"{how}-{n}" for how in ("prefix", "spread") for n in (16, 8, 4)),
        *(f"stride-{n}" for n in (2, 4, 8)),
        *(f"noise-{sd}" for sd in ("0.05", "0.1", "0.2")),
        *("blur-1", "blur-2", "dropped-0.1", "dropped-0.25", "dropped-0.5"),
        *("camera-1", "camera-3", "camera-5"),
        *("distractors-1", "distractors-3", "distractors-6"),
        *("views-missing-1", "views-missing-2", "views-missing-3"),
        *("h264-18", "h264-28", "h264-38", "occluder", "single-frame", "shuffled-frames"),
    ]
    assert [c.id for c in design.conditions if c.is_reference] == ["clean"]
    assert all(set(c.axes) == {"disturbance", "level"} for c in design.conditions)
    assert design.ood == ("radius", "turns", "small-rise", "figure-eight")
    assert not design.attention
    assert not design.explain
    assert design.wording is None


def test_none_of_the_conditions_is_the_clean_pictures_alone():
    design = protocol(conditions="none", ood="none", explain=True, attention=True)
    assert ids(design) == ["clean"]
    assert (design.ood, design.explain, design.attention) == ((), True, True)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"frames": [8, 8]}, "frames"),
        ({"frames": [1]}, "frames"),
        ({"stride": [1]}, "stride"),
        ({"noise": [0.0]}, "noise"),
        ({"noise": [0.1, 0.1]}, "noise"),
        ({"dropped": [1.0]}, "dropped"),
        ({"camera": [90]}, "camera"),
        ({"distractors": [7]}, "distractors"),
        ({"crf": [52]}, "crf"),
        ({"ood": ["radius", "radius"]}, "ood"),
        ({"attention_samples": 0}, "attention_samples"),
        ({"explain_endpoint": "file:///etc/passwd", "explain_model": "m"}, "explain_endpoint"),
        ({"explain_endpoint": "http://localhost/v1"}, "explain_model"),
        ({"ood": ["square"]}, "ood"),
    ],
)
def test_levels_that_cannot_be_are_refused_by_name(options, where):
    with pytest.raises(ConfigError) as caught:
        protocol(**options)
    assert str(caught.value.where).startswith(f"protocol.options.{where}")


def test_an_unknown_option_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match="distractor"):
        protocol(distractor=[1])


def test_a_protocol_of_any_data_shows_scenes_as_they_are():
    design = protocol("plain")
    assert design.show is None
    assert len(design.conditions) == 1
    assert design.order(["a"], 4, design.conditions[0]).tolist() == [[0, 1, 2, 3]]


def test_what_the_study_does_not_allow_is_left_out_with_its_reason():
    design = fit_protocol(protocol(), frames=16, views=[0], can_render=False)
    gone = set(ids(protocol())) - set(ids(design))
    assert gone == {
        *("prefix-16", "spread-16", "camera-1", "camera-3", "camera-5", "occluder"),
        *(f"distractors-{n}" for n in (1, 3, 6)),
        *(f"views-missing-{n}" for n in (1, 2, 3)),
    }
    assert all(any(note.startswith(f"{name} is not") for note in design.notes) for name in gone)
    assert design.ood == ()
    assert any("outside the training ranges" in note for note in design.notes)


def test_as_many_views_may_be_missing_as_leave_one():
    design = fit_protocol(protocol(), frames=32, views=[0, 1, 2], can_render=True)
    assert set(ids(protocol())) - set(ids(design)) == {"views-missing-3"}
    assert len(design.notes) == 1
    assert design.ood == protocol().ood
    whole = fit_protocol(protocol(), frames=32, views=[0, 1, 2, 3], can_render=True)
    assert ids(whole) == ids(protocol())
    assert whole.notes == ()


def test_what_the_pictures_have_already_is_no_disturbance_of_them():
    settings = SceneSettings(distractors=3, occluder=True)
    design = fit_protocol(protocol(), frames=32, views=range(4), can_render=True, settings=settings)
    gone = set(ids(protocol())) - set(ids(design))
    assert gone == {"distractors-1", "distractors-3", "occluder"}
    assert len(design.notes) == 3
