"""Fonts inside PDF figures: one cut of the figure font serves all that need no other letters.

matplotlib cuts the font to the letters of each figure anew, which takes half of the time of a PDF.
Here it is cut once to the letters that figures usually have; a figure with others gets a cut of its
own. Which one depends on the figure alone, so equal figures stay equal in bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

from matplotlib.backends import _backend_pdf_ps
from matplotlib.font_manager import get_font

USUAL_LETTERS = "".join(map(chr, range(0x20, 0x7F))) + "\u00a0\u200a±²·×–—…−\ufb01\ufb02"
"""ASCII, its two ligatures, and the signs that our own labels use."""
LAYOUT_TABLES = ("GDEF", "GPOS", "GSUB", "kern", "MATH")
"""For setting text; a PDF holds letters that are set already."""


@dataclass(frozen=True)
class _Cut:
    """Stands in for matplotlib's result of cutting a font, from which it reads these two."""

    content: bytes
    glyph_index_map: dict[int, int]

    @property
    def font(self) -> _Cut:
        return self

    def save(self, file: BinaryIO, **_: Any) -> None:
        file.write(self.content)


@contextmanager
def shared_cuts(figure_font: str) -> Iterator[None]:
    """Inside the block PDFs share cuts of `figure_font`, a path; other fonts as matplotlib does."""
    # A private function: matplotlib has no public place for this. Should it ask for letters in
    # another way one day, the cut is its own again.
    cut_font: Callable[..., Any] = _backend_pdf_ps.get_glyphs_subset

    def shared(fontfile: Any, glyphs: Collection[Any]) -> AbstractContextManager[Any]:
        if str(fontfile) == figure_font and set(glyphs) <= _usual_glyphs(fontfile):
            return nullcontext(_usual_cut(cut_font, fontfile))
        return cut_font(fontfile, glyphs)

    _backend_pdf_ps.get_glyphs_subset = shared
    try:
        yield
    finally:
        _backend_pdf_ps.get_glyphs_subset = cut_font


@cache
def _usual_glyphs(fontfile: Any) -> frozenset[int]:
    face = get_font(fontfile)
    return frozenset(face.get_char_index(ord(letter)) for letter in USUAL_LETTERS)


@cache
def _usual_cut(cut_font: Callable[..., Any], fontfile: Any) -> _Cut:
    with cut_font(fontfile, set(_usual_glyphs(fontfile))) as cut:
        for table in LAYOUT_TABLES:
            if table in cut.font:
                del cut.font[table]
        content = io.BytesIO()
        cut.font.save(content, reorderTables=False)
        return _Cut(content.getvalue(), dict(cut.glyph_index_map))
