"""Promises of explanations: known tracks give their own numbers; what is not seen is not said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from regatta.core.errors import RecordError
from regatta.data.scenes.cameras import camera_ring, project
from regatta.data.scenes.settings import CLASSES
from regatta.evaluation.explain import (
    NOT_MEASURED,
    answer_fields,
    explain_predictions,
    measured_fields,
    template_text,
    write_explanations,
)
from regatta.evaluation.wording import problem_of
from regatta.records.conditions import Condition
from regatta.records.predictions import RunPredictions
from regatta.records.scenes import read_explanations
from tests.evaluation.scene_tracks import track, turning

CAMERAS = camera_ring(4, 64)
S = np.arange(37) / 31
AXIS = np.array([2.0, 1.0, 2.0]) / 3
HELIX = turning(S, axis=AXIS, radius=0.52, turns=1.3, phase=1.0, middle=(0, 0.1, 0), rise=0.94)
CIRCLE = turning(S, axis=AXIS, radius=0.4, turns=1.5, phase=1.0, middle=(0, 0.1, 0))
LINE = S[:, None] * [1.0, -1.0, 0.5] + [-0.6, 0.6, 0]
FALL = np.stack([S - 0.5, 0.8 * S - 0.4, 1.6 * S - 1.6 * S**2], axis=1)
TRACKS = np.stack([LINE, CIRCLE, HELIX, FALL])


def seen(tracks: np.ndarray) -> np.ndarray:
    """Centres [N, V, T, 2] of the 32 shown places, without any error."""
    return np.moveaxis(project(CAMERAS, tracks[:, :32])[0], 0, 1)


def predictions(scores: np.ndarray, positions: np.ndarray | None = None, horizon: int = 5) -> Any:
    count = len(scores)
    blank: Any = np.array([f"s{n}" for n in range(count)])
    noisy, clean = Condition("noise"), Condition("clean", is_reference=True)
    return RunPredictions(
        run_id="r",
        entry="e",
        seed=0,
        conditions=[noisy, clean],
        classes=list(CLASSES),
        sample_ids=blank,
        groups=blank,
        labels=np.arange(count) % 4,
        scores=np.stack([np.zeros_like(scores), scores]).astype(np.float32),
        truth={},
        clip_keys=blank,
        fingerprint={},
        cost={},
        ceiling={},
        positions=None if positions is None else np.stack([0 * positions, positions]),
        targets=None,
        horizon_frames=horizon if positions is not None else None,
    )


SURE = np.log(
    np.array([[0.9, 0.05, 0.04, 0.01], [0.02, 0.91, 0.07, 0], [0, 0.07, 0.91, 0.02]]) + 1e-9
)


def test_a_known_screw_gives_its_own_numbers():
    fields = measured_fields(CAMERAS, seen(TRACKS))[2]
    assert fields["measured_shape"] == "helical"
    assert (fields["radius"], fields["turns"], fields["rise"]) == (0.52, 1.3, 0.94)
    centred = HELIX[:32] - HELIX[:32].mean(axis=0)
    least = np.sqrt(np.linalg.eigvalsh(centred.T @ centred / 32)[0])
    assert fields["plane_residual"] == round(least, 2)
    assert fields["pixel_residual"] == 0


def test_every_form_is_measured_as_what_it_is():
    line, circle, _, fall = measured_fields(CAMERAS, seen(TRACKS))
    assert [f["measured_shape"] for f in (line, circle, fall)] == [
        "linear",
        "circular",
        "parabolic",
    ]
    assert (circle["radius"], circle["turns"], circle["rise"]) == (0.4, 1.5, 0)
    assert line["acceleration"] == 0
    assert fall["acceleration"] == pytest.approx(3.2)
    assert "radius" not in line
    assert "radius" not in fall


def test_noise_in_the_pictures_shows_as_pixel_residual():
    noisy = seen(TRACKS) + np.random.default_rng(0).normal(0, 0.2, (4, 4, 32, 2))
    fields = measured_fields(CAMERAS, noisy)
    # Eight coordinates of noise less three that the place takes up: 0.2 sqrt(5/4) px.
    for field in fields:
        assert field["pixel_residual"] == pytest.approx(0.2 * np.sqrt(1.25), abs=0.04)


def test_the_text_is_the_one_of_the_specification():
    scores = np.log(np.array([[0.01, 0.07, 0.91, 0.01]]))
    places = np.array([[0.31, -0.44, 0.60]])
    found = explain_predictions(predictions(scores, places), CAMERAS, seen(HELIX[None]))[0]
    distance = np.linalg.norm(places[0] - (HELIX[31] + 5 * (HELIX[31] - HELIX[30])))
    assert template_text(found) == (
        "helical (0.91; circular 0.07). Track: radius 0.52, 1.3 turns, rise 0.94, plane residual "
        f"{found['plane_residual']:.2f}, pixel residual 0.00; its shape, helical, agrees. "
        f"Forecast (0.31, -0.44, 0.60), {distance:.2f} from constant velocity."
    )
    assert found["agrees"] is True


def test_one_view_measures_no_place_and_says_so():
    places = np.zeros((3, 3))
    one = explain_predictions(
        predictions(SURE, places), CAMERAS.select([0]), seen(TRACKS[:3])[:, :1]
    )
    for fields in one:
        unknown = ("measured_shape", "agrees", "plane_residual", "from_constant_velocity")
        assert {fields[name] for name in unknown} == {NOT_MEASURED}
        assert fields["views"] == 1
        text = template_text(fields)
        assert "Track: not measured." in text
        assert "constant velocity not measured" in text
        assert "radius" not in fields


def test_an_object_that_was_hardly_found_is_not_measured():
    pixels = seen(TRACKS)
    pixels[2, :, 3:] = np.nan
    fields = measured_fields(CAMERAS, pixels)
    assert [f["measured_shape"] == NOT_MEASURED for f in fields] == [False, False, True, False]


def test_a_shape_that_disagrees_is_said():
    # Sure of a line, a circle and a screw, of which the last two are shown the other way around.
    found = explain_predictions(predictions(SURE), CAMERAS, seen(TRACKS[[0, 2, 1]]))
    assert [fields["agrees"] for fields in found] == [True, False, False]
    assert "its shape, helical, does not agree" in template_text(found[1])
    assert "Forecast" not in template_text(found[1])


def test_a_place_in_the_last_frame_is_not_called_a_forecast():
    found = explain_predictions(
        predictions(SURE, np.ones((3, 3)), horizon=0), CAMERAS, seen(TRACKS[:3])
    )
    assert template_text(found[0]).endswith("Last place (1.00, 1.00, 1.00).")
    assert "from_constant_velocity" not in found[0]


def test_chances_are_a_softmax_and_the_first_of_equal_ones_wins():
    fields = answer_fields(CLASSES, np.zeros(4, np.float32), np.array([-0.001, 0, 1]), horizon=5)
    assert (fields["class"], fields["runner_up"]) == ("linear", "circular")
    assert (fields["probability"], fields["runner_up_probability"]) == (0.25, 0.25)
    assert str(fields["forecast"][0]) == "0.0"


def test_every_template_holds_measured_numbers_only():
    rng = np.random.default_rng(5)
    tracks = np.stack([track(form, rng) for form in CLASSES for _ in range(10)])
    said = predictions(rng.normal(size=(40, 4)), rng.normal(size=(40, 3)))
    noisy = seen(tracks) + rng.normal(0, 0.2, (40, 4, 32, 2))
    for fields in explain_predictions(said, CAMERAS, noisy):
        assert problem_of(template_text(fields), fields) is None


def test_the_file_holds_a_line_per_sample_for_the_readers(tmp_path):
    said = predictions(SURE, np.zeros((3, 3)))
    write_explanations(tmp_path, said, CAMERAS, seen(TRACKS[:3]))
    first = (tmp_path / "explanations.jsonl").read_bytes()
    lines = [json.loads(line) for line in first.decode().splitlines()]
    assert [line["sample"] for line in lines] == ["s0", "s1", "s2"]
    assert {(line["source"], line["accepted"]) for line in lines} == {("template", True)}
    assert all(line["text"] == template_text(line["fields"]) for line in lines)
    assert [e.text for e in read_explanations(tmp_path)] == [line["text"] for line in lines]
    assert not re.search(r"NaN|Infinity", first.decode())
    write_explanations(tmp_path, said, CAMERAS, seen(TRACKS[:3]))
    assert (tmp_path / "explanations.jsonl").read_bytes() == first


def test_tracks_of_other_samples_are_refused(tmp_path):
    with pytest.raises(RecordError, match="4 tracks for 3"):
        write_explanations(tmp_path, predictions(SURE), CAMERAS, seen(TRACKS))
    assert replace(predictions(SURE)).positions is None
