"""Figures of the other protocols on hard input: nothing cut off, nothing over another text."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from regatta.report.formats import drawing_formats
from regatta.report.motion_figures import RatePoints, Spectrum, motion_spectra
from regatta.report.protocol_plots import (
    FilterPanel,
    ProtocolCurve,
    case_dots,
    filter_panels,
    protocol_lines,
)
from regatta.report.style import figure_style, render
from tests.report.reading import (
    drawn_axes,
    overlapping_texts,
    pixels,
    points_outside,
    texts_outside,
    visible_texts,
)
from tests.report.test_figures import NAMES

FRAMES = np.array([1.0, 2, 4, 8, 16])


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with figure_style():
        yield


def curve(place: int, x: np.ndarray, *, ceiling: bool = True) -> ProtocolCurve:
    rng = np.random.default_rng(place)
    accuracy = rng.uniform(0, 100, len(x))
    accuracy[0], accuracy[-1] = 0.0, 100.0
    low, high = np.maximum(accuracy - 8, 0), np.minimum(accuracy + 8, 100)
    known = np.full(len(x), 100.0 if ceiling else np.nan)
    return ProtocolCurve(NAMES[place], place, x, accuracy, low, high, known)


def curves(count: int, x: np.ndarray = FRAMES) -> list[ProtocolCurve]:
    return [curve(place, x) for place in range(count)]


def panel(place: int, strides: np.ndarray = FRAMES) -> FilterPanel:
    return FilterPanel(NAMES[place], place, curve(place, strides), curve(place + 1, strides))


def spectrum(number: int, kind: str, *, f95: float | None = 7.3) -> Spectrum:
    frequencies = np.linspace(0, 16, 129)
    power = np.exp(-frequencies / (1 + number))
    label = f"HandstandPushupsWithLongName{number}"
    return Spectrum(label, kind, frequencies, power / power.sum(), f95)


def spectra() -> list[Spectrum]:
    kinds = ("sensitive", "robust")
    return [spectrum(3 * k + n, kind) for k, kind in enumerate(kinds) for n in range(3)]


def rates(count: int) -> list[RatePoints]:
    needed = np.linspace(0.5, 14.6, 20)
    return [RatePoints(NAMES[n], n, needed, needed * (1 + n / 4)) for n in range(count)]


CONTROLS = ("full", "one-frame", "static", "shuffled", "reversed")
POSITIONS = np.linspace(0, 100, 9)
FIGURES: dict[str, Callable[[], Figure]] = {
    "matched, 3": lambda: protocol_lines(curves(3), xlabel="distinct frames", log2=True),
    "matched, 7": lambda: protocol_lines(curves(7), xlabel="distinct frames", log2=True),
    "matched, one k": lambda: protocol_lines(
        [curve(0, np.array([16.0]))], xlabel="distinct frames", log2=True
    ),
    "span": lambda: protocol_lines(
        curves(3, np.array([0.1, 0.1004, 0.9, 1.4, 1.97])), xlabel="seconds"
    ),
    "sliding": lambda: protocol_lines(curves(7, POSITIONS), xlabel="position", x_ends="percent"),
    "antialias, 1": lambda: filter_panels([panel(3)]),
    "antialias, 7": lambda: filter_panels([panel(n) for n in range(7)]),
    "antialias, one stride": lambda: filter_panels([panel(0, np.array([4.0]))]),
    "controls, 1": lambda: case_dots(curves(1, np.arange(5.0)), CONTROLS),
    "controls, 7": lambda: case_dots(curves(7, np.arange(5.0)), CONTROLS),
    "multi-view, 3": lambda: case_dots(curves(3, np.arange(3.0)), ["1x1", "5x3", "10x3"]),
    "multi-view, 8 sets": lambda: case_dots(
        curves(3, np.arange(8.0)), [f"{n}x3" for n in range(10, 18)]
    ),
    "motion": lambda: motion_spectra(spectra(), rates(3)),
    "motion, 7": lambda: motion_spectra(spectra(), rates(7)),
    "motion without rates": lambda: motion_spectra(spectra(), []),
    "motion, unknown f95": lambda: motion_spectra([spectrum(0, "slowest", f95=None)], rates(1)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_or_overlaps(name: str) -> None:
    figure = FIGURES[name]()
    if not name.startswith("motion"):
        # A spectrum runs below its axis on purpose: what lies far below is noise.
        assert points_outside(figure) == []
    assert overlapping_texts(figure) == []
    assert texts_outside(figure) == []


def test_doublings_of_frames_are_equal_steps() -> None:
    ax = drawn_axes(protocol_lines(curves(2), xlabel="frames", log2=True))[0]
    places = ax.transData.transform([(x, 50) for x in FRAMES])[:, 0]
    assert np.diff(places) == pytest.approx([np.diff(places)[0]] * 4)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "4", "8", "16"]


def test_every_panel_shares_one_accuracy_axis() -> None:
    figure = filter_panels([panel(n) for n in range(4)])
    assert len({ax.get_ylim() for ax in drawn_axes(figure)}) == 1
    assert len(drawn_axes(figure)) == 4


def test_a_dot_stands_at_its_accuracy_with_its_interval() -> None:
    one = curve(0, np.arange(5.0))
    ax = drawn_axes(case_dots([one], CONTROLS))[0]
    dots = next(line for line in ax.lines if len(np.asarray(line.get_xdata())) == 5)
    assert np.asarray(dots.get_ydata()).tolist() == one.accuracy.tolist()
    ends = [
        (segment[0][1], segment[1][1])
        for lines in ax.collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
        if segment[0][0] == segment[1][0]
    ]
    assert ends == list(zip(one.low, one.high, strict=True))


def test_unknown_ceilings_have_no_line_and_no_legend() -> None:
    bare = [curve(0, FRAMES, ceiling=False)]
    for figure in (
        protocol_lines(bare, xlabel="x", log2=True),
        case_dots(bare, CONTROLS),
        filter_panels([FilterPanel("x", 0, bare[0], bare[0])]),
    ):
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert not any("ceiling" in label for label in labels)


def test_the_mark_on_a_spectrum_stands_at_f95_on_its_line() -> None:
    one = spectrum(0, "sensitive", f95=5.0)
    ax = drawn_axes(motion_spectra([one], []))[0]
    mark = next(line for line in ax.lines if line.get_marker() == "|")
    assert np.asarray(mark.get_xdata(), float).tolist() == [5.0]
    height = np.interp(5.0, one.frequencies, one.power)
    assert np.asarray(mark.get_ydata(), float)[0] == pytest.approx(height, rel=0.01)
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("name", FIGURES)
def test_no_label_shows_the_source_of_a_formula(name: str) -> None:
    assert not any("$" in text.get_text() for text in visible_texts(FIGURES[name]()))


@pytest.mark.parametrize("name", ["matched, 3", "antialias, 7", "controls, 7", "motion"])
def test_pictures_are_not_blank(name: str) -> None:
    with drawing_formats(["png"]):
        assert pixels(render(FIGURES[name]())["png"]).std() > 5
