"""Labels, colours, scales and files that every figure relies on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb
from matplotlib.font_manager import findfont, fontManager
from PIL import Image

from regatta.report.style import (
    FALLBACK_FONTS,
    PALETTE,
    accuracy_colormap,
    clean_text,
    common_scale,
    figure_fonts,
    figure_label,
    figure_style,
    font_faces,
    ink_on,
    name_labels,
    new_figure,
    padded_limits,
    render,
    shorten,
)

values = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=20)


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio, written from its definition."""

    def luminance(color: str) -> float:
        channels = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)
        ]
        return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@given(st.floats(0, 1))
def test_numbers_in_heat_map_cells_are_readable_on_every_colour_of_the_scale(share: float) -> None:
    color = to_hex(accuracy_colormap()(share))
    assert contrast(color, ink_on(color)) >= 4.0


def test_ink_is_the_better_of_dark_and_white() -> None:
    assert ink_on("#FFFFFF") != "white"
    assert ink_on("#000000") == "white"


def test_entry_colours_differ_from_each_other_and_from_white() -> None:
    assert len(set(PALETTE)) == 8
    assert min(contrast(color, "#FFFFFF") for color in PALETTE) > 1.9


@given(values, values)
def test_common_scale_covers_every_finite_value(first: list[float], second: list[float]) -> None:
    scale = common_scale(first, second)
    finite = [v for v in first + second if np.isfinite(v)]
    low, high = float(scale.vmin or 0), float(scale.vmax or 0)
    assert low < high
    assert all(low <= v <= high for v in finite)


@given(values, st.sampled_from([None, 0.0, -2.0]), st.sampled_from([None, 100.0]))
def test_axis_limits_contain_every_value_even_beyond_floor_and_ceiling(
    data: list[float], floor: float | None, ceiling: float | None
) -> None:
    low, high = padded_limits(data, floor=floor, ceiling=ceiling)
    assert low < high
    assert all(low <= v <= high for v in data if np.isfinite(v))


@given(st.text())
def test_cleaned_text_is_one_line_of_valid_xml_and_utf8(text: str) -> None:
    cleaned = clean_text(text)
    assert len(cleaned.splitlines()) <= 1
    parsed = ElementTree.fromstring(f"<a>{escape(cleaned)}</a>".encode())
    assert (parsed.text or "") == cleaned


@pytest.mark.parametrize(
    "text", ["a\x00b", "\ud800", "a\nb", "\x1b[31m", "\u202egnp.exe", "\ufffe"]
)
def test_control_characters_and_surrogates_do_not_pass(text: str) -> None:
    assert not set(clean_text(text)) & set("\x00\n\x1b\ud800\u202e\ufffe")


@given(st.text(min_size=1, max_size=80), st.integers(4, 40))
def test_figure_labels_fit_and_use_only_letters_of_the_figure_font(text: str, limit: int) -> None:
    label = figure_label(text, limit=limit)
    assert len(label) <= limit + 1
    assert all(ord(c) in FONT_LETTERS for c in label)
    assert not label.startswith("_")


FONT_LETTERS = set(TTFont(findfont("DejaVu Sans")).getBestCmap() or {})


def test_shortened_names_keep_start_and_end() -> None:
    assert shorten("timesformer-with-long-name-seed-7", 16) == "timesforme…eed-7"
    assert shorten("short", 16) == "short"


def test_classes_that_look_alike_in_a_figure_are_told_apart_by_number() -> None:
    labels = name_labels(
        ["转左", "转右", "x" * 40 + "1" + "y" * 9, "x" * 40 + "2" + "y" * 9, "plain"]
    )
    assert len(set(labels)) == 5
    assert labels[4] == "plain"


@pytest.mark.parametrize("name", [r"$\input{x}$", "$x^2$", r"\$5 or $6$"])
def test_formulas_in_names_are_drawn_letter_by_letter(name: str) -> None:
    with figure_style():
        figure = new_figure(3, 2)
        text = figure.text(0.5, 0.5, figure_label(name))
        render(figure)  # as a formula the first would be an error
        wide = text.get_window_extent().width
        alone = [figure.text(0, 0, letter).get_window_extent().width for letter in name]
    assert wide == pytest.approx(sum(alone), rel=0.35)


def test_same_figure_gives_the_same_bytes_and_names_no_date_or_program() -> None:
    def draw() -> dict[str, bytes]:
        with figure_style():
            figure = new_figure(3, 2)
            figure.add_subplot().plot([1, 2], [3, 4], label="a")
            return render(figure)

    first, second = draw(), draw()
    assert first == second
    assert set(first) == {"svg", "pdf", "png"}
    assert first["pdf"].startswith(b"%PDF")
    assert b"CreationDate" not in first["pdf"]
    assert b"<dc:date>" not in first["svg"]
    assert "Software" not in Image.open(io.BytesIO(first["png"])).info
    ElementTree.fromstring(first["svg"])


def test_nothing_is_cut_off_at_the_edge_of_any_format() -> None:
    with figure_style():
        figure = new_figure(3, 2)
        ax = figure.add_subplot()
        ax.set_yticks([0, 1], ["a long name of a class", "b"])
        ax.set_xlabel("x")
        png = render(figure)["png"]
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    border = np.concatenate(
        [pixels[:4].ravel(), pixels[-4:].ravel(), pixels[:, :4].ravel(), pixels[:, -4:].ravel()]
    )
    assert (border == 255).all()


def test_settings_of_the_caller_neither_leak_in_nor_change() -> None:
    with mpl.rc_context({"text.usetex": True, "font.size": 31.0}):
        with figure_style():
            assert mpl.rcParams["text.usetex"] is False
            assert mpl.rcParams["font.size"] == 8.0
        assert mpl.rcParams["font.size"] == 31.0


@pytest.fixture
def chinese_font(tmp_path: Path) -> Iterator[None]:
    """A font called Noto Sans SC with the two letters of 转左, installed for one test."""
    path = tmp_path / "chinese.ttf"
    builder = FontBuilder(1000, isTTF=True)
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", "turn", "left"]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord("转"): "turn", ord("左"): "left"})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Noto Sans SC", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.save(path)
    before = list(fontManager.ttflist)
    fontManager.addfont(str(path))
    forget_fonts()
    yield
    fontManager.ttflist[:] = before
    forget_fonts()


def forget_fonts() -> None:
    figure_fonts.cache_clear()
    font_faces.cache_clear()
    # matplotlib remembers which file a family is; it has no public way to forget.
    fontManager._findfont_cached.cache_clear()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("chinese_font")
def test_letters_of_an_installed_fallback_font_are_drawn_in_all_formats() -> None:
    assert "Noto Sans SC" in figure_fonts()
    assert figure_label("转左 turn") == "转左 turn"
    with figure_style():
        figure = new_figure(2, 1)
        figure.text(0.1, 0.5, figure_label("转左"), fontsize=20)
        formats = render(figure)
    with Image.open(io.BytesIO(formats["png"])) as picture:
        dark = (np.asarray(picture.convert("L")) < 128).sum()
    # Both letters are squares of 0.9 em: 20 points at 150 dpi are 41.7 pixels.
    assert dark == pytest.approx(2 * (0.9 * 20 * 150 / 72) ** 2, rel=0.1)


def test_without_a_fallback_font_unknown_letters_are_boxes_and_nothing_warns() -> None:
    installed = {entry.name for entry in fontManager.ttflist}
    assert figure_fonts() == ("DejaVu Sans", *(f for f in FALLBACK_FONTS if f in installed))
    assert figure_label("\U0001f9ff") in ("□", "\U0001f9ff")
