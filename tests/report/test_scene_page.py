"""What a report says of a study of scenes: the verdict on places first, and numbers that are those
of the comparison."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.analysis.compare import compare_study
from regatta.config.expand import protocol_id
from regatta.core.files import read_json
from regatta.core.seeds import stream
from regatta.records.run_folder import StudyFolder
from regatta.report.page import write_report
from regatta.report.scene_figures import change_panels
from regatta.report.scene_part import faithfulness_text, shortcut_sentences
from regatta.report.scene_pictures import overlay
from regatta.report.words import corruption_words, words_of
from tests.analysis.scene_build import (
    ROBUST,
    build_scene_study,
    drawn_scenes,
    right_scores,
    write_attention,
    write_explanations,
)

SCENES = drawn_scenes(48)
SIZES = {"i3d": 0.05, "magvit": 0.4}
HOSTILE = '<img src=x onerror="alert(1)">'


def text_of(page: str) -> str:
    """What a reader sees: tags, script and style taken away, white space made one blank."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", bare)))


def places(name: str, seed: int) -> np.ndarray:
    rng = stream(seed, "places", name)
    return SCENES.targets + SIZES[name] * rng.normal(size=(len(ROBUST), 48, 3))


def scores(name: str, seed: int) -> np.ndarray:
    rng = stream(seed, "scores", name)
    right = [rng.uniform(size=48) < (0.9 if name == "i3d" else 0.5) for _ in ROBUST]
    return np.stack([right_scores(SCENES.labels, each) for each in right])


def build(path: Path, **more: Any) -> StudyFolder:
    none = np.full((48, 3), np.nan)
    wrong = np.where(np.arange(48) < 29, SCENES.labels, (SCENES.labels + 1) % 4)
    settings: dict[str, Any] = {
        "conditions": ROBUST,
        "baselines": [
            ("last-position", "pixels", np.full(48, -1), SCENES.last),
            ("speed-only", "oracle", wrong, none),
        ],
        "ood": {"figure-eight": (np.full(12, -1), np.zeros((12, 4), np.float32), none[:12])},
        **more,
    }
    entries = {name: {"extractor": name} for name in SIZES}
    return build_scene_study(path, entries, SCENES, places=places, scores=scores, **settings)


def add_pictures(folder: StudyFolder) -> None:
    """Two texts and maps of two scenes for the first entry."""
    spec, run = folder.runs()[0]
    predictions = run.predictions(protocol_id(folder.study().protocol))
    assert spec.entry.name == "i3d"
    texts = [
        {"sample": SCENES.ids[0], "fields": {}, "text": "linear (0.91; circular 0.07).",
         "source": "template", "accepted": True},
        {"sample": SCENES.ids[1], "text": HOSTILE, "source": "other", "accepted": True},
    ]  # fmt: skip
    write_explanations(predictions, texts)
    frames = np.full((2, 32, 3, 16, 16), 255, dtype=np.uint8)
    maps = np.linspace(0, 1, 2 * 32 * 256, dtype=np.float32).reshape(2, 32, 16, 16)
    record = {
        "samples": SCENES.ids[:2], "labels": [0, 1], "predicted": [0, 2], "method": "gradient",
        "faithfulness": {"mass_in_disc": 0.3, "area_share": 0.01, "ratio": 30.0, "accuracy": 0.9,
                         "accuracy_top_deleted": 0.4, "accuracy_random_deleted": 0.85,
                         "deleted_share": 0.1},
    }  # fmt: skip
    write_attention(predictions, frames, maps, record)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    built = build(tmp_path_factory.mktemp("scenes"))
    add_pictures(built)
    compare_study(built)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGATTA_FIGURE_FORMATS", "svg")
        write_report(built)
    return built


