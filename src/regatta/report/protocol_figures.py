"""The headline figure of a protocol that is no grid, with caption and alternative text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from regatta.report import protocol_plots as plots
from regatta.report.material import Material
from regatta.report.style import Drawn, FigureGap, drawn

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Page:
    """What a protocol's section of the page is called and what stands above its figure."""

    heading: str
    intro: str
    caption: str
    draw: Callable[[Material], Figure]


def protocol_page(material: Material) -> Page | None:
    """The page part of the study's protocol; None where it has no contrasts."""
    section = material.comparison["contrasts"]
    return None if section is None else PAGES.get(section["protocol"])


def protocol_figures(material: Material) -> Iterator[Drawn]:
    """The one figure of the protocol, called as the protocol is."""
    page = protocol_page(material)
    if page is None:
        return
    name = material.comparison["contrasts"]["protocol"]
    curves = [_curve(material, entry, _rows(material, entry), "") for entry in material.entries]
    if not any(np.isfinite(curve.accuracy).any() for curve in curves):
        yield FigureGap(name, page.heading, "No accuracy was measured.")
        return
    caption = f"{page.caption} {material.confidence} intervals clustered by group."
    if plots.has_ceiling(curves):
        caption += " The oracle ceiling is what an ideal reader of the shown frames can reach."
    ends = "; ".join(_range_text(material, entry) for entry in material.entries)
    yield drawn(
        name,
        page.draw(material),
        title=page.heading,
        caption=caption,
        alt=f"{page.heading}, accuracy of every entry: {ends}.",
    )


def _rows(material: Material, entry: str) -> Rows:
    """The entry's cells in the order of the protocol."""
    ids = [condition["id"] for condition in material.comparison["conditions"]]
    return [material.rows[entry, name] for name in ids]


def _range_text(material: Material, entry: str) -> str:
    rows = _rows(material, entry)
    low, high = (chosen(rows, key=lambda row: row["accuracy"]) for chosen in (min, max))
    return (
        f"{entry} from {100 * low['accuracy']:.1f} % "
        f"({material.condition_name(low['condition'])}) "
        f"to {100 * high['accuracy']:.1f} % ({material.condition_name(high['condition'])})"
    )


def _numbers(rows: Rows, column: str, factor: float = 1.0) -> np.ndarray:
    values = [row.get(column) for row in rows]
    return np.array([np.nan if value is None else factor * float(value) for value in values])


def _curve(material: Material, entry: str, rows: Rows, x: str) -> plots.ProtocolCurve:
    """Cells along column `x`, or numbered when it is empty."""
    columns = ("accuracy", "accuracy_low", "accuracy_high", "ceiling")
    return plots.ProtocolCurve(
        entry,
        material.positions[entry],
        _numbers(rows, x) if x else np.arange(len(rows), dtype=float),
        *(_numbers(rows, name, 100.0) for name in columns),
    )


def _along(material: Material, *columns: str) -> list[plots.ProtocolCurve]:
    """Every entry along the first of `columns` that was measured for all of its cells."""
    found = []
    for entry in material.entries:
        rows = _rows(material, entry)
        known = [name for name in columns if np.isfinite(_numbers(rows, name)).all()]
        found.append(_curve(material, entry, rows, known[0] if known else ""))
    return found


def _matched(material: Material) -> Figure:
    curves = _along(material, "distinct_frames", "frames")
    return plots.protocol_lines(curves, xlabel="distinct frames in a clip", log2=True)


def _span(material: Material) -> Figure:
    curves = _along(material, "span_seconds", "span")
    return plots.protocol_lines(curves, xlabel="span of the frames, seconds")


def _sliding(material: Material) -> Figure:
    curves = _along(material, "position")
    return plots.protocol_lines(
        curves, xlabel="position of the window, % of the free room", x_ends="percent"
    )


def _antialias(material: Material) -> Figure:
    panels = []
    for entry in material.entries:
        rows = sorted(_rows(material, entry), key=lambda row: row["stride"])
        point, box = (
            _curve(material, entry, [row for row in rows if row["filter"] == kind], "stride")
            for kind in ("point", "box")
        )
        panels.append(plots.FilterPanel(entry, material.positions[entry], point, box))
    return plots.filter_panels(panels)


def _cases(material: Material) -> Figure:
    curves = [_curve(material, entry, _rows(material, entry), "") for entry in material.entries]
    names = [case_name(c) for c in material.comparison["conditions"]]
    return plots.case_dots(curves, names)


def case_name(condition: dict[str, Any]) -> str:
    """A control or a set of views as people write it."""
    axes = condition["axes"]
    if "clips" in axes:
        return f"{axes['clips']}x{axes['crops']}"
    return str(axes.get("control", condition["id"]))


PAGES = {
    "matched": Page(
        "At equal numbers of frames",
        "Every model saw the same number of distinct frames, spread over the whole clip, so "
        "entries are compared at equal evidence and not at their own frame budgets.",
        "Accuracy against the number of frames that really differ.",
        _matched,
    ),
    "span": Page(
        "Rate against reach",
        "The number of frames is fixed; what varies is how much of the clip they are spread over. "
        "A narrow window has a high rate and little reach.",
        "Accuracy against the mean span of the frames in seconds.",
        _span,
    ),
    "antialias": Page(
        "Aliasing or missing evidence",
        "Point sampling takes one frame of each segment, the box filter the mean of all its "
        "frames, at the same times. What filtering gives back was lost to aliasing; what it does "
        "not give back is evidence that the frames no longer hold.",
        "Accuracy against stride under both kinds of sampling, a panel per entry.",
        _antialias,
    ),
    "controls": Page(
        "Does the model use time",
        "Each control takes something away: all frames but one, all motion, the order, the "
        "direction of time. A model that does as well without it does not use it.",
        "Accuracy of the full clip and under each control.",
        _cases,
    ),
    "multi-view": Page(
        "More views",
        "Scores of several clips and crops of a sample are averaged; views are temporal clips x "
        "spatial crops.",
        "Accuracy for each set of views.",
        _cases,
    ),
    "sliding": Page(
        "Along the clip",
        "One short window at a time is judged, from the start of the clip to its end. Where "
        "accuracy depends on the place, the evidence lies in a part of the clip.",
        "Accuracy against the place of the window.",
        _sliding,
    ),
}
