"""Tables, figure and page sections of agreement, ensembles and power, read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from regatta.analysis.compare import compare_study
from regatta.records.run_folder import StudyFolder
from regatta.report.agreement_figures import agreement_figures, agreement_matrices, symmetric
from regatta.report.agreement_tables import (
    NOT_DEFINED,
    agreement_table,
    agreement_view,
    ensemble_table,
    power_table,
    power_view,
)
from regatta.report.material import Material, read_material
from regatta.report.page import write_report
from regatta.report.style import FigureGap, RenderedFigure, figure_style
from regatta.report.tables import Table, as_csv
from tests.analysis.build import build_judged_study
from tests.report.markup import parse, table_named
from tests.report.reading import drawn_axes, overlapping_texts, texts_outside, visible_texts

LONG = "a-very-long-entry-name-that-somebody-typed-to-tell-seeds-apart"
QUICK = {"replicates": 300}


def material_of(path: Path, **changes: Any) -> Material:
    options = {"samples": 60, "protocol": "plain", "compare": QUICK, **changes}
    folder = build_judged_study(path, **options)
    compare_study(folder)
    return read_material(folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return material_of(tmp_path_factory.mktemp("three"), entries=3, seeds=(0, 1))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = build_judged_study(
        tmp_path_factory.mktemp("page"), entries=2, samples=60, protocol="plain", compare=QUICK
    )
    write_report(folder)
    return folder


def rows_of(table: Table | None) -> list[dict[str, str]]:
    assert table is not None
    return list(csv.DictReader(io.StringIO(as_csv(table))))


def test_the_agreement_table_has_the_numbers_of_the_comparison(three: Material) -> None:
    pairs = three.comparison["agreement"]["pairs"]
    for row, pair in zip(rows_of(agreement_table(three)), pairs, strict=True):
        assert (row["first"], row["second"]) == (pair["first"], pair["second"])
        assert float(row["only_first_percent"]) == pytest.approx(100 * pair["only_first"])
        assert float(row["kappa"]) == pytest.approx(pair["kappa"])
        assert float(row["oracle_percent_high"]) == pytest.approx(100 * pair["oracle"]["high"])


def test_the_ensemble_table_shows_the_best_member_and_the_page_all(three: Material) -> None:
    ensembles = three.comparison["ensemble"]["ensembles"]
    for row, each in zip(rows_of(ensemble_table(three)), ensembles, strict=True):
        assert row["best_member"] == each["best_member"]
        assert float(row["accuracy_percent"]) == pytest.approx(100 * each["accuracy"]["estimate"])
    view = agreement_view(three)
    assert view is not None
    assert len(view["ensembles"]) == 3 + 3 * 2
    assert view["own"].count("%") == 3


def test_the_power_table_has_the_numbers_of_the_comparison(three: Material) -> None:
    pairs = three.comparison["power"]["pairs"]
    for row, pair in zip(rows_of(power_table(three)), pairs, strict=True):
        assert float(row["mde_points"]) == pytest.approx(pair["mde_points"])
        assert float(row["power_at_margin_percent"]) == pytest.approx(100 * pair["power_at_margin"])
        assert row["dominated_by"] == pair["dominated_by"]
    view = power_view(three)
    assert view is not None
    assert "0.05 / 3" in view["level"]


def test_one_seed_has_no_columns_on_training_noise(tmp_path: Path) -> None:
    found = power_table(material_of(tmp_path, entries=2))
    assert found is not None
    assert "width set by" not in [column.heading for column in found.columns]
    assert all(len(row) == len(found.columns) for row in found.rows)


def test_what_is_not_defined_says_so_in_words(tmp_path: Path) -> None:
    material = material_of(
        tmp_path, entries=2, seeds=(0, 1), unjudged=[("timesformer", 0), ("videomae", 1)]
    )
    table, ensembles = agreement_table(material), ensemble_table(material)
    assert table is not None
    assert ensembles is not None
    assert NOT_DEFINED in {cell.text for cell in table.rows[0]}
    assert NOT_DEFINED in {cell.text for cell in ensembles.rows[0]}
    (gap,) = agreement_figures(material)
    assert isinstance(gap, FigureGap)


def test_one_entry_has_none_of_it(tmp_path: Path) -> None:
    material = material_of(tmp_path, entries=1)
    assert [agreement_table(material), ensemble_table(material), power_table(material)] == [
        None
    ] * 3
    assert list(agreement_figures(material)) == []
    assert (agreement_view(material), power_view(material)) == (None, None)


def test_the_figure_says_its_numbers_in_words(three: Material) -> None:
    with figure_style():
        (figure,) = agreement_figures(three)
    assert isinstance(figure, RenderedFigure)
    pair = three.comparison["agreement"]["pairs"][0]
    share = 100 * pair["disagreement"]["estimate"]
    assert f"{pair['first']} and {pair['second']} {share:.1f} %" in figure.alt


@pytest.fixture
def style() -> Iterator[None]:
    with figure_style():
        yield


def matrices(count: int, *, name: str) -> Figure:
    rng = np.random.default_rng(count)
    pairs = count * (count - 1) // 2
    disagreement = symmetric([None] * count, (100 * rng.random(pairs)).tolist())
    q = symmetric([0.5] * count, rng.uniform(-1, 1, pairs).tolist())
    return agreement_matrices([f"{name}-{n}" for n in range(count)], disagreement, q)


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("name", ["e", "videomae-base", LONG])
@pytest.mark.parametrize("count", [2, 3, 8, 12, 20])
def test_matrices_are_readable_for_few_and_many_entries(count: int, name: str) -> None:
    figure = matrices(count, name=name)
    assert overlapping_texts(figure) == []
    assert texts_outside(figure) == []
    assert figure.get_figwidth() < 10.5
    cells = drawn_axes(figure)[0].get_window_extent()
    assert cells.width == pytest.approx(cells.height, rel=0.3)


@pytest.mark.usefixtures("style")
def test_every_cell_shows_its_number() -> None:
    figure = agreement_matrices(
        ["a", "b"], symmetric([1.5, None], [23.4]), symmetric([0.9, None], [-0.25])
    )
    texts = [text.get_text() for text in visible_texts(figure)]
    assert texts.count("23.4") == 2
    assert texts.count("−0.25") >= 2
    assert texts.count("–") == 2
    assert {"1.5", "0.90"} <= set(texts)


def test_symmetric_places_pairs_in_the_order_of_combinations() -> None:
    found = symmetric([0.0, None, 0.0], [1.0, 2.0, None])
    assert found[0].tolist() == [0, 1, 2]
    assert found[1, 0] == 1
    assert np.isnan(found[1, 2])
    assert np.isnan(found[1, 1])


def test_the_page_has_both_sections_with_their_tables(page: StudyFolder) -> None:
    root = parse((page.report / "report.html").read_text(encoding="utf-8"))
    assert root.by_id("agreement").all("h2")[0].text() == "Where they agree"
    assert "What this study could have seen" in root.by_id("power").text()
    assert table_named(root, "Agreement at")[0][0] == "first and second"
    assert table_named(root, "Ensembles at")[1][0] == "timesformer + videomae"
    assert table_named(root, "What this study could have seen")[1][1] == "1"
    assert "training noise cannot be estimated from one seed" in root.by_id("power").text()
    links = {e.attributes["href"] for e in root.all("a")}
    assert {"#agreement", "#power"} <= links


def test_the_tables_stand_in_every_format(page: StudyFolder) -> None:
    for name in ("agreement", "ensemble", "power"):
        for kind in ("csv", "md", "tex"):
            assert (page.report / "tables" / f"{name}.{kind}").stat().st_size > 100
        assert (page.results / f"{name}.csv").is_file()
    assert (page.report / "figures" / "agreement.svg").is_file()
