"""The section "which factors matter": its table, its diagram, and what stands there without one."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from regatta.core.files import read_json
from regatta.records.run_folder import StudyFolder
from regatta.report.factor_figures import RankedEntry, critical_difference, factor_figures
from regatta.report.factor_tables import (
    factor_analyses_table,
    factor_view,
    factors_table,
    friedman_table,
)
from regatta.report.material import Material, read_material
from regatta.report.style import FigureGap, RenderedFigure, figure_style, render
from regatta.report.tables import Table, as_csv
from tests.analysis.build import build_judged_study
from tests.report.conftest import small_study
from tests.report.markup import parse, read_table
from tests.report.reading import overlapping_texts, points_outside, texts_outside, visible_texts

LONG = "a-rather-long-name-of-an-entry-that-is-cut-in-the-middle"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Three entries in three conditions, twelve classes."""
    folder = build_judged_study(
        tmp_path_factory.mktemp("factors"),
        samples=96,
        classes=12,
        protocol="multi-view",
        part_samples=96,
        compare={"replicates": 200},
    )
    return read_material(folder)


@pytest.fixture
def style() -> Iterator[None]:
    with figure_style():
        yield


def ranked(ranks: list[float]) -> list[RankedEntry]:
    names = [LONG if n == 1 else f"entry-{n}" for n in range(len(ranks))]
    return [RankedEntry(names[n], n, rank) for n, rank in enumerate(ranks)]


def diagram(ranks: list[float], undivided: list[list[int]], limit: float = 0.9) -> Figure:
    entries = ranked(ranks)
    return critical_difference(
        entries, [[entries[n].entry for n in places] for places in undivided], limit
    )


CASES = {
    "three": ([1.1, 1.9, 3.0], [[0, 1]]),
    "ties": ([2.0, 2.0, 2.0], [[0, 1, 2]]),
    "five": ([1.0, 2.2, 3.1, 4.0, 4.7], [[1, 2], [2, 3], [3, 4]]),
    "sixteen": (np.linspace(1.5, 15.5, 16).tolist(), [[n, n + 1] for n in range(15)]),
}


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("case", CASES)
def test_nothing_of_the_diagram_is_cut_off_or_over_another_text(case: str) -> None:
    figure = diagram(*CASES[case])
    assert overlapping_texts(figure) == []
    assert texts_outside(figure) == []
    assert points_outside(figure) == []
    assert set(render(figure)) == {"svg", "pdf", "png"}


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("case", CASES)
def test_the_best_rank_is_on_the_right_and_every_rank_is_written(case: str) -> None:
    ranks, undivided = CASES[case]
    figure = diagram(ranks, undivided)
    (ax,) = figure.axes
    left, right = ax.get_xlim()
    assert left > max(ranks)
    assert right < min(ranks)
    texts = [text.get_text() for text in visible_texts(figure)]
    assert all(any(f"{rank:.2f}" in text for text in texts) for rank in ranks)
    dots = [np.asarray(line.get_xdata(), float) for line in ax.lines if line.get_marker() == "o"]
    assert sorted(np.concatenate(dots)) == pytest.approx(ranks)


@pytest.mark.usefixtures("style")
def test_bars_reach_over_exactly_the_entries_that_they_join() -> None:
    ranks, undivided = CASES["five"]
    (ax,) = diagram(ranks, undivided).axes
    bars = [line for line in ax.lines if line.get_linewidth() > 2]
    spans = sorted(tuple(sorted(np.asarray(line.get_xdata(), float))) for line in bars)
    assert len(spans) == len(undivided)
    for (low, high), places in zip(spans, undivided, strict=True):
        assert [n for n, rank in enumerate(ranks) if low <= rank <= high] == places
    heights = sorted(np.asarray(line.get_ydata(), float)[0] for line in bars)
    assert all(b - a > 0.1 for a, b in pairwise(heights))


def test_the_page_has_the_section_with_sentences_and_tables(grid_report: StudyFolder) -> None:
    comparison = read_json(grid_report.results / "comparison.json")
    page = parse((grid_report.report / "report.html").read_text(encoding="utf-8"))
    section = page.by_id("factors")
    assert section.all("h2")[0].text() == "Which factors matter"
    assert len(section.all("li")) == len(comparison["factors"]["sentences"])
    table = read_table(section.all("table")[0])
    assert [row[0] for row in table[1:]][-2:] == ["coverage × stride", "model × coverage × stride"]
    assert len(table) == 8
    assert "There is no critical-difference diagram" in section.text()
    assert "#factors" in [link.attributes.get("href") for link in page.all("a")]


@pytest.mark.usefixtures("style")
def test_the_diagram_says_ranks_and_bars_to_those_who_cannot_see_it(material: Material) -> None:
    (figure,) = factor_figures(material)
    assert isinstance(figure, RenderedFigure)
    assert figure.name == "critical_difference"
    section = material.comparison["friedman"]
    for row in section["entries"]:
        assert f"{row['entry']} {row['mean_rank']:.2f}" in figure.alt
    assert f"(CD) of {section['critical_difference']:.2f}" in figure.caption
    assert "over 12 classes" in figure.caption


def rows_of(table: Table | None) -> list[dict[str, str]]:
    assert table is not None
    return list(csv.DictReader(io.StringIO(as_csv(table))))


def test_the_tables_hold_the_numbers_of_the_comparison(material: Material) -> None:
    factors, ranks = (material.comparison[key] for key in ("factors", "friedman"))
    rows = {row["effect"]: row for row in rows_of(factors_table(material))}
    for effect in factors["effects"]:
        given, shown = effect["range_points"], rows[effect["effect"]]["range_points"]
        assert (shown == "") == (given is None)
        assert given is None or float(shown) == pytest.approx(given)
    by_name = {analysis["name"]: analysis["tests"] for analysis in factors["analyses"]}
    for test in by_name["anova_groups"]:
        row = rows[test["effect"]]
        assert float(row["partial_eta_squared"]) == pytest.approx(test["partial_eta_squared"])
        assert float(row["anova_f"]) == pytest.approx(test["f"])
    assert len(rows_of(factor_analyses_table(material))) == sum(map(len, by_name.values()))
    assert [float(row["p_nemenyi"]) for row in rows_of(friedman_table(material))] == pytest.approx(
        [pair["p_value"] for pair in ranks["pairs"]]
    )


def test_two_entries_have_a_sentence_in_place_of_the_diagram(tmp_path: Path) -> None:
    material = read_material(small_study(tmp_path, entries=2))
    (gap,) = factor_figures(material)
    assert isinstance(gap, FigureGap)
    reason = "ranks over blocks need 3 entries, there are 2."
    assert gap.reason == f"There is no critical-difference diagram: {reason}"
    view = factor_view(material)
    assert view is not None
    assert "the choice of model" in view["sentences"][0]
    assert factors_table(material) is not None
    assert friedman_table(material) is None


def test_one_entry_in_one_condition_has_no_such_section(tmp_path: Path) -> None:
    material = read_material(small_study(tmp_path))
    assert factor_view(material) is None
    assert factors_table(material) is factor_analyses_table(material) is None


def test_a_single_group_has_the_reasons_in_words_and_no_number(tmp_path: Path) -> None:
    folder = small_study(tmp_path, entries=3, samples=24, samples_per_group=24)
    material = read_material(folder)
    view = factor_view(material)
    assert view is not None
    assert view["sentences"] == ["Model is not tested: all samples belong to one group."]
    table = factors_table(material)
    assert table is not None
    assert [cell.text for cell in table.rows[0][2:4]] == ["–", "–"]
    assert "all samples belong to one group" in table.rows[0][2].source
