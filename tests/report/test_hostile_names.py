"""Names that attack every reader pass through all that a study writes, and nobody is harmed.

The walk reads every file under results/ and report/, whatever section made it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from regatta.records.run_folder import StudyFolder
from regatta.report import page as report_page
from regatta.report import pdf
from regatta.report.page import write_report
from regatta.report.style import Drawn, clean_text
from tests.report.conftest import build_hostile_grid, small_study
from tests.report.harmless import CONTROL, HOSTILE_NAMES, check_harmless, files_below
from tests.report.markup import Element, parse, read_table

Drawing = tuple[StudyFolder, dict[str, Drawn]]
CHROMIUM = next(filter(None, map(shutil.which, pdf.BROWSERS)), None)

# Same places in every sorted order, so that both studies have the same numbers and lists.
TAME = {name: f"c{rank:02d}" for rank, name in enumerate(sorted(HOSTILE_NAMES))}


def page_of(folder: StudyFolder) -> Element:
    return parse((folder.report / "report.html").read_text(encoding="utf-8"))


def test_every_file_of_results_and_report_is_harmless(hostile_grid: StudyFolder) -> None:
    kinds = {path.suffix for path in files_below(hostile_grid.results, hostile_grid.report)}
    assert {".html", ".svg", ".csv", ".json", ".md", ".tex", ".txt", ".pdf", ".png"} <= kinds
    for path in files_below(hostile_grid.results, hostile_grid.report):
        check_harmless(path)


def test_every_file_of_a_study_without_grid_is_harmless(hostile_report: StudyFolder) -> None:
    for path in files_below(hostile_report.results, hostile_report.report):
        check_harmless(path)


def shape(element: Element) -> tuple[str, list[str], str]:
    """What of an element a name must not change: its tag, its attributes and where it leads."""
    attributes = element.attributes
    place = attributes.get("href", "") + attributes.get("src", "")[:11] + attributes.get("id", "")
    # A long name may have a class of its own for its width; nothing else hangs on it.
    return element.tag, sorted(set(attributes) - {"class"}), place


def test_a_page_of_hostile_names_has_the_very_elements_of_a_page_of_tame_names(
    hostile_drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile, figures = hostile_drawing
    monkeypatch.setattr(report_page, "draw_figures", lambda _: figures)
    tame = build_hostile_grid(tmp_path, [TAME[name] for name in HOSTILE_NAMES])
    write_report(tame)
    shapes = [[shape(e) for e in page_of(folder).everything()] for folder in (hostile, tame)]
    assert shapes[0] == shapes[1]


def test_every_class_is_named_in_the_page_as_clean_text(hostile_grid: StudyFolder) -> None:
    root = page_of(hostile_grid)
    wanted = [" ".join(clean_text(name).split()) for name in HOSTILE_NAMES]
    assert [row[0] for row in read_table(root.by_id("classes-table"))[1:]] == wanted
    raw = (hostile_grid.report / "report.html").read_text(encoding="utf-8")
    assert not CONTROL.search(raw)


def test_data_blocks_of_the_page_are_json_that_no_name_can_close(hostile_grid: StudyFolder) -> None:
    blocks = [e for e in page_of(hostile_grid).all("script") if "type" in e.attributes]
    assert len(blocks) >= 3
    for block in blocks:
        assert block.attributes["type"] == "application/json"
        text = str(block.children[0])
        assert not set(text) & set("<>&'")
        json.loads(text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_a_pdf_of_hostile_names_holds_no_action_and_no_folder(
    hostile_grid: StudyFolder, tmp_path: Path
) -> None:
    target = pdf.print_page(
        hostile_grid.report / "report.html", tmp_path / "report.pdf", browser=str(CHROMIUM)
    )
    check_harmless(target)
    content = target.read_bytes()
    assert b"file:" not in content
    assert os.fsencode(hostile_grid.path.name) not in content.partition(b"/Title")[0]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_latex_table_compiles_and_runs_nothing(
    hostile_grid: StudyFolder, tmp_path: Path
) -> None:
    """Letters that the font lacks are the only thing that LaTeX may complain of."""
    tables = sorted((hostile_grid.report / "tables").glob("*.tex"))
    body = "".join(f"{path.read_text(encoding='utf-8')}\\clearpage\n" for path in tables)
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,textcomp}"
        f"\\begin{{document}}\n{body}\\end{{document}}\n",
        encoding="utf-8",
    )
    result = subprocess.run(
        ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
    )
    log = result.stdout.decode("utf-8", "replace")
    complaints = [line for line in log.splitlines() if line.startswith("!")]
    assert [c for c in complaints if "Unicode character" not in c] == []
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")
    assert {p.suffix for p in tmp_path.iterdir()} == {".tex", ".aux", ".log", ".pdf"}
    assert re.search(r"Output written on all\.pdf \(\d+ pages", log)


def test_a_class_whose_name_is_no_unicode_has_a_page(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    for path in folder.path.rglob("complete.json"):
        text = path.read_text(encoding="utf-8").replace('"turn-left"', '"turn \\udcff\\u0000"')
        path.write_text(text, encoding="utf-8")
    write_report(folder)
    names = [row[0] for row in read_table(page_of(folder).by_id("classes-table"))[1:]]
    assert names == ["turn \ufffd\ufffd", "turn-right"]
    for path in files_below(folder.results, folder.report):
        check_harmless(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.html", "<p><img src=x></p><script>1</script>"),
        ("a.html", "<p onclick='alert(1)'></p><script>1</script>"),
        ("a.html", "<script>1</script><script>alert(1)</script>"),
        ("a.html", "<a href=' JavaScript:alert(1)'></a><script>1</script>"),
        ("a.svg", "<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>"),
        ("a.svg", "<svg xmlns='http://www.w3.org/2000/svg'><g onload='x()'/></svg>"),
        ("a.svg", "<svg xmlns='http://www.w3.org/2000/svg'><foreignObject/></svg>"),
        ("a.csv", "class,n\n=cmd(),1\n"),
        ("a.csv", "class,n\nfall,1\n-2,1\n"),
        ("a.csv", "class,n\nfall,1,2\n"),
        ("a.json", '{"a": NaN}'),
        ("a.md", "| a |\n| --- |\n| <img src=x> |\n"),
        ("a.md", "| a | b |\n| --- | --- |\n| x | y | z |\n"),
        ("tables/a.md", "| a |\n| --- |\n| [a](https://a.example) |\n"),
        ("a.tex", "  \\begin{tabular}{lr}\n    $\\input{x}$ & 1 \\\\\n"),
        ("a.tex", "  \\begin{tabular}{lr}\n    a & b & 1 \\\\\n"),
        ("a.txt", "red \x1b[31m"),
        ("a.pdf", "%PDF-1.4 /OpenAction 1 0 R"),
    ],
)
def test_the_walk_refuses_what_a_name_could_have_made(
    tmp_path: Path, name: str, content: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    with pytest.raises((AssertionError, ValueError)):
        check_harmless(path)
