"""How models of scenes are judged: a list of conditions, and what each does to the pictures.

A protocol of scenes is one function registered with `@PROTOCOLS.register("name", kind="scene")`
that returns a `SceneProtocol`; its keyword arguments are the options of a study file. A model
always gets as many frames as it was made for: where fewer are shown, frames are held.

Shapes: n scenes, V views, T frames, S pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from regatta.config.schema import ProtocolSection
from regatta.core.errors import ConfigError
from regatta.core.registry import PROTOCOLS
from regatta.data.scenes.settings import MOST_DISTRACTORS, SceneSettings
from regatta.evaluation.explain import Wording
from regatta.evaluation.protocols import (
    Protocol,
    check_axis,
    check_conditions,
    resolve_protocol,
)
from regatta.evaluation.scene_conditions import RENDERED, ScenePart, disturb, scene_orders
from regatta.records.conditions import Condition

OodName = Literal["radius", "turns", "small-rise", "figure-eight"]
OOD_NAMES: tuple[OodName, ...] = ("radius", "turns", "small-rise", "figure-eight")
CLEAN = Condition("clean", {"disturbance": "clean", "level": 0}, is_reference=True)

ShowScenes = Callable[[ScenePart, Condition], np.ndarray]
"""What models see of scenes under a condition, uint8 [n, V, T, 3, S, S]; pure, and equal in any
company."""
OrderFrames = Callable[[Sequence[str], int, Condition], np.ndarray]
"""(sample ids, T, condition) -> which frames stand at the T places, int [n, T]."""


def as_recorded(sample_ids: Sequence[str], frames: int, condition: Condition) -> np.ndarray:
    """Every frame in its place, whatever the condition."""
    del condition
    return np.tile(np.arange(frames), (len(sample_ids), 1))


@dataclass(frozen=True)
class SceneProtocol:
    """Conditions in report order, and what each shows of scenes.

    show: None = every scene as it is. notes: what a reader must know of conditions that were made
    or left out. ood: sets of scenes outside the training ranges, see `open_ood_scenes`.
    attention: maps of `attention_samples` samples. explain: a text for each sample, worded by
    `wording` where one is given.
    """

    name: str
    conditions: list[Condition]
    show: ShowScenes | None = None
    order: OrderFrames = as_recorded
    axes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ood: tuple[OodName, ...] = ()
    attention: bool = False
    attention_samples: int = 0
    explain: bool = False
    wording: Wording | None = None

    def __post_init__(self) -> None:
        check_conditions(self.name, self.conditions)


UNCHANGED = SceneProtocol("as-recorded", [Condition("as-recorded", is_reference=True)])
"""How scenes outside the training ranges are judged, whatever the study's protocol."""


@PROTOCOLS.register("trajectories", kind="scene")
def trajectories_protocol(
    *,
    conditions: Literal["all", "none"] = "all",
    frames: Sequence[int] = (16, 8, 4),
    stride: Sequence[int] = (2, 4, 8),
    noise: Sequence[float] = (0.05, 0.1, 0.2),
    blur: Sequence[float] = (1.0, 2.0),
    dropped: Sequence[float] = (0.1, 0.25, 0.5),
    camera: Sequence[float] = (1, 3, 5),
    distractors: Sequence[int] = (1, 3, 6),
    occluder: bool = True,
    views_missing: Sequence[int] = (1, 2, 3),
    crf: Sequence[int] = (18, 28, 38),
    controls: bool = True,
    ood: Sequence[OodName] | Literal["all", "none"] = "all",
    disturbance_seed: int = 0,
    attention: bool = False,
    attention_samples: int = 64,
    explain: bool = False,
    explain_endpoint: str | None = None,
    explain_model: str = "",
    explain_timeout_seconds: float = 20.0,
) -> SceneProtocol:
    """Scenes with frames taken away, pictures disturbed, cameras moved, and other motion.

    Ids are clean (the reference) and {disturbance}-{level}. Draws depend on the sample and the
    disturbance alone, and are the same at every level of it. Conditions that a study's data or
    entries do not allow are left out with a note.

    Args:
        conditions: none = the clean pictures only, whatever the lists below say.
        frames: shown frames, from the start (prefix) and evenly spread (spread).
        stride: every so many frames one after the other, so that motion is faster.
        noise: sd as a share of the range of grey levels.
        blur: sd of a Gaussian in pixels.
        dropped: share of the frames that is lost; the one before is held.
        camera: degrees by which each camera looks elsewhere.
        distractors: small reddish discs per video.
        occluder: a grey bar in front.
        views_missing: cameras that are black, where entries use several.
        crf: rate factors of H.264 that pictures went through.
        controls: a single frame, and all in a drawn order: what a shortcut would still know.
        ood: radius, turns, small-rise, figure-eight; all or none of them.
        attention, attention_samples: maps of what was looked at.
        explain: a text per sample from measured numbers. An OpenAI-compatible endpoint may word
            it, with the key that REGATTA_EXPLAIN_KEY holds; without an endpoint nothing is sent.
    Raises:
        ConfigError: a level out of range or given twice.
    """
    levels: dict[str, Sequence[float]] = {
        "prefix": frames,
        "spread": frames,
        "stride": stride,
        "noise": noise,
        "blur": blur,
        "dropped": dropped,
        "camera": camera,
        "distractors": distractors,
        "views-missing": views_missing,
        "h264": crf,
    }
    _check_levels(levels)
    if attention_samples < 1:
        raise _refused("attention_samples", "maps of no sample show nothing", "give 1 or more")
    wording = None
    if explain_endpoint is not None:
        wording = Wording(explain_endpoint, explain_model, explain_timeout_seconds)
    alone = [*(["occluder"] if occluder else [])]
    alone += ["single-frame", "shuffled-frames"] if controls else []
    listed = [CLEAN, *(_listed(levels, alone) if conditions == "all" else [])]
    beside = {"all": OOD_NAMES, "none": ()}[ood] if isinstance(ood, str) else tuple(ood)
    if len(set(beside)) < len(beside):
        raise _refused("ood", "ood lists a set twice", "name each once")
    show, order = _shown_by(disturbance_seed)
    return SceneProtocol(
        "trajectories",
        listed,
        show,
        order,
        axes=("disturbance", "level"),
        ood=beside,
        attention=attention,
        attention_samples=attention_samples,
        explain=explain,
        wording=wording,
    )


