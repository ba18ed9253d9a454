"""The section "Does the order hold": figures on hard input, tables, words, where it is left out."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.records.run_folder import StudyFolder
from regatta.report.condition_axis import ConditionColumns, condition_columns
from regatta.report.material import Material, read_material
from regatta.report.stability_figures import (
    CrossoverLine,
    RankTable,
    chosen_pairs,
    crossover_panels,
    rank_heatmap,
    stability_figures,
)
from regatta.report.stability_tables import crossover_table, stability_table
from regatta.report.style import FigureGap, RenderedFigure, figure_style
from tests.analysis.build import build_judged_study
from tests.analysis.planted import planted
from tests.analysis.protocol_conditions import conditions_of
from tests.report.markup import parse, table_named
from tests.report.reading import overlapping_texts, points_outside, texts_outside

LONG = "a-very-long-entry-name-that-somebody-typed-to-tell-seeds-apart-1"
NAMES = ["timesformer", "videomae", "vivit", LONG, "x", "r3d18-wide", "mc3-18", "slowfast-r50-k400"]
GRID = ConditionColumns(
    [str(s) for _ in range(5) for s in (1, 2, 4, 8, 16)],
    [(str(c), 5 * k, 5 * k + 5) for k, c in enumerate((10, 25, 50, 75, 100))],
    "stride, in groups of coverage, %",
)
NAMED = ConditionColumns(["full", "one-frame", "device turned by 30 degrees"], [], "control")
SINGLE = ConditionColumns(["1", "2"], [], "frames")
MANY = ConditionColumns([f"noise of {k / 10:g} sd" for k in range(75)], [], "")


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with figure_style():
        yield


def rank_table(entries: int, columns: ConditionColumns, *, chances: bool = True) -> RankTable:
    rng = np.random.default_rng(entries)
    cells = len(columns.labels)
    ranks = rng.permuted(np.tile(np.arange(1, entries + 1)[:, None], (1, cells)), axis=0)
    shares = rng.dirichlet(np.ones(entries), cells).T
    tied = rng.random(ranks.shape) < 0.2
    return RankTable(NAMES[:entries], ranks, tied, shares if chances else None, 0)


@pytest.mark.parametrize("columns", [GRID, NAMED, SINGLE, MANY])
@pytest.mark.parametrize("entries", [2, 8])
def test_ranks_are_readable(entries: int, columns: ConditionColumns) -> None:
    figure = rank_heatmap(rank_table(entries, columns), columns)
    assert not texts_outside(figure)
    assert not overlapping_texts(figure)
    assert max(figure.get_size_inches()) < 14


def test_every_cell_shows_its_rank_and_marks_what_is_shared() -> None:
    table = rank_table(3, NAMED, chances=False)
    figure = rank_heatmap(table, NAMED)
    shown = [text.get_text() for text in figure.axes[0].texts]
    wanted = [
        f"{table.ranks[place]}{'=' if table.tied[place] else ''}" for place in np.ndindex(3, 3)
    ]
    assert shown == wanted


def line(pair: int, axis: str, *, main: bool = True, known: bool = True) -> CrossoverLine:
    is_log2 = axis == "stride"
    values = np.array([1.0, 2, 4, 8, 16] if is_log2 else [10.0, 25, 50, 75, 100])
    difference = np.linspace(20, -30, 5) * (1 + pair)
    reach = np.full(5, 12.0 if known else np.nan)
    low, high = (values[1], values[-1]) if known else (np.nan, np.nan)
    return CrossoverLine(
        NAMES[pair], NAMES[pair + 1], (pair, pair + 1), axis, is_log2, main, values, difference,
        difference - reach, difference + reach, (float(values[2]), low, high), pair == 0,
    )  # fmt: skip


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("axes", [("coverage",), ("coverage", "stride")])
@pytest.mark.parametrize("known", [True, False])
def test_crossings_are_readable_and_inside_their_axes(
    pairs: int, axes: tuple[str, ...], known: bool
) -> None:
    lines = [
        line(pair, axis, main=main, known=known)
        for pair in range(pairs)
        for axis in axes
        for main in (True, False)
    ]
    figure = crossover_panels(lines)
    assert len(figure.axes) == pairs * len(axes)
    assert not texts_outside(figure)
    assert not overlapping_texts(figure)
    assert not points_outside(figure)


def curve(first: str, second: str, verdict: str, share: float) -> dict[str, Any]:
    return {"first": first, "second": second, "verdict": verdict, "crossing_share": share}


def test_pairs_with_a_crossover_are_shown_before_those_that_only_may_cross() -> None:
    curves = [
        curve("a", "b", "none shown", 0.9),
        curve("a", "c", "none shown", 0.1),
        curve("a", "c", "crossover", 0.99),
        curve("b", "c", "none shown", 0.2),
        curve("c", "d", "none shown", 0.5),
    ]
    assert chosen_pairs(curves) == [("a", "c"), ("a", "b"), ("c", "d")]


def study(path: Path, protocol: str, entries: Any = 2, **settings: Any) -> StudyFolder:
    return build_judged_study(
        path, entries=entries, samples=40, protocol=protocol, compare={"replicates": 200},
        **settings,
    )  # fmt: skip


def columns_of(protocol: str) -> ConditionColumns:
    conditions = [{"id": c.id, "axes": c.axes} for c in conditions_of(protocol)]
    material = Material(StudyFolder(Path("x")), {"conditions": conditions}, {}, [], [])
    return condition_columns(material, [c["id"] for c in conditions])


def test_columns_stand_in_groups_of_the_slow_axis() -> None:
    assert columns_of("temporal-grid") == GRID
    filters = columns_of("antialias")
    assert [label for label, _, _ in filters.groups] == ["1", "2", "4", "8", "16"]
    assert filters.labels[:2] == ["point", "box"]
    controls = columns_of("controls")
    assert (controls.labels[0], controls.groups, controls.title) == ("full", [], "control")
    views = columns_of("multi-view")
    assert (views.labels, views.groups) == (["1", "5", "10"], [("1", 0, 1), ("3", 1, 3)])
    assert views.title == "clips, in groups of crops"


def test_a_long_table_of_crossovers_is_cut_and_says_where_the_rest_is(tmp_path: Path) -> None:
    names = ["vivit", *(f"vivit-{letter}" for letter in "bcdefgh")]
    accuracy: dict[str, Sequence[float]] = dict.fromkeys(names, [0.6] * 5)
    accuracy["vivit-h"] = [0.05, 0.2, 0.6, 0.9, 1.0]
    folder = study(tmp_path, "matched", names, alter=planted(accuracy))
    material = read_material(folder)
    table = crossover_table(material)
    assert table is not None
    assert len(table.rows) == 24
    assert "24 of 28, the others are in results/crossover.csv" in table.title
    readings = [row[-1].text for row in table.rows]
    assert readings[:7] == ["crossover"] * 7
    assert set(readings[7:]) == {"no crossover is shown"}
    with (folder.results / "crossover.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 28
    figures = {figure.name: figure for figure in stability_figures(material)}
    assert set(figures) == {"rank_stability", "crossover"}
    shown = figures["crossover"]
    assert isinstance(shown, RenderedFigure)
    assert "25 more are in the table" in shown.caption


def test_the_page_answers_whether_the_order_holds(grid_report: StudyFolder) -> None:
    root = parse((grid_report.report / "report.html").read_text(encoding="utf-8"))
    section = root.by_id("order")
    text = section.text()
    comparison = read_material(grid_report).comparison
    stability, crossover = comparison["stability"], comparison["crossover"]
    assert f"is {stability['kendall_w']:.2f}, where 1 is the same order everywhere" in text
    assert "is not tested" in text
    assert "Counted once, because every entry saw the same inputs in them" in text
    rows = table_named(root, "Order of the entries in every condition")
    assert len(rows) - 1 == stability["n_conditions"] == 24
    assert len(table_named(root, "Where two entries change places")) - 1 == len(crossover["curves"])
    assert len(section.all("img")) == 2
    assert all(image.attributes["alt"] for image in section.all("img"))
    assert not re.search(r"\b(NaN|nan|None)\b", text)


def test_one_entry_has_no_such_section(hostile_report: StudyFolder) -> None:
    page = (hostile_report.report / "report.html").read_text(encoding="utf-8")
    assert "Does the order hold" not in page
    assert stability_table(read_material(hostile_report)) is None


def test_without_resampling_the_ranks_are_drawn_all_the_same(tmp_path: Path) -> None:
    folder = study(tmp_path, "matched", samples_per_group=40, classes=1)
    material = read_material(folder)
    figures = list(stability_figures(material))
    assert not any(isinstance(figure, FigureGap) for figure in figures)
    table = stability_table(material)
    assert table is not None
    assert {row[3].text for row in table.rows} == {"not measured"}
