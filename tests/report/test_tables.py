"""Tables read back from each format give what went in, whatever the names are."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from regatta.report.style import clean_text
from regatta.report.tables import (
    LATEX,
    NOT_MEASURED,
    Cell,
    Column,
    Table,
    as_csv,
    as_latex,
    as_markdown,
    latex_text,
    number_cell,
    table_files,
    text_cell,
)

HOSTILE = [
    '"><img src=x onerror=alert(1)>', r"$\input{x}$", "=cmd()", "+1+1", "@SUM(A1)", "-2+3", "a|b",
    "x" * 300, "转左", "\\end{document}", "a\nb", "[x](javascript:alert(1))", "`code`", "%",
    "*bold*", "\t=1",
]  # fmt: skip


def table_of(names: list[str]) -> Table:
    columns = [
        Column("entry", ("entry",), numeric=False),
        Column("accuracy, %", ("accuracy", "low", "high")),
    ]
    rows = [[text_cell(name), Cell("84.2 [81.0, 87.1]", (0.842, 0.81, 0.871))] for name in names]
    return Table("main", "Accuracy & intervals", columns, rows)


def test_csv_keeps_raw_numbers_and_names() -> None:
    rows = list(csv.reader(io.StringIO(as_csv(table_of(["a,b", "plain"])))))
    assert rows == [
        ["entry", "accuracy", "low", "high"],
        ["a,b", "0.842", "0.81", "0.871"],
        ["plain", "0.842", "0.81", "0.871"],
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_csv_text_starts_as_a_formula(name: str) -> None:
    (row,) = list(csv.reader(io.StringIO(as_csv(table_of([name])))))[1:]
    assert row[0][0] not in "=+-@\t\r\n"
    assert row[0].removeprefix("'") == clean_text(name)


def test_negative_numbers_stay_numbers_in_csv() -> None:
    table = Table(
        "t",
        "t",
        [Column("d", ("d",))],
        [[number_cell(-3.1)], [number_cell(None)], [number_cell(float("nan"))]],
    )
    assert as_csv(table) == 'd\n-3.1\n""\n""\n'


def test_missing_number_is_said_in_words() -> None:
    assert number_cell(None).text == NOT_MEASURED
    assert number_cell(float("nan")).text == NOT_MEASURED
    assert number_cell(float("nan")).values == (None,)


def read_markdown(text: str) -> list[list[str]]:
    """Cell texts of the table as an independent Markdown reader sees them."""
    tokens = (
        MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").parse(text)
    )
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            assert {child.type for child in token.children or []} <= {"text", "text_special"}
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


@given(st.lists(st.one_of(st.text(max_size=30), st.sampled_from(HOSTILE)), min_size=1, max_size=4))
def test_markdown_cells_read_back_as_the_same_plain_text(names: list[str]) -> None:
    rows = read_markdown(as_markdown(table_of(names)))
    assert [row[0] for row in rows[1:]] == [clean_text(name) for name in names]
    assert rows[0] == ["entry", "accuracy, %"]


@given(st.text(max_size=60))
def test_latex_text_reads_back_and_holds_no_command_but_symbols(text: str) -> None:
    escaped = latex_text(text)
    symbols = sorted(LATEX.items(), key=lambda pair: -len(pair[1]))
    pattern = "|".join(re.escape(value) for _, value in symbols)
    rest = re.sub(pattern, "", escaped.removeprefix("{}"))
    assert not set(rest) & set("\\{}$&#_%~^")


@pytest.mark.parametrize("name", [r"$\input{x}$", "\\end{document}", "50 % & more_of #1 ~ ^"])
def test_latex_names_are_harmless(name: str) -> None:
    latex = as_latex(table_of([name]))
    assert r"\input{" not in latex
    assert latex.count(r"\end{") == 2
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [1, 1]


def test_latex_row_that_starts_with_a_bracket_is_not_an_option_of_the_line_before() -> None:
    assert latex_text("[1, 2]") == "{}[1, 2]"


def test_each_table_comes_in_three_formats() -> None:
    assert set(table_files(table_of(["a"]))) == {"csv", "md", "tex"}
