"""Each figure on hard input: nothing cut off, no text over another, every value inside the axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from regatta.report.bars import (
    BestCell,
    ClassLine,
    PairRow,
    comparison_best_accuracy,
    forest_plot,
    per_class_bars,
    per_class_distribution,
    per_class_representative,
    side_by_side,
)
from regatta.report.curves import (
    EntryGrid,
    FrameCurve,
    accuracy_vs_coverage,
    accuracy_vs_distinct_frames,
    comparison_accuracy_vs_coverage,
)
from regatta.report.formats import drawing_formats
from regatta.report.heatmaps import (
    CellMarks,
    GridAxes,
    GridPanel,
    accuracy_heatmap,
    comparison_heatmaps,
    confusion_figure,
    distinct_frame_map,
    no_marks,
)
from regatta.report.pareto_figure import (
    COUNT_UNITS,
    ENERGY_UNITS,
    TIME_UNITS,
    CostPanel,
    CostPoint,
    accuracy_vs_cost,
)
from regatta.report.style import common_scale, figure_style, render
from regatta.report.training_plots import TrainingCurve, thin_series, training_history
from tests.report.reading import (
    drawn_axes,
    overlapping_texts,
    pixels,
    points_outside,
    texts_outside,
)

AXES = GridAxes((10, 25, 50, 75, 100), (1, 2, 4, 8, 16))
LONG = "a-very-long-entry-name-that-somebody-typed-to-tell-seeds-apart-1"
NAMES = ["timesformer", "videomae", "vivit", LONG, "x", "r3d18-wide", "mc3-18", "slowfast-r50-k400"]


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with figure_style():
        yield


def grid(position: int, *, ceiling: bool = True, axes: GridAxes = AXES) -> EntryGrid:
    rng = np.random.default_rng(position)
    accuracy = rng.uniform(0, 100, axes.shape)
    accuracy[0, 0], accuracy[-1, -1] = 0.0, 100.0
    low, high = np.maximum(accuracy - 7, 0), np.minimum(accuracy + 7, 100)
    return EntryGrid(
        NAMES[position],
        position,
        accuracy,
        low,
        high,
        np.full(axes.shape, 100.0) if ceiling else None,
    )


def marks() -> CellMarks:
    still, twins = np.zeros(AXES.shape, dtype=bool), np.full(AXES.shape, "", dtype=object)
    still[0, 3:] = True
    twins[0, 3:] = twins[1, 4] = "a"
    return CellMarks(still, twins)


def curve(position: int, points: int) -> TrainingCurve:
    x = np.linspace(0, 5, points)
    none = (np.zeros(0), np.zeros(0))
    return TrainingCurve(
        NAMES[position],
        position,
        0,
        (x, np.exp(-x)),
        (x, np.exp(-x) + 1),
        none,
        (x, 20 * x),
        (x, 1e-5 * x + 1e-8),
        (x, 10.0 ** (3 - x)),
    )


def class_lines() -> list[ClassLine]:
    rng = np.random.default_rng(1)
    kinds = ["sensitive"] * 3 + ["robust"] * 3
    return [
        ClassLine(f"HandstandPushupsWithLongName{n}", kind, rng.uniform(0, 100, 5))
        for n, kind in enumerate(kinds)
    ]


def pairs(count: int) -> list[PairRow]:
    names = [(a, b) for i, a in enumerate(NAMES[:count]) for b in NAMES[i + 1 : count]]
    return [PairRow(a, b, n - 3.0, n - 9.0, n + 2.0, n > 6) for n, (a, b) in enumerate(names)]


def cells(count: int) -> list[BestCell]:
    return [
        BestCell(
            NAMES[n],
            n,
            (50.0, 40.0, 60.0),
            (100.0 if n == 0 else 60.0, 98.0 if n == 0 else 52.0, 100.0),
            "coverage 100 %, stride 16",
        )
        for n in range(count)
    ]


def costs(count: int, panels: int = 5) -> list[CostPanel]:
    """Rising, equal, falling and missing costs; half of the entries are on the front."""
    names = [NAMES[n] if n < len(NAMES) else f"{NAMES[n % len(NAMES)]}-{n}" for n in range(count)]
    kinds = [
        ("training time", TIME_UNITS, lambda n: 10.0 * 4**n),
        ("parameters", COUNT_UNITS, lambda n: 1e6 + n),
        ("FLOPs per clip", COUNT_UNITS, lambda n: None if n else 3e9),
        ("judging time per sample", TIME_UNITS, lambda n: 0.004 * (count - n)),
        ("training energy", ENERGY_UNITS, lambda n: None if n % 3 == 2 else 5e3 + 400.0 * n),
    ]
    return [
        CostPanel(
            title,
            units,
            [
                CostPoint(name, n, (50.0 + n, 40.0, 70.0), cost(n), n % 2 == 0)
                for n, name in enumerate(names)
            ],
        )
        for title, units, cost in kinds[:panels]
    ]


def panels(names: list[str]) -> list[GridPanel]:
    return [GridPanel(name, grid(0).accuracy, marks()) for name in names]


def one_heat_map(name: str) -> Figure:
    return accuracy_heatmap(name, grid(1).accuracy, axes=AXES, marks=marks(), scale=SCALE)


def frame_curves() -> list[FrameCurve]:
    frames, accuracy = np.array([1.0, 2, 5, 31.9]), np.array([0.0, 40, 70, 100])
    return [FrameCurve(name, place, frames, accuracy) for place, name in enumerate(NAMES)]


def forest(entries: int, titles: list[str]) -> Figure:
    rows = [(title, pairs(entries)) for title in titles]
    return forest_plot(rows, margin_points=1.0, confidence=0.95)


SCALE = common_scale([0, 100])
CLASSES_101 = [f"Class{n:03d}WithLongName" for n in range(101)]

FIGURES: dict[str, Callable[[], Figure | None]] = {
    "heat map": lambda: one_heat_map("videomae"),
    "heat map, long name": lambda: one_heat_map(LONG),
    "heat map, one cell": lambda: accuracy_heatmap(
        "x", np.array([[50.0]]), axes=GridAxes((100,), (1,)), marks=no_marks((1, 1)), scale=SCALE
    ),
    "heat maps, 1": lambda: comparison_heatmaps(panels([LONG]), axes=AXES, scale=SCALE),
    "heat maps, 3 and a ceiling": lambda: comparison_heatmaps(
        panels(NAMES[:3]), panels(["oracle ceiling"]), axes=AXES, scale=SCALE
    ),
    "heat maps, 5 with own ceilings": lambda: comparison_heatmaps(
        panels(NAMES[:5]), panels(NAMES[:5]), axes=AXES, scale=SCALE
    ),
    "heat maps, 8": lambda: comparison_heatmaps(panels(NAMES), axes=AXES, scale=SCALE),
    "distinct-frame curves": lambda: accuracy_vs_distinct_frames(frame_curves()),
    "distinct-frame curve, one budget": lambda: accuracy_vs_distinct_frames(
        [FrameCurve("x", 0, np.array([16.0]), np.array([50.0]))]
    ),
    "distinct frames": lambda: distinct_frame_map(
        "vivit", np.full(AXES.shape, 31.5), np.full(AXES.shape, 0.97),
        axes=AXES, marks=marks(), model_frames=32,
    ),
    "accuracy vs coverage": lambda: accuracy_vs_coverage(grid(0), axes=AXES),
    "curves, 1": lambda: comparison_accuracy_vs_coverage([grid(0)], axes=AXES),
    "curves, 8": lambda: comparison_accuracy_vs_coverage([grid(n) for n in range(8)], axes=AXES),
    "curves, one stride": lambda: comparison_accuracy_vs_coverage(
        [grid(n, axes=GridAxes((50, 100), (4,))) for n in range(2)], axes=GridAxes((50, 100), (4,))
    ),
    "training, 1 epoch": lambda: training_history([curve(0, 1)]),
    "training, 8 long": lambda: training_history([curve(n, 5000) for n in range(8)]),
    "confusion, 2": lambda: confusion_figure("x", np.array([[5, 1], [0, 0]]), ["left", "right"]),
    "confusion, 8": lambda: confusion_figure(LONG, np.eye(8, dtype=int), CLASSES_101[:8]),
    "confusion, 24": lambda: confusion_figure(LONG, np.eye(24, dtype=int) * 9, CLASSES_101[:24]),
    "class spread, 101": lambda: per_class_distribution(
        "vivit", np.random.default_rng(0).uniform(0, 100, (101, 5)), axes=AXES
    ),
    "class spread, 2": lambda: per_class_distribution("vivit", np.full((2, 5), 100.0), axes=AXES),
    "representative": lambda: per_class_representative("vivit", class_lines(), axes=AXES),
    "class bars, 2": lambda: per_class_bars(LONG, ["a", "b"], np.array([0.0, np.nan])),
    "class bars, 60": lambda: per_class_bars("vivit", CLASSES_101[:60], np.linspace(0, 100, 60)),
    "best, 1": lambda: comparison_best_accuracy(cells(1)),
    "best, 8": lambda: comparison_best_accuracy(cells(8)),
    "forest, 1": lambda: forest(2, ["headline condition"]),
    "forest, 28": lambda: forest(8, ["headline condition", "mean over all conditions"]),
    "cost, 1": lambda: accuracy_vs_cost(costs(1)),
    "cost, 8": lambda: accuracy_vs_cost(costs(8)),
    "cost, 12": lambda: accuracy_vs_cost(costs(12)),
    "cost, 2 in one panel": lambda: accuracy_vs_cost(costs(2, 1)),
    "cost, 3 in four panels": lambda: accuracy_vs_cost(costs(3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_or_overlaps(name: str) -> None:
    figure = FIGURES[name]()
    assert figure is not None
    assert points_outside(figure) == []
    assert overlapping_texts(figure) == []
    assert texts_outside(figure) == []


@pytest.mark.parametrize("name", ["confusion 101", "bars 101"])
def test_a_hundred_classes_are_all_labelled_inside_the_picture(name: str) -> None:
    if name == "bars 101":
        figure = per_class_bars("vivit", CLASSES_101, np.linspace(0, 100, 101))
    else:
        figure = confusion_figure("vivit", np.eye(101, dtype=int), CLASSES_101)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert set(labels) == set(CLASSES_101)
    assert texts_outside(figure) == []
    assert overlapping_texts(figure) == []


def test_heat_map_panels_share_one_scale_that_covers_all_data() -> None:
    values = [grid(n).accuracy / (n + 1) for n in range(3)]
    scale = common_scale(*values)
    figure = comparison_heatmaps(
        [GridPanel(str(n), v, no_marks(AXES.shape)) for n, v in enumerate(values)],
        axes=AXES,
        scale=scale,
    )
    meshes = [
        c
        for ax in drawn_axes(figure)
        for c in ax.collections
        if isinstance(c, QuadMesh) and np.asarray(c.get_array()).size == 25
    ]
    assert len(meshes) == 3
    assert {mesh.get_clim() for mesh in meshes} == {(0.0, 100.0)}


def test_heat_map_writes_each_value_in_its_cell() -> None:
    values = np.arange(25, dtype=float).reshape(5, 5) * 3.3
    ax = accuracy_heatmap("x", values, axes=AXES, marks=no_marks(AXES.shape), scale=SCALE).axes[0]
    written = {
        (t.get_position()[1] - 0.5, t.get_position()[0] - 0.5): t.get_text() for t in ax.texts
    }
    assert written == {(r, c): f"{values[r, c]:.1f}" for r in range(5) for c in range(5)}


def test_unmeasured_cells_are_a_dash_not_nan() -> None:
    values = np.full(AXES.shape, np.nan)
    ax = accuracy_heatmap(
        "x", values, axes=AXES, marks=no_marks(AXES.shape), scale=common_scale(values)
    ).axes[0]
    assert {text.get_text() for text in ax.texts} == {"–"}


def test_still_and_identical_cells_are_marked_and_explained() -> None:
    figure = accuracy_heatmap("x", grid(0).accuracy, axes=AXES, marks=marks(), scale=SCALE)
    ax = figure.axes[0]
    assert len([patch for patch in ax.patches if patch.get_hatch()]) == 2
    assert [text.get_text() for text in ax.texts].count("a") == 3
    assert figure.get_supxlabel() == "hatched: one still frame · same letter: identical clips"


def test_confusion_rows_are_percent_of_the_true_class_and_empty_rows_stay_empty() -> None:
    ax = confusion_figure("x", np.array([[3, 1], [0, 0]]), ["left", "right"]).axes[0]
    assert [text.get_text() for text in ax.texts] == ["75", "25"]


def test_no_loss_spike_is_lost_when_a_long_record_is_thinned() -> None:
    x = np.arange(10_000, dtype=float)
    y = np.ones(10_000)
    y[6_543], y[17] = 50.0, -3.0
    thin_x, thin_y = thin_series(x, y)
    assert len(thin_x) <= 400
    assert thin_y.max() == 50.0
    assert thin_y.min() == -3.0
    assert (np.diff(thin_x) > 0).all()


def test_values_that_are_not_finite_are_left_out_of_curves() -> None:
    x, y = thin_series(np.array([0.0, 1.0, 2.0]), np.array([1.0, np.nan, np.inf]))
    assert x.tolist() == [0.0]
    assert y.tolist() == [1.0]


def test_dots_of_equal_classes_stand_beside_each_other() -> None:
    shifts = side_by_side(np.array([50.0, 50.0, 50.0, 90.0]))
    assert len(set(shifts[:3])) == 3
    assert shifts[3] == 0


def test_no_cost_measured_means_no_cost_figure() -> None:
    points = [CostPoint("a", 0, (50.0, 40.0, 60.0), None, False)]
    assert accuracy_vs_cost([CostPanel("parameters", COUNT_UNITS, points)]) is None


def test_the_front_is_a_step_line_through_filled_marks_and_others_are_hollow() -> None:
    points = [
        CostPoint(name, n, (height, height - 5, height + 5), cost, front)
        for n, (name, height, cost, front) in enumerate(
            [("a", 60.0, 1e6, True), ("b", 55.0, 2e6, False), ("c", 80.0, 3e6, True)]
        )
    ]
    figure = accuracy_vs_cost([CostPanel("parameters", COUNT_UNITS, points)])
    assert figure is not None
    front, *dots = figure.axes[0].lines
    assert front.get_drawstyle() == "steps-post"
    assert np.asarray(front.get_xdata())[:2].tolist() == [1.0, 3.0]
    assert np.asarray(front.get_ydata()).tolist() == [60.0, 80.0, 80.0]
    hollow = [d.get_markerfacecolor() == "white" for d in dots if len(np.asarray(d.get_xdata()))]
    assert hollow == [False, True, False]
    assert figure.axes[0].get_xlabel() == "parameters, M"


@pytest.mark.parametrize("name", ["heat maps, 8", "curves, 8", "forest, 1", "cost, 1"])
def test_pictures_are_not_blank(name: str) -> None:
    figure = FIGURES[name]()
    assert figure is not None
    with drawing_formats(["png"]):
        assert pixels(render(figure)["png"]).std() > 5
