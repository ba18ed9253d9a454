"""Tables for the page, CSV, Markdown and LaTeX from one description, each with its own escaping.

A cell has a text for readers and raw values for machines: `84.2 [81.0, 87.1]` is one cell and three
CSV columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from regatta.analysis.tables import csv_text
from regatta.report.style import clean_text

NOT_MEASURED = "not measured"
NAMED_FILES, NAMED_PLACES = 12, 4
SOURCE = re.compile(r"([^:,]*)(?:[:,] *([^:,]*))?", re.DOTALL)
"""A source is a file, then the place in it after a colon or comma, then more of that place."""
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "−": r"$-$",
    "×": r"$\times$",
    "²": r"$^2$",
    "η": r"$\eta$",
    "–": "--",
    "…": r"\ldots{}",
    "\ufffd": "?",
}


@dataclass(frozen=True)
class Column:
    """One column: its heading for readers, its CSV columns, and whether it is a number.

    `of_entry` is the place of the entry whose accuracy the page can change in this column.
    """

    heading: str
    keys: tuple[str, ...]
    numeric: bool = True
    note: str = ""
    of_entry: int | None = None


@dataclass(frozen=True)
class Cell:
    """`text` for readers; `values` for CSV, one per key of the column; the first one sorts.

    `source` names file and row for the hover title; `position` is an entry's place, for its colour.
    """

    text: str
    values: tuple[Any, ...]
    source: str = ""
    position: int | None = None

    @property
    def is_missing(self) -> bool:
        return self.text == NOT_MEASURED

    @property
    def sort_key(self) -> str:
        first = self.values[0] if self.values else None
        return "" if first is None else str(first)


@dataclass(frozen=True)
class Table:
    """`name` is its file name below `report/tables`, without suffix."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    @property
    def sources(self) -> list[str]:
        """Files that the cells come from, each with its places or their number: for readers who
        cannot hover."""
        places: dict[str, dict[str, None]] = {}
        for cell in (cell for row in self.rows for cell in row if cell.source):
            file, place = SOURCE.match(cell.source).groups()  # type: ignore[union-attr]
            places.setdefault(file, {}).update({place: None} if place else {})
        listed = [_file_and_places(file, list(found)) for file, found in places.items()]
        more = len(listed) - NAMED_FILES
        return [*listed[:NAMED_FILES], *([f"{more} more files"] if more > 0 else [])]


def _file_and_places(file: str, places: Sequence[str]) -> str:
    if not places:
        return file
    few = len(places) <= NAMED_PLACES
    return f"{file} ({', '.join(places) if few else f'{len(places)} places'})"


def text_cell(text: object, *, source: str = "", position: int | None = None) -> Cell:
    cleaned = clean_text(str(text))
    return Cell(cleaned, (cleaned,), source, position)


def number_cell(
    value: float | int | None,
    write: Callable[[float], str] = "{:g}".format,
    *,
    factor: float = 1.0,
    source: str = "",
) -> Cell:
    """`factor` times a number, or "not measured"."""
    if value is None or value != value:
        return Cell(NOT_MEASURED, (None,), source)
    scaled = value if factor == 1 else factor * value
    return Cell(write(scaled), (scaled,), source)


def table_files(table: Table) -> dict[str, bytes]:
    """The table as {"csv", "md", "tex"}."""
    texts = {"csv": as_csv(table), "md": as_markdown(table), "tex": as_latex(table)}
    return {kind: text.encode("utf-8") for kind, text in texts.items()}


def as_csv(table: Table) -> str:
    """RFC 4180 with raw values; a text that a spreadsheet would run gets a leading apostrophe."""
    header = [key for column in table.columns for key in column.keys]
    return csv_text(header, [_csv_row(table, row) for row in table.rows])


def _csv_row(table: Table, row: Sequence[Cell]) -> list[Any]:
    values: list[Any] = []
    for column, cell in zip(table.columns, row, strict=True):
        padded = [*cell.values, *[None] * (len(column.keys) - len(cell.values))]
        values += [None if value != value else value for value in padded]
    return values


def as_markdown(table: Table) -> str:
    """A pipe table (GitHub flavour) in which no cell is markup."""
    rules = ["---:" if column.numeric else "---" for column in table.columns]
    lines = [[markdown_text(column.heading) for column in table.columns], rules]
    lines += [[markdown_text(cell.text) for cell in row] for row in table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_text(text: str) -> str:
    """`text` with everything that is Markdown inside a table cell escaped."""
    escaped = re.sub(r"([\\`*_\[\]#!|$~])", r"\\\1", clean_text(text))
    # Entities, not backslashes: many readers pass raw HTML through, or link what has @ or ://.
    return re.sub(r"[&<>@:]", lambda match: f"&#{ord(match[0])};", escaped)


def as_latex(table: Table) -> str:
    """A booktabs table; needs the packages booktabs and textcomp."""
    layout = "".join("r" if column.numeric else "l" for column in table.columns)
    heading = " & ".join(latex_text(column.heading) for column in table.columns)
    body = [" & ".join(latex_text(cell.text) for cell in row) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,textcomp} and \usepackage[T1]{fontenc}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_text(table.title)}}}",
            rf"  \begin{{tabular}}{{{layout}}}",
            r"    \toprule",
            rf"    {heading} \\",
            r"    \midrule",
            *[f"    {line}" for line in body],
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def latex_text(text: str) -> str:
    """`text` as plain words in LaTeX: every character that is a command becomes its symbol."""
    escaped = "".join(LATEX.get(character, character) for character in clean_text(text))
    # A row that starts with [ would be read as the optional argument of the \\ before it.
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped
