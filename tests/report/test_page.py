"""The report as files: complete, self-contained, true to the records, harmless, never half."""

from __future__ import annotations

import csv
import json
import re
import socket
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from markdown_it import MarkdownIt

from regatta.config.expand import protocol_id
from regatta.core.passed_on import without_folders
from regatta.records.predictions import read_run_predictions
from regatta.records.run_folder import StudyFolder
from regatta.report.material import read_material
from regatta.report.page import sentence, write_report
from regatta.report.style import clean_text
from tests.analysis.build import build_judged_study
from tests.report.conftest import HOSTILE_CLASSES, SECRET, small_study
from tests.report.markup import Element, parse, read_table, table_named
from tests.report.reading import pixels

ENTRY_FIGURES = (
    "accuracy_heatmap",
    "accuracy_vs_coverage",
    "per_class_distribution_by_coverage",
    "per_class_representative",
    "distinct_frames",
    "confusion_matrix",
)
SHARED_FIGURES = (
    "comparison_accuracy_vs_coverage",
    "comparison_heatmaps",
    "comparison_best_accuracy",
    "accuracy_vs_distinct_frames",
    "forest",
    "rank_stability",
    "crossover",
    "class_conditions",
    "training_history",
    "reliability",
    "accuracy_vs_cost",
    "agreement",
)
Folders = dict[str, StudyFolder]


@pytest.fixture(scope="session")
def reports(grid_report: StudyFolder, hostile_report: StudyFolder) -> Folders:
    return {"grid": grid_report, "hostile": hostile_report}


def page_of(folder: StudyFolder) -> Element:
    return parse((folder.report / "report.html").read_text(encoding="utf-8"))


def test_a_grid_has_every_figure_in_three_formats(grid_report: StudyFolder) -> None:
    figures = grid_report.report / "figures"
    names = {
        *SHARED_FIGURES,
        *(f"{e}/{n}" for e in ("timesformer", "videomae") for n in ENTRY_FIGURES),
    }
    written = {
        path.relative_to(figures).as_posix() for path in figures.rglob("*") if path.is_file()
    }
    assert written == {f"{name}.{kind}" for name in names for kind in ("svg", "pdf", "png")}


@pytest.mark.parametrize("study", ["grid", "hostile"])
def test_no_figure_is_blank_or_broken(reports: Folders, study: str) -> None:
    figures = reports[study].report / "figures"
    for png in figures.rglob("*.png"):
        assert pixels(png.read_bytes()).std() > 5, png
        assert ElementTree.parse(png.with_suffix(".svg")).getroot().tag.endswith("svg")
        assert png.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_a_study_without_grid_has_the_figures_that_make_sense(hostile_report: StudyFolder) -> None:
    figures = hostile_report.report / "figures"
    written = {p.relative_to(figures).as_posix() for p in figures.rglob("*.svg")}
    assert written == {
        "comparison_best_accuracy.svg",
        "training_history.svg",
        "reliability.svg",
        "accuracy_vs_cost.svg",
        "vivit/per_class_representative.svg",
        "vivit/confusion_matrix.svg",
    }
    assert "there is no difference to draw" not in page_of(hostile_report).text()


@pytest.mark.parametrize("study", ["grid", "hostile"])
def test_the_page_loads_nothing_and_all_its_links_lead_somewhere(
    reports: Folders, study: str
) -> None:
    root, report = page_of(reports[study]), reports[study].report
    ids = {e.attributes.get("id") for e in root.everything()}
    assert all(e.attributes["src"].startswith("data:image/") for e in root.all("img"))
    assert not any(e.attributes.get("src") for e in root.all("script"))
    for link in [e.attributes["href"] for e in root.all("a")]:
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert (report / unquote(link)).is_file(), link
            assert not link.startswith(("/", ".."))
    style = "".join(str(child) for element in root.all("style") for child in element.children)
    assert re.findall(r"url\((?!data:image/jpeg;base64,[A-Za-z0-9+/=]*\))", style) == []
    assert "@import" not in style


@pytest.mark.parametrize("study", ["grid", "hostile"])
def test_every_picture_is_described_and_every_field_labelled(reports: Folders, study: str) -> None:
    root = page_of(reports[study])
    assert all(len(e.attributes["alt"]) > 20 for e in root.all("img"))
    labelled = {id(field) for label in root.all("label") for field in label.everything()}
    assert all(id(field) in labelled for field in root.all("input") + root.all("select"))
    assert all(th.attributes.get("scope") in ("col", "row") for th in root.all("th"))
    assert root.all("html")[0].attributes["lang"] == "en"


@pytest.mark.parametrize("study", ["grid", "hostile"])
def test_no_reader_sees_a_programmers_word(reports: Folders, study: str) -> None:
    text = page_of(reports[study]).text()
    for word in ("NaN", "nan", "None", "null", "undefined", "Traceback", "inf", "{'", "{{ e"):
        assert not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text), word


