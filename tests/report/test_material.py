"""The comparison as grids, marks and browser records, on hand-made comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.records.run_folder import StudyFolder
from regatta.report.browser import browser_view
from regatta.report.contents import fact_text, interval_cell
from regatta.report.material import Material
from regatta.report.page import verdict_parts
from regatta.report.truths import condition_truths

COVERAGES, STRIDES = (50, 100), (1, 4)


def row(model: str, coverage: int, stride: int, **values: Any) -> dict[str, Any]:
    known = {
        "accuracy": coverage / 100 - stride / 100,
        "accuracy_low": None,
        "accuracy_high": None,
        "identical_to": [],
        "still_share": 0.0,
        "ceiling": None,
        "distinct_frames": 4.0,
        "span_seconds": 1.0,
        "rate_hz": None,
        "pad_share": 0.5,
    }
    place = {
        "model": model,
        "condition": f"c{coverage}s{stride}",
        "coverage": coverage,
        "stride": stride,
    }
    return {**place, **known, **values}


def material(rows: list[dict[str, Any]], *, sentence: str = "x") -> Material:
    entries = list(dict.fromkeys(r["model"] for r in rows))
    places = {r["condition"]: {"coverage": r["coverage"], "stride": r["stride"]} for r in rows}
    comparison = {
        "table": rows,
        "axes": ["coverage", "stride"],
        "entries": [{"name": name} for name in entries],
        "conditions": [{"id": id, "axes": axes} for id, axes in places.items()],
        "headline_condition": rows[-1]["condition"],
        "verdict": {"sentence": sentence},
        "per_class": {
            "classes": ["a", "b"],
            "accuracy": {name: [[0.5, None]] * len(places) for name in entries},
        },
    }
    positions = {name: place for place, name in enumerate(entries)}
    return Material(StudyFolder(Path("demo")), comparison, positions, [], [])


def full_grid(model: str = "vivit", **values: Any) -> list[dict[str, Any]]:
    return [row(model, c, s, **values) for c in COVERAGES for s in STRIDES]


def test_a_column_becomes_a_grid_of_ascending_axes() -> None:
    found = material(list(reversed(full_grid())))
    assert found.axes is not None
    assert found.axes.coverages == (50.0, 100.0)
    assert found.axes.strides == (1.0, 4.0)
    assert found.grid("vivit", "accuracy", 100).tolist() == [[49.0, 46.0], [99.0, 96.0]]


def test_a_hole_in_the_grid_is_not_measured() -> None:
    found = material(full_grid()[:-1])
    assert found.cell_ids.tolist() == [["c50s1", "c50s4"], ["c100s1", ""]]
    assert np.isnan(found.grid("vivit", "accuracy")[1, 1])


def test_other_axes_are_no_grid() -> None:
    found = material(full_grid())
    for condition in found.comparison["conditions"]:
        condition["axes"] = {"frames": 4}
    assert found.axes is None


def test_identical_cells_share_a_letter_and_others_have_none() -> None:
    rows = full_grid()
    rows[0]["identical_to"], rows[1]["identical_to"] = ["c50s4"], ["c50s1"]
    rows[1]["still_share"] = 1.0
    marks = material(rows).marks("vivit")
    assert marks.twins.tolist() == [["a", "a"], ["", ""]]
    assert marks.still.tolist() == [[False, True], [False, False]]


def test_two_groups_of_identical_cells_have_two_letters() -> None:
    rows = full_grid()
    rows[0]["identical_to"], rows[1]["identical_to"] = ["c50s4"], ["c50s1"]
    rows[2]["identical_to"], rows[3]["identical_to"] = ["c100s4"], ["c100s1"]
    assert material(rows).marks("vivit").twins.tolist() == [["b", "b"], ["a", "a"]]


def test_a_ceiling_is_drawn_only_where_one_is_known() -> None:
    assert material(full_grid()).entry_grid("vivit").ceiling is None
    known = material(full_grid(ceiling=0.75)).entry_grid("vivit").ceiling
    assert known is not None
    assert known.tolist() == [[75.0, 75.0], [75.0, 75.0]]


def test_a_class_without_samples_is_not_measured() -> None:
    found = material(full_grid()).class_accuracy_by_coverage("vivit")
    assert found[0].tolist() == [50.0, 50.0]
    assert np.isnan(found[1]).all()


def test_the_scale_covers_accuracies_and_ceilings() -> None:
    scale = material(full_grid(ceiling=1.0)).scale
    assert (scale.vmin, scale.vmax) == (46.0, 100.0)


def test_conditions_are_named_in_words() -> None:
    found = material(full_grid())
    assert found.condition_name("c50s4") == "coverage 50 %, stride 4"
    found.comparison["conditions"][0] = {"id": "plain", "axes": {}}
    assert found.condition_name("plain") == "condition plain"


def test_the_browser_knows_every_cell_and_starts_at_the_headline() -> None:
    view = browser_view(material(full_grid("vivit") + full_grid("videomae", rate_hz=8.0)))
    assert view is not None
    assert set(view["cells"]) == {"50|1", "50|4", "100|1", "100|4"}
    assert view["chosen"] == ["100", "4"]
    assert [axis["choices"][-1] for axis in view["axes"]] == [("100", "100 %"), ("4", "4")]
    first, second = view["cells"]["50|1"]["entries"]
    assert first["texts"]["rate_hz"] == "none"
    assert second["texts"]["rate_hz"] == "8.0"
    assert first["texts"]["interval"] == ""
    assert (first["low"], first["accuracy"]) == (None, 49.0)


def test_a_single_condition_needs_no_browser() -> None:
    assert browser_view(material([row("vivit", 100, 1)])) is None


def test_notes_say_which_entries_see_a_still_frame() -> None:
    rows = full_grid("vivit", still_share=1.0) + full_grid("videomae", still_share=0.25)
    view = browser_view(material(rows))
    assert view is not None
    assert view["current"]["note"] == (
        "Condition c100s4. In every clip vivit sees one still frame again and again. "
        "videomae sees one still frame in 25 % of the clips."
    )


def test_truths_join_entries_that_share_a_truth() -> None:
    rows = full_grid("vivit") + full_grid("videomae")
    for place in (0, 4):
        rows[place]["still_share"] = 1.0
    rows[5]["identical_to"], rows[4]["identical_to"] = ["c50s1"], ["c50s4"]
    assert condition_truths(material(rows)) == [
        "vivit and videomae: one still frame in c50s1.",
        "videomae: identical clips in c50s1 = c50s4.",
    ]


@pytest.mark.parametrize(
    ("said", "verdict", "basis"),
    [
        (
            "vivit is ahead of videomae by 3.1 points [1.2, 5.0], paired over 412 groups, 3 seeds",
            "vivit is ahead of videomae by 3.1 points [1.2,\u00a05.0].",
            "Paired over 412 groups, 3 seeds.",
        ),
        (
            "vivit is right on 80 %; nothing to compare",
            "vivit is right on 80 %.",
            "Nothing to compare.",
        ),
        ("nothing can be said", "Nothing can be said.", ""),
    ],
)
def test_the_verdict_stands_apart_from_what_it_rests_on(
    said: str, verdict: str, basis: str
) -> None:
    assert verdict_parts(material(full_grid(), sentence=said)) == (verdict, basis)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("rate_hz", None, "none"), ("ceiling", None, "not measured"), ("span_seconds", 0.126, "0.13")],
)
def test_facts_that_are_missing_are_said_in_words(
    name: str, value: float | None, text: str
) -> None:
    assert fact_text(name, value, 1.0) == text


def test_an_interval_without_ends_shows_the_value_alone() -> None:
    assert interval_cell({"estimate": 0.5, "low": None, "high": None}, factor=100).text == "50.0"
    assert interval_cell({"estimate": -1.2, "low": -3.0, "high": 0.1}, signed=True).text == (
        "−1.2 [−3.0, +0.1]"
    )
    assert interval_cell({}).text == "not measured"
