"""Reads figures back: pixels, axes and texts, for tests."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image


def pixels(png: bytes) -> np.ndarray:
    """Grey values [H, W] of a PNG."""
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("L"))


def drawn_axes(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.get_visible()]


def plotted_points(ax: Axes) -> Iterator[tuple[float, float]]:
    """Every data point of lines, segments and dots of `ax`; pure guides (axvline) are left out."""
    for line in ax.lines:
        if line.get_transform() != ax.transData:
            continue
        yield from zip(
            np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float), strict=True
        )
    for collection in ax.collections:
        if isinstance(collection, LineCollection):
            for segment in collection.get_segments():
                yield from ((float(x), float(y)) for x, y in segment)
        else:
            yield from (
                (float(x), float(y))
                for x, y in np.asarray(collection.get_offsets()).reshape(-1, 2)
                if (x, y) != (0, 0)
            )


def points_outside(figure: Figure) -> list[tuple[float, float]]:
    """Plotted points that the axes cut off."""
    outside = []
    for ax in drawn_axes(figure):
        (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
        for x, y in plotted_points(ax):
            known = np.isfinite(x) and np.isfinite(y)
            if known and not (left <= x <= right and bottom <= y <= top):
                outside.append((x, y))
    return outside


def visible_texts(figure: Figure) -> list[Text]:
    """All texts that are drawn, after layout."""
    if figure.stale:
        figure.draw_without_rendering()
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    unused = _unused_tick_labels(figure)
    return [
        t for t in found if isinstance(t, Text) and t.get_text().strip() and id(t) not in unused
    ]


def _unused_tick_labels(figure: Figure) -> set[int]:
    """Ticks outside the limits, and of hidden axes, keep a text object that is never drawn."""
    unused = set()
    insets = [child for ax in figure.axes for child in ax.child_axes]
    for ax in [*figure.axes, *insets]:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = min(limits), max(limits)
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not (low <= tick.get_loc() <= high) or not ax.get_visible():
                    unused |= {id(tick.label1), id(tick.label2)}
    return unused


def overlapping_texts(figure: Figure, *, slack_pixels: float = 1.0) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes overlap by more than `slack_pixels` in both directions."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in visible_texts(figure)]
    found = []
    for (first, a), (second, b) in combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        if wide > slack_pixels and high > slack_pixels:
            found.append((first, second))
    return found


def texts_outside(figure: Figure) -> list[str]:
    """Texts that the edge of the picture cuts off."""
    page = figure.bbox
    found = []
    for text in visible_texts(figure):
        box = text.get_window_extent()
        if (
            box.x0 < page.x0 - 1
            or box.x1 > page.x1 + 1
            or box.y0 < page.y0 - 1
            or box.y1 > page.y1 + 1
        ):
            found.append(text.get_text())
    return found
