"""The film-strips of the page say what the records hold, and nothing that cannot be trusted."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regatta.config.expand import protocol_id
from regatta.records.film import read_answers
from regatta.records.predictions import part_path
from regatta.records.run_folder import StudyFolder
from regatta.report.film import answer_view, film_view, frames_text
from regatta.report.material import Material, read_material
from tests.analysis.build import build_judged_study
from tests.report.film_build import add_film, film_of, judged_runs, strip_of
from tests.report.markup import parse


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Two entries, three seeds of the first, over 25 cells, in parts of 5 samples; no film."""
    folder = build_judged_study(
        tmp_path_factory.mktemp("film"),
        entries=["timesformer", "videomae"],
        samples=16,
        seeds=(0, 1, 2),
        unjudged=[("videomae", 1), ("videomae", 2)],
        part_samples=5,
        compare={"replicates": 200},
    )
    return read_material(folder)


@pytest.fixture
def material(judged: Material, tmp_path: Path) -> Material:
    """The same over files of its own."""
    copy = tmp_path / "demo"
    shutil.copytree(judged.folder.path, copy)
    return replace(judged, folder=StudyFolder(copy))


@pytest.fixture
def small(material: Material) -> StudyFolder:
    return material.folder


def view_of(material: Material) -> dict[str, Any]:
    view = film_view(material)
    assert view is not None
    return view


def test_a_study_without_film_shows_none(material: Material) -> None:
    assert film_view(material) is None


def test_strips_are_those_of_the_record(small: StudyFolder, material: Material) -> None:
    add_film(small)
    view = view_of(material)
    conditions = {c.id: c for c in judged_runs(small, "timesformer")[0].conditions}
    for sample in view["samples"]:
        for name, condition in conditions.items():
            for place, entry in enumerate(material.entries):
                strip = sample["strips"][sample["places"][name][place]]
                assert strip["pictures"] == strip_of(condition, entry)
    assert [row["strip"]["pictures"] for row in view["current"]] == [
        strip_of(conditions["c100s1"], entry) for entry in material.entries
    ]


def test_a_repeat_is_marked_and_a_first_showing_is_not(
    small: StudyFolder, material: Material
) -> None:
    add_film(small)
    view = view_of(material)
    for row in view["current"]:
        texts = [shot["text"] for shot in row["shots"]]
        marks = [shot["again"] for shot in row["shots"]]
        assert marks == [text in texts[:place] for place, text in enumerate(texts)]
    sample = view["samples"][0]
    held = sample["strips"][sample["places"]["c10s16"][0]]
    assert held["count"] == "8 pictures, 1 distinct"
    assert held["alt"] == "8 pictures, 1 distinct. Source frames: 0 (8 times)."
    cut = sample["strips"][sample["places"]["c50s16"][0]]
    assert cut["alt"] == "8 pictures, 2 distinct. Source frames: 0, 16 (7 times)."


def test_answers_are_those_of_the_predictions(small: StudyFolder, material: Material) -> None:
    film = add_film(small, count=12)
    view = view_of(material)
    for kept, sample in zip(film.samples, view["samples"], strict=True):
        for place, entry in enumerate(material.entries):
            runs = judged_runs(small, entry)
            for row, condition in enumerate(runs[0].conditions):
                column = runs[0].sample_ids.tolist().index(kept.sample_id)
                right = [bool(run.correct()[row, column]) for run in runs]
                said = sample["answers"][condition.id][place]
                wanted = {0: "wrong", len(right): "right"}.get(sum(right), "mixed")
                assert said["mark"] == wanted
                wrong = Counter(
                    run.classes[run.scores[row, column].argmax()]
                    for run, is_right in zip(runs, right, strict=True)
                    if not is_right
                )
                assert all(name in said["text"] for name in wrong)


@pytest.mark.parametrize(
    ("answers", "text", "mark"),
    [
        ([], "", "none"),
        ([(0, 0)], "right", "right"),
        ([(1, 0)], "wrong: says b", "wrong"),
        ([(0, 0), (0, 0)], "right in both seeds", "right"),
        ([(1, 0), (1, 0)], "wrong in both seeds; says b (2)", "wrong"),
        ([(0, 0), (1, 0), (2, 0)], "right in 1 of 3 seeds; says b (1), c (1)", "mixed"),
        ([(2, 2)] * 3, "right in all 3 seeds", "right"),
    ],
)
def test_answers_are_counted_in_words(answers: list[tuple[int, int]], text: str, mark: str) -> None:
    assert answer_view(answers, ["a", "b", "c"]) == {"text": text, "mark": mark}