def _shown_by(seed: int) -> tuple[ShowScenes, OrderFrames]:
    def show(batch: ScenePart, condition: Condition) -> np.ndarray:
        name, level = condition.axes["disturbance"], condition.axes["level"]
        return batch.frames if name == "clean" else disturb(batch, name, level, seed=seed)

    def order(sample_ids: Sequence[str], frames: int, condition: Condition) -> np.ndarray:
        name, level = condition.axes["disturbance"], condition.axes["level"]
        return scene_orders(name, level, sample_ids, frames, seed=seed)

    return show, order


def resolve_scene_protocol(section: ProtocolSection) -> SceneProtocol:
    """The protocol that a study of scenes names; one for any data shows scenes as they are.

    Raises:
        UnknownNameError, ConfigError: as `resolve_protocol`.
    """
    protocol: Protocol | SceneProtocol = resolve_protocol(section)
    if isinstance(protocol, SceneProtocol):
        return protocol
    return SceneProtocol(protocol.name, protocol.conditions, axes=protocol.axes)


def fit_protocol(
    protocol: SceneProtocol,
    *,
    frames: int,
    views: Sequence[int],
    can_render: bool,
    settings: SceneSettings | None = None,
) -> SceneProtocol:
    """The protocol without what this study's scenes and entries do not allow, each with a note.

    Args:
        frames: T of the scenes. views: all cameras that any entry sees.
        can_render: the pictures can be made again from known tracks.
        settings: of the scenes; what their pictures have already is no disturbance of them.
    """
    kept, notes = [], list(protocol.notes)
    for condition in protocol.conditions:
        reason = _impossible(condition, frames, len(set(views)), can_render)
        reason = reason or _already(condition, settings)
        if reason:
            notes.append(f"{condition.id} is not measured: {reason}")
        else:
            kept.append(condition)
    if protocol.ood and not can_render:
        unknown = "the pictures cannot be made again from known tracks"
        notes.append(f"scenes outside the training ranges are not measured: {unknown}")
    ood = protocol.ood if can_render else ()
    return replace(protocol, conditions=kept, notes=tuple(notes), ood=ood)


def _impossible(condition: Condition, frames: int, views: int, can_render: bool) -> str:
    name, level = condition.axes.get("disturbance"), condition.axes.get("level", 0)
    if name in ("prefix", "spread", "stride") and level >= frames:
        return f"scenes have {frames} frames"
    if name == "views-missing" and level >= views:
        return f"entries see {views} camera(s), and one must be left"
    if name in RENDERED and not can_render:
        return "the pictures cannot be made again from known tracks"
    return ""


def _already(condition: Condition, settings: SceneSettings | None) -> str:
    name, level = condition.axes.get("disturbance"), condition.axes.get("level", 0)
    if settings is not None and name == "occluder" and settings.occluder:
        return "the scenes have an occluder"
    if settings is not None and name == "distractors" and level <= settings.distractors:
        return f"the scenes have {settings.distractors} distractor(s)"
    return ""


def _listed(levels: dict[str, Sequence[float]], alone: Sequence[str]) -> list[Condition]:
    """Every level of every disturbance, then those without levels."""
    found = [_condition(name, level) for name, many in levels.items() for level in many]
    return [*found, *(Condition(name, {"disturbance": name, "level": 1}) for name in alone)]


def _condition(name: str, level: float) -> Condition:
    return Condition(f"{name}-{level:g}", {"disturbance": name, "level": level})


def _check_levels(levels: dict[str, Sequence[float]]) -> None:
    options = {"prefix": "frames", "views-missing": "views_missing", "h264": "crf"}
    whole = {"frames": 2, "stride": 2, "distractors": 1, "views_missing": 1, "crf": 0}
    most = {"noise": 1.0, "dropped": 0.9, "blur": 16.0, "camera": 45.0}
    ends = {"distractors": MOST_DISTRACTORS, "crf": 51}
    for name, values in levels.items():
        option = options.get(name, name)
        if name == "spread" or not values:
            continue
        if option in whole:
            whole_values: list[Any] = list(values)
            check_axis(option, whole_values, low=whole[option], high=ends.get(option))
            continue
        if any(not 0 < value <= most[option] for value in values):
            what = f"{option} takes levels above 0, at most {most[option]:g}, got {list(values)}"
            raise _refused(option, what, "change it")
        if len(set(values)) < len(values):
            raise _refused(option, f"{option} lists a level twice", "name each once")


def _refused(option: str, what: str, hint: str) -> ConfigError:
    return ConfigError(what, where=f"protocol.options.{option}", hint=hint)
