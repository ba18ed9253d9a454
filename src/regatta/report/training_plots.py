"""Training history of all runs: loss, accuracy, learning rate and seconds of each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from regatta.report.curves import accuracy_limits, add_legend
from regatta.report.style import MUTED, entry_color, name_labels, new_figure, shrinking

MOST_POINTS_PER_CURVE = 400
"""Longer training records are thinned: more points than pixels only make the file large."""

DASHES = (0, (2, 1.5))
Series = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class TrainingCurve:
    """One run's record: x in epochs, and the series that were logged (each [n] or empty).

    Accuracies are in percent; `epoch_seconds` has one point per epoch.
    """

    entry: str
    position: int
    seed: int
    train_loss: Series
    validation_loss: Series
    train_accuracy: Series
    validation_accuracy: Series
    lr: Series
    epoch_seconds: Series

    def is_empty(self) -> bool:
        return not any(len(series[0]) for series in self.series())

    def series(self) -> list[Series]:
        return [
            self.train_loss,
            self.validation_loss,
            self.train_accuracy,
            self.validation_accuracy,
            self.lr,
            self.epoch_seconds,
        ]


def training_history(curves: Sequence[TrainingCurve]) -> Figure:
    """Loss, accuracy, learning rate (log) and epoch seconds, a line per run in its entry's colour;
    dashed = training, solid = validation."""
    figure = new_figure(8.4, 4.8)
    (loss_ax, accuracy_ax), (lr_ax, seconds_ax) = figure.subplots(2, 2)
    for place, curve in enumerate(curves):
        size = shrinking(2.2, 1.0, place, len(curves))
        for ax, series, dashed in (
            (loss_ax, curve.train_loss, True),
            (loss_ax, curve.validation_loss, False),
            (accuracy_ax, curve.train_accuracy, True),
            (accuracy_ax, curve.validation_accuracy, False),
            (lr_ax, curve.lr, False),
            (seconds_ax, curve.epoch_seconds, False),
        ):
            _draw_series(ax, series, entry_color(curve.position), dashed=dashed, size=size)
    for ax, title in (
        (loss_ax, "loss"),
        (accuracy_ax, "accuracy, %"),
        (lr_ax, "learning rate"),
        (seconds_ax, "seconds per epoch"),
    ):
        _finish_axis(ax, title, epochs=_last_epoch(curves))
    if accuracy_ax.lines:
        accuracy_ax.set_ylim(*accuracy_limits(*(line.get_ydata() for line in accuracy_ax.lines)))
    _log_axis(lr_ax, (curve.lr[1] for curve in curves), factor=1.0)
    _log_axis(seconds_ax, (curve.epoch_seconds[1] for curve in curves), factor=20.0)
    _name_lines(figure, curves, loss_ax)
    return figure


def _name_lines(figure: Figure, curves: Sequence[TrainingCurve], ax: Axes) -> None:
    entries = {curve.entry: curve.position for curve in curves}
    handles = [ax.plot([], [], color=entry_color(p))[0] for p in entries.values()]
    handles += ax.plot([], [], color=MUTED, linestyle=DASHES, linewidth=1.2)
    handles += ax.plot([], [], color=MUTED)
    add_legend(figure, handles, [*name_labels(list(entries), limit=40), "training", "validation"])


def _last_epoch(curves: Sequence[TrainingCurve]) -> float:
    last = max((float(x.max()) for c in curves for x, _ in c.series() if len(x)), default=0.0)
    return last or 1.0


def _finish_axis(ax: Axes, title: str, *, epochs: float) -> None:
    """All panels have the same epochs, so that one can be read above the other."""
    ax.set_title(title, fontsize=8)
    ax.set_xlabel("epoch")
    ax.margins(y=0.08)
    ax.set_xlim(-0.03 * epochs, 1.04 * epochs)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if not ax.lines:
        ax.set(xticks=[], yticks=[])
        where = {"ha": "center", "va": "center", "transform": ax.transAxes}
        ax.text(0.5, 0.5, "not recorded", color=MUTED, **where)


def _log_axis(ax: Axes, series: Iterable[np.ndarray], *, factor: float) -> None:
    """A logarithmic axis where values differ by more than `factor`; zeros are left out of it.

    Up to `factor` the axis stays linear and starts at 0, so that half the height is half the value.
    """
    values = np.concatenate([np.zeros(0), *series])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return
    low, high = float(values.min()), float(values.max())
    if high <= max(factor, 1.0001) * low:
        if factor > 1:
            ax.set_ylim(0, 1.08 * high)
            return
        low, high = low / 3, high * 3
    ax.set_yscale("log", nonpositive="mask")
    ax.set_ylim(low / 1.4, high * 1.4)
    if high / low < 30:
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_yticks(np.geomspace(low, high, 4))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _draw_series(ax: Axes, series: Series, color: str, *, dashed: bool, size: float) -> None:
    x, y = thin_series(*series)
    if not len(x):
        return
    # A single epoch has no line; the dot keeps it visible.
    marker = "o" if len(x) <= 12 else ""
    style = DASHES if dashed else "-"
    width = 0.7 * size if dashed else size
    ax.plot(
        x, y, color=color, marker=marker, markersize=1.6 + size, linestyle=style, linewidth=width,
        markerfacecolor="white" if dashed else color, markeredgewidth=0.8,
    )  # fmt: skip


def thin_series(
    x: np.ndarray, y: np.ndarray, limit: int = MOST_POINTS_PER_CURVE
) -> tuple[np.ndarray, np.ndarray]:
    """The finite points; of many, the lowest and highest of each stretch: no spike is lost."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= limit:
        return x, y
    stretches = np.array_split(np.arange(len(x)), limit // 2)
    extremes = [place for s in stretches for place in (s[y[s].argmin()], s[y[s].argmax()])]
    kept = np.unique(extremes)
    return x[kept], y[kept]
