"""The page of a study over windows of signals: its words, its sections, and nothing without
content."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.config.expand import protocol_id
from regatta.core.files import read_json, write_json
from regatta.records.predictions import read_run_predictions
from regatta.records.run_folder import StudyFolder
from regatta.report.facts import caveats, facts
from regatta.report.material import Material, read_material
from regatta.report.page import report_tables, write_report
from regatta.report.perturbations import perturbation_panels
from regatta.report.window_figures import fraction_lines
from tests.report.markup import Element, parse, read_table, table_named
from tests.report.sensor_build import (
    ACTIVITIES,
    HEAD_TO_HEAD,
    PERTURBED,
    build_sensor_study,
    epoch_seconds,
)
from tests.report.test_page_in_chromium import chromium, visit

__all__ = ["chromium", "visit"]

SHARES = [
    {"name": f"cnn1d-{share:03d}", "model": "cnn1d", "train": {"label_fraction": share / 100}}
    for share in (5, 100)
]
SWEEP = {"entry": "har-vit", "stage": "sweep", "precision": "fp32", "compiled": False}
NOT_FOR_WINDOWS = ("clip", "clips", "frame", "frames", "coverage", "stride", "video", "videos")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Perturbations, two shares of labels, two seeds and a profile."""
    folder = build_sensor_study(
        tmp_path_factory.mktemp("full"),
        [HEAD_TO_HEAD[0], *SHARES],
        protocol="sensor-robustness",
        seeds=(0, 1),
    )
    rows = [
        {**SWEEP, "batch": 8, "windows_per_second": 100.0, "peak_gb": 0.5, "status": "ok"},
        {**SWEEP, "batch": 16, "windows_per_second": None, "status": "out of memory"},
    ]
    facts = {"device": "cpu", "not_measured": ["several devices: the profile is of one"]}
    write_json(folder.results / "profile.json", {**facts, "rows": rows})
    write_report(folder, formats=["svg"])
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """One entry, one condition, no subjects, no profile."""
    folder = build_sensor_study(
        tmp_path_factory.mktemp("single"),
        [{"name": "cnn1d", "model": "cnn1d"}],
        notes=["subjects are not known: transfer to unseen subjects is not measured"],
    )
    write_report(folder, formats=["svg"])
    return folder


@pytest.fixture(scope="module")
def studies(full: StudyFolder, single: StudyFolder) -> dict[str, StudyFolder]:
    return {"full": full, "single": single}


@pytest.fixture(scope="module")
def material(full: StudyFolder) -> Material:
    return read_material(full)


def page_of(folder: StudyFolder) -> Element:
    return parse((folder.report / "report.html").read_text(encoding="utf-8"))


def figures_of(folder: StudyFolder) -> set[str]:
    figures = folder.report / "figures"
    return {p.relative_to(figures).as_posix() for p in figures.rglob("*") if p.is_file()}


COMMON = {
    "comparison", "training_history", "accuracy_vs_cost", "confusion_matrix", "per_class",
    "reliability",
}  # fmt: skip


@pytest.mark.parametrize(
    ("study", "more"),
    [
        (
            "full",
            {
                "forest",
                "robustness",
                "label_fraction",
                "profile",
                "agreement",
                "rank_stability",
                "class_conditions",
            },
        ),
        ("single", set()),
    ],
)
def test_a_study_has_exactly_the_figures_that_it_has_numbers_for(
    studies: dict[str, StudyFolder], study: str, more: set[str]
) -> None:
    assert figures_of(studies[study]) == {f"{name}.svg" for name in COMMON | more}


@pytest.mark.parametrize(
    ("study", "absent"),
    [
        ("full", {"protocol", "grid", "truth", "robustness", "motion", "published"}),
        ("single", {"conditions", "differences", "perturbations", "labels", "profile", "truth"}),
    ],
)
def test_sections_stand_where_there_is_content_and_are_never_empty(
    studies: dict[str, StudyFolder], study: str, absent: set[str]
) -> None:
    root = page_of(studies[study])
    sections = {e.attributes["id"]: e for e in root.all("section")}
    assert not absent & set(sections)
    assert {"results", "classes", "calibration", "training"} <= set(sections)
    for name, section in sections.items():
        assert section.all("table") + section.all("img") + section.all("p"), name
    listed = {a.attributes["href"][1:] for a in root.all("nav")[0].all("a")}
    assert listed == {"main", *sections}


@pytest.mark.parametrize("study", ["full", "single"])
def test_the_page_speaks_of_windows_and_never_of_clips(
    studies: dict[str, StudyFolder], study: str
) -> None:
    root = page_of(studies[study])
    said = [root.text(), *(e.attributes["alt"] for e in root.all("img"))]
    for word in NOT_FOR_WINDOWS:
        assert not re.search(rf"(?<![\w.-]){word}(?![\w.-])", " ".join(said), re.IGNORECASE), word
    for word in ("NaN", "nan", "None", "null", "undefined", "inf"):
        assert not re.search(rf"(?<!\w){word}(?!\w)", " ".join(said)), word


def test_groups_are_called_by_what_they_are(studies: dict[str, StudyFolder]) -> None:
    labels = {name: [e.text() for e in page_of(s).all("dt")] for name, s in studies.items()}
    assert "Subjects" in labels["full"]
    assert "Blocks" in labels["single"]
    assert "Subjects" not in labels["single"]


@pytest.mark.parametrize(
    ("study", "said"),
    [("full", "9 groups: coarse"), ("single", "transfer to unseen subjects is not measured")],
)
def test_what_limits_the_verdict_stands_beside_it(
    studies: dict[str, StudyFolder], study: str, said: str
) -> None:
    assert said in page_of(studies[study]).by_id("main").text()


