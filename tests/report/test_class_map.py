"""The class x condition map: planted blocks are found, hard input is readable, size is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regatta.records.run_folder import StudyFolder
from regatta.report.class_map import (
    ClassPanel,
    class_map,
    class_map_figures,
    order_classes,
)
from regatta.report.condition_axis import ConditionColumns
from regatta.report.formats import ON_PAGE, drawing_formats
from regatta.report.material import read_material
from regatta.report.page import write_report
from regatta.report.style import RenderedFigure, common_scale, drawn, figure_style
from tests.analysis.build import build_judged_study
from tests.report.conftest import HOSTILE_CLASSES
from tests.report.markup import parse
from tests.report.reading import overlapping_texts, texts_outside
from tests.report.test_stability import GRID, LONG, NAMED, NAMES


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with figure_style():
        yield


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_classes_of_one_planted_block_stand_together_best_on_top(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.permutation(np.repeat([0, 1, 2], 5))
    centres = np.array([[90.0, 90, 90], [60, 40, 20], [5, 5, 5]])
    profiles = centres[blocks] + rng.normal(0, 2, (15, 3))
    order = order_classes(profiles)
    assert sorted(order.rows) == list(range(15))
    assert blocks[order.rows].tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_classes_without_samples_stand_at_the_end_outside_the_tree() -> None:
    profiles = np.array([[np.nan, np.nan], [10, 10], [90, 90], [12, 12], [np.nan, np.nan]])
    order = order_classes(profiles)
    assert order.rows.tolist() in ([2, 1, 3, 0, 4], [2, 3, 1, 0, 4])
    assert order.unjudged == 2
    assert len(order.tree) == 2


def test_the_tree_ends_at_the_rows_of_its_classes() -> None:
    order = order_classes(np.random.default_rng(1).uniform(0, 100, (12, 5)))
    feet = order.tree[:, [0, 3]].reshape(-1, 2)
    leaves = sorted(row for height, row in feet.tolist() if height == 0)
    assert leaves == pytest.approx(np.arange(12) + 0.5)
    # Two classes with equal profiles join at height 0, the others above.
    twins = order_classes(np.array([[1.0, 2], [50, 50], [1, 2]]))
    assert abs(int(np.argmax(twins.rows == 0)) - int(np.argmax(twins.rows == 2))) == 1


def draw(entries: int, classes: list[str], columns: ConditionColumns) -> Any:
    rng = np.random.default_rng(len(classes))
    values = [rng.uniform(0, 100, (len(classes), len(columns.labels))) for _ in range(entries)]
    values[0][0] = 0.0
    order = order_classes(np.concatenate(values, axis=1))
    panels = [ClassPanel(NAMES[e], values[e]) for e in range(entries)]
    scale = common_scale(*values)
    return class_map(panels, classes, order=order, columns=columns, scale=scale), values, order


@pytest.mark.parametrize(
    ("entries", "classes", "columns"),
    [(1, 4, GRID), (3, 4, NAMED), (3, 101, GRID), (4, 60, GRID), (4, 101, GRID), (1, 400, NAMED)],
)
def test_the_map_is_readable_from_four_to_hundreds_of_classes(
    entries: int, classes: int, columns: ConditionColumns
) -> None:
    names = [f"HandstandPushupsWithLongName{k}" if k % 7 else LONG + str(k) for k in range(classes)]
    figure, _, _ = draw(entries, names, columns)
    width, height = figure.get_size_inches()
    assert width < 11
    assert height < 16
    assert not texts_outside(figure)
    assert not overlapping_texts(figure)
    with drawing_formats(ON_PAGE):
        shown = drawn("x", figure, title="x", caption="x", alt="x")
    assert len(shown.formats[shown.page_format]) < 800_000


def test_rows_of_every_panel_are_in_the_order_of_the_labels_on_one_scale() -> None:
    names = [f"c{k}" for k in range(6)]
    figure, values, order = draw(2, names, NAMED)
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == [names[k] for k in order.rows]
    meshes = [figure.axes[e].collections[0] for e in (0, 1)]
    for mesh, table in zip(meshes, values, strict=True):
        assert np.asarray(mesh.get_array()).reshape(6, 3) == pytest.approx(table[order.rows])
    assert meshes[0].norm.vmin == meshes[1].norm.vmin == 0
    assert meshes[0].norm.vmax == meshes[1].norm.vmax


def test_more_than_four_entries_fill_two_figures_with_the_same_rows(tmp_path: Path) -> None:
    folder = build_judged_study(
        tmp_path, entries=["vivit", *(f"vivit-{c}" for c in "bcde")], samples=40,
        protocol="matched", compare={"replicates": 100},
    )  # fmt: skip
    figures = list(class_map_figures(read_material(folder)))
    assert [figure.name for figure in figures] == ["class_conditions", "class_conditions_2"]
    assert all(isinstance(figure, RenderedFigure) for figure in figures)


@pytest.mark.parametrize(("classes", "protocol"), [(2, "matched"), (4, "plain")])
def test_two_classes_or_one_condition_have_no_map(
    tmp_path: Path, classes: int, protocol: str
) -> None:
    folder = build_judged_study(
        tmp_path, entries=1, samples=40, classes=classes, protocol=protocol,
        compare={"replicates": 100},
    )  # fmt: skip
    assert not list(class_map_figures(read_material(folder)))


def maps_on(folder: StudyFolder) -> tuple[int, int]:
    """How many maps the section on classes shows, and how many of them are folded."""
    section = parse((folder.report / "report.html").read_text(encoding="utf-8")).by_id("classes")
    folded = [image for d in section.all("details") for image in d.all("img")]
    found = [i for i in section.all("img") if i.attributes["alt"].startswith("Heat maps of")]
    return len(found), sum(image in folded for image in found)


def test_the_map_is_folded_only_where_classes_are_many(
    grid_report: StudyFolder, tmp_path: Path
) -> None:
    assert maps_on(grid_report) == (1, 0)
    names = [*HOSTILE_CLASSES, *(f"class {k}" for k in range(18))]
    folder = build_judged_study(
        tmp_path, entries=1, samples=104, classes=names, protocol="matched",
        compare={"replicates": 100},
    )  # fmt: skip
    write_report(folder)
    assert maps_on(folder) == (1, 1)
    assert (folder.report / "figures" / "class_conditions.svg").is_file()
