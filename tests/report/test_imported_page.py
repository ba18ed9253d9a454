"""The page of imported predictions: what is known in full, and no empty place for the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regatta.analysis.import_request import parse_request
from regatta.analysis.imported import import_predictions
from regatta.analysis.published import FAULTS, published_analysis
from regatta.config.load import dump_study
from regatta.core.files import write_text
from regatta.records.run_folder import StudyFolder
from regatta.report.page import write_report
from tests.analysis.build import build_judged_study
from tests.analysis.test_published import grid_table
from tests.records.foreign import export_csv, export_npz, predictions_of
from tests.report.conftest import HOSTILE_CLASSES
from tests.report.markup import Element, parse, read_table, table_named

HOSTILE_FILE = '"><img onerror=alert(1)>=$\\input{x}$.csv'
PROGRAMMERS = ("NaN", "nan", "None", "null", "undefined", "Traceback", "inf", "{'", "{{ e")


def reported(path: Path, texts: list[str], **options: Any) -> StudyFolder:
    requests = [parse_request(text) for text in texts]
    folder = import_predictions(path / "runs", requests, **options).folder
    study = folder.study()
    compare = study.compare.model_copy(update={"replicates": 200})
    write_text(folder.study_yaml, dump_study(study.model_copy(update={"compare": compare})))
    write_report(folder)
    return folder


def page_of(folder: StudyFolder) -> Element:
    return parse((folder.report / "report.html").read_text(encoding="utf-8"))


def table_of(seed: int) -> pd.DataFrame:
    """Whole counts: class k has 20 samples, and more are right with coverage."""
    rng = np.random.default_rng(seed)
    return grid_table(
        lambda k, c, _: (rng.integers(0, 8) + c // 10 + k % 3) / 20,
        coverages=(25, 100),
        strides=(1, 8),
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, dict[str, Any]]:
    """Two entries as accuracies of classes over a grid, and the published analysis of the first."""
    path = tmp_path_factory.mktemp("tables")
    first, second = table_of(1), table_of(2)
    first.to_csv(path / "theirs.csv", index=False)
    second.to_csv(path / "ours.csv", index=False)
    texts = [f"{name}={path / name}.csv" for name in ("theirs", "ours")]
    return reported(path, texts), published_analysis(first)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """One entry without groups, with names that attack every format."""
    path = tmp_path_factory.mktemp("samples")
    original = build_judged_study(
        path / "b", entries=1, samples=32, classes=HOSTILE_CLASSES, protocol="plain"
    )
    name = HOSTILE_FILE.replace("/", "")
    file = export_csv(path / name, predictions_of(original, "timesformer"), groups=False)
    return reported(path, [f"theirs={file}"])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A judged study with an imported entry beside its own."""
    path = tmp_path_factory.mktemp("mixed")
    folder = build_judged_study(path / "runs", entries=1, samples=32, protocol="plain")
    file = export_npz(path / "t.npz", predictions_of(folder, "timesformer"))
    return reported(path, [f"theirs={file}"], target=folder, mix_protocols=True)


@pytest.fixture(params=["tables", "samples", "mixed"])
def page(request: pytest.FixtureRequest) -> Element:
    found = request.getfixturevalue(request.param)
    return page_of(found[0] if isinstance(found, tuple) else found)


def test_published_statistics_stand_in_the_page_with_six_digits(
    tables: tuple[StudyFolder, dict[str, Any]],
) -> None:
    folder, expected = tables
    root = page_of(folder)
    row = table_named(root, "One-way tests over class accuracies")[1]
    coverage, stride = expected["anova_coverage"], expected["anova_stride"]
    levene = expected["variance_homogeneity"]
    assert row[:9] == [
        "theirs",
        f"{coverage['f_statistic']:.6g} (1, 22)",
        f"{coverage['p_value']:.3g}",
        f"{coverage['eta_squared']:.5f}",
        f"{stride['f_statistic']:.6g} (1, 22)",
        f"{stride['p_value']:.3g}",
        f"{stride['eta_squared']:.5f}",
        f"{levene['levene_statistic']:.6g}",
        f"{levene['p_value']:.3g}",
    ]
    pairs = table_named(root, "Welch tests of all pairs of coverages")[1:]
    ours = [row[3] for row in pairs if row[0] == "theirs"]
    assert ours == [f"{row['t_statistic']:.6g}" for row in expected["pairwise"]]
    for fault in FAULTS:
        assert fault in root.by_id("published").text()


