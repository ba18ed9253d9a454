"""Figures over windows of signals: nothing cut off, and every mark where its number is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regatta.report.class_plots import (
    ClassScores,
    ConfusionPanel,
    ReliabilityCurve,
    ReliabilityPanel,
    confusion_matrices,
    per_class_scores,
    reliability_diagrams,
)
from regatta.report.profile_part import batch_lines
from regatta.report.style import figure_style
from regatta.report.training_plots import TrainingCurve, training_history
from regatta.report.window_plots import (
    BatchLine,
    FractionLine,
    LevelLine,
    PerturbationPanel,
    RaceEntry,
    batch_sweep,
    label_fraction_lines,
    race_overview,
    robustness_panels,
)
from tests.report.reading import (
    drawn_axes,
    overlapping_texts,
    points_outside,
    texts_outside,
)

LONG = "a-very-long-entry-name-that-somebody-typed-to-tell-seeds-apart-1"
NAMES = ["har-vit", "cnn1d", LONG, "features-linear", "majority", "transformer1d", "x", "y", "z"]
ACTIVITIES = ["walking", "upstairs", "downstairs", "sitting", "standing", "laying"]
MANY = [f"activity number {n}" for n in range(100)]


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with figure_style():
        yield


def counts(classes: int) -> np.ndarray:
    rng = np.random.default_rng(classes)
    off = rng.integers(0, 40, (classes, classes)) * (rng.random((classes, classes)) < 0.3)
    return off + np.diag(rng.integers(400, 2000, classes))


def confusion(entries: int, classes: list[str]) -> Figure:
    panels = [ConfusionPanel(name, counts(len(classes))) for name in NAMES[:entries]]
    return confusion_matrices(panels, classes)


def scores(position: int, classes: int) -> ClassScores:
    rng = np.random.default_rng(position)
    precision, recall, f1 = rng.uniform(0, 1, (3, classes))
    precision[0] = np.nan
    support = rng.integers(0, 5000, classes)
    return ClassScores(NAMES[position], position, precision, recall, f1, support)


def reliability(shift: float) -> ReliabilityCurve:
    confidence = np.linspace(0.2, 0.97, 15)
    confidence[0] = np.nan
    accuracy, samples = confidence - shift, np.arange(15) * 40
    return ReliabilityCurve(confidence, accuracy, samples, shift)


def reliabilities(entries: int, *, scaled: bool = True) -> Figure:
    return reliability_diagrams(
        [
            ReliabilityPanel(name, n, reliability(0.1), reliability(0.01) if scaled else None)
            for n, name in enumerate(NAMES[:entries])
        ]
    )


def race(entries: int) -> list[RaceEntry]:
    x = np.arange(1, 21.0)
    return [
        RaceEntry(
            name,
            n,
            [] if name == "majority" else [(x, 95 - n - 40 * np.exp(-x / 3))],
            (95.0 - 10 * n, 90.0 - 10 * n, 98.0 - 10 * n),
            None if n == 2 else 10.0 * (n + 1),
        )
        for n, name in enumerate(NAMES[:entries])
    ]


def fractions(lines: int) -> list[FractionLine]:
    share = np.array([1, 5, 10, 25, 50, 100.0])
    y = np.array([10, 70, 80, 85, 90, 100.0])
    return [FractionLine(NAMES[n], n, share, y - n, y - n - 5, y - n) for n in range(lines)]


def level_line(position: int, places: list[float], *, variant: int = 0) -> LevelLine:
    y = 95.0 - 5 * position - 4 * np.arange(len(places)) - 2 * variant
    return LevelLine(NAMES[position], position, np.array(places), y, y - 3, y + 3, variant)


def perturbed(entries: int) -> Figure:
    noise = PerturbationPanel(
        "noise, share of the channel's sd", ["0.05", "0.1", "0.2", "0.5"],
        [level_line(n, [0, 1, 2, 3]) for n in range(entries)],
    )  # fmt: skip
    rate = PerturbationPanel(
        "rate, Hz", ["25", "12.5"],
        [level_line(n, [0, 1], variant=v) for n in range(entries) for v in (0, 1)],
        variants=("after a low-pass", "without low-pass"),
    )  # fmt: skip
    missing = PerturbationPanel(
        "missing part", ["one channel", "one sensor of three"],
        [level_line(n, [0, 1]) for n in range(entries)], is_ordered=False,
    )  # fmt: skip
    clean = [(NAMES[n], n, 97.0 - 5 * n) for n in range(entries)]
    return robustness_panels([noise, rate, missing, noise], clean)


def sweep(lines: int, *, memory: bool = True) -> Figure:
    batch = np.array([8, 16, 32.0])
    peak = batch / 10 if memory else np.full(3, np.nan)
    return batch_sweep(
        [BatchLine(NAMES[n], batch, batch * (n + 1), peak, failed=[64]) for n in range(lines)]
    )


FIGURES: dict[str, Callable[[], Figure]] = {
    "confusion, 1": lambda: confusion(1, ACTIVITIES),
    "confusion, 5": lambda: confusion(5, ACTIVITIES),
    "confusion, 18 classes": lambda: confusion(2, MANY[:18]),
    "confusion, 2 classes": lambda: confusion(2, MANY[:2]),
    "scores, 1": lambda: per_class_scores([scores(0, 6)], ACTIVITIES),
    "scores, 5": lambda: per_class_scores([scores(n, 6) for n in range(5)], ACTIVITIES),
    "scores, 60 classes": lambda: per_class_scores([scores(0, 60)], MANY[:60]),
    "reliability, 1": lambda: reliabilities(1, scaled=False),
    "reliability, 5": lambda: reliabilities(5),
    "race, 1": lambda: race_overview(race(1), split="test"),
    "race, 9": lambda: race_overview(race(9), split="validation"),
    "fractions, 1": lambda: label_fraction_lines(fractions(1)),
    "fractions, 5": lambda: label_fraction_lines(fractions(5)),
    "perturbations, 1": lambda: perturbed(1),
    "perturbations, 5": lambda: perturbed(5),
    "sweep": lambda: sweep(2),
    "sweep without memory": lambda: sweep(1, memory=False),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_or_overlaps(name: str) -> None:
    figure = FIGURES[name]()
    assert points_outside(figure) == []
    assert overlapping_texts(figure) == []
    assert texts_outside(figure) == []


def mesh_of(ax: Axes) -> np.ndarray:
    (mesh,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return np.ma.filled(np.ma.asarray(mesh.get_array(), dtype=float), np.nan)


def test_confusion_shows_shares_as_colour_and_counts_as_numbers() -> None:
    table = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 6]])
    figure = confusion_matrices([ConfusionPanel("x", table)], ["a", "b", "c"])
    ax = drawn_axes(figure)[0]
    shares = mesh_of(ax).reshape(3, 3)
    assert shares[0].tolist() == [0.75, 0.25, 0.0]
    assert np.isnan(shares[1]).all()
    assert shares[2].sum() == 1.0
    written = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in ax.texts}
    assert written == {(0, 0): "3\n0.75", (0, 1): "1\n0.25", (2, 0): "2\n0.25", (2, 2): "6\n0.75"}


@pytest.mark.parametrize(("classes", "numbers"), [(20, True), (21, False)])
def test_above_twenty_classes_no_cell_has_a_number(classes: int, numbers: bool) -> None:
    figure = confusion_matrices([ConfusionPanel("x", counts(classes))], MANY[:classes])
    assert bool(drawn_axes(figure)[0].texts) == numbers


def test_a_hundred_classes_are_all_named_and_none_over_another() -> None:
    figure = confusion(1, MANY)
    labels = [label.get_text() for label in drawn_axes(figure)[0].get_yticklabels()]
    assert labels == MANY
    assert texts_outside(figure) == []
    assert overlapping_texts(figure) == []


def bar_ends(ax: Axes) -> list[float]:
    """Lengths of horizontal bars, those of the legend left out."""
    bars = [p for p in ax.patches if isinstance(p, Rectangle)]
    return [bar.get_width() for bar in bars if np.isfinite(bar.get_y())]


def test_bars_of_a_class_have_the_length_of_its_scores() -> None:
    mine = ClassScores(
        "x", 0, np.array([0.5, np.nan]), np.array([0.25, 0.0]), np.array([1 / 3, 0.0]),
        np.array([8, 1200]),
    )  # fmt: skip
    ax = drawn_axes(per_class_scores([mine], ["a", "b"]))[0]
    assert sorted(bar_ends(ax)) == [0.0, 0.0, 0.25, pytest.approx(1 / 3), 0.5]
    assert [text.get_text() for text in ax.texts] == ["n 8", "n 1,200"]


def test_reliability_draws_the_bins_that_have_samples_and_says_the_error() -> None:
    curve = ReliabilityCurve(
        np.array([np.nan, 0.5, 0.9]), np.array([np.nan, 0.25, 1.0]), np.array([0, 4, 12]), 0.1375
    )
    ax = drawn_axes(reliability_diagrams([ReliabilityPanel("x", 0, curve, None)]))[0]
    drawn = [line for line in ax.lines if len(np.atleast_1d(line.get_xdata())) == 2]
    assert [
        np.asarray(drawn[1].get_xdata()).tolist(),
        np.asarray(drawn[1].get_ydata()).tolist(),
    ] == [
        [0.5, 0.9],
        [0.25, 1.0],
    ]
    assert ax.get_title("left") == "x\nECE 0.138"


def test_the_race_shows_accuracy_interval_and_seconds_of_every_entry() -> None:
    _, middle, right = drawn_axes(race_overview(race(3), split="test"))
    assert bar_ends(middle) == [95.0, 85.0, 75.0]
    whiskers = [tuple(s[:, 0]) for c in middle.collections for s in c.get_segments()]  # type: ignore[attr-defined]
    assert whiskers == [(90.0, 98.0), (80.0, 88.0), (70.0, 78.0)]
    assert bar_ends(right) == [10.0, 20.0, 0.0]
    assert [t.get_text() for t in right.texts] == ["10 s", "20 s", "not measured"]


def test_whiskers_and_marks_of_a_perturbation_are_at_its_numbers() -> None:
    line = LevelLine("x", 0, np.array([0.0, 1.0]), np.array([90.0, 60.0]), np.array([85.0, 50.0]),
                     np.array([95.0, 70.0]))  # fmt: skip
    figure = robustness_panels([PerturbationPanel("gain", ["0.5", "2"], [line])], [("x", 0, 97.0)])
    ax = drawn_axes(figure)[0]
    heights = [np.asarray(each.get_ydata(), dtype=float).tolist() for each in ax.lines]
    assert [97.0, 97.0] in heights
    assert [90.0, 60.0] in heights
    whiskers = [tuple(s[:, 1]) for c in ax.collections for s in c.get_segments()]  # type: ignore[attr-defined]
    assert whiskers == [(85.0, 95.0), (50.0, 70.0)]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.5", "2"]


def test_history_has_four_panels_with_rate_and_long_epochs_on_log_axes() -> None:
    x = np.array([1.0, 2, 3])
    curve = TrainingCurve(
        "har-vit", 0, 0, (x, 3 / x), (x, 4 / x), (x, 90 + x), (x, 80 + x), (x, 10.0**-x),
        (x, np.array([100.0, 1, 1])),
    )  # fmt: skip
    axes = drawn_axes(training_history([curve]))
    assert [ax.get_title("left") for ax in axes] == [
        "loss", "accuracy, %", "learning rate", "seconds per epoch",
    ]  # fmt: skip
    assert [ax.get_yscale() for ax in axes] == ["linear", "linear", "log", "log"]
    values = [[np.asarray(line.get_ydata()).tolist() for line in ax.lines] for ax in axes]
    assert values[0][:2] == [[3.0, 1.5, 1.0], [4.0, 2.0, 4 / 3]]
    assert values[3] == [[100.0, 1.0, 1.0]]
    assert len({ax.get_xlim() for ax in axes}) == 1


def profile_row(**values: object) -> dict[str, object]:
    common = {"entry": "cnn1d", "stage": "sweep", "precision": "fp32", "status": "ok"}
    return {**common, "peak_gb": None, **values}


def test_a_sweep_is_a_line_per_entry_and_precision_with_the_batches_that_failed() -> None:
    rows = [
        profile_row(batch=16, windows_per_second=150.0, peak_gb=2.0),
        profile_row(batch=8, windows_per_second=100.0, peak_gb=1.0),
        profile_row(batch=32, windows_per_second=None, status="out of memory"),
        profile_row(batch=8, windows_per_second=300.0, precision="bf16"),
        profile_row(batch=8, windows_per_second=900.0, stage="forward"),
    ]
    first, second = batch_lines(rows)
    assert (first.name, first.batch.tolist(), first.failed) == ("cnn1d, fp32", [8.0, 16.0], [32])
    assert first.windows_per_second.tolist() == [100.0, 150.0]
    assert second.name == "cnn1d, bf16"
    assert np.isnan(second.peak_gb).all()
