"""Reads every kind of file that Regatta writes, and refuses what a hostile name could have made.

`check_harmless(path)` knows each suffix by its own strict reader; a suffix that it does not know is
an error, so that a new kind of output cannot go unread.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
from markdown_it import MarkdownIt
from PIL import Image

from regatta.core.csv_text import FORMULA_STARTS
from regatta.report.tables import LATEX
from tests.report.markup import parse

HOSTILE_NAMES = (
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(1)</script>",
    r"$\input{x}$",
    r"\write18{ls}",
    "=cmd|' /C calc'!A0",
    "+1",
    "-2",
    "@SUM(A1)",
    "|x|",
    "[a](javascript:alert(1))",
    "%s{0}{{x}}",
    "\u202egnp.exe",
    "x" * 300,
    "two\nlines\tand a tab",
    "nul\x00bell\x07escape\x1b[31m",
    "\U0001f6a4 转左 \U000e0001",
    "--><!-- ]]> &amp; '';!--",
)
"""Each attacks a reader of some output; none is a prefix of another."""

TEX_LINES = (
    r"% needs \usepackage{booktabs,textcomp} and \usepackage[T1]{fontenc}",
    r"\begin{table}",
    r"  \centering",
    r"    \toprule",
    r"    \midrule",
    r"    \bottomrule",
    r"  \end{tabular}",
    r"\end{table}",
)
SVG_TAGS = {"svg", "metadata", "defs", "style", "g", "path", "use", "clipPath", "rect", "image"}
SVG_TAGS |= {"pattern", "RDF", "Work", "type", "format", "creator", "Agent", "title"}
PDF_ACTIONS = (b"/JavaScript", b"/JS", b"/Launch", b"/URI", b"/OpenAction", b"/SubmitForm")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


def check_harmless(path: Path) -> None:
    """Fail where a file is not what its suffix says, or holds what only a name can have made."""
    CHECKS[path.suffix](path)


def files_below(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def _check_html(path: Path) -> None:
    everything = parse(path.read_text(encoding="utf-8")).everything()
    assert not [name for e in everything for name in e.attributes if name.startswith("on")]
    assert sum(e.tag == "script" and "type" not in e.attributes for e in everything) == 1
    for element in everything:
        assert element.attributes.get("src", "data:image/").startswith("data:image/")
        assert not element.attributes.get("href", "").lower().lstrip().startswith("javascript:")
        assert "expression(" not in element.attributes.get("style", "")


def _check_svg(path: Path) -> None:
    for element in ElementTree.parse(path).iter():
        assert element.tag.rpartition("}")[2] in SVG_TAGS, (path, element.tag)
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name.rpartition("}")[2] == "href":
                assert value.startswith(("#", "data:image/png;base64,")), (path, value)
        if element.tag.endswith("style"):
            assert not re.search(r"@import|url\(", element.text or "")


def _check_csv(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert len({len(row) for row in rows}) == 1, path
    for heading, *cells in zip(*rows, strict=True):
        # A column of numbers may have negative ones; a name like -2 beside words may not stand so.
        numeric = all(_is_number(cell) for cell in cells if cell)
        for cell in cells:
            assert numeric or not cell.startswith(FORMULA_STARTS), (path, heading, cell)
        assert not heading.startswith(FORMULA_STARTS)
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, header=None)
    assert frame.to_numpy().tolist() == rows, path


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_json(path: Path) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{path} holds {constant}")

    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def markdown_tokens(text: str) -> Iterator[Any]:
    """Every token of a GitHub-like reader, inline ones too."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")
    for token in reader.parse(text):
        yield token
        yield from token.children or []


def _check_markdown(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.startswith("---\n"):
        text = text[4:].partition("\n---\n")[2]
    for token in markdown_tokens(text):
        assert token.type not in ("html_block", "html_inline", "image"), (path, token.content)
        assert not str(token.attrGet("href") or "").lower().startswith(("javascript:", "data:"))
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, (path, block)
    if path.parent.name == "tables":
        assert not {token.type for token in markdown_tokens(text)} & {
            "em_open", "strong_open", "code_inline", "link_open", "s_open", "heading_open",
        }  # fmt: skip


def _check_latex(path: Path) -> None:
    """Every line is one of ours, or plain words and symbols between &; no other is a command."""
    symbols = sorted(set(LATEX.values()), key=len, reverse=True)
    known = "|".join(re.escape(symbol) for symbol in symbols)
    lines = path.read_text(encoding="utf-8").splitlines()
    layout = next(line for line in lines if r"\begin{tabular}" in line)
    columns = len(re.fullmatch(r"  \\begin\{tabular\}\{([lr]+)\}", layout)[1])  # type: ignore[index]
    for line in lines:
        if line in TEX_LINES or line == layout:
            continue
        words = line.removeprefix(r"  \caption{").removesuffix("}") if r"\caption{" in line else ""
        if not words:
            assert line.endswith(r" \\"), (path, line)
            words = line.removesuffix(r" \\")
            assert len(re.findall(r"(?<!\\)&", words)) == columns - 1, (path, line)
        rest = re.sub(known, "", words.replace("{}", "") if words.strip() == "{}" else words)
        assert not set(re.sub(r"(?<!\\) & ", "", rest).replace("{}", "")) & set("\\{}$&#_%~^"), line
        assert not CONTROL.search(words), (path, line)


def _check_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not CONTROL.search(text), (path, CONTROL.findall(text))


def _check_pdf(path: Path) -> None:
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    assert not [action for action in PDF_ACTIONS if re.search(re.escape(action) + rb"\b", content)]


def _check_png(path: Path) -> None:
    with Image.open(path) as picture:
        picture.verify()


CHECKS: dict[str, Callable[[Path], None]] = {
    ".html": _check_html,
    ".svg": _check_svg,
    ".csv": _check_csv,
    ".json": _check_json,
    ".md": _check_markdown,
    ".tex": _check_latex,
    ".txt": _check_text,
    ".pdf": _check_pdf,
    ".png": _check_png,
}