@pytest.fixture(scope="module")
def page(folder: StudyFolder) -> str:
    return (folder.report / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def section(folder: StudyFolder) -> dict[str, Any]:
    return read_json(folder.results / "comparison.json")["scenes"]


def test_section_begins_with_the_verdict_on_places(page: str) -> None:
    start = page.index('<section id="trajectories">')
    head = text_of(page[start : start + 800])
    assert "i3d is closer than magvit: MSE lower by" in head
    assert "i3d is closer than magvit" in text_of(page[: page.index('id="raced"')])
    assert 'href="#trajectories"' in page


def test_errors_on_the_page_are_those_of_the_comparison(page: str, section: dict[str, Any]) -> None:
    shown = text_of(page).replace("\N{MINUS SIGN}", "-")
    for entry in section["targets"][0]["entries"]:
        low, high = (f"{entry['mse'][end]:#.3g}" for end in ("low", "high"))
        assert f"{entry['mse']['estimate']:#.3g} [{low}, {high}]" in shown


def test_page_has_every_part_of_the_section(page: str) -> None:
    for title in (
        "All entries together",
        "What needs no learning",
        "Class by class",
        "Under changed conditions",
        "Outside the ranges of training",
        "What was looked at",
        "A few answers in words",
    ):
        assert f">{title}<" in page, title


def test_name_kept_from_elsewhere_is_printed_as_what_it_is(page: str) -> None:
    assert "frame CNN + attention (magvit)" in text_of(page)


def test_forecast_that_does_not_beat_staying_is_said(page: str) -> None:
    assert "The forecast of magvit is worse than the last position seen" in text_of(page)


def test_gradient_is_never_called_attention(page: str) -> None:
    text = text_of(page)
    assert "i3d: gradient (of a gradient, not of attention weights)" in text
    assert "the disc holds 30.0 times its share of the map" in text.replace("The", "the")
    assert "without the top 10 % of pixels 40.0 %, without a random 10 % 85.0 %" in text


def test_worded_text_is_marked_and_harmless(page: str) -> None:
    assert HOSTILE not in page
    assert HOSTILE in text_of(page)
    assert "worded by a model (other)" in text_of(page)
    assert "linear (0.91; circular 0.07)." in text_of(page)


@pytest.mark.parametrize(
    "name",
    ["error_by_class", "forecast_examples", "robustness", "attention", "accuracy_vs_cost"],
)
def test_every_figure_is_written(folder: StudyFolder, name: str) -> None:
    picture = (folder.report / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    assert "<path" in picture


def test_page_speaks_of_scenes_and_of_conditions_in_words(page: str) -> None:
    text = text_of(page)
    assert "Scenes judged" in text
    assert "frames shuffled" in text
    assert "first 8 frames" in text


def test_study_without_tracks_or_baselines_says_what_is_not_measured(tmp_path: Path) -> None:
    right = right_scores(SCENES.labels, np.ones(48, dtype=bool))[None]
    folder = build_scene_study(
        tmp_path, {"i3d": {}}, SCENES, truth=False, places=lambda *_: SCENES.targets[None] + 0.1,
        scores=lambda *_: right, targets=np.full((48, 3), np.nan),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGATTA_FIGURE_FORMATS", "svg")
        write_report(folder)
    text = text_of((folder.report / "report.html").read_text(encoding="utf-8"))
    assert "errors are not measured" in text
    assert "Baselines were not judged." in text
    assert "Errors of places are not measured, so none are drawn." in text
    assert "nan" not in text.lower().split()


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"disturbance": "clean", "level": 0}, "unchanged scenes"),
        ({"disturbance": "dropped", "level": 0.25}, "25 % of frames dropped"),
        ({"disturbance": "camera", "level": 3}, "cameras turned by 3°"),
        ({"disturbance": "something", "level": 2}, "something 2"),
        ({"corruption": "fog", "level": 2}, "fog, level 2"),
        ({"coverage": 50}, None),
    ],
)
def test_condition_in_words(axes: dict[str, Any], words: str | None) -> None:
    assert corruption_words(axes) == words


def test_words_of_a_source_of_scenes() -> None:
    found = words_of("trajectories", [])
    assert (found.sample, found.samples) == ("scene", "scenes")
    # A multiply-add is two floating point operations.
    assert (found.operations, found.operations_per_flop) == ("MACs per scene", 0.5)


def test_shortcuts_that_are_not_beaten_are_named() -> None:
    rows = [
        {"entry": "a", "shortcut": "speed-only", "is_above": True},
        {"entry": "b", "shortcut": "speed-only", "is_above": False},
        {"entry": "a", "shortcut": "box-and-speed", "is_above": True},
        {"entry": "b", "shortcut": "box-and-speed", "is_above": True},
    ]
    first, second = shortcut_sentences({"above_shortcuts": rows})
    assert first == "b: not above speed-only by an interval that leaves out 0"
    assert second == "every entry is above box-and-speed by an interval that leaves out 0"


def test_faithfulness_that_was_not_measured_is_not_made_up() -> None:
    assert faithfulness_text({}) == "Faithfulness: not measured."
    assert "times its share" not in faithfulness_text({"ratio": None})


def test_map_colours_only_where_it_is() -> None:
    frame = np.full((3, 2, 2), 255, dtype=np.uint8)
    found = overlay(frame, np.array([[0.0, 0.0], [0.0, 1.0]]))
    assert found[0, 0].tolist() == [1.0, 1.0, 1.0]
    # Three quarters of (178, 24, 43) over white.
    expected = [(0.25 * 255 + 0.75 * c) / 255 for c in (178, 24, 43)]
    assert found[1, 1].tolist() == pytest.approx(expected)


def test_changes_with_levels_have_panels_and_the_others_share_one(
    section: dict[str, Any],
) -> None:
    names = {c.id: c.id for c in ROBUST}
    panels = change_panels(section, list(SIZES), names)
    assert [panel.title for panel in panels] == [
        "frames, from the start",
        "pixel noise, sd",
        "other changes",
    ]
    assert panels[1].ticks == ["as is", "0.1", "0.2"]
    assert not panels[2].is_ordered
    assert [row["condition"] for row in panels[1].rows["i3d"]] == [
        "clean",
        "noise-0.1",
        "noise-0.2",
    ]


def test_networks_that_were_never_published_start_from_random_weights(page: str) -> None:
    assert "random weights" in text_of(page)
    assert "published weights" not in text_of(page)
