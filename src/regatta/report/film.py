"""The film-strips of the page: what each entry saw of a few samples, and what it answered."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from regatta.core.errors import RecordError
from regatta.core.passed_on import without_folders
from regatta.records.film import Film, FilmSample, Sprite, read_answers, read_film
from regatta.report.material import Material
from regatta.report.style import clean_text, shorten

LONGEST_NAME = 60
SHARP_BELOW = 40
"""Thumbnails with fewer pixels are shown as squares of colour, not smoothed over."""

Answers = dict[str, dict[str, list[tuple[int, int]]]]
"""Sample id -> condition id -> (predicted class, true class) of every run of an entry."""


def film_view(material: Material) -> dict[str, Any] | None:
    """Everything that the template and the script show; None where nothing was recorded.

    Texts are made here: the script only places them. `current` is the first sample at the headline
    condition, as the page shows it before any choice.
    """
    folder = material.folder.film(material.comparison["study"]["protocol_id"])
    try:
        film = read_film(folder)
    except RecordError as error:
        return _without_strips(f"The film-strips cannot be shown: {error.what}.")
    if film is None or not film.samples:
        return None
    judged_on = material.comparison["study"]["fingerprint"].get("manifest")
    if judged_on is not None and film.settings.get("manifest") != judged_on:
        return _without_strips("The film-strips belong to other data and are left out.")
    shown = [sample for sample in film.samples if sample.sprite is not None]
    answers, missing = _answers(material, shown)
    view = {
        "rule": _rule(film, material) if shown else "",
        "notes": [*_notes(film, material), *missing],
        "entries": [(entry, material.positions[entry]) for entry in material.entries],
        "samples": [_sample_view(sample, material, answers) for sample in shown],
        "sprites": [_sprite_view(sample.sprite) for sample in shown if sample.sprite],
    }
    return view | {"current": _current(view, material.comparison["headline_condition"])}


def _without_strips(note: str) -> dict[str, Any]:
    return {"samples": [], "notes": [note]}


def _rule(film: Film, material: Material) -> str:
    """How the samples were chosen and how a strip is read."""
    samples, total = len(film.samples), len(material.classes)
    classes = len({sample.label_name for sample in film.samples})
    among = f"{classes} of the {total} classes" if classes < total else f"the {total} classes"
    texts = [
        f"{samples} {'sample' if samples == 1 else 'samples'} from {among}, drawn by seed "
        f"{film.settings.get('seed')} before anyone looked at the answers.",
        _size_text(film),
        "Numbers are source frames, counted from the sample's first.",
        "A pale picture marked ↺ is one that the clip has shown before: it adds nothing new.",
    ]
    if any(len(frames) > 1 for sample in film.samples for frames in sample.pictures):
        texts.append("“mean”, or a range of numbers, is the mean of several frames.")
    return " ".join(texts)


def _size_text(film: Film) -> str:
    sides = sorted({sample.sprite.side for sample in film.samples if sample.sprite})
    taken = sorted({item.image_size for item in film.inputs.values()})
    own = " or ".join(f"{side} × {side}" for side in taken)
    if sides == taken:
        return f"Pictures are cut as the models take them, {own} pixels."
    shown = " or ".join(f"{side} × {side}" for side in sides)
    return f"Pictures are cut as the models take them and shown at {shown} pixels instead of {own}."


def _notes(film: Film, material: Material) -> list[str]:
    notes = [
        f"{_name(sample)} could not be decoded again for its strip: "
        f"{without_folders(clean_text(sample.problem or 'no reason was noted'))}."
        for sample in film.samples
        if sample.sprite is None
    ]
    notes += [
        f"Of {_name(sample)} {sample.sprite.count} of {len(sample.pictures)} pictures have a "
        "thumbnail; the others are empty boxes."
        for sample in film.samples
        if sample.sprite and sample.sprite.count < len(sample.pictures)
    ]
    if film.views:
        several = ", ".join(f"{name} ({count} views)" for name, count in film.views.items())
        notes.append(f"Conditions that average several views are shown by their first: {several}.")
    absent = [entry for entry in material.entries if entry not in film.inputs]
    if absent:
        notes.append(f"No strip was recorded for {', '.join(absent)}.")
    return notes


def _name(sample: FilmSample) -> str:
    return shorten(clean_text(sample.sample_id), LONGEST_NAME)


def _answers(
    material: Material, samples: Sequence[FilmSample]
) -> tuple[dict[str, Answers], list[str]]:
    """Entry -> what each of its runs answered, and a note where that cannot be read."""
    wanted = {sample.sample_id: sample.part for sample in samples}
    protocol = material.comparison["study"]["protocol_id"]
    found: dict[str, Answers] = {}
    for entry in material.entries:
        mine = found.setdefault(entry, {})
        for run in material.runs_of(entry):
            predictions = material.folder.run(run.spec.run_id).predictions(protocol)
            try:
                answers = read_answers(predictions, wanted)
            except RecordError as error:
                return {}, [f"The answers to these samples cannot be read: {error.what}."]
            for sample_id, cells in answers.items():
                for condition, answer in cells.items():
                    mine.setdefault(sample_id, {}).setdefault(condition, []).append(answer)
    return found, []


def _sprite_view(sprite: Sprite) -> dict[str, Any]:
    return {
        "uri": f"data:image/jpeg;base64,{b64encode(sprite.content).decode('ascii')}",
        "scale": sprite.pitch / sprite.side,
        "columns": sprite.columns,
        "rows": sprite.rows,
        "sharp": sprite.side < SHARP_BELOW,
    }


def _sample_view(
    sample: FilmSample, material: Material, answers: dict[str, Answers]
) -> dict[str, Any]:
    """A sample as plain values for the page.

    strips: distinct strips, each the pictures in order, a count in words and the alternative text;
    places: condition id -> per entry the number of its strip, or None; answers: condition id -> per
    entry what it answered. labels: source frames of every picture.
    """
    assert sample.sprite is not None
    strips: dict[tuple[int, ...], int] = {}
    places: dict[str, list[int | None]] = {}
    said: dict[str, list[dict[str, str]]] = {}
    for condition in (c["id"] for c in material.comparison["conditions"]):
        places[condition], said[condition] = [], []
        for entry in material.entries:
            strip = sample.strips.get(entry, {}).get(condition)
            number = strips.setdefault(tuple(strip), len(strips)) if strip else None
            places[condition].append(number)
            given = answers.get(entry, {}).get(sample.sample_id, {}).get(condition, [])
            said[condition].append(answer_view(given, material.classes))
    labels = [frames_text(frames) for frames in sample.pictures]
    return {
        "name": f"{_class_name(sample.label_name)}: {_name(sample)}",
        "facts": _facts(sample),
        "columns": sample.sprite.columns,
        "count": sample.sprite.count,
        "labels": labels,
        "strips": [_strip_view(strip, labels) for strip in strips],
        "places": places,
        "answers": said,
    }


def _class_name(name: str) -> str:
    return shorten(clean_text(name), LONGEST_NAME)


def _facts(sample: FilmSample) -> str:
    return (
        f"Class {_class_name(sample.label_name)}, group {shorten(clean_text(sample.group), 60)}, "
        f"{sample.frames} frames at {sample.fps:.4g} per second: {clean_text(sample.sample_id)}"
    )


def frames_text(frames: Sequence[int]) -> str:
    """The source frames behind a picture: "16"; of a mean "0–15", or "mean" if they have gaps."""
    if len(frames) == 1:
        return str(frames[0])
    is_whole = all(later == earlier + 1 for earlier, later in pairwise(frames))
    return f"{frames[0]}–{frames[-1]}" if is_whole else "mean"


def _strip_view(strip: Sequence[int], labels: Sequence[str]) -> dict[str, Any]:
    shown = [(labels[place], len(list(same))) for place, same in groupby(strip)]
    words = ", ".join(f"{name} ({times} times)" if times > 1 else name for name, times in shown)
    count = f"{len(strip)} pictures, {len(set(strip))} distinct"
    return {"pictures": list(strip), "count": count, "alt": f"{count}. Source frames: {words}."}


def answer_view(answers: Sequence[tuple[int, int]], classes: Sequence[str]) -> dict[str, str]:
    """How the runs of an entry answered, in words, and right, wrong, mixed or none as a mark."""
    if not answers:
        return {"mark": "none", "text": ""}
    wrong = Counter(_class_name(classes[given]) for given, truth in answers if given != truth)
    right, total = len(answers) - wrong.total(), len(answers)
    mark = "right" if right == total else "mixed" if right else "wrong"
    if total == 1:
        return {"mark": mark, "text": "right" if right else f"wrong: says {next(iter(wrong))}"}
    all_seeds = "both seeds" if total == 2 else f"all {total} seeds"
    if right == total:
        return {"mark": mark, "text": f"right in {all_seeds}"}
    head = f"right in {right} of {total} seeds" if right else f"wrong in {all_seeds}"
    says = ", ".join(f"{name} ({count})" for name, count in wrong.most_common())
    return {"mark": mark, "text": f"{head}; says {says}"}


def _current(view: dict[str, Any], condition: str) -> list[dict[str, Any]]:
    """Per entry the strip of the first sample at `condition`, with all that the template needs."""
    if not view["samples"]:
        return []
    sample = view["samples"][0]
    rows = []
    for number, answer in zip(
        sample["places"][condition], sample["answers"][condition], strict=True
    ):
        strip = None if number is None else sample["strips"][number]
        rows.append({"answer": answer, "strip": strip, "shots": _shots(strip, sample)})
    return rows


def _shots(strip: dict[str, Any] | None, sample: dict[str, Any]) -> list[dict[str, Any]]:
    seen: set[int] = set()
    shots = []
    for place in strip["pictures"] if strip else []:
        row, column = divmod(place, sample["columns"])
        shots.append(
            {
                "x": column,
                "y": row,
                "text": sample["labels"][place],
                "again": place in seen,
                "missing": place >= sample["count"],
            }
        )
        seen.add(place)
    return shots
