"""Letters in PDF figures: embedded, readable as text, and the same whatever was drawn before."""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from fontTools.ttLib import TTFont
from matplotlib.backends import _backend_pdf_ps
from matplotlib.font_manager import findfont

from regatta.report.formats import drawing_formats
from regatta.report.pdf_fonts import USUAL_LETTERS
from regatta.report.style import figure_style, new_figure, render

needs_poppler = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="pdftotext is not installed: poppler-utils"
)
PLAIN = "accuracy, 98.7 ± 0.4 % fi"
FOREIGN = "Ünïcødé Ω ж 10⁻³"


def draw(*lines: str) -> bytes:
    """A PDF figure with one text in each line."""
    with figure_style(), drawing_formats(["pdf"]):
        figure = new_figure(5, 2)
        for number, line in enumerate(lines):
            figure.text(0.1, 0.8 - 0.2 * number, line)
        return render(figure)["pdf"]


def told(program: str, content: bytes, folder: Path) -> str:
    path = folder / "figure.pdf"
    path.write_bytes(content)
    target = ["-"] if program == "pdftotext" else []
    done = subprocess.run([program, path, *target], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@needs_poppler
@pytest.mark.parametrize("lines", [[PLAIN], [FOREIGN], [PLAIN, FOREIGN]])
def test_every_letter_is_text_that_a_reader_can_copy(lines: list[str], tmp_path: Path) -> None:
    found = told("pdftotext", draw(*lines), tmp_path)
    assert [line.strip() for line in found.splitlines() if line.strip()] == lines


@needs_poppler
@pytest.mark.parametrize("line", [PLAIN, FOREIGN])
def test_fonts_are_embedded_as_truetype_not_type_3(line: str, tmp_path: Path) -> None:
    row = told("pdffonts", draw(line), tmp_path).splitlines()[2].split()
    assert row[1:3] == ["CID", "TrueType"]
    assert row[4:7] == ["yes", "yes", "yes"]  # embedded, cut, with a map back to Unicode


def test_a_figure_is_the_same_whatever_letters_were_drawn_before() -> None:
    first = draw(PLAIN)
    draw(FOREIGN)
    assert draw(PLAIN) == first
    foreign = draw(FOREIGN)
    assert draw(PLAIN, FOREIGN) != foreign
    assert draw(FOREIGN) == foreign


def font_of(content: bytes) -> bytes:
    """The one font file inside a PDF."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
    fonts = [zlib.decompress(s) for s in streams if s[:1] == b"\x78"]
    (font,) = [found for found in fonts if found.startswith(b"\x00\x01\x00\x00")]
    return font


def test_figures_with_usual_letters_share_one_cut_and_matplotlib_gets_its_own_back() -> None:
    before = _backend_pdf_ps.get_glyphs_subset
    assert font_of(draw("abc")) == font_of(draw("xyz 123"))
    assert font_of(draw("abc é")) != font_of(draw("abc éè"))
    assert _backend_pdf_ps.get_glyphs_subset is before


def test_the_figure_font_has_every_usual_letter() -> None:
    assert set(map(ord, USUAL_LETTERS)) <= set(TTFont(findfont("DejaVu Sans")).getBestCmap() or {})
