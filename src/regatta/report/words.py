"""What samples and groups are called: a page about windows of signals does not speak of clips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from regatta.config.schema import IMPORTED
from regatta.core.registry import SOURCES

NO_SUBJECTS = ("subjects are not known", "subject transfer is not measured")
"""What a data set without subjects says; its groups are blocks of neighbouring windows."""


@dataclass(frozen=True)
class Words:
    """Nouns of one kind of data, in lower case, and the cost of one forward pass.

    `operations` is the heading, `operations_per_flop` turns counted FLOPs into it.
    """

    sample: str
    samples: str
    group: str
    groups: str
    dropped: str
    """What is left out where it is damaged."""
    operations: str
    operations_per_flop: float


VIDEO = Words("clip", "samples", "group", "groups", "file", "FLOPs per clip", 1.0)
FOREIGN = Words("sample", "samples", "group", "groups", "sample", "FLOPs per sample", 1.0)
"""Of a study whose predictions were all imported: nobody says what a sample is."""


IMAGE = Words("image", "images", "group", "groups", "file", "MACs per image", 0.5)
SCENE = Words("scene", "scenes", "group", "groups", "scene", "MACs per scene", 0.5)
"""Seen by one camera or several at once."""


def source_kind(source: str) -> str:
    """video, signal, image or scene; a source that is not known here is one of videos."""
    listed = SOURCES.listed.get(source)
    return listed.kind if listed else "video"


def words_of(source: str, notes: Iterable[object]) -> Words:
    """The words that fit a source, given what is noted of the data."""
    if source == IMPORTED:
        return FOREIGN
    kind = source_kind(source)
    if kind != "signal":
        return {"image": IMAGE, "scene": SCENE}.get(kind, VIDEO)
    unknown = any(words in str(text) for text in notes for words in NO_SUBJECTS)
    group = "block" if unknown else "subject"
    # A multiply-add is two floating point operations.
    return Words("window", "windows", group, f"{group}s", "window", "MACs per window", 0.5)


PERTURBATIONS = {
    "clean": "unchanged windows",
    "noise": "noise of {level:g} sd",
    "rotation": "device turned by {level:g} degrees",
    "gain": "gain {level:g}",
    "one-channel-missing": "one channel missing",
    "one-sensor-missing": "one sensor missing",
    "channel": "channel {level:g} missing",
    "sensor": "sensor {level:g} missing",
    "block": "{level:g} % of the window missing",
    "rate": "{level:g} Hz without low-pass",
    "rate-lowpass": "{level:g} Hz after a low-pass",
    "offset": "start {level:g} points later",
}


DISTURBANCES = {
    "clean": "unchanged scenes",
    "prefix": "first {level:g} frames",
    "spread": "{level:g} frames spread evenly",
    "stride": "every {level:g}th frame",
    "noise": "noise of sd {level:g}",
    "blur": "blur of {level:g} px",
    "dropped": "{percent:g} % of frames dropped",
    "camera": "cameras turned by {level:g}°",
    "distractors": "{level:g} distractors",
    "occluder": "a bar in front",
    "views-missing": "{level:g} cameras missing",
    "h264": "H.264 at crf {level:g}",
    "single-frame": "a single frame",
    "shuffled-frames": "frames shuffled",
}
"""Conditions of the protocol trajectories."""


def corruption_words(axes: Mapping[str, Any]) -> str | None:
    """A condition of the protocols image-robustness or trajectories in words; None for any
    other."""
    if set(axes) == {"disturbance", "level"}:
        written = DISTURBANCES.get(str(axes["disturbance"]), "{disturbance} {level:g}")
        return written.format(**axes, percent=100 * axes["level"])
    if set(axes) != {"corruption", "level"}:
        return None
    name, level = str(axes["corruption"]), axes["level"]
    if name == "clean":
        return "clean images"
    return f"{name.replace('_', ' ')}, level {level:g}"


def perturbation_words(axes: Mapping[str, Any]) -> str | None:
    """A condition of the protocol sensor-robustness in words; None for any other."""
    if set(axes) != {"perturbation", "level"} or not isinstance(axes["level"], (int, float)):
        return None
    written = PERTURBATIONS.get(axes["perturbation"], "{perturbation} {level:g}")
    return written.format(perturbation=axes["perturbation"], level=float(axes["level"]))
