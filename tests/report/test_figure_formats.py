"""Which files a figure has: all three by default, fewer on request, and a page that fits them."""

from __future__ import annotations

from pathlib import Path

import pytest

from regatta.core.errors import ConfigError
from regatta.report.formats import FORMATS, VARIABLE, drawing_formats, wanted_formats
from regatta.report.page import write_report
from regatta.report.style import PNG_DPI, drawn, figure_style, new_figure
from tests.report.conftest import small_study
from tests.report.markup import parse


def test_without_the_variable_figures_come_in_all_three_formats() -> None:
    assert wanted_formats({}) == wanted_formats({VARIABLE: " "}) == ("svg", "pdf", "png")
    assert wanted_formats({VARIABLE: "PNG, svg"}) == ("svg", "png")


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("svg,jpeg", "'jpeg'", "svg, pdf, png"),
        ("svg,", "''", "svg, pdf, png"),
        ("pdf", "only a PDF", "svg or png"),
    ],
)
def test_a_format_that_does_not_exist_or_cannot_be_shown_is_refused_by_name(
    text: str, said: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        wanted_formats({VARIABLE: text})
    assert hint in str(caught.value.hint)
    assert f"{VARIABLE}={text}" in str(caught.value.where)


def test_fewer_formats_leave_the_others_out_of_folder_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_study(tmp_path)
    stale = folder.report / "figures" / "comparison_best_accuracy.pdf"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of a former report")
    for name in ("png", "svg"):
        monkeypatch.setenv(VARIABLE, name)
        page = parse(write_report(folder).read_text(encoding="utf-8"))
        figures = [p for p in (folder.report / "figures").rglob("*") if p.is_file()]
        assert figures
        assert {path.suffix for path in figures} == {f".{name}"}
        links = [a.attributes["href"] for a in page.all("a")]
        drawings = {link for link in links if link.startswith("figures/")}
        assert drawings == {p.relative_to(folder.report).as_posix() for p in figures}
        media = {image.attributes["src"].partition(";")[0] for image in page.all("img")}
        assert media == {"data:image/png" if name == "png" else "data:image/svg+xml"}


def test_the_size_on_the_page_is_the_size_of_the_png() -> None:
    for size in ((3, 2), (2.987, 1.001), (7.11, 1.14), (10 / 3, 7.77)):
        with figure_style():
            figure = new_figure(*size)
            figure.add_subplot().plot([1, 2], [3, 4])
            shown = drawn("x", figure, title="x", caption="x", alt="x")
        png = shown.formats["png"]
        header = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
        assert shown.pixels == header
        assert header[0] == pytest.approx(PNG_DPI * size[0], abs=1)


def test_each_format_alone_is_the_file_that_all_three_have() -> None:
    def draw(*formats: str) -> dict[str, bytes]:
        with figure_style(), drawing_formats(formats):
            figure = new_figure(4, 2)
            ax = figure.add_subplot()
            ax.plot([1, 2], [3, 4], label="a rather long label")
            ax.set_ylabel("accuracy, %")
            ax.legend()
            return drawn("x", figure, title="x", caption="x", alt="x").formats

    together = draw(*FORMATS)
    assert list(together) == list(FORMATS)
    for name in FORMATS:
        assert draw(name) == {name: together[name]}