def accuracies(folder: StudyFolder, entry: str, condition: str) -> float:
    """Mean accuracy over judged seeds, from the prediction store alone."""
    protocol = protocol_id(folder.study().protocol)
    found = []
    for spec, run in folder.runs():
        if spec.entry.name == entry and run.is_judged(protocol):
            store = read_run_predictions(
                run.predictions(protocol), run_id=spec.run_id, entry=entry, seed=spec.seed
            )
            row = [c.id for c in store.conditions].index(condition)
            found.append(float((store.scores[row].argmax(axis=1) == store.labels).mean()))
    return 100 * float(np.mean(found))


def test_numbers_of_the_main_table_are_those_of_the_predictions(grid_report: StudyFolder) -> None:
    rows = table_named(page_of(grid_report), "Results at coverage 100 %, stride 1")
    shown = {row[0]: row[1].split(" ")[0] for row in rows[1:]}
    assert shown == {
        name: f"{accuracies(grid_report, name, 'c100s1'):.1f}"
        for name in ("timesformer", "videomae")
    }


def test_the_browser_holds_every_cell_with_the_numbers_of_the_table(
    grid_report: StudyFolder,
) -> None:
    data = json.loads(str(page_of(grid_report).by_id("browser-data").children[0]))
    with open(grid_report.results / "results_multimodel.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(data) * 2 == len(rows) == 50
    for row in rows:
        place = 0 if row["model"] == "timesformer" else 1
        texts = data[f"{row['coverage']}|{row['stride']}"]["entries"][place]["texts"]
        assert texts["accuracy"] == f"{100 * float(row['accuracy']):.1f}"
        assert texts["distinct_frames"] == f"{float(row['distinct_frames']):.1f}"
        assert texts["pad_share"] == f"{100 * float(row['pad_share']):.1f}"
        assert texts["ceiling"] == f"{100 * float(row['ceiling']):.1f}"
        assert texts["rate_hz"] == (f"{float(row['rate_hz']):.1f}" if row["rate_hz"] else "none")


def test_still_and_identical_cells_are_said_in_words(grid_report: StudyFolder) -> None:
    # Windows of 10 % of 48, 64 and 80 frames hold 4, 6 and 8: strides of 8 and 16 leave one frame.
    text = page_of(grid_report).by_id("truth").text()
    assert "timesformer and videomae: one still frame in c10s8 and c10s16." in text
    assert "timesformer and videomae: identical clips in c10s8 = c10s16." in text


def test_missing_runs_and_unequal_budgets_are_said_before_the_results(
    grid_report: StudyFolder,
) -> None:
    text = page_of(grid_report).text()
    missing = text.index("videomae seed 1 is not in this comparison")
    budget = text.index("Entries were trained with different epochs: timesformer 3, videomae 5.")
    assert missing < budget < text.index("Results at coverage 100 %")


def test_left_out_files_are_listed_without_their_folders(hostile_report: StudyFolder) -> None:
    rows = table_named(page_of(hostile_report), "Files left out")
    assert rows[1] == [f"…/{HOSTILE_CLASSES[0]}.avi", "cannot open …/b.avi: cut"]


@pytest.mark.parametrize("study", ["grid", "hostile"])
def test_neither_folders_nor_host_nor_date_stand_in_the_page(reports: Folders, study: str) -> None:
    folder = reports[study]
    page = (folder.report / "report.html").read_text(encoding="utf-8")
    assert str(folder.path) not in page
    assert SECRET not in page
    assert (
        not re.search(rf"\b{re.escape(socket.gethostname())}\b", page)
        or len(socket.gethostname()) < 4
    )
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", page)


def test_hostile_names_are_text_in_the_page_and_nothing_else(hostile_report: StudyFolder) -> None:
    root = page_of(hostile_report)
    names = [row[0] for row in read_table(root.by_id("classes-table"))[1:]]
    assert names == [" ".join(clean_text(name).split()) for name in HOSTILE_CLASSES]
    kinds = [e.attributes.get("type") for e in root.all("script")]
    assert [kind for kind in kinds if kind != "application/json"] == [None]
    assert not [a for e in root.everything() for a in e.attributes if a.startswith("on")]
    assert {e.attributes["src"][:11] for e in root.all("img")} == {"data:image/"}


def test_the_script_is_the_only_one_that_the_page_allows(grid_report: StudyFolder) -> None:
    from base64 import b64encode
    from hashlib import sha256

    root = page_of(grid_report)
    policy = next(
        e.attributes["content"]
        for e in root.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    (script,) = [e for e in root.all("script") if e.attributes.get("type") != "application/json"]
    digest = b64encode(sha256(str(script.children[0]).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_hostile_names_are_harmless_in_every_table_file(hostile_report: StudyFolder) -> None:
    tables = hostile_report.report / "tables"
    with open(tables / "per_class.csv", encoding="utf-8", newline="") as file:
        names = [row["class"] for row in csv.DictReader(file)]
    assert [name.removeprefix("'") for name in names] == [clean_text(n) for n in HOSTILE_CLASSES]
    assert not any(name.startswith(("=", "+", "-", "@")) for name in names)
    latex = (tables / "per_class.tex").read_text(encoding="utf-8")
    assert r"\input" not in latex
    assert not re.search(r"(?<!\\)\$(?!-)", latex)
    markdown = (tables / "per_class.md").read_text(encoding="utf-8")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    assert not {e.tag for e in parse(html).everything()} & {"img", "script", "em", "code"}


def test_hostile_names_are_harmless_in_figures(hostile_report: StudyFolder) -> None:
    for path in (hostile_report.report / "figures").rglob("*.svg"):
        tags = {e.tag.rpartition("}")[2] for e in ElementTree.parse(path).iter()}
        assert not tags & {"script", "img", "foreignObject", "a"}


def test_every_table_file_exists_in_three_formats(reports: Folders) -> None:
    for folder in reports.values():
        stems = {p.stem for p in (folder.report / "tables").iterdir()}
        assert {"main_results", "conditions", "per_class", "budget", "runs"} <= stems
        for stem in stems:
            kinds = {p.suffix for p in (folder.report / "tables").glob(f"{stem}.*")}
            assert kinds == {".csv", ".md", ".tex"}
    assert (reports["grid"].report / "tables" / "pairs.csv").is_file()


def test_confusion_matrix_agrees_with_the_prediction_store(grid_report: StudyFolder) -> None:
    protocol = protocol_id(grid_report.study().protocol)
    expected = np.zeros((4, 4), dtype=int)
    for spec, run in grid_report.runs():
        if spec.entry.name == "timesformer":
            store = read_run_predictions(
                run.predictions(protocol), run_id=spec.run_id, entry="timesformer", seed=spec.seed
            )
            row = [c.id for c in store.conditions].index("c100s1")
            np.add.at(expected, (store.labels, store.scores[row].argmax(axis=1)), 1)
    assert read_material(grid_report).confusion("timesformer").tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/data/clip.avi", "…/clip.avi"),
        (r"C:\Users\me\clip.avi is cut", "…/clip.avi is cut"),
        ("class/clip.avi", "class/clip.avi"),
        ("3/4 of the frames", "3/4 of the frames"),
    ],
)
def test_only_absolute_folders_are_cut_from_texts(text: str, shown: str) -> None:
    assert without_folders(text) == shown


def test_sentences_keep_the_spelling_of_an_entry_and_get_a_true_minus() -> None:
    assert (
        sentence("vivit is ahead by -0.4 [-1.2, 0.3]", ["vivit"])
        == "vivit is ahead by −0.4 [−1.2,\u00a00.3]."
    )
    assert sentence("the data cannot tell vivit-2 from r3d-18", ["vivit-2"]) == (
        "The data cannot tell vivit-2 from r3d-18."
    )


def all_right(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return 9.0 * np.broadcast_to(np.eye(scores.shape[2])[labels], scores.shape)


def constant(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(scores.shape[2], 0, -1.0), scores.shape)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples_per_group": 24, "classes": 1}, "all samples belong to one group"),
        ({"alter": all_right}, "seed 0 is right on every sample"),
        ({"alter": constant}, "seed 0 answers 'turn-left' for every sample"),
        ({"classes": 1}, "all judged samples are of one class"),
    ],
)
def test_degenerate_results_are_said_in_words(
    tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    folder = small_study(tmp_path, entries=2, **settings)
    write_report(folder)
    text = page_of(folder).text()
    assert said.lower() in text.lower()
    assert not re.search(r"\b(NaN|nan|None|inf)\b", text)


def test_what_was_not_recorded_is_called_not_measured(tmp_path: Path) -> None:
    folder = small_study(tmp_path, protocol="temporal-grid")
    ((_, run),) = folder.runs()
    for path in (run.metrics, run.training_results, folder.data_json):
        path.unlink()
    (run.predictions(protocol_id(folder.study().protocol)) / "ceiling.json").unlink()
    write_report(folder)
    root = page_of(folder)
    row = table_named(root, "Results at")[1]
    assert row[-3:-1] == ["not measured", "not measured"]
    assert "No training record was found" in root.by_id("training").text()
    assert not (folder.report / "figures" / "training_history.svg").exists()
    assert "oracle" not in root.text().lower()


@pytest.mark.slow
def test_three_entries_of_a_hundred_classes_stay_under_ten_megabytes(tmp_path: Path) -> None:
    """One entry is measured; what entries share is then counted three times, which is too much."""
    folder = build_judged_study(
        tmp_path, entries=1, samples=404, classes=101, compare={"replicates": 200}
    )
    size = write_report(folder, formats=("svg", "png")).stat().st_size
    assert 3 * size < 10e6
