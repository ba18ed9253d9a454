"""Robustness of models of signals: noise, turned or scaled sensors, losses, rate and start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from regatta.core.errors import ConfigError
from regatta.core.registry import PROTOCOLS
from regatta.data.windows import WindowStore
from regatta.evaluation import perturbations
from regatta.evaluation.protocols import check_axis, sample_stream
from regatta.evaluation.window_protocols import (
    ShownWindow,
    Window,
    WindowProtocol,
    as_recorded,
)
from regatta.records.conditions import Condition

CLEAN = Condition("clean", {"perturbation": "clean", "level": 0}, is_reference=True)


@PROTOCOLS.register("sensor-robustness", kind="signal")
def sensor_robustness_protocol(
    *,
    noise: Sequence[float] = (0.05, 0.1, 0.2, 0.5),
    rotation_degrees: Sequence[float] = (15, 45, 90),
    gain: Sequence[float] = (0.5, 0.8, 1.25, 2.0),
    missing: Sequence[Literal["channel", "sensor"]] = ("channel", "sensor"),
    missing_channels: Sequence[int] = (),
    missing_sensors: Sequence[int] = (),
    block_percent: Sequence[float] = (10, 25, 50),
    rates_hz: Sequence[float] = (25.0, 12.5),
    offset_samples: Sequence[int] = (8, 16, 32),
    perturbation_seed: int = 0,
) -> WindowProtocol:
    """Windows with noise, turned or scaled sensors, missing parts, a lower rate, a later start.

    Ids are clean (the reference) and {perturbation}-{level}. Draws depend on the sample alone and
    are the same at every level of a perturbation. An empty list leaves a perturbation out.

    Args:
        noise: sd as a share of each channel's sd over the training windows.
        rotation_degrees: angles of the device, about an axis drawn per sample.
        gain: factors on all channels.
        missing: what is zero, drawn per sample: one channel, or one sensor (its three channels).
        missing_channels, missing_sensors: these instead, by number, for every sample in turn.
        block_percent: share of the samples that is zero, in one run at a drawn place.
        rates_hz: rates to thin out to, each with and without a low-pass before; whole fractions of
            the data's rate.
        offset_samples: how much later a window starts in its recording.
    Raises:
        ConfigError: a level out of range, or given twice.
    """
    levels = {
        "noise": _levels("noise", noise, above=0),
        "rotation": _levels("rotation_degrees", rotation_degrees, above=0, most=180),
        "gain": _levels("gain", gain, above=0),
        "channel": _counts("missing_channels", missing_channels, low=0),
        "sensor": _counts("missing_sensors", missing_sensors, low=0),
        "block": _levels("block_percent", block_percent, above=0, most=100),
        "rate": _levels("rates_hz", rates_hz, above=0),
        "rate-lowpass": list(rates_hz),
        "offset": _counts("offset_samples", offset_samples, low=1),
    }
    conditions = [CLEAN]
    for name in ("noise", "rotation", "gain"):
        conditions += [_condition(name, level) for level in levels[name]]
    for kind in dict.fromkeys(missing):
        name = f"one-{kind}-missing"
        conditions.append(Condition(name, {"perturbation": name, "level": 1}))
    for name in ("channel", "sensor", "block", "rate", "rate-lowpass", "offset"):
        conditions += [_condition(name, level) for level in levels[name]]

    def show(window: Window, condition: Condition) -> ShownWindow:
        name, level = condition.axes["perturbation"], condition.axes["level"]
        rng = sample_stream(perturbation_seed, name, window.sample.sample_id)
        return perturb(window, name, level, rng)

    def check(store: WindowStore) -> None:
        check_levels(conditions, store)

    axes = ("perturbation", "level")
    return WindowProtocol("sensor-robustness", conditions, show, axes, check)


def perturb(window: Window, name: str, level: float, rng: np.random.Generator) -> ShownWindow:
    """What a model sees of a window under one perturbation."""
    signal, store = window.signal_CL, window.facts.store
    match name:
        case "noise":
            return perturbations.add_noise(signal, level * window.facts.channel_sd_C, rng)
        case "rotation":
            return perturbations.turn_device(signal, store.triples, level, rng)
        case "gain":
            return perturbations.scale(signal, level)
        case "one-channel-missing":
            return perturbations.lose_channels(signal, [int(rng.integers(len(signal)))])
        case "one-sensor-missing":
            drawn = int(rng.integers(len(store.triples)))
            return perturbations.lose_channels(signal, store.triples[drawn])
        case "channel":
            return perturbations.lose_channels(signal, [int(level)])
        case "sensor":
            return perturbations.lose_channels(signal, store.triples[int(level)])
        case "block":
            return perturbations.lose_block(signal, level / 100, rng)
        case "rate" | "rate-lowpass":
            factor = round(store.rate_hz / level)
            return perturbations.lower_rate(signal, factor, low_pass=name == "rate-lowpass")
        case "offset":
            return perturbations.start_later(signal, window.following_CF, int(level))
        case _:
            return as_recorded(signal)


def check_levels(conditions: Sequence[Condition], store: WindowStore) -> None:
    """ConfigError when the data cannot be perturbed so: no triples, no such channel, rate or
    offset."""
    for condition in conditions:
        name, level = condition.axes["perturbation"], condition.axes["level"]
        match name:
            case "rotation" | "one-sensor-missing" | "sensor" if not store.triples:
                option = {"rotation": "rotation_degrees"}.get(name, "missing")
                raise _refused(
                    option,
                    "the channels form no x, y, z triples, so no sensor can be turned or lost",
                    f"leave it out with {option}: [{'' if name == 'rotation' else 'channel'}], "
                    "or name data.options.triples",
                )
            case "channel" if level >= len(store.channels):
                reach = f"0 to {len(store.channels) - 1}: {', '.join(store.channels)}"
                raise _refused("missing_channels", f"there is no channel {level:g}", reach)
            case "sensor" if level >= len(store.triples):
                reach = f"0 to {len(store.triples) - 1}"
                raise _refused("missing_sensors", f"there is no sensor {level:g}", reach)
            case "rate" if not _is_fraction(level, store):
                raise _refused(
                    "rates_hz",
                    f"{level:g} Hz is no whole fraction of the data's {store.rate_hz:g} Hz with at "
                    "least two samples in a window",
                    f"for example {store.rate_hz / 2:g} or {store.rate_hz / 4:g}",
                )
            case "offset" if level >= store.window[1]:
                raise _refused(
                    "offset_samples",
                    f"a window of {store.window[1]} samples cannot start {level:g} later",
                    f"1 to {store.window[1] - 1}",
                )
            case _:
                pass


def _is_fraction(rate_hz: float, store: WindowStore) -> bool:
    factor = store.rate_hz / rate_hz
    return abs(factor - round(factor)) < 1e-9 and 2 <= round(factor) < store.window[1]


def _refused(option: str, what: str, hint: str) -> ConfigError:
    return ConfigError(what, where=f"protocol.options.{option}", hint=hint)


def _condition(name: str, level: float) -> Condition:
    return Condition(f"{name}-{level:g}", {"perturbation": name, "level": level})


def _levels(
    option: str, values: Sequence[float], *, above: float, most: float | None = None
) -> list[float]:
    """The values; ConfigError when one is out of range or stands twice."""
    for value in values:
        if value <= above or (most is not None and value > most):
            reach = f"above {above:g}" + (f", at most {most:g}" if most is not None else "")
            raise _refused(option, f"{option} is {reach}, got {value:g}", "change it")
    if len(set(values)) < len(values):
        raise _refused(option, f"{option} lists a value twice", "name each once")
    return list(values)


def _counts(option: str, values: Sequence[int], *, low: int) -> list[int]:
    """The values; ConfigError unless they are whole numbers from `low`, each once."""
    if values:
        check_axis(option, values, low=low, high=None)
    return list(values)
