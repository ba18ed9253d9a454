"""The page used as a reader uses it, in headless Chromium: mouse, keys, dark, narrow, paper."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regatta.records.run_folder import StudyFolder

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]"
    )
    if not CHROMIUM.is_file():
        pytest.skip("chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    """Opens a report; at the end nothing may have been logged, thrown or asked of the network."""
    complaints: list[str] = []
    pages: list[Any] = []

    def open_page(folder: StudyFolder, **context: Any) -> Any:
        page = chromium.new_page(**{"viewport": {"width": 1280, "height": 900}, **context})
        page.set_default_timeout(8000)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"thrown: {error}"))
        page.on("request", lambda request: note_request(request.url))
        page.goto((folder.report / "report.html").as_uri())
        pages.append(page)
        return page

    def note_request(url: str) -> None:
        if not url.startswith(("file:", "data:")):
            complaints.append(f"request: {url[:80]}")

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


def results(folder: StudyFolder) -> dict[tuple[str, str, str], dict[str, str]]:
    path = folder.results / "results_multimodel.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["model"], row["coverage"], row["stride"]): row for row in rows}


def shown(page: Any, name: str) -> list[str]:
    return page.locator(f"#browser [data-k={name}]").all_text_contents()


def expected(folder: StudyFolder, coverage: str, stride: str) -> list[str]:
    table = results(folder)
    rows = [table[(entry, coverage, stride)] for entry in ("timesformer", "videomae")]
    return [f"{100 * float(row['accuracy']):.1f}" for row in rows]


def test_choosing_a_condition_shows_its_numbers(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    assert shown(page, "accuracy") == expected(grid_report, "100", "1")
    page.locator("#browser label", has_text="10 %").first.click()
    page.locator("#browser input[name=axis-stride][value='16']").check(force=True)
    assert shown(page, "accuracy") == expected(grid_report, "10", "16")
    assert shown(page, "distinct_frames") == ["1.0", "1.0"]
    assert shown(page, "rate_hz") == ["none", "none"]
    note = page.locator("#browser-note").text_content()
    assert "every entry sees one still frame" in note
    assert "identical to those of c10s8" in note


def test_conditions_are_chosen_by_keyboard_alone(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    page.locator("#browser input[name=axis-coverage]:checked").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert shown(page, "accuracy") == expected(grid_report, "75", "2")


def test_bars_have_the_length_of_the_accuracy(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    for place, accuracy in enumerate(expected(grid_report, "100", "1")):
        track = page.locator("#browser .track").nth(place)
        whole, part = track.bounding_box(), track.locator("i").bounding_box()
        assert part["width"] / whole["width"] == pytest.approx(float(accuracy) / 100, abs=0.01)


def column(page: Any, table: str, number: int) -> list[str]:
    return page.locator(f"{table} tbody tr td:nth-child({number})").all_text_contents()


def test_a_heading_sorts_its_column_up_and_down(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    heading = page.locator("#classes-table thead th").nth(2)
    assert heading.get_attribute("aria-sort") == "none"
    values = sorted(map(float, column(page, "#classes-table", 3)))
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert list(map(float, column(page, "#classes-table", 3))) == values[::-1]
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert list(map(float, column(page, "#classes-table", 3))) == values


def test_classes_are_found_by_typing(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    page.get_by_label("Find a class").fill("LEFT")
    rows = page.locator("#classes-table tbody tr:visible th").all_text_contents()
    assert rows == ["turn-left", "drift-left"]
    assert page.locator("#classes-table-count").text_content() == "2 of 4 shown"


def test_class_accuracies_follow_the_chosen_condition(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    page.locator("#classes-table thead th button").nth(2).click()
    page.locator("#class-condition").select_option("c10s16")
    path = grid_report.results / "per_class_timesformer.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["coverage"], r["stride"]) == ("10", "16")]
    wanted = sorted((100 * float(row["accuracy"]) for row in rows), reverse=True)
    assert column(page, "#classes-table", 3) == [f"{value:.1f}" for value in wanted]


def rgb(page: Any, selector: str, name: str) -> list[int]:
    value = page.eval_on_selector(selector, f"e => getComputedStyle(e)['{name}']")
    return [int(part) for part in value[value.index("(") + 1 : -1].split(",")[:3]]


def luminance(color: list[int]) -> float:
    """WCAG 2.2 relative luminance."""
    shares = [channel / 255 for channel in color]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_and_figures_stand_on_white(
    grid_report: StudyFolder, visit: Any, scheme: str
) -> None:
    page = visit(grid_report, color_scheme=scheme)
    paper = luminance(rgb(page, "body", "backgroundColor"))
    assert (paper > 0.5) == (scheme == "light")
    for selector in ("h1", ".lede", "td", "figcaption", ".facts dt", "thead th", ".contents a"):
        ink = luminance(rgb(page, selector, "color"))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, selector
    assert rgb(page, ".plate", "backgroundColor") == [255, 255, 255]


@pytest.mark.parametrize("study", ["grid_report", "hostile_report"])
@pytest.mark.parametrize("width", [1600, 900, 390])
def test_the_page_never_scrolls_sideways(
    request: pytest.FixtureRequest, visit: Any, study: str, width: int
) -> None:
    folder = request.getfixturevalue(study)
    page = visit(folder, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")


def test_hostile_names_run_nothing(hostile_report: StudyFolder, visit: Any) -> None:
    page = visit(hostile_report)
    page.get_by_label("Find a class").fill("onerror")
    assert page.locator("#classes-table tbody tr:visible").count() == 1
    assert page.evaluate("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0


def test_the_first_tab_stop_skips_to_the_verdict(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


def test_paper_shows_everything_and_no_controls(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator(".contents").is_hidden()
    assert page.locator(".tools").is_hidden()
    assert page.locator("#browser table").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.set_viewport_size({"width": 720, "height": 1000})  # what A4 leaves between our margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 720


def test_without_script_the_headline_condition_still_stands(
    grid_report: StudyFolder, visit: Any
) -> None:
    page = visit(grid_report, java_script_enabled=False)
    assert shown(page, "accuracy") == expected(grid_report, "100", "1")
