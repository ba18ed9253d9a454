"""The page used as a reader uses it, in headless Chromium: mouse, keys, dark, narrow, paper."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from regatta.records.run_folder import StudyFolder
from tests.analysis.protocol_conditions import grid_conditions
from tests.report.film_build import color_of, judged_runs, strip_of

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
        page.on("dialog", note_dialog)
        page.goto((folder.report / "report.html").as_uri())
        pages.append(page)
        return page

    def note_dialog(dialog: Any) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

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


def strip(page: Any, entry: int) -> list[str]:
    """The labels of an entry's strip; repeats are marked by style, not by text."""
    return page.locator("#film .strip").nth(entry).locator(".shot small").all_text_contents()


def frames_of(condition: str, entry: str) -> list[int]:
    return strip_of(next(c for c in grid_conditions() if c.id == condition), entry)


def choose(page: Any, coverage: int, stride: int) -> None:
    for axis, value in (("coverage", coverage), ("stride", stride)):
        page.locator(f"#browser input[name=axis-{axis}][value='{value}']").check(force=True)


@pytest.mark.parametrize("cell", [(100, 1), (50, 16), (10, 16), (75, 4)])
def test_film_strips_follow_the_chosen_condition(
    grid_report: StudyFolder, visit: Any, cell: tuple[int, int]
) -> None:
    page = visit(grid_report)
    choose(page, *cell)
    for place, entry in enumerate(("timesformer", "videomae")):
        frames = frames_of("c{}s{}".format(*cell), entry)
        assert strip(page, place) == list(map(str, frames))
        shots = page.locator("#film .strip").nth(place)
        assert shots.locator(".again").count() == len(frames) - len(set(frames))
        label = shots.get_attribute("aria-label")
        assert label.startswith(f"{entry}: {len(frames)} pictures, {len(set(frames))} distinct.")


def test_each_thumbnail_is_the_picture_of_its_frame(grid_report: StudyFolder, visit: Any) -> None:
    """Every simulated frame is a flat colour of its own, so a shift in the sprite would show."""
    page = visit(grid_report)
    shots = page.locator("#film .strip").nth(1).locator(".shot i")
    frames = frames_of("c100s1", "videomae")
    assert len(set(frames)) == shots.count() == 16
    for place, frame in enumerate(frames):
        image = imread(BytesIO(shots.nth(place).screenshot()), format="png")
        inner = image[8:-8, 8:-8, :3].reshape(-1, 3) * 255
        assert np.abs(inner - color_of(frame)).max() <= 6