def test_every_table_of_a_leaky_split_says_so(tmp_path: Path) -> None:
    entries = [{"name": "majority", "model": "majority"}]
    folder = build_sensor_study(tmp_path, entries, windows=36, data={"design": "window-random"})
    found = read_material(folder)
    assert all("leaky" in table.title for table in report_tables(found).values())
    assert any(text.startswith("Leaky") for text in caveats(found))
    assert ("Subjects", "9", "split at random") in facts(found)


def test_entries_are_told_with_encoder_mode_and_what_is_frozen(full: StudyFolder) -> None:
    rows = table_named(page_of(full), "Entries")
    shown = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert (shown[0]["encoder"], shown[0]["mode"], shown[0]["pool"]) == (
        "vit-tiny",
        "average",
        "mean",
    )
    assert [row["encoder weights"] for row in shown] == ["frozen", "–", "–"]
    assert [row["labels used, %"] for row in shown] == ["100", "5", "100"]


def test_costs_tell_the_first_epoch_from_the_later_ones(full: StudyFolder) -> None:
    rows = table_named(page_of(full), "Cost of one run")
    first = dict(zip(rows[0], rows[1], strict=True))
    seconds = epoch_seconds(3, 4)
    assert first["first epoch"] == f"{seconds[0]:g} s"
    assert first["later epochs"] == f"{seconds[1]:g} s"
    assert first["device time"] == f"{2 * sum(seconds):g} s"
    # 6e7 floating point operations are 3e7 multiply-adds.
    assert first["MACs per window"] == "30 M"


def predictions(folder: StudyFolder, entry: str) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true classes at the first condition, seeds one after another."""
    protocol = protocol_id(folder.study().protocol)
    found = [
        read_run_predictions(run.predictions(protocol), run_id="x", entry=entry, seed=spec.seed)
        for spec, run in folder.runs()
        if spec.entry.name == entry
    ]
    predicted = np.concatenate([store.scores[0].argmax(axis=1) for store in found])
    return predicted, np.concatenate([store.labels for store in found])


def test_class_scores_are_those_of_the_predictions(full: StudyFolder) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    predicted, labels = predictions(full, "har-vit")
    expected = metrics.precision_recall_fscore_support(labels, predicted)
    with open(full.report / "tables" / "class_scores.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["entry"] == "har-vit"]
    assert [row["class"] for row in rows] == ACTIVITIES
    for key, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert [float(row[key]) for row in rows] == pytest.approx(values.tolist())
    assert {row["support"] for row in rows} == {"36"}


def test_lines_of_a_perturbation_are_the_rows_of_the_table(material: Material) -> None:
    panels = {panel.title: panel for panel in perturbation_panels(material)}
    assert set(panels) == {"noise, share of the channel's sd", "missing part", "rate, Hz"}
    rate = panels["rate, Hz"]
    assert list(rate.ticks) == ["25", "12.5"]
    for line in rate.lines:
        name = ("rate-lowpass", "rate")[line.variant]
        expected = [
            100 * material.rows[line.entry, f"{name}-{hz}"]["accuracy"] for hz in (25, 12.5)
        ]
        assert line.accuracy.tolist() == pytest.approx(expected)
    assert not panels["missing part"].is_ordered
    assert list(panels["missing part"].ticks) == ["one channel", "one sensor"]


def test_the_table_of_perturbations_has_every_condition_in_words(full: StudyFolder) -> None:
    rows = table_named(page_of(full), "Accuracy under perturbations")
    assert len(rows) == 1 + len(PERTURBED)
    assert rows[1][0] == "unchanged windows"
    assert "12.5 Hz after a low-pass" in [row[0] for row in rows]


def test_entries_that_differ_in_labels_alone_are_one_line(material: Material) -> None:
    (line,) = fraction_lines(material)
    assert line.name == "cnn1d"
    assert line.share.tolist() == [5.0, 100.0]
    known = {e["name"]: e["accuracy"]["estimate"] for e in material.comparison["entries"]}
    expected = [100 * known["cnn1d-005"], 100 * known["cnn1d-100"]]
    assert line.accuracy.tolist() == pytest.approx(expected)


def test_calibration_is_shown_before_and_after_scaling(full: StudyFolder) -> None:
    found = read_json(full.results / "comparison.json")["classification"]["entries"]["har-vit"]
    rows = table_named(page_of(full), "Calibration")
    first = dict(zip(rows[0], rows[1], strict=True))
    assert first["ECE"] == f"{found['ece']:.3f}"
    assert first["ECE, scaled"] == f"{found['ece_scaled']:.3f}"
    assert first["temperature"] == "2.000"


def test_the_profile_names_the_batch_that_did_not_fit(full: StudyFolder) -> None:
    section = page_of(full).by_id("profile")
    rows = read_table(section.all("table")[0])
    assert [row[-1] for row in rows[1:]] == ["ok", "out of memory"]
    assert "several devices" in section.text()


@pytest.mark.parametrize(("width", "scheme"), [(900, "light"), (1440, "dark")])
def test_the_page_works_in_a_browser(
    full: StudyFolder, visit: Any, width: int, scheme: str
) -> None:
    page = visit(full, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    page.locator("#browser label", has_text="noise of 0.5 sd").click()
    table = read_json(full.results / "comparison.json")["table"]
    wanted = [f"{100 * r['accuracy']:.1f}" for r in table if r["condition"] == "noise-0.5"]
    assert page.locator("#browser [data-k=accuracy]").all_text_contents() == wanted
