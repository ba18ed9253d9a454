"""The judging protocol in words, with its parameters, for the methods paragraph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from regatta.analysis.contrast_words import listed
from regatta.config.schema import ProtocolSection
from regatta.records.conditions import Condition

PADS = {
    "hold-last": "the last one was held",
    "repeat-each": "each was repeated in order",
    "loop": "the sequence was repeated from its start",
    "mask": "the rest was masked",
}
PLACEMENTS = {
    "prefix": "from its start",
    "centre": "centred",
    "random": "placed at random per sample",
}


def protocol_words(
    section: ProtocolSection, conditions: Sequence[Condition], *, signals: bool = False
) -> str:
    """One to three sentences; the name alone for a protocol of another package.

    Args:
        signals: the samples are windows of signals, not clips.
    """
    write = (SIGNAL_WORDS if signals else WORDS).get(section.name)
    try:
        text = write(section.options, conditions) if write else ""
    except KeyError:
        # Another package may give conditions of its own under one of our names.
        text = ""
    return text or (
        f"{'Windows were shown' if signals else 'Clips were planned'} by the protocol "
        f"{section.name}."
    )


def contrast_methods(section: dict[str, Any] | None) -> str:
    """How conditions were set against each other, with the rule behind the readings."""
    if section is None:
        return ""
    corrections = {
        "holm": "corrected by Holm's method",
        "bonferroni": "Bonferroni-corrected",
        "bh": "corrected by Benjamini and Hochberg's procedure for the false discovery rate",
    }
    how = corrections.get(section["correction"], "not corrected")
    return (
        "Within each model, conditions were contrasted on the same samples, with the same "
        f"bootstrap draws and sign flips; the {section['family_size']} p-values of this family "
        f"were {how}. Reading: {section['rule']}."
    )


def _values(conditions: Sequence[Condition], axis: str) -> list[Any]:
    """Distinct values in the order in which they first stand."""
    return list(dict.fromkeys(condition.axes[axis] for condition in conditions))


def _listed(values: Sequence[Any]) -> str:
    return listed([f"{value:g}" if isinstance(value, float) else str(value) for value in values])


def _padding(options: dict[str, Any], default: str) -> str:
    return PADS.get(options.get("pad", default), f"they were padded ({options.get('pad')})")


def _plain(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    _ = options, conditions
    return "Each sample was judged on one clip of frames spread evenly over all of it."


def _grid(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    coverage, stride = (_listed(sorted(_values(conditions, a))) for a in ("coverage", "stride"))
    place = PLACEMENTS.get(options.get("placement", "prefix"), "from its start")
    return (
        f"Clips were planned on a grid of coverage ({coverage} % of the clip, {place}) and stride "
        f"({stride} source frames): every stride-th frame of the covered window, an even choice of "
        "them where a model takes fewer; where it takes more, "
        f"{_padding(options, 'hold-last')}."
    )


def _legacy(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    coverage, stride = (_listed(sorted(_values(conditions, a))) for a in ("coverage", "stride"))
    base = (
        "of a base of four times the model's frames, spread evenly over the clip"
        if options.get("base", "all") == "4T"
        else "of all frames"
    )
    return (
        f"Clips were planned exactly as in the published system on a grid of coverage ({coverage} "
        f"%) and stride ({stride} frames): {base}, the first max(1, floor(n × coverage)) were "
        "kept and every stride-th of them taken; m frames fewer than the model's T were each "
        "repeated floor(T / m) + 1 times and cut at T, more were thinned to "
        "floor(linspace(0, m − 1, T))."
    )


def _matched(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    return (
        "Every model was shown the same number of distinct frames, "
        f"{_listed(sorted(_values(conditions, 'frames')))}, spread evenly over the whole clip (one "
        "frame: the middle one); where a model takes more, "
        f"{_padding(options, 'repeat-each')}."
    )


def _span(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    return (
        f"A fixed number of {options.get('frames', 8)} distinct frames was spread evenly over a "
        f"centred window of {_listed(sorted(_values(conditions, 'span')))} % of the clip; where a "
        f"model takes more, {_padding(options, 'repeat-each')}."
    )


def _antialias(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    return (
        "The clip was cut into whole segments of "
        f"{_listed(sorted(_values(conditions, 'stride')))} frames (the stride); of each segment "
        "the model saw either the middle frame (point sampling) or the mean of all its frames (a "
        "temporal box filter before sampling), at the same times; segments were chosen evenly "
        f"where a model takes fewer, and where it takes more {_padding(options, 'hold-last')}."
    )


CONTROLS = {
    "full": "full (frames spread evenly over the clip)",
    "one-frame": "one-frame (the middle frame, repeated)",
    "static": "static (the mean of the full clip's frames, repeated)",
    "shuffled": "shuffled (the full clip's frames in a seeded other order)",
    "reversed": "reversed (the full clip backwards)",
}


def _controls(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    _ = options
    names = [CONTROLS.get(name, str(name)) for name in _values(conditions, "control")]
    return f"Each sample was judged under control conditions: {_listed(names)}."


def _multi_view(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    sets = [f"{c.axes['clips']}x{c.axes['crops']}" for c in conditions]
    return (
        f"Each sample was judged from {_listed(sets)} views (temporal clips x spatial crops): "
        f"clips of frames {options.get('stride', 4)} apart start evenly over the sample, crops lie "
        "evenly along the longer side, and the views' class probabilities were averaged."
    )


def _sliding(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    return (
        f"A window of {options.get('coverage', 25):g} % of the clip, its frames "
        f"{options.get('stride', 1)} apart, was judged at {len(conditions)} positions spread "
        "evenly over the clip."
    )


def _imported(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    _ = options, conditions
    return "The predictions were imported; how the models were shown the samples is not known here."


def _trajectories(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    _ = options
    names = dict.fromkeys(str(c.axes["disturbance"]) for c in conditions if not c.is_reference)
    if not names:
        return "Each scene was judged once, as it was drawn."
    return (
        f"Each scene was judged as it was drawn and disturbed: {', '.join(names)}. A model always "
        "gets as many frames as it was made for, fewer are held. Draws depend on the scene and the "
        "disturbance alone and are the same for every model and at every level."
    )


WORDS: dict[str, Callable[[dict[str, Any], Sequence[Condition]], str]] = {
    "imported": _imported,
    "plain": _plain,
    "temporal-grid": _grid,
    "temporal-grid-legacy": _legacy,
    "matched": _matched,
    "span": _span,
    "antialias": _antialias,
    "controls": _controls,
    "multi-view": _multi_view,
    "sliding": _sliding,
    "trajectories": _trajectories,
}


def _plain_signals(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    _ = options, conditions
    return "Each window was judged once, as it was recorded."


def _sensor_robustness(options: dict[str, Any], conditions: Sequence[Condition]) -> str:
    _ = options
    levels: dict[str, list[Any]] = {}
    for condition in conditions:
        levels.setdefault(condition.axes["perturbation"], []).append(condition.axes["level"])
    told = [
        PERTURBED[name].format(_listed([float(level) for level in found]))
        for name, found in levels.items()
        if name in PERTURBED
    ]
    return (
        "Each window was judged as it was recorded and with its raw signal changed: "
        f"{'; '.join(told)}. Random draws depend on the window alone and are the same for every "
        "model and at every level."
    )


PERTURBED = {
    "noise": "white noise of sd {} times each channel's sd over the training windows",
    "rotation": "all sensors turned together by {} degrees about an axis drawn per window",
    "gain": "all channels times {}",
    "one-channel-missing": "one channel, drawn per window, zero",
    "one-sensor-missing": "the three channels of one sensor, drawn per window, zero",
    "channel": "channel number {} zero",
    "sensor": "all channels of sensor number {} zero",
    "block": "{} % of the samples in one run at a drawn place zero",
    "rate": "the rate lowered to {} Hz by keeping every n-th sample, with straight lines between",
    "rate-lowpass": "the same to {} Hz behind a linear-phase low-pass (Hamming window, more than "
    "50 dB from the new Nyquist rate on)",
    "offset": "the window begun {} samples later in its recording, the last value held where the "
    "recording is not known further",
}
SIGNAL_WORDS: dict[str, Callable[[dict[str, Any], Sequence[Condition]], str]] = {
    "plain": _plain_signals,
    "sensor-robustness": _sensor_robustness,
}
