"""An answer in words: a template filled with measured numbers, which a language model may reword.

What is measured comes from the centres of the object in the pictures that the model was shown. A
single camera measures no place, and then those fields read "not measured".

Shapes: N samples, K classes, V views, T frames; lengths in world units.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regatta.core.errors import RecordError
from regatta.core.files import plain, write_text
from regatta.data.scenes.cameras import Cameras, triangulate
from regatta.evaluation.track_baselines import constant_velocity, fill_gaps
from regatta.evaluation.track_shape import (
    FORMS,
    fit_turns,
    measure_tracks,
    recognise_forms,
)
from regatta.evaluation.wording import Asked, Wording, word
from regatta.records.predictions import RunPredictions

FILE = "explanations.jsonl"
NOT_MEASURED = "not measured"
GEOMETRY = ("measured_shape", "agrees", "plane_residual", "acceleration", "pixel_residual")


def measured_fields(cameras: Cameras, pixels_NVT2: np.ndarray) -> list[dict[str, Any]]:
    """What the seen track of each sample is measured to be; "not measured" where it is not.

    Args:
        cameras: V, those whose pictures were shown. pixels_NVT2: (x, y), NaN where not found.
    Returns:
        Per sample the fields of GEOMETRY but `agrees`, and of a turning track radius, turns and
        rise.
    """
    tracks_NT3, residual_NT = triangulate(cameras, np.moveaxis(pixels_NVT2, 1, 0))
    tracks_NT3 = fill_gaps(tracks_NT3)
    numbers = measure_tracks(tracks_NT3)
    forms_N = recognise_forms(numbers)
    fields: list[dict[str, Any]] = []
    for row, form in enumerate(forms_N):
        if form < 0:
            fields.append(dict.fromkeys([n for n in GEOMETRY if n != "agrees"], NOT_MEASURED))
            continue
        square = residual_NT[row][np.isfinite(residual_NT[row])] ** 2
        fields.append(
            {
                "measured_shape": FORMS[form],
                "plane_residual": round(float(numbers.singular_N3[row, 2]), 2),
                "acceleration": round(float(numbers.acceleration_N[row]), 2),
                "pixel_residual": round(float(np.sqrt(square.mean())), 2),
            }
        )
    for name in ("circular", "helical"):
        rows = np.flatnonzero(forms_N == FORMS.index(name))
        if len(rows):
            _add_turns(fields, rows, tracks_NT3[rows], rises=name == "helical")
    return fields


def _add_turns(
    fields: list[dict[str, Any]], rows: np.ndarray, tracks_NT3: np.ndarray, *, rises: bool
) -> None:
    fit = fit_turns(tracks_NT3, rises=rises)
    for place, row in enumerate(rows):
        fields[row] |= {
            "radius": round(float(fit.radius_N[place]), 2),
            "turns": round(float(fit.turns_N[place]), 1),
            "rise": round(abs(float(fit.rise_N[place])), 2),
        }


def answer_fields(
    classes: Sequence[str], scores_K: np.ndarray, place_3: np.ndarray | None, *, horizon: int
) -> dict[str, Any]:
    """The class with its probability, the runner-up, and the place that was said."""
    shifted_K = scores_K.astype(np.float64) - scores_K.max()
    chance_K = np.exp(shifted_K) / np.exp(shifted_K).sum()
    # The first of equal scores wins, as everywhere.
    first, second = np.argsort(-chance_K, kind="stable")[:2]
    said = {
        "class": classes[first],
        "probability": round(float(chance_K[first]), 2),
        "runner_up": classes[second],
        "runner_up_probability": round(float(chance_K[second]), 2),
        "frames_ahead": horizon,
    }
    if place_3 is None:
        return said
    # Adding zero turns -0.0, which reads as a number of its own, into 0.0.
    return said | {"forecast": [round(float(value), 2) + 0.0 for value in place_3]}


def template_text(fields: Mapping[str, Any]) -> str:
    """The fields in two or three sentences; nothing else stands in them.

    "helical (0.91; circular 0.07). Track: radius 0.52, 1.3 turns, rise 0.94, plane residual 0.21
    ..." as the study's specification words it.
    """
    answer = (
        f"{fields['class']} ({fields['probability']:.2f}; {fields['runner_up']} "
        f"{fields['runner_up_probability']:.2f})."
    )
    return " ".join(part for part in (answer, _track_text(fields), _place_text(fields)) if part)


def _track_text(fields: Mapping[str, Any]) -> str:
    if fields["measured_shape"] == NOT_MEASURED:
        return f"Track: {NOT_MEASURED}."
    parts = []
    if "radius" in fields:
        parts.append(f"radius {fields['radius']:.2f}, {fields['turns']:.1f} turns")
        parts.append(f"rise {fields['rise']:.2f}")
    parts.append(f"plane residual {fields['plane_residual']:.2f}")
    if "radius" not in fields:
        parts.append(f"acceleration {fields['acceleration']:.2f}")
    parts.append(f"pixel residual {fields['pixel_residual']:.2f}")
    agrees = "agrees" if fields["agrees"] else "does not agree"
    return f"Track: {', '.join(parts)}; its shape, {fields['measured_shape']}, {agrees}."


def _place_text(fields: Mapping[str, Any]) -> str:
    if "forecast" not in fields:
        return ""
    place = ", ".join(f"{value:.2f}" for value in fields["forecast"])
    if not fields["frames_ahead"]:
        return f"Last place ({place})."
    distance = fields["from_constant_velocity"]
    if distance == NOT_MEASURED:
        return f"Forecast ({place}), distance from constant velocity {NOT_MEASURED}."
    return f"Forecast ({place}), {distance:.2f} from constant velocity."


def explain_predictions(
    predictions: RunPredictions, cameras: Cameras, pixels_NVT2: np.ndarray
) -> list[dict[str, Any]]:
    """The fields of each sample, in the order of the predictions, at the reference condition.

    Args:
        cameras, pixels_NVT2: of the views that the run's model takes.
    """
    at = next((i for i, c in enumerate(predictions.conditions) if c.is_reference), 0)
    horizon = predictions.horizon_frames or 0
    measured = measured_fields(cameras, pixels_NVT2)
    ahead_N3 = np.full((len(measured), 3), np.nan)
    if len(cameras) > 1:
        tracks, _ = triangulate(cameras, np.moveaxis(pixels_NVT2, 1, 0))
        ahead_N3 = constant_velocity(fill_gaps(tracks), ahead=horizon)
    explained = []
    for row, geometry in enumerate(measured):
        place = None if predictions.positions is None else predictions.positions[at, row]
        scores_K = predictions.scores[at, row]
        fields = answer_fields(predictions.classes, scores_K, place, horizon=horizon)
        fields |= geometry | {"views": len(cameras), "agrees": NOT_MEASURED}
        if geometry["measured_shape"] != NOT_MEASURED:
            fields["agrees"] = geometry["measured_shape"] == fields["class"]
        if place is not None and horizon:
            gap = float(np.linalg.norm(place - ahead_N3[row]))
            fields["from_constant_velocity"] = round(gap, 2) if np.isfinite(gap) else NOT_MEASURED
        explained.append(fields)
    return explained


def write_explanations(
    folder: Path,
    predictions: RunPredictions,
    cameras: Cameras,
    pixels_NVT2: np.ndarray,
    *,
    wording: Wording | None = None,
    worded: int = 64,
    poll: Callable[[], None] | None = None,
) -> Asked:
    """Write `explanations.jsonl`: sample, fields, text, source, accepted.

    Args:
        folder: of the run's predictions. wording: who words the first `worded` texts anew; a reply
            with a number that is not among the fields is refused, and the template stands.
        poll: called before each question; may raise to leave.
    Raises:
        RecordError: there are not as many tracks as predictions.
    """
    if len(pixels_NVT2) != len(predictions.sample_ids):
        raise RecordError(
            f"{len(pixels_NVT2)} tracks for {len(predictions.sample_ids)} predictions", where=folder
        )
    asked, lines = Asked(), []
    for row, fields in enumerate(explain_predictions(predictions, cameras, pixels_NVT2)):
        text = template_text(fields)
        record = {"text": text, "source": "template", "accepted": True}
        if wording is not None and row < worded and asked.goes_on:
            if poll is not None:
                poll()
            record |= word(wording, fields, asked)
        facts = {"sample": str(predictions.sample_ids[row]), "fields": fields, **record}
        lines.append(json.dumps(plain(facts), allow_nan=False) + "\n")
    write_text(folder / FILE, "".join(lines))
    return asked
