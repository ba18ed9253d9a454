"""The page of every protocol: its figure, its tables, its sentences, and the motion section."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import pytest

from regatta.analysis.compare import compare_study
from regatta.core.files import read_json, write_json
from regatta.records.run_folder import StudyFolder
from regatta.report.material import read_material
from regatta.report.page import write_report
from tests.analysis.build import build_judged_study
from tests.analysis.protocol_conditions import PROTOCOLS
from tests.report.markup import Element, parse, table_named
from tests.report.reading import pixels
from tests.report.test_page_in_chromium import chromium, visit

__all__ = ["chromium", "visit"]

HEADINGS = {
    "matched": "At equal numbers of frames",
    "span": "Rate against reach",
    "antialias": "Aliasing or missing evidence",
    "controls": "Does the model use time",
    "multi-view": "More views",
    "sliding": "Along the clip",
}
WORDS = ("NaN", "nan", "None", "null", "undefined", "Traceback", "inf", "{'", "{{ e")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyFolder]:
    root = tmp_path_factory.mktemp("protocols")
    found = {}
    for protocol in PROTOCOLS:
        found[protocol] = build_judged_study(
            root / protocol,
            entries=2 if protocol == "antialias" else 1,
            samples=48,
            protocol=protocol,
            compare={"replicates": 200},
        )
        write_report(found[protocol], formats=("svg", "png"))
    return found


def page_of(folder: StudyFolder) -> Element:
    return parse((folder.report / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_protocol_has_its_figure_section_and_files(
    pages: dict[str, StudyFolder], protocol: str
) -> None:
    folder = pages[protocol]
    png = folder.report / "figures" / f"{protocol}.png"
    assert pixels(png.read_bytes()).std() > 5
    assert png.with_suffix(".svg").is_file()
    section = page_of(folder).by_id("protocol")
    assert section.all("h2")[0].text() == HEADINGS[protocol]
    image = section.all("img")[0]
    assert "timesformer from" in image.attributes["alt"]
    assert not any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", page_of(folder).text()) for word in WORDS
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_table_of_contrasts_shows_every_test_with_its_reading(
    pages: dict[str, StudyFolder], protocol: str
) -> None:
    folder = pages[protocol]
    tests = read_json(folder.results / "comparison.json")["contrasts"]["tests"]
    table = next(t for t in page_of(folder).by_id("protocol").all("table")
                 if any("reading" in th.text() for th in t.all("th")))  # fmt: skip
    rows = [[c.text() for c in row.children if isinstance(c, Element)] for row in table.all("tr")]
    assert [(row[0], row[1], row[4]) for row in rows[1:]] == [
        (test["entry"], test["contrast"], test["reading"]) for test in tests
    ]
    path = folder.report / "tables" / "contrasts.csv"
    with open(path, encoding="utf-8", newline="") as handle:
        written = list(csv.DictReader(handle))
    assert [row["first"] for row in written] == [test["first"] for test in tests]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_sentence_of_an_entry_stands_on_the_page(
    pages: dict[str, StudyFolder], protocol: str
) -> None:
    folder = pages[protocol]
    section = page_of(folder).by_id("protocol").text()
    entries = read_json(folder.results / "comparison.json")["contrasts"]["entries"]
    for entry in entries.values():
        for text in entry["sentences"]:
            assert text.partition(" [")[0].replace("-", "−")[:40] in section.replace("-", "−")


def test_budgets_and_concentration_have_their_own_tables(pages: dict[str, StudyFolder]) -> None:
    budgets = table_named(page_of(pages["matched"]), "Frame budgets")
    assert budgets[0][2] == "frames for 95 % of best"
    root = page_of(pages["sliding"])
    assert len(table_named(root, "How much of the confidence lies in few windows")) == 2
    assert len(table_named(root, "Concentration by class")) == 5


def test_the_methods_describe_protocol_and_contrasts(pages: dict[str, StudyFolder]) -> None:
    text = page_of(pages["antialias"]).by_id("methods").text()
    assert "temporal box filter" in text
    assert "Within each model, conditions were contrasted" in text


def test_controls_are_listed_in_the_order_of_the_protocol(pages: dict[str, StudyFolder]) -> None:
    legend = page_of(pages["controls"]).by_id("browser").all("label")
    names = [label.text() for label in legend]
    assert names == ["full", "one-frame", "static", "shuffled", "reversed"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_a_protocol_works_in_a_browser_and_never_scrolls_sideways(
    pages: dict[str, StudyFolder], visit: Any, protocol: str, width: int
) -> None:
    page = visit(pages[protocol], viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    page.locator("#browser label").first.click()
    assert page.locator("#browser-missing").is_hidden()


def spectrum(f95: float) -> dict[str, Any]:
    frequencies = [0.25 * n for n in range(65)]
    power = [2.0 ** -abs(f - f95 / 2) for f in frequencies]
    return {
        "samples": 4, "fps": 32.0, "dominant_hz": f95 / 2, "f95_hz": f95,
        "frequencies_hz": frequencies, "power": [value / sum(power) for value in power],
    }  # fmt: skip


@pytest.fixture(scope="module")
def with_motion(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = build_judged_study(
        tmp_path_factory.mktemp("motion"), entries=1, samples=80, classes=4,
        protocol="temporal-grid-legacy", compare={"replicates": 200},
    )  # fmt: skip
    classes = ("turn-left", "turn-right", "drift-left", "drift-right")
    spectra = {name: spectrum(2.0 + number) for number, name in enumerate(classes)}
    write_json(folder.motion_json, {"fingerprint": "x", "settings": {}, "classes": spectra})
    write_report(folder)
    return folder


def test_motion_has_a_table_and_a_figure(with_motion: StudyFolder) -> None:
    root = page_of(with_motion)
    rows = table_named(root, "Motion of each class")
    assert rows[0][4:] == ["rate needed, Hz", "timesformer: critical rate, Hz"]
    assert [row[4] for row in rows[1:]] == ["4.00", "6.00", "8.00", "10.00"]
    assert "sampling theory" in root.by_id("motion").text()
    assert (with_motion.report / "figures" / "motion_spectra.svg").is_file()


def test_the_legacy_grid_keeps_heat_maps_with_marked_cells(with_motion: StudyFolder) -> None:
    root = page_of(with_motion)
    assert (with_motion.report / "figures" / "comparison_heatmaps.svg").is_file()
    assert "identical clips in" in root.by_id("truth").text()
    assert "one still frame in" in root.by_id("truth").text()
    assert (with_motion.results / "timesformer" / "statistical_results.json").is_file()


def test_spectra_that_came_later_or_went_away_renew_the_comparison(tmp_path: Path) -> None:
    folder = build_judged_study(
        tmp_path, entries=1, samples=24, classes=2, protocol="matched", compare={"replicates": 100}
    )
    compare_study(folder)
    assert read_material(folder).comparison["motion"] is None
    write_json(folder.motion_json, {"settings": {}, "classes": {"turn-left": spectrum(3.0)}})
    # As after a clock that jumped: the time of the file says nothing.
    earlier = (folder.results / "comparison.json").stat().st_mtime - 3600
    os.utime(folder.motion_json, (earlier, earlier))
    assert read_material(folder).comparison["motion"] is not None
    folder.motion_json.unlink()
    assert read_material(folder).comparison["motion"] is None