def test_another_sample_is_chosen_by_keyboard(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    runs = judged_runs(grid_report, "timesformer")
    for place in (0, 1):
        assert str(runs[0].sample_ids[place]) in page.locator("#film-facts").text_content()
        right = sum(bool(run.correct()[20, place]) for run in runs)
        answer = page.locator("#film .answer").first
        assert answer.get_attribute("data-mark") == ("wrong", "mixed", "right")[right]
        page.locator("#film-sample").focus()
        page.keyboard.press("ArrowDown")


def test_strips_stand_on_paper_without_their_chooser(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    choose(page, 25, 4)
    page.emulate_media(media="print")
    assert page.locator("#film-tools").is_hidden()
    assert page.locator("#film .strip").first.is_visible()
    assert strip(page, 0) == list(map(str, frames_of("c25s4", "timesformer")))
    image = page.locator("#film .shot i").first.screenshot()
    color = imread(BytesIO(image), format="png")[8:-8, 8:-8, :3].mean(axis=(0, 1)) * 255
    assert color == pytest.approx(color_of(0), abs=6)


def test_without_script_the_strips_of_the_headline_stand(
    grid_report: StudyFolder, visit: Any
) -> None:
    page = visit(grid_report, java_script_enabled=False)
    assert strip(page, 1) == list(map(str, frames_of("c100s1", "videomae")))
    assert page.locator("#film-tools").is_hidden()


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


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def heat(page: Any, entry: int) -> list[str]:
    return page.locator("#drill .heats table").nth(entry).locator("td").all_text_contents()


def test_a_class_chosen_in_the_table_is_shown_over_all_conditions(
    grid_report: StudyFolder, visit: Any
) -> None:
    page = visit(grid_report)
    page.locator("#classes-table thead th button").nth(2).click()
    page.locator("#classes-table tbody th button", has_text="drift-left").click()
    assert page.locator("#drill-class").evaluate("e => e.selectedOptions[0].text") == "drift-left"
    for place, entry in enumerate(("timesformer", "videomae")):
        rows = rows_of(grid_report.results / f"per_class_{entry}.csv")
        mine = {
            (r["coverage"], r["stride"]): f"{100 * float(r['accuracy']):.1f}"
            for r in rows
            if r["class"] == "drift-left"
        }
        grid = [(c, s) for c in ("100", "75", "50", "25", "10") for s in ("1", "2", "4", "8", "16")]
        assert heat(page, place) == [mine[cell] for cell in grid]
    source = page.locator("#drill .heats td").first.get_attribute("title")
    assert source == "results/per_class_timesformer.csv, class drift-left, condition c100s1"


def test_scores_and_samples_of_a_class_are_those_of_the_files(
    grid_report: StudyFolder, visit: Any
) -> None:
    page = visit(grid_report)
    page.locator("#drill-class").select_option("turn-right")
    rows = rows_of(grid_report.results / "per_class.csv")
    wanted = [
        [f"{float(r[key]):.3f}" for key in ("precision", "recall", "f1")]
        for r in rows
        if r["class"] == "turn-right"
    ]
    scores = page.locator("#drill table").last.locator("tbody tr")
    cells = [scores.nth(i).locator("td").all_text_contents() for i in range(scores.count())]
    assert [row[1:4] for row in cells] == wanted
    listed = rows_of(grid_report.results / "hard_samples.csv")
    for place, kind in enumerate(("none right", "entries differ")):
        ids = [r["sample_id"] for r in listed if (r["class"], r["kind"]) == ("turn-right", kind)]
        shown_ids = page.locator("#drill .lists > div").nth(place).locator("code")
        assert shown_ids.all_text_contents() == ids
    assert "24 samples in 6 groups" in page.locator("#drill-body").text_content()


def test_a_class_is_chosen_by_keyboard_alone(grid_report: StudyFolder, visit: Any) -> None:
    page = visit(grid_report)
    page.locator("#classes-table tbody th button").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "drill-title"
    assert page.locator("#drill-body b").text_content() == "turn-left"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.locator("#drill-body b").text_content() == "turn-right"


@pytest.mark.parametrize("study", ["hostile_report", "hostile_grid"])
def test_every_hostile_class_is_shown_as_text_alone(
    request: pytest.FixtureRequest, visit: Any, study: str
) -> None:
    page = visit(request.getfixturevalue(study))
    names = page.evaluate("JSON.parse(document.getElementById('drill-data').textContent).classes")
    shown_classes = page.evaluate(
        """[...document.getElementById("drill-class").options].map((option) => {
          option.selected = true;
          option.parentElement.dispatchEvent(new Event("change"));
          const body = document.getElementById("drill-body");
          const tags = [...body.querySelectorAll("*")].map((e) => e.tagName);
          return [body.querySelector("b").textContent, [...new Set(tags)].sort().join(" ")];
        })"""
    )
    assert [name for name, _ in shown_classes] == names
    tables = "B CAPTION CODE DIV H4 LI P SPAN TABLE TBODY TD TH THEAD TR UL"
    assert {tag for _, tags in shown_classes for tag in tags.split(" ")} <= set(tables.split(" "))


def test_without_script_nothing_is_promised_that_is_not_there(
    grid_report: StudyFolder, visit: Any
) -> None:
    page = visit(grid_report, java_script_enabled=False)
    assert page.locator("#drill").is_hidden()
    assert page.locator("#classes-table button").count() == 0


def test_sources_of_a_table_can_be_read_without_a_pointer(
    grid_report: StudyFolder, visit: Any
) -> None:
    page = visit(grid_report)
    sources = page.locator("#results .sources").first
    sources.locator("summary").focus()
    page.keyboard.press("Enter")
    assert "results/comparison.json (entries" in sources.locator("p").inner_text()


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_of_strips_are_readable(grid_report: StudyFolder, visit: Any, scheme: str) -> None:
    page = visit(grid_report, color_scheme=scheme)
    choose(page, 10, 16)
    paper = luminance(rgb(page, "#browser", "backgroundColor"))
    for selector in (".shot small", ".again small", ".answer", ".reel [data-k=count]"):
        ink = luminance(rgb(page, selector, "color"))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, selector


@pytest.mark.parametrize("study", ["grid_report", "hostile_report", "hostile_grid"])
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
    assert page.locator(".tools:visible").count() == 0
    assert page.locator("#browser table").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.set_viewport_size({"width": 687, "height": 1000})  # what A4 leaves between our margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 687


def test_without_script_the_headline_condition_still_stands(
    grid_report: StudyFolder, visit: Any
) -> None:
    page = visit(grid_report, java_script_enabled=False)
    assert shown(page, "accuracy") == expected(grid_report, "100", "1")
