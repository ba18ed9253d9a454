"""Pictures of single scenes: where each entry says that the object will be, and what it looked at.

Shapes: n samples, T frames, V cameras, S picture side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D

from regatta.analysis.scene_judged import FORECAST
from regatta.core.errors import RecordError
from regatta.records.predictions import RunPredictions, read_run_predictions
from regatta.records.scenes import (
    AttentionMaps,
    SceneCameras,
    SceneTruth,
    read_cameras,
    read_tracks,
    read_truth,
)
from regatta.report.curves import add_legend
from regatta.report.material import Material
from regatta.report.scene_part import GRADIENT, attention_of
from regatta.report.style import (
    GRID,
    INK,
    MUTED,
    Drawn,
    FigureGap,
    drawn,
    entry_color,
    entry_marker,
    figure_label,
    name_labels,
    new_figure,
)

EXAMPLES = 4
STRIP_FRAMES, STRIP_SAMPLES, MOST_STRIPS = 8, 2, 8
PICTURE_SIZE = 64
"""Pixels; of cameras whose pictures are not known to be of another size."""


@dataclass(frozen=True)
class Example:
    """One scene: its track [frames, 3], its target [3], and what each entry says [3]."""

    sample: str
    label: str
    track: np.ndarray
    shown: int
    target: np.ndarray
    said: dict[str, np.ndarray]


def forecast_figure(material: Material, section: dict[str, Any]) -> Drawn:
    """One scene of each class, drawn before anyone looked at the answers."""
    name, title = "forecast_examples", "Where the entries say it will be"
    try:
        examples, cameras = forecast_examples(material, section)
    except RecordError as error:
        return FigureGap(name, title, f"Examples cannot be shown: {error.what}.")
    if not examples:
        return FigureGap(name, title, "The true tracks were not recorded, so none are drawn.")
    told = "; ".join(
        f"{each.sample} ({each.label}): "
        + ", ".join(
            f"{entry} {np.linalg.norm(place - each.target):.2f} u off"
            for entry, place in each.said.items()
        )
        for each in examples
    )
    below = " Below: the same in the picture of camera 0, in pixels." if cameras else ""
    return drawn(
        name,
        examples_figure(material, examples, cameras),
        title=title,
        caption="The first judged scene of each class, with the first seed of every entry. Dark "
        "line: the part that was shown; dashed: what came after; cross: the true place to be "
        f"forecast.{below}",
        alt=f"Tracks with forecasts: {told}.",
    )


def forecast_examples(
    material: Material, section: dict[str, Any]
) -> tuple[list[Example], SceneCameras | None]:
    """The first sample of each class in the order of ids; none where tracks are not known."""
    folder = material.folder.scenes
    truth = read_truth(folder)
    if truth is None or section["targets"][0]["target"] != FORECAST:
        return [], None
    runs = {name: _first_run(material, name) for name in material.entries}
    said = {
        name: run for name, run in runs.items() if run is not None and run.positions is not None
    }
    if not said:
        return [], None
    first = next(iter(said.values()))
    truth = truth.at(first.sample_ids)
    headline = material.comparison["headline_condition"]
    rows = [int(np.argmax(first.labels == k)) for k in np.unique(first.labels)][:EXAMPLES]
    tracks = read_tracks(folder, [str(first.sample_ids[row]) for row in rows])
    found = []
    for row in rows:
        sample = str(first.sample_ids[row])
        track, shown = _track_of(tracks, sample, truth, row, first.horizon_frames or 0)
        places = {name: _place(run, headline, row) for name, run in said.items()}
        label = material.classes[int(first.labels[row])]
        found.append(Example(sample, label, track, shown, truth.target_N3[row], places))
    return found, read_cameras(folder)


def _first_run(material: Material, entry: str) -> RunPredictions | None:
    runs = material.runs_of(entry)
    if not runs:
        return None
    protocol = material.comparison["study"]["protocol_id"]
    spec = runs[0].spec
    folder = material.folder.run(spec.run_id).predictions(protocol)
    return read_run_predictions(folder, run_id=spec.run_id, entry=entry, seed=spec.seed)


def _place(run: RunPredictions, condition: str, row: int) -> np.ndarray:
    assert run.positions is not None
    at = [c.id for c in run.conditions].index(condition)
    return run.positions[at, row].astype(float)


def _track_of(
    tracks: Mapping[str, np.ndarray], sample: str, truth: SceneTruth, row: int, horizon: int
) -> tuple[np.ndarray, int]:
    """The true track and how many of its places were shown; of a track that was not kept only the
    last two places shown and the target."""
    if sample in tracks:
        track = tracks[sample]
        return track, len(track) - horizon
    last, target = truth.last_N3[row], truth.target_N3[row]
    return np.stack([last - truth.velocity_N3[row], last, target]), 2


def examples_figure(
    material: Material, examples: Sequence[Example], cameras: SceneCameras | None
) -> Figure:
    """A column per scene: the track in space, and below it in the picture of camera 0."""
    rows = 2 if cameras else 1
    figure = new_figure(0.4 + 2.05 * len(examples), 2.15 * rows + 0.1)
    handles: list[Any] = []
    for column, each in enumerate(examples):
        ax = cast("Axes3D", figure.add_subplot(rows, len(examples), column + 1, projection="3d"))
        handles = _draw_space(material, ax, each)
        if cameras:
            flat = figure.add_subplot(rows, len(examples), len(examples) + column + 1)
            _draw_picture(material, flat, each, cameras, is_first=column == 0)
    add_legend(figure, handles, ["shown", "after", "true place",
               *name_labels(list(examples[0].said), limit=34)])  # fmt: skip
    return figure


def _draw_space(material: Material, ax: Axes3D, each: Example) -> list[Any]:
    shown, after = each.track[: each.shown], each.track[each.shown - 1 :]
    handles = ax.plot(*shown.T, color=INK, linewidth=1.3)
    handles += ax.plot(*after.T, color=INK, linewidth=1.1, linestyle=(0, (2, 1.5)))
    # Not scatter: its depth shading would make an entry's colour another one.
    handles += ax.plot(*_points(each.target), "x", color=INK, markersize=6, markeredgewidth=1.4)
    for name, place in each.said.items():
        position = material.positions[name]
        ax.plot(*np.stack([each.target, place]).T, color=entry_color(position), linewidth=0.6)
        handles += ax.plot(
            *_points(place), entry_marker(position), color=entry_color(position), markersize=4.6
        )
    everything = np.concatenate([each.track, *(p[None] for p in each.said.values())])
    _cube(ax, everything)
    ax.set_title(figure_label(f"{each.label}: {each.sample}", limit=26), fontsize=7.5)
    return handles


def _points(place: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    return [float(place[0])], [float(place[1])], [float(place[2])]


def _cube(ax: Axes3D, points: np.ndarray) -> None:
    """Equal axes, so that a circle looks like one, with light walls."""
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    half = 0.55 * max(float((points.max(axis=0) - points.min(axis=0)).max()), 0.2)
    ax.set(
        xlim=(middle[0] - half, middle[0] + half),
        ylim=(middle[1] - half, middle[1] + half),
        zlim=(middle[2] - half, middle[2] + half),
    )
    ax.set_box_aspect((1, 1, 1))
    ax.view_init(elev=24, azim=-52)
    axes: list[Any] = [ax.xaxis, ax.yaxis, ax.zaxis]
    for axis, name in zip(axes, "xyz", strict=True):
        axis.set_pane_color((1, 1, 1, 0))
        axis.line.set_color(GRID)
        axis._axinfo["grid"].update({"color": GRID, "linewidth": 0.5})
        axis.set_ticklabels([])
        axis.set_label_text(name)
        axis.labelpad = -12
    ax.tick_params(length=0)


def _draw_picture(
    material: Material, ax: Any, each: Example, cameras: SceneCameras, *, is_first: bool
) -> None:
    track = cameras.project(each.track)
    target = cameras.project(each.target)
    shown, after = track[: each.shown], track[each.shown - 1 :]
    ax.plot(*shown.T, color=INK, linewidth=1.3)
    ax.plot(*after.T, color=INK, linewidth=1.1, linestyle=(0, (2, 1.5)))
    ax.plot([target[0]], [target[1]], "x", color=INK, markersize=6, markeredgewidth=1.4)
    points = [track]
    for name, place in each.said.items():
        position, at = material.positions[name], cameras.project(place)
        points.append(at[None])
        ax.plot(*np.stack([target, at]).T, color=entry_color(position), linewidth=0.6)
        ax.plot([at[0]], [at[1]], entry_marker(position), color=entry_color(position),
                markersize=4.2)  # fmt: skip
    size = float(2 * cameras.centre[0] + 1)
    everything = np.concatenate(points)
    low = min(-0.5, float(everything.min()) - 1)
    high = max(size - 0.5, float(everything.max()) + 1)
    ax.set(xlim=(low, high), ylim=(high, low), aspect="equal")
    ax.set_xlabel("x, px")
    ax.set_ylabel("y, px" if is_first else "")


def attention_figure(material: Material) -> Drawn | None:
    """Film-strips of what every entry looked at; None where no maps were asked for."""
    name, title = "attention", "What was looked at"
    maps, problems = attention_of(material)
    if not maps:
        return FigureGap(name, title, " ".join(problems)) if problems else None
    methods = "; ".join(f"{entry}: {each.method}" for entry, each in maps.items())
    shown = list(maps.items())[:MOST_STRIPS]
    each = 1 if len(shown) * STRIP_SAMPLES > MOST_STRIPS else STRIP_SAMPLES
    return drawn(
        name,
        strips_figure(material, shown, each),
        title=title,
        caption=f"Frames of the first samples with the map of each entry over them; dark red is "
        f"the most within a strip. {methods}. A gradient shows what the answer is sensitive to, "
        "it is no attention weight; how faithful a map is stands in the table.",
        alt=f"Film-strips with attention maps of {len(shown)} entries: {methods}.",
    )


def strips_figure(
    material: Material, shown: Sequence[tuple[str, AttentionMaps]], samples: int
) -> Figure:
    """Rows of STRIP_FRAMES frames, `samples` per entry."""
    rows = [(name, maps, n) for name, maps in shown for n in range(min(samples, len(maps.samples)))]
    columns = max(min(STRIP_FRAMES, maps.frames.shape[1]) for _, maps, _ in rows)
    figure = new_figure(0.84 * columns + 0.3, 1.06 * len(rows))
    # Not one grid of axes: a title over the first of them would push the others aside.
    strips: Any = figure.subfigures(len(rows), 1, squeeze=False)
    for strip, (name, maps, n) in zip(strips[:, 0], rows, strict=True):
        grid = strip.subplots(1, columns, squeeze=False)[0]
        text = _strip_title(material, name, maps, n)
        strip.suptitle(figure_label(text, limit=112), fontsize=7, x=0.01, ha="left")
        chosen = _spread(maps.frames.shape[1], columns)
        highest = float(maps.maps[n].max()) or 1.0
        for column, ax in enumerate(grid):
            _draw_frame(ax, maps, n, chosen[column] if column < len(chosen) else None, highest)
    return figure


def _draw_frame(ax: Any, maps: AttentionMaps, n: int, t: int | None, highest: float) -> None:
    if t is None:
        ax.set_axis_off()
        return
    ax.imshow(overlay(maps.frames[n, t], maps.maps[n, t] / highest))
    ax.text(0.04, 0.04, f"{t}", transform=ax.transAxes, fontsize=5.5, color=MUTED, va="bottom")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=GRID)


def _strip_title(material: Material, name: str, maps: AttentionMaps, n: int) -> str:
    is_plain = GRADIENT in maps.method and not maps.method.endswith("map")
    method = f"{maps.method} map" if is_plain else maps.method
    ratio = maps.faithfulness.get("ratio")
    faithful = "" if ratio is None else f", disc {ratio:.1f} times its share"
    true, said = (_class(material, value) for value in (maps.labels[n], maps.predicted[n]))
    answer = "right" if true == said else f"says {said}"
    return f"{name} ({method}{faithful}): {maps.samples[n]}, {true}, {answer}"


def _class(material: Material, value: Any) -> str:
    """A class by its name, where it stands as a number."""
    known = isinstance(value, int) and 0 <= value < len(material.classes)
    return material.classes[value] if known else str(value)


def _spread(frames: int, count: int) -> list[int]:
    return [round(x) for x in np.linspace(0, frames - 1, min(count, frames))]


MAP_COLOR = np.array([178, 24, 43], dtype=float)


def overlay(frame_3SS: np.ndarray, map_SS: np.ndarray) -> np.ndarray:
    """A frame in grey with its map, 0 to 1, in red over it: float [S, S, 3] from 0 to 1."""
    grey = frame_3SS.astype(float).mean(axis=0)[..., None].repeat(3, axis=-1)
    strength = 0.75 * np.clip(np.nan_to_num(map_SS.astype(float)), 0, 1)[..., None]
    return ((1 - strength) * grey + strength * MAP_COLOR) / 255
