"""Names that attack a reader change no number, break no table and come back as they were."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regatta.analysis.compare import compare_study
from regatta.analysis.judged import read_judged_study
from regatta.analysis.tables import csv_text, plain_line
from regatta.cli.main import app
from regatta.core.files import read_json
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study
from tests.report.harmless import CONTROL, HOSTILE_NAMES, check_harmless, files_below

# Same places in every sorted order, so that nothing but the names differs.
TAME = {name: f"c{rank:02d}" for rank, name in enumerate(sorted(HOSTILE_NAMES))}
CLASS_COLUMNS = ("class", "predicted")


def build(path: Path, classes: list[str], **settings: Any) -> StudyFolder:
    options = {"entries": 2, "samples": 8 * len(classes), "compare": {"replicates": 200}}
    return build_judged_study(path, classes=classes, **{**options, **settings})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = build(tmp_path_factory.mktemp("hostile"), list(HOSTILE_NAMES))
    compare_study(folder)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def as_read(name: str) -> str:
    """A name as it stands in a CSV: what a spreadsheet would run has an apostrophe before it."""
    return next(iter(csv.DictReader(csv_text(["n"], [[name]]).splitlines(keepends=True))))["n"]


def test_every_file_of_results_is_harmless(hostile: StudyFolder) -> None:
    for path in files_below(hostile.results):
        check_harmless(path)


def numbers(value: Any) -> Iterator[float | None]:
    """Every number of a JSON value in order, None where one is not defined."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif not isinstance(value, str):
        yield value


def test_what_classes_are_called_changes_no_number(hostile: StudyFolder, tmp_path: Path) -> None:
    tame = build(tmp_path, [TAME[name] for name in HOSTILE_NAMES])
    compare_study(tame)
    found = [list(numbers(read_json(f.results / "comparison.json"))) for f in (hostile, tame)]
    assert len(found[0]) > 1000
    assert found[0] == found[1]


def test_class_names_come_back_from_every_table_that_has_them(hostile: StudyFolder) -> None:
    wanted = {as_read(name) for name in HOSTILE_NAMES}
    assert all(name.removeprefix("'") in HOSTILE_NAMES for name in wanted)
    tables = 0
    for path in hostile.results.rglob("*.csv"):
        rows = rows_of(path)
        for column in set(rows[0]) & set(CLASS_COLUMNS) if rows else ():
            assert {row[column] for row in rows} <= wanted, path
            tables += 1
    assert tables >= 5
    assert {row["class"] for row in rows_of(hostile.results / "per_class.csv")} == wanted


def test_sample_ids_come_back_from_the_list_of_hard_samples(hostile: StudyFolder) -> None:
    ids = {as_read(str(name)) for name in read_judged_study(hostile).sample_ids}
    rows = rows_of(hostile.results / "hard_samples.csv")
    assert len(rows) > 20
    assert {row["sample_id"] for row in rows} <= ids


def test_sentences_hold_no_character_that_steers_a_terminal(tmp_path: Path) -> None:
    """One class judged, others absent: the notes name them."""
    folder = build(tmp_path, list(HOSTILE_NAMES), samples=4, protocol="plain")
    comparison = compare_study(folder)
    assert any("without a judged sample" in note for note in comparison["notes"])
    said = [comparison["verdict"]["sentence"], comparison["methods"], *comparison["notes"]]
    assert not CONTROL.search("\n".join(said))


def test_a_name_that_is_no_unicode_is_written_with_a_mark_in_its_place(tmp_path: Path) -> None:
    """Folder names of old disks reach JSON records as lone surrogates, which UTF-8 refuses."""
    names = ["walk \udcff", "run"]
    folder = build(tmp_path, ["walk", "run"], protocol="plain", samples=16)
    for path in folder.path.rglob("complete.json"):
        text = path.read_text(encoding="utf-8").replace('"walk"', '"walk \\udcff"')
        path.write_text(text, encoding="utf-8")
    assert compare_study(folder)["per_class"]["classes"] == names
    rows = rows_of(folder.results / "per_class.csv")
    assert {row["class"] for row in rows} == {"walk \ufffd", "run"}
    for path in files_below(folder.results):
        check_harmless(path)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a\tb\nc", "a b c"),
        ("\x1b[31mred", "\ufffd[31mred"),
        ("\u202egnp", "\ufffdgnp"),
        ("\udcff", "\ufffd"),
        ("转左 🛥", "转左 🛥"),
        ("\x9b2J", "\ufffd2J"),
    ],
)
def test_a_name_in_a_text_file_is_one_plain_line(name: str, line: str) -> None:
    assert plain_line(name) == line


def test_an_imported_table_of_hostile_class_names_is_harmless(tmp_path: Path) -> None:
    names = [name for name in HOSTILE_NAMES if "\x00" not in name]
    with open(tmp_path / "theirs.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "coverage", "stride", "accuracy", "n_samples"])
        for place, name in enumerate(names):
            writer.writerows([name, c, s, place % 5 / 4, 4] for c in (100, 25) for s in (1, 8))
    command = ["compare", "--import", str(tmp_path / "theirs.csv"), "--runs", str(tmp_path)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert not CONTROL.search(result.output.replace("\n", ""))
    found = StudyFolder(tmp_path / "imported")
    classes = read_json(found.results / "comparison.json")["per_class"]["classes"]
    assert len(classes) == len(names)
    for path in files_below(found.results):
        check_harmless(path)
