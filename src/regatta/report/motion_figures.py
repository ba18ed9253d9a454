"""Motion spectra of classes, and the rate that theory asks for against the measured one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from regatta.report.bars import KIND_COLORS
from regatta.report.curves import add_legend
from regatta.report.material import Material
from regatta.report.style import (
    MUTED,
    Drawn,
    FigureGap,
    drawn,
    entry_color,
    entry_marker,
    name_labels,
    new_figure,
    padded_limits,
    shrinking,
)

NAME, TITLE = "motion_spectra", "Motion spectra"
SHOWN_POWER = 1e-5
"""Of the largest power: what lies further below is noise of the estimate and hides the rest."""

EXTREMES = 3
STROKES = ("-", (0, (4, 1.5)), (0, (1, 1)))


@dataclass(frozen=True)
class Spectrum:
    """One class: power at frequencies [n] in Hz, where 95 % of it ends, and why it is shown."""

    label: str
    kind: str
    """sensitive | robust | fastest | slowest."""
    frequencies: np.ndarray
    power: np.ndarray
    f95: float | None


@dataclass(frozen=True)
class RatePoints:
    """One entry: rate needed (2 f95) and critical rate per class, both [n] in Hz."""

    entry: str
    position: int
    needed: np.ndarray
    critical: np.ndarray


COLORS = {
    **KIND_COLORS, "fastest": KIND_COLORS["sensitive"], "slowest": KIND_COLORS["robust"],
}  # fmt: skip


def motion_figures(material: Material) -> Iterator[Drawn]:
    motion = material.comparison["motion"]
    if motion is None:
        return
    spectra = _spectra(material, motion["classes"])
    if not spectra:
        yield FigureGap(NAME, TITLE, "No class has motion whose spectrum could be measured.")
        return
    points = _rate_points(material, motion["classes"])
    caption = (
        "Power of frame differences over frequency, scaled to sum 1, of classes "
        f"{_why(material)}; the tick on each line marks the frequency below which 95 % lies."
    )
    if points:
        caption += (
            " Right: twice that frequency against the smallest sampling rate with 95 % of the"
            " class's best accuracy. On the line, the model needs what sampling theory asks for."
        )
    shown = ", ".join(f"{s.label} ({s.kind})" for s in spectra)
    yield drawn(
        NAME,
        motion_spectra(spectra, points),
        title=TITLE,
        caption=caption,
        alt=f"Motion spectra of {shown}, and needed against critical sampling rates.",
    )


def _why(material: Material) -> str:
    if material.comparison["robustness"]["representative_classes"]:
        return "that lose most (sensitive) and least (robust) with coverage"
    return "with the fastest and the slowest motion"


def _spectra(material: Material, classes: list[dict[str, Any]]) -> list[Spectrum]:
    measured = {row["class"]: row for row in classes if sum(row["power"]) > 0}
    labels = dict(zip(material.classes, name_labels(material.classes), strict=True))
    return [
        Spectrum(
            labels[name],
            kind,
            np.array(measured[name]["frequencies_hz"]),
            np.array(measured[name]["power"]),
            measured[name]["f95_hz"],
        )
        for kind, name in _chosen(material, measured)
        if name in measured
    ]


def _chosen(material: Material, measured: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Sensitive and robust classes of the grid; elsewhere the ends of the scale of f95."""
    chosen = material.comparison["robustness"]["representative_classes"]
    if chosen:
        return [(kind, name) for kind in ("sensitive", "robust") for name in chosen[kind]]
    known = [name for name, row in measured.items() if row["f95_hz"] is not None]
    ordered = sorted(known, key=lambda name: (-measured[name]["f95_hz"], name))
    count = min(EXTREMES, -(-len(ordered) // 2))
    slowest = ordered[count:][-count:] if count else []
    return [("fastest", name) for name in ordered[:count]] + [("slowest", n) for n in slowest]


def _rate_points(material: Material, classes: list[dict[str, Any]]) -> list[RatePoints]:
    found = []
    for entry in material.entries:
        pairs = [(row["nyquist_needed_hz"], row["critical_rate_hz"].get(entry)) for row in classes]
        known = np.array([pair for pair in pairs if None not in pair], dtype=float).reshape(-1, 2)
        if len(known):
            found.append(RatePoints(entry, material.positions[entry], known[:, 0], known[:, 1]))
    return found


def motion_spectra(spectra: Sequence[Spectrum], points: Sequence[RatePoints]) -> Figure:
    """Spectra on a logarithmic power axis; beside them, where rates are known, a dot per class."""
    figure = new_figure(8.2 if points else 5.0, 3.2)
    axes = figure.subplots(1, 2 if points else 1, squeeze=False)[0]
    handles = [_draw_spectrum(axes[0], spectra, number) for number in range(len(spectra))]
    labels = [f"{spectrum.label} ({spectrum.kind})" for spectrum in spectra]
    _spectrum_axis(axes[0], spectra)
    if points:
        handles += _draw_rates(axes[1], points)
        labels += name_labels([entry.entry for entry in points], limit=40)
    add_legend(figure, handles, labels)
    return figure


def _draw_spectrum(ax: Axes, spectra: Sequence[Spectrum], number: int) -> Any:
    spectrum = spectra[number]
    order = sum(other.kind == spectrum.kind for other in spectra[:number])
    color = COLORS.get(spectrum.kind, MUTED)
    shown = spectrum.power > 0
    x, y = spectrum.frequencies[shown], spectrum.power[shown]
    line = ax.plot(x, y, color=color, linestyle=STROKES[order % 3], linewidth=1.3)[0]
    if spectrum.f95 is not None and len(x):
        height = float(np.exp(np.interp(spectrum.f95, x, np.log(y))))
        ax.plot([spectrum.f95], [height], "|", color=color, markersize=13, markeredgewidth=2)
    return line


def _spectrum_axis(ax: Axes, spectra: Sequence[Spectrum]) -> None:
    power = np.concatenate([spectrum.power for spectrum in spectra])
    ax.set_yscale("log")
    # The usual labels are formulas, which our style draws as they are written.
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    floor = max(power[power > 0].min(), SHOWN_POWER * power.max())
    ax.set_ylim(floor / 1.6, power.max() * 1.8)
    ax.set_xlim(*padded_limits(*[spectrum.frequencies for spectrum in spectra], share=0.03))
    ax.set(xlabel="frequency of motion, Hz", ylabel="share of power")


def _draw_rates(ax: Axes, points: Sequence[RatePoints]) -> list[Any]:
    values = np.concatenate([a for entry in points for a in (entry.needed, entry.critical)])
    limits = padded_limits(values, [0.0])
    ax.plot(limits, limits, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)))
    handles = []
    for place, entry in enumerate(points):
        handles += ax.plot(
            entry.needed, entry.critical, entry_marker(entry.position), linestyle="none",
            color=entry_color(entry.position), alpha=0.75,
            markersize=shrinking(6.0, 4.0, place, len(points)),
        )  # fmt: skip
    ax.set_xlim(*limits)
    ax.set_ylim(*limits)
    ax.set(xlabel="rate needed (2 × 95 % frequency), Hz", ylabel="critical rate measured, Hz")
    return handles