def test_page_of_tables_speaks_of_classes_and_has_no_place_for_what_needs_samples(
    tables: tuple[StudyFolder, dict[str, Any]],
) -> None:
    root = page_of(tables[0])
    text = root.text()
    ids = {e.attributes.get("id") for e in root.all("section")}
    assert {"results", "grid", "differences", "classes", "published", "robustness"} <= ids
    assert not ids & {"calibration", "agreement", "training", "truth", "profile"}
    for words in ("Confusion", "McNemar", "Cochran", "top-5", "budget", "Reliability"):
        assert words not in text
    assert "over 12 classes" in text
    assert "class by class" in text
    # The published faults speak of the groups of an analysis of variance.
    shown = text.replace(root.by_id("published").text(), "")
    assert not re.search(r"\bgroups?\b", shown)
    assert not list((tables[0].report / "figures").rglob("*confusion*"))


def test_every_section_that_the_page_names_is_there_and_holds_something(page: Element) -> None:
    listed = [link.attributes["href"][1:] for nav in page.all("nav") for link in nav.all("a")]
    assert listed[0] == "main"
    for name in listed:
        section = page.by_id(name)
        headings = [e for tag in ("h1", "h2", "h3") for e in section.all(tag)]
        rest = section.text()
        for heading in headings:
            rest = rest.replace(heading.text(), "", 1)
        assert len(rest.split()) > 3 or section.all("img"), name


def test_no_reader_sees_a_programmers_word(page: Element) -> None:
    text = page.text()
    for word in PROGRAMMERS:
        assert not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text), word


def test_what_is_not_known_stands_beside_the_verdict(
    tables: tuple[StudyFolder, dict[str, Any]], samples: StudyFolder, mixed: StudyFolder
) -> None:
    said = {
        "tables": ("how theirs, ours were judged is not known here", "Only accuracies of classes"),
        "samples": ("how theirs was judged is not known here", "clustering is not covered"),
        "mixed": ("how theirs was judged is not known here",),
    }
    for name, folder in (("tables", tables[0]), ("samples", samples), ("mixed", mixed)):
        head = page_of(folder).by_id("main").text()
        for words in said[name]:
            assert words in head


def test_imported_files_are_named_without_their_folders(
    tables: tuple[StudyFolder, dict[str, Any]], samples: StudyFolder
) -> None:
    rows = table_named(page_of(tables[0]), "Imported files")
    assert [row[:4] for row in rows[1:]] == [
        ["theirs", "0", "theirs.csv", "accuracy of every class (CSV)"],
        ["ours", "0", "ours.csv", "accuracy of every class (CSV)"],
    ]
    page = (samples.report / "report.html").read_text(encoding="utf-8")
    assert str(samples.path.parent.parent) not in page


def test_hostile_names_of_files_and_classes_are_text_and_nothing_else(
    samples: StudyFolder,
) -> None:
    root = page_of(samples)
    assert not [a for e in root.everything() for a in e.attributes if a.startswith("on")]
    assert {e.attributes["src"][:11] for e in root.all("img")} == {"data:image/"}
    assert HOSTILE_FILE in table_named(root, "Imported files")[1]
    table = (samples.report / "tables" / "imports.tex").read_text(encoding="utf-8")
    assert r"\input" not in table
    assert len(read_table(root.by_id("classes-table"))) == 1 + len(HOSTILE_CLASSES)


def test_entry_beside_others_has_no_invented_frames_costs_or_budget(mixed: StudyFolder) -> None:
    root = page_of(mixed)
    budget = next(row for row in table_named(root, "Budget of each entry") if row[0] == "theirs")
    assert set(budget[2:]) == {"not measured"}
    table = (mixed.report / "tables" / "conditions.md").read_text(encoding="utf-8")
    (row,) = [line for line in table.splitlines() if line.startswith("| theirs")]
    assert row.count("not measured") == 6
    assert "The budget of theirs is not known: imported." in root.by_id("raced").text()