def test_frames_behind_a_picture_are_named() -> None:
    assert frames_text([16]) == "16"
    assert frames_text([0, 1, 2, 3]) == "0–3"
    assert frames_text([0, 7, 13]) == "mean"


def test_a_wrong_part_number_still_finds_the_answers(small: StudyFolder) -> None:
    run = next(run for spec, run in small.runs() if spec.seed == 0)
    folder = run.predictions(protocol_id(small.study().protocol))
    name = str(judged_runs(small, "timesformer")[0].sample_ids[0])
    assert read_answers(folder, {name: 0}) == read_answers(folder, {name: 99})
    assert read_answers(folder, {"of-other-data.avi": 0}) == {}


def test_answers_that_cannot_be_read_are_left_out_with_a_note(
    small: StudyFolder, material: Material
) -> None:
    add_film(small)
    run = next(run for spec, run in small.runs() if spec.seed == 0)
    path = part_path(run.predictions(protocol_id(small.study().protocol)), 0)
    path.write_bytes(path.read_bytes()[:-9])
    view = view_of(material)
    assert any("answers to these samples cannot be read" in note for note in view["notes"])
    assert {a["mark"] for a in view["samples"][0]["answers"]["c100s1"]} == {"none"}


def test_film_of_other_data_is_left_out(small: StudyFolder, material: Material) -> None:
    add_film(small, settings={"manifest": "other"})
    view = view_of(material)
    assert view["samples"] == []
    assert "other data" in view["notes"][0]


def test_damaged_film_is_left_out_with_a_note(small: StudyFolder, material: Material) -> None:
    add_film(small)
    for sprite in small.film(protocol_id(small.study().protocol)).glob("*.jpg"):
        sprite.unlink()
    view = view_of(material)
    assert view["samples"] == []
    assert "cannot be shown" in view["notes"][0]


def test_what_is_missing_is_said(small: StudyFolder, material: Material) -> None:
    film = film_of(small)
    first, second, third = film.samples
    failed = replace(first, sprite=None, problem="cannot open /srv/private/x.avi: cut")
    assert second.sprite
    fewer = replace(second, sprite=replace(second.sprite, count=60))
    only = {"timesformer": third.strips["timesformer"]}
    add_film(
        small,
        samples=[failed, fewer, replace(third, strips=only)],
        inputs={"timesformer": film.inputs["timesformer"]},
        views={"c100s1": 15},
    )
    view = view_of(material)
    notes = " ".join(view["notes"])
    assert "could not be decoded again" in notes
    assert "/srv" not in notes
    assert "60 of 64 pictures have a thumbnail" in notes
    assert "c100s1 (15 views)" in notes
    assert "No strip was recorded for videomae" in notes
    assert len(view["samples"]) == 2
    assert view["samples"][1]["places"]["c100s1"][1] is None


def test_the_rule_of_the_choice_is_on_the_page(small: StudyFolder, material: Material) -> None:
    add_film(small)
    rule = view_of(material)["rule"]
    assert "3 samples from 1 of the 4 classes, drawn by seed 0" in rule
    assert "24 × 24 pixels" in rule


def page_of(folder: StudyFolder) -> str:
    return (folder.report / "report.html").read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="film-data">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def test_the_page_holds_every_sprite_and_no_address(grid_report: StudyFolder) -> None:
    page = page_of(grid_report)
    uris = re.findall(r"url\(([^)]*)\)", page)
    film = film_of(grid_report)
    assert [b64decode(uri.partition(",")[2]) for uri in uris] == [
        sample.sprite.content for sample in film.samples if sample.sprite
    ]
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris)
    assert len(data_of(page)["samples"]) == 3


def test_hostile_names_in_strips_stay_text(hostile_report: StudyFolder) -> None:
    page = page_of(hostile_report)
    root = parse(page)
    shown = root.by_id("film").text()
    assert '"><img src=x onerror=alert(1)>' in shown
    assert [e for e in root.by_id("film").everything() if e.tag == "img"] == []
    assert data_of(page)["samples"][0]["name"].startswith('"><img src=x')


def test_one_condition_alone_has_its_strips_too(hostile_report: StudyFolder) -> None:
    root = parse(page_of(hostile_report))
    links = [link.attributes["href"] for link in root.all("a")]
    assert "#film-strips" in links
    assert len(root.by_id("film-reels").everything()) > 32
